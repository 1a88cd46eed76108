"""What a fleet would do with the requests of a trace: one simulation, ended early when its fleet is too small."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from modelplex import config
from modelplex.core.budget import UNLIMITED
from modelplex.core.routing import Command
from modelplex.sim import baselines
from modelplex.sim.trace import Trace
from modelplex.sim.world import AnyRouter, Fleet, expected_completion, simulate

# Without a target, a simulation ends when so much is late by the time that it takes for so many requests to arrive, or
# for so many loads: what comes after that would only wait.
HOPELESS_REQUESTS = 1_000
HOPELESS_LOADS = 10

ROUTERS: dict[str, Callable[[], AnyRouter]] = {
    "modelplex": expected_completion,
    "like Ray Serve": lambda: baselines.RayLike(Random(1)),
    "consistent hashing": lambda: baselines.BoundedConsistentHash(Random(1)),
    "model-blind": lambda: baselines.ModelBlind(Random(1)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A fleet that may be simulated.

    Attributes:
        replicas: how many.
        size: of the memory of each, in bytes or in models as the question says.
        eviction: one of `config.EVICTION_POLICIES`.
        router: one of `ROUTERS`.
    """

    replicas: int
    size: int
    eviction: str
    router: str = "modelplex"

    @property
    def total(self) -> int:
        """The memory of all replicas."""
        return self.replicas * self.size


@dataclass(frozen=True, slots=True)
class Prediction:
    """What came of the simulation of a fleet.

    Attributes:
        candidate: the fleet.
        cold_ratio: loads for each request.
        loads: how many.
        load_time_s: seconds of all loads together.
        p50_s, p99_s: quantiles of the latency; infinite if more than the rest was rejected.
        utilisation: busy slots, as a part of all, on average from the first arrival to the last.
    """

    candidate: Candidate
    cold_ratio: float
    loads: int
    load_time_s: float
    p50_s: float
    p99_s: float
    utilisation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be found out.

    Attributes:
        trace: the requests.
        p99_s: 99 of 100 requests are to be answered within so long; None to simulate every fleet instead.
        replicas: numbers of replicas that may be, ascending.
        sizes: what a replica may hold, ascending.
        in_bytes: whether sizes are bytes, rather than models.
        evictions: names of policies.
        max_ongoing: requests that run at a time on a replica.
    """

    trace: Trace
    p99_s: float | None
    replicas: Sequence[int]
    sizes: Sequence[int]
    in_bytes: bool
    evictions: Sequence[str] = ("lru", "gdsf")
    max_ongoing: int = 5

    @property
    def largest(self) -> int:
        """What the largest model takes."""
        return int(self.trace.catalog.size_bytes.max()) if self.in_bytes else 1

    @property
    def sizes_that_fit(self) -> list[int]:
        """The sizes in which every model can be loaded."""
        return [size for size in self.sizes if size >= self.largest]

    @property
    def span_s(self) -> float:
        """From the first arrival to the last."""
        return max(float(self.trace.arrivals_s[-1] - self.trace.arrivals_s[0]), 1e-9)

    @property
    def limit_s(self) -> float:
        """A fleet in which more than 1% of the requests take longer is not simulated to its end."""
        if self.p99_s is not None:
            return self.p99_s
        slowest_s = float(self.trace.catalog.load_s.max()) + float(self.trace.service_s.max())
        return max(HOPELESS_LOADS * slowest_s, HOPELESS_REQUESTS * self.span_s / len(self.trace))


class _Hopeless(Exception):  # noqa: N818 - no error: it ends a simulation
    """Too many requests are late."""


class _Watched:
    """A router, with a look at what is late on its way through it.

    Args:
        router: that decides.
        late_s: what takes longer is late.
        late_max: `_Hopeless` is raised when more than so many are.
    """

    def __init__(self, router: AnyRouter, late_s: float, late_max: int) -> None:
        self.waited_s = 0.0  # for models, in slots
        self._router = router
        self._late_s = late_s
        self._left = late_max
        self._arrivals: OrderedDict[int, float] = OrderedDict()  # of those that are not late yet
        self.answered, self.refused, self.tick = router.answered, router.refused, router.tick
        self.replica_up, self.told_ongoing = router.replica_up, router.told_ongoing
        self.model_loading, self.model_loaded = router.model_loading, router.model_loaded
        self.model_gone = router.model_gone

    @property
    def queued(self) -> int:
        return self._router.queued

    @property
    def next_tick(self) -> float | None:
        return self._router.next_tick

    def submit(self, number: int, model_id: str, now: float, *more: Any, **named: Any) -> list[Command]:
        self._look(now)
        self._arrivals[number] = now
        return self._router.submit(number, model_id, now, *more, **named)

    def finish(self, number: int, now: float, load_s: float, *more: Any, **named: Any) -> list[Command]:
        self.waited_s += load_s
        self._look(now)
        self._arrivals.pop(number, None)
        return self._router.finish(number, now, load_s, *more, **named)

    def _look(self, now: float) -> None:
        arrivals, late_s = self._arrivals, self._late_s
        while arrivals and now - next(iter(arrivals.values())) > late_s:
            arrivals.popitem(last=False)
            self._left -= 1
            if self._left < 0:
                raise _Hopeless


def predict(question: Question, candidate: Candidate) -> Prediction | None:
    """Simulate one fleet; None if more than 1% of its requests take longer than `question.limit_s`."""
    trace, count = question.trace, len(question.trace)
    watched: list[_Watched] = []

    def router() -> AnyRouter:
        watched.append(_Watched(ROUTERS[candidate.router](), question.limit_s, count - math.ceil(0.99 * count)))
        return watched[-1]

    by_count = not question.in_bytes or candidate.router == "like Ray Serve"
    size = candidate.size
    if by_count and question.in_bytes:  # Ray Serve limits models alone: as many as fit if they are of average size
        size = max(1, int(size / question.trace.catalog.size_bytes.mean()))
    fleet = Fleet(
        replicas=candidate.replicas,
        models_max=size if by_count else UNLIMITED,
        bytes_max=UNLIMITED if by_count else size,
        max_ongoing=question.max_ongoing,
        loads_max=1 if candidate.router == "like Ray Serve" else UNLIMITED,
        policy=config.load(config.EVICTION_POLICIES[candidate.eviction]),
        router=router,
    )
    try:
        outcome = simulate(trace, fleet)
    except _Hopeless:
        return None
    latency_s = np.where(np.isnan(outcome.latency_s), np.inf, outcome.latency_s)
    p50_s, p99_s = np.quantile(latency_s, [0.5, 0.99], method="inverted_cdf")
    if p99_s > question.limit_s:
        return None
    busy_s = float(trace.service_s.sum()) + watched[0].waited_s
    return Prediction(
        candidate=candidate,
        cold_ratio=outcome.cold_ratio,
        loads=outcome.loads,
        load_time_s=outcome.load_seconds,
        p50_s=float(p50_s),
        p99_s=float(p99_s),
        utilisation=busy_s / (candidate.replicas * question.max_ongoing * question.span_s),
    )
