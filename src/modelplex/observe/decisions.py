"""What a process has decided of late, and why: kept in rings of bounded length, made into words when somebody asks."""

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import islice, takewhile
from operator import attrgetter
from typing import Any

from modelplex.context import RequestContext
from modelplex.observe.decision_texts import printable, text_of
from modelplex.wire.messages import Begin

# Of each kind of record that comes with every request: where it was sent, how it ended.
ROUTINE_MAX = 4096

# Of all others: loads, evictions, waits, refusals. They have a ring of their own, or warm requests would flush them.
RARE_MAX = 4096

# How many are answered at a time, unless asked otherwise, and at most.
LIMIT = 100
LIMIT_MAX = 1000

# When a request was sent, its id, its model's, the replica's, the rule, its numbers, slots taken there, of how many.
Route = tuple[float, str, str, str, str, Mapping[str, float], int, int]

# When a request ended, its id, its model's, how it met its model, when it arrived, for how long it ran
# in the replica, for how long of that it waited for models, whether it went well.
End = tuple[float, str, str, str, float, float, float, bool]


@dataclass(slots=True)
class Decision:
    """One record.

    Attributes:
        at: Unix seconds.
        kind: what was done: route, wait, reject, refuse, lost, cancel, prefetch, load, loaded, load_failed, evict, end.
        why: a short stable code.
        request_id, model_id, replica: what it is about; empty if nothing of the kind.
        numbers: what decided, or what came of it. Names end with their unit.
        words: other ids and texts that belong to it.
        load: one number for all records of one load in this process; 0 for none.
    """

    at: float
    kind: str
    why: str
    request_id: str = ""
    model_id: str = ""
    replica: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    load: int = 0

    def is_about_model(self, model_id: str) -> bool:
        return model_id in (self.model_id, self.words.get("for_model"))

    def as_dict(self, process: str) -> dict[str, Any]:
        """For JSON. Nothing in it can do harm to a terminal."""
        return {
            "at": self.at,
            "process": process,
            "kind": self.kind,
            "request_id": printable(self.request_id),
            "model_id": printable(self.model_id),
            "replica": printable(self.replica),
            "why": self.why,
            "numbers": {name: value for name, value in self.numbers.items() if math.isfinite(value)},
            "text": text_of(self.kind, self.why, self.numbers, self._named),
        }

    @property
    def _named(self) -> dict[str, str]:
        named = {"request": self.request_id, "model": self.model_id, "replica": self.replica, **self.words}
        return {name: value for name, value in named.items() if value}


class Decisions:
    """The records of one process.

    Attributes:
        process: its name.
        routes, ends: of requests that went where their model was, and of all that ended in a replica of this process.
            They are appended to on the request path, and so are plain tuples.
    """

    def __init__(self, process: str = "", routine_max: int = ROUTINE_MAX, rare_max: int = RARE_MAX) -> None:
        self.process = process
        self.routes: deque[Route] = deque(maxlen=routine_max)
        self.ends: deque[End] = deque(maxlen=routine_max)
        self._rare: deque[Decision] = deque(maxlen=rare_max)

    def note(
        self,
        kind: str,
        why: str,
        *,
        request_id: str = "",
        model_id: str = "",
        replica: str = "",
        numbers: Mapping[str, float] | None = None,
        words: Mapping[str, str] | None = None,
        load: int = 0,
    ) -> None:
        """Keep a record of something that does not happen on every request."""
        self._rare.append(
            Decision(time.time(), kind, why, request_id, model_id, replica, numbers or {}, words or {}, load)
        )

    def ended(self, begin: Begin, request: RequestContext, at: float, run_s: float, *, ok: bool) -> None:
        """A request has ended at this Unix time that ran here for so long."""
        start = request.start
        self.ends.append((at, begin.request_id, begin.model_id, start, begin.arrived_at, run_s, request.load_s, ok))

    def answer(self, argument: Any) -> list[dict[str, Any]]:
        """Newest first, those that fit (`inspection.Topic`).

        Args:
            argument: an object with `request_id`, `model_id`, `since` (Unix seconds: only what came later) and `limit`,
                or only some of these. A request's records are also those of the load that it waited for, whoever asked
                for it.
        """
        asked = argument if isinstance(argument, dict) else {}
        limit = max(0, min(int(asked.get("limit") or LIMIT), LIMIT_MAX))
        request_id, model_id = str(asked.get("request_id") or ""), str(asked.get("model_id") or "")
        found = self._found(request_id, model_id, float(asked.get("since") or 0.0), limit)
        return [decision.as_dict(self.process) for decision in found]

    def _found(self, request_id: str, model_id: str, since: float, limit: int) -> list[Decision]:
        loads = {d.load for d in self._rare if d.request_id == request_id and d.load} if request_id else set()

        def fits(decision: Decision) -> bool:
            if model_id and not decision.is_about_model(model_id):
                return False
            return not request_id or decision.request_id == request_id or _is_of(decision, loads)

        routes = (_of_route(r) for r in reversed(self.routes) if not request_id or r[1] == request_id)
        ends = (_of_end(e, self.process) for e in reversed(self.ends) if not request_id or e[1] == request_id)
        rings: tuple[Iterable[Decision], ...] = (ends, reversed(self._rare), routes)
        later = [takewhile(lambda decision: decision.at > since, ring) for ring in rings]
        newest = [d for ring in later for d in islice(filter(fits, ring), limit)]
        return nlargest(limit, newest, key=attrgetter("at"))

    def __iter__(self) -> Iterator[Decision]:
        """The records of what does not happen on every request, oldest first."""
        return iter(self._rare)


def _is_of(decision: Decision, loads: set[int]) -> bool:
    """Whether it is about one of these loads, rather than about another request that waited for it."""
    return decision.load in loads and decision.kind in ("load", "loaded", "load_failed", "evict")


def _of_route(route: Route) -> Decision:
    at, request_id, model_id, replica, rule, numbers, taken, slots = route
    numbers = {**numbers, "taken": taken, "slots": slots}
    return Decision(at, "route", rule, request_id, model_id, replica, numbers)


def _of_end(end: End, replica: str) -> Decision:
    at, request_id, model_id, start, arrived_at, run_s, load_s, ok = end
    numbers = {
        "queue_s": max(0.0, at - run_s - arrived_at),
        "load_s": load_s,
        "run_s": max(0.0, run_s - load_s),
    }
    return Decision(at, "end", (start or "none") if ok else "failed", request_id, model_id, replica, numbers)
