"""Who may run now, who waits, and who is turned away: `max_ongoing_requests`, `max_queued_requests`, deadlines."""

import heapq
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelplex.core.residency import ReplicaView

UNLIMITED = -1


class Slots:
    """The places for requests that run at a time on one replica.

    A router counts its own requests, and learns from the replica how many others run there. The replica itself has no
    others, and the last word.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"a replica needs at least one slot, got {limit}")
        self.limit = limit
        self.own = 0
        self.others = 0
        self.free = limit

    def take(self) -> bool:
        """Take a slot if one is free."""
        if not self.free:
            return False
        self.own += 1
        self.free -= 1
        return True

    def give_back(self) -> None:
        if self.own == 0:
            raise RuntimeError("a slot was given back that was never taken")
        self.own -= 1
        self.free += 1

    def told(self, ongoing: int) -> None:
        """The replica has said how many requests run on it, ours included."""
        most = self.limit if ongoing > self.limit else ongoing
        self.others = most - self.own if most > self.own else 0
        self.free = self.limit - self.own - self.others


@dataclass(slots=True, eq=False)
class Request:
    """A request on its way through a router: it waits, or runs. `number` grows with each arrival and names it."""

    number: int
    model_id: str
    deadline: float | None
    cold_deadline: float | None = None
    arrived: float = 0.0
    losses: int = 0  # replicas that died with it
    refusals: int = 0  # replicas that it was sent to and that had no place for it
    slotless: bool = False  # it takes no slot, and goes to no other replica
    tenant: str = ""  # on whose behalf it is
    # While it waits
    looks: int = 0  # how often a place to wait was found for it
    line: str | None = None  # the replica in whose line it waits; None is the line of whichever replica is free first
    look_at: float = math.inf
    waited: bool = False
    # While it runs
    view: "ReplicaView" = field(init=False, repr=False)
    sent: float = 0.0
    answered: bool = False


class WaitingRoom:
    """Requests that wait, in one line for each replica and one for any replica, each in the order of arrival.

    Args:
        limit: requests that may wait at a time, or `UNLIMITED`.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._waiting: dict[int, Request] = {}
        self._by_model: dict[str, dict[int, Request]] = {}
        self._lines: dict[str | None, list[int]] = {}
        self._lengths: dict[str | None, int] = {}
        self._looks: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def get(self, number: int) -> Request | None:
        return self._waiting.get(number)

    def full_for(self, tenant: str) -> bool:
        """Whether no more requests may wait; with several tenants, of this one."""
        return self.full

    @property
    def full(self) -> bool:
        return self.limit != UNLIMITED and len(self._waiting) >= self.limit

    @property
    def counts(self) -> dict[str, float]:
        """How many wait, and how many may, for who is told why one may not."""
        return {"queued": len(self._waiting), "queued_max": self.limit}

    @property
    def models(self) -> Iterable[str]:
        """Models that someone waits for."""
        return self._by_model.keys()

    def of_model(self, model_id: str) -> Iterator[Request]:
        """The requests that wait for one model, in no order."""
        return iter(self._by_model.get(model_id, {}).values())

    def length(self, line: str | None) -> int:
        return self._lengths.get(line, 0)

    def add(self, request: Request, line: str | None, look_at: float | None) -> None:
        """Let a request wait in a line, and be looked at again at a time, if any, or at a deadline if earlier."""
        request.line, request.waited = line, True
        looks = (look_at, request.deadline, request.cold_deadline)
        request.look_at = min((at for at in looks if at is not None), default=math.inf)
        self._waiting[request.number] = request
        self._by_model.setdefault(request.model_id, {})[request.number] = request
        heapq.heappush(self._lines.setdefault(line, []), request.number)
        self._lengths[line] = self._lengths.get(line, 0) + 1
        if request.look_at < math.inf:
            heapq.heappush(self._looks, (request.look_at, request.number))

    def postpone(self, request: Request, look_at: float) -> None:
        """Look again at one who goes on waiting where it is at that time, or at a deadline if earlier."""
        looks = (look_at, request.deadline, request.cold_deadline)
        request.look_at = min(at for at in looks if at is not None)
        heapq.heappush(self._looks, (request.look_at, request.number))

    def remove(self, request: Request) -> None:
        """Take a request out of its line; its traces in the heaps are passed over when they come up."""
        del self._waiting[request.number]
        of_model = self._by_model[request.model_id]
        del of_model[request.number]
        if not of_model:
            del self._by_model[request.model_id]
        self._lengths[request.line] -= 1
        if not self._lengths[request.line]:
            del self._lengths[request.line]
            del self._lines[request.line]

    def first(self, line: str | None) -> Request | None:
        """The request that has waited longest in a line."""
        heap = self._lines.get(line, [])
        while heap:
            request = self._waiting.get(heap[0])
            if request is not None and request.line == line:
                return request
            heapq.heappop(heap)
        return None

    def oldest(self, line: str | None, count: int) -> list[Request]:
        """So many requests of a line that have waited longest, in the order of arrival."""
        heap, found = self._lines.get(line, []), list[Request]()
        while len(found) < count and (request := self.first(line)) is not None:
            found.append(request)
            while heap and heap[0] == request.number:
                heapq.heappop(heap)
        for request in found:
            heapq.heappush(heap, request.number)
        return found

    def __iter__(self) -> Iterator[Request]:
        """All who wait, in no order."""
        return iter(self._waiting.values())

    def all_in(self, line: str | None) -> list[Request]:
        """The requests of one line, oldest first."""
        numbers = sorted(set(self._lines.get(line, ())) & self._waiting.keys())
        return [self._waiting[number] for number in numbers if self._waiting[number].line == line]

    def due(self, now: float) -> list[Request]:
        """The requests that are to be looked at again by now, oldest first."""
        due: dict[int, Request] = {}
        while self._looks and self._looks[0][0] <= now:
            _, number = heapq.heappop(self._looks)
            request = self._waiting.get(number)
            if request is not None and request.look_at <= now:
                due[number] = request
        return [due[number] for number in sorted(due)]

    @property
    def next_look(self) -> float | None:
        """When `due` may next have something to say; None when nobody waits, or only for a slot."""
        while self._looks and self._looks[0][1] not in self._waiting:
            heapq.heappop(self._looks)
        return self._looks[0][0] if self._looks else None
