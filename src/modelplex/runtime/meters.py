"""What a process counts of its own work: plain integers on the request's way, put into words when somebody asks.

Everything here belongs to one event loop, so that nothing has to be locked.
"""

import bisect
from collections.abc import Sequence
from typing import Any

from modelplex.context import RequestContext
from modelplex.wire.messages import Begin

# Upper bounds, in seconds.
REQUEST_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LOAD_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

STARTS = ("none", "warm", "cold", "joined")

# Kinds of errors, and applications with methods and statuses, that are told apart; users may make more of them.
KINDS_MAX = 200
OTHER = "other"


class Buckets:
    """How values are distributed, as a histogram has it.

    Attributes:
        counts: how many values were at most as large as the bound in that place; the last one, how many were larger.
        total: of all values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def __add__(self, other: "Buckets") -> "Buckets":
        """Both together, of the same bounds."""
        both = Buckets(self.bounds)
        both.total = self.total + other.total
        both.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        return both

    def observe(self, value: float) -> None:
        self.total += value
        self.counts[bisect.bisect_left(self.bounds, value)] += 1


class Counts(dict[Any, int]):
    """How often, by kind. What would be one kind too many is counted as another, by its last part."""

    def add(self, kind: Any, times: int = 1) -> None:
        if kind not in self and len(self) >= KINDS_MAX:
            kind = (*kind[:-1], OTHER) if isinstance(kind, tuple) else OTHER
        self[kind] = self.get(kind, 0) + times


class StartMeter:
    """Requests that have met their models in one way."""

    __slots__ = ("cancelled", "error", "ok")

    def __init__(self) -> None:
        self.ok = self.error = self.cancelled = 0


class RequestMeters:
    """Requests of a replica.

    Args:
        ongoing_max: how many it runs at a time.

    Attributes:
        starts: by how they met their first model.
        wait: seconds before they began, in their router and on their way.
        run: seconds on the replica, of those that waited for no load.
        load, run_cold, whole_cold: of the others: seconds that they waited for models, those of their own, and both.
    """

    __slots__ = ("load", "ongoing_max", "run", "run_cold", "starts", "wait", "whole_cold")

    def __init__(self, ongoing_max: int) -> None:
        self.ongoing_max = ongoing_max
        self.starts = {start: StartMeter() for start in STARTS}
        self.wait, self.run = Buckets(REQUEST_BOUNDS_S), Buckets(REQUEST_BOUNDS_S)
        self.load = Buckets(LOAD_BOUNDS_S)
        self.run_cold, self.whole_cold = Buckets(REQUEST_BOUNDS_S), Buckets(REQUEST_BOUNDS_S)

    def ended(
        self, begin: Begin, request: RequestContext, at: float, run_s: float, *, ok: bool, answered: bool
    ) -> None:
        """A request has ended at this Unix time that ran for so long; if not `ok`, with an error if `answered`."""
        if begin.http is None and begin.method_name[:1] == "-":
            return  # it was on behalf of no user
        start = request.start
        meter = self.starts[start or "none"]
        if ok:
            meter.ok += 1
        elif answered:
            meter.error += 1
        else:
            meter.cancelled += 1
        if begin.arrived_at:
            wait_s = at - run_s - begin.arrived_at
            if wait_s < 0:  # clocks of two machines may differ
                wait_s = 0.0
            wait = self.wait
            wait.total += wait_s
            wait.counts[bisect.bisect_left(REQUEST_BOUNDS_S, wait_s)] += 1
        if start == "" or start == "warm":
            run = self.run
            run.total += run_s
            run.counts[bisect.bisect_left(REQUEST_BOUNDS_S, run_s)] += 1
        else:
            self.load.observe(request.load_s)
            self.run_cold.observe(max(0.0, run_s - request.load_s))
            self.whole_cold.observe(run_s)


class RouterMeters:
    """Requests of one router.

    Attributes:
        resent: those that were sent once more, since a replica had no slot or no room for them, or had gone.
        refused: how often a replica had no slot or no room.
        failures: those that ended without an answer, by the name of the error.
    """

    __slots__ = ("app_name", "deployment", "failures", "refused", "resent")

    def __init__(self, app_name: str, deployment: str) -> None:
        self.app_name = app_name
        self.deployment = deployment
        self.resent = self.refused = 0
        self.failures = Counts()
