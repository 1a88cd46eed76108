"""Routers to compare with: they take the inputs of `core.routing.Router` and answer its commands.

None of them books a model at the moment of the decision, turns requests away for a full queue, or gives up for lack of
replicas: what waits, waits for a slot, or until its deadline.
"""

import heapq
import itertools
import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from random import Random

from modelplex.core.routing import LOSSES_MAX, Command, Reject, Send, Why


@dataclass(slots=True, eq=False)
class _Request:
    number: int
    model_id: str
    deadline: float
    losses: int = 0  # replicas that died with it
    # Of `RayLike` alone.
    matching_since: float | None = None
    tried_holders: bool = False
    tried_fewest: bool = False


@dataclass(slots=True, eq=False)
class _Replica:
    id: str
    max_ongoing: int
    models: set[str]  # that it has said to hold or load
    own: int = 0
    others: int = 0  # requests of other routers, as told last

    @property
    def ongoing(self) -> int:
        return self.own + self.others

    @property
    def full(self) -> bool:
        return self.ongoing >= self.max_ongoing

    def told(self, ongoing: int) -> None:
        self.others = max(0, ongoing - self.own)


@dataclass(slots=True, eq=False)
class _Flight:
    request: _Request
    replica: _Replica
    answered: bool = False


@dataclass(slots=True)
class _Line:
    """Waiting requests in the order of their arrival; those that have left are passed over when they come up."""

    waiting: dict[int, _Request]
    heap: list[int] = field(default_factory=list)

    def add(self, request: _Request) -> None:
        heapq.heappush(self.heap, request.number)

    def first(self) -> _Request | None:
        while self.heap:
            if (request := self.waiting.get(self.heap[0])) is not None:
                return request
            heapq.heappop(self.heap)
        return None


class Baseline(ABC):
    """Slots, a line of the requests that wait for one, and what replicas have said. A policy adds `choose`.

    What `core.routing.Router` is told besides, its optional arguments among it, is taken and ignored.

    Args:
        rng: where its random choices come from.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._replicas: dict[str, _Replica] = {}
        self._flights: dict[int, _Flight] = {}
        self._waiting: dict[int, _Request] = {}
        self._line = _Line(self._waiting)
        self._deadlines: list[tuple[float, int]] = []
        self._numbers = itertools.count(1)

    @abstractmethod
    def choose(self, request: _Request, now: float) -> _Replica | None:
        """A replica with a free slot for this request; None to let it, and those behind it, wait."""

    @property
    def replica_ids(self) -> list[str]:
        return list(self._replicas)

    @property
    def queued(self) -> int:
        return len(self._waiting)

    @property
    def next_tick(self) -> float | None:
        return self._next_deadline()

    # Inputs about requests

    def number(self) -> int:
        return next(self._numbers)

    def submit(
        self, number: int, model_id: str, now: float, deadline: float | None = None, *_: object, **__: object
    ) -> list[Command]:
        self._wait(_Request(number, model_id, math.inf if deadline is None else deadline))
        return self._serve(now)

    def answered(self, number: int, *_: object, **__: object) -> None:
        self._flights[number].answered = True

    def finish(
        self, number: int, now: float, load_s: float = 0.0, ongoing: int | None = None, *_: object, **__: object
    ) -> list[Command]:
        self._land(number, ongoing)
        return self._serve(now)

    def refused(self, number: int, ongoing: int, now: float, *_: object, **__: object) -> list[Command]:
        self._wait(self._land(number, ongoing).request)
        return self._serve(now)

    def cancel(self, number: int, now: float, *_: object, **__: object) -> list[Command]:
        if number in self._flights:
            return self.finish(number, now)
        self._waiting.pop(number, None)
        return []

    def tick(self, now: float, *_: object, **__: object) -> list[Command]:
        commands: list[Command] = []
        while (at := self._next_deadline()) is not None and at <= now:
            number = heapq.heappop(self._deadlines)[1]
            del self._waiting[number]
            commands.append(Reject(number, Why.DEADLINE))
        return commands + self._serve(now)

    # Inputs about replicas

    def replica_up(
        self,
        replica_id: str,
        max_ongoing: int,
        room: int | None,
        loaded: Iterable[str],
        loading: Iterable[str],
        now: float,
        ongoing: int = 0,
        *_: object,
        **__: object,
    ) -> list[Command]:
        self._replicas[replica_id] = _Replica(replica_id, max_ongoing, {*loaded, *loading}, others=ongoing)
        return self._serve(now)

    def replica_retiring(self, replica_id: str, now: float, *_: object, **__: object) -> list[Command]:
        self._replicas.pop(replica_id, None)
        return []

    def replica_down(self, replica_id: str, now: float, *_: object, **__: object) -> list[Command]:
        self.replica_retiring(replica_id, now)
        commands: list[Command] = []
        for number in [number for number, flight in self._flights.items() if flight.replica.id == replica_id]:
            flight = self._land(number, None)
            flight.request.losses += 1
            if flight.answered or flight.request.losses >= LOSSES_MAX:
                commands.append(Reject(number, Why.REPLICA_LOST))
            else:
                self._wait(flight.request)
        return commands + self._serve(now)

    def model_loading(
        self, replica_id: str, model_id: str, room: int | None, now: float, *_: object, **__: object
    ) -> list[Command]:
        if (replica := self._replicas.get(replica_id)) is not None:
            replica.models.add(model_id)
        return []

    def model_loaded(
        self,
        replica_id: str,
        model_id: str,
        room: int | None,
        load_s: float,
        now: float,
        *_: object,
        **__: object,
    ) -> list[Command]:
        return self.model_loading(replica_id, model_id, room, now)

    def model_gone(
        self, replica_id: str, model_id: str, room: int | None, now: float, *_: object, **__: object
    ) -> list[Command]:
        if (replica := self._replicas.get(replica_id)) is not None:
            replica.models.discard(model_id)
        return []

    def told_ongoing(self, replica_id: str, ongoing: int, now: float, *_: object, **__: object) -> list[Command]:
        if (replica := self._replicas.get(replica_id)) is not None:
            replica.told(ongoing)
        return self._serve(now)

    # For policies

    def _next_deadline(self) -> float | None:
        while self._deadlines and self._deadlines[0][1] not in self._waiting:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def _wait(self, request: _Request) -> None:
        self._waiting[request.number] = request
        self._line.add(request)
        if request.deadline < math.inf:
            heapq.heappush(self._deadlines, (request.deadline, request.number))

    def _serve(self, now: float) -> list[Command]:
        """Send what can be sent now."""
        commands: list[Command] = []
        while (request := self._line.first()) is not None and (replica := self.choose(request, now)) is not None:
            commands.append(self._send(request, replica))
        return commands

    def _send(self, request: _Request, replica: _Replica) -> Send:
        del self._waiting[request.number]
        replica.own += 1
        self._flights[request.number] = _Flight(request, replica)
        return Send(request.number, replica.id)

    def _land(self, number: int, ongoing: int | None) -> _Flight:
        flight = self._flights.pop(number)
        flight.replica.own -= 1
        if ongoing is not None:
            flight.replica.told(ongoing)
        return flight

    def _less_busy_of_two(self, replicas: Sequence[_Replica]) -> _Replica | None:
        """Of two at random, the one that runs less, if it has a free slot.

        Mitzenmacher, "The power of two choices in randomized load balancing", IEEE Transactions on Parallel and
        Distributed Systems 12(10), 2001.
        """
        drawn = self._rng.sample(replicas, min(2, len(replicas)))
        return min((replica for replica in drawn if not replica.full), key=lambda r: r.ongoing, default=None)


class ModelBlind(Baseline):
    """Power of two choices among the replicas with a free slot, whatever they hold."""

    def choose(self, request: _Request, now: float) -> _Replica | None:
        return self._less_busy_of_two([replica for replica in self._replicas.values() if not replica.full])


class BoundedConsistentHash(Baseline):
    """The first replica behind the model's place on a ring of hashes that runs not much more than the average.

    Mirrokni, Thorup, Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018: of m requests that run on n
    replicas, this one included, each replica takes at most ceil(LOAD_FACTOR x m / n). Each replica has many points on
    the ring (Karger et al., "Consistent hashing and random trees", STOC 1997), so that arcs are about equally long.
    """

    LOAD_FACTOR = 1.25
    POINTS = 100

    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self._ring: list[tuple[int, str]] = []
        self._ring_ids: list[str] = []

    def choose(self, request: _Request, now: float) -> _Replica | None:
        replicas = self._replicas
        if all(replica.full for replica in replicas.values()):
            return None
        running = 1 + sum(replica.ongoing for replica in replicas.values())
        load_max = math.ceil(self.LOAD_FACTOR * running / len(replicas))
        if self._ring_ids != (ids := list(replicas)):
            self._ring_ids = ids
            self._ring = sorted((_hash(f"{r}#{point}"), r) for r in ids for point in range(self.POINTS))
        at = bisect_left(self._ring, (_hash(request.model_id), ""))
        passed: _Replica | None = None
        for place in range(at - len(self._ring), at):
            replica = replicas[self._ring[place][1]]
            if replica.full:
                continue
            if replica.ongoing < load_max:
                return replica
            passed = passed or replica
        # Replicas with few slots can be full below the bound, and all others above it.
        return passed


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


@dataclass(slots=True, eq=False)
class _Task:
    """Looks for a replica on behalf of a request, if there was one that no other task looks for."""

    request: _Request | None
    delay_s: float = 0.0  # how long it has slept last; 0 before its first look


class RayLike(Baseline):
    """What Ray Serve 2.60 does with requests that name a model (its router by power of two choices).

    Routing tasks, at most two for each replica and 50 in all, take up requests in the order of arrival. A task draws
    two of the candidates of its request. The one that runs less, of those with a free slot, is given to the oldest
    waiting request for the same model, else to the oldest of all. If neither has a free slot, the task looks again at
    once, and from then on after growing delays: nobody is woken when a slot comes free. The candidates are

    1. at its first look, the replicas that hold or load its model; if there are none, those with the fewest models;
    2. for one to two seconds from then on, those with the fewest models: the holders are not asked again;
    3. after that, once more those with the fewest models, and then all.

    Left out are the round trips by which its router asks for queue lengths, which would only cost it time. How late
    it hears what replicas hold (in rounds of 0.1 s by way of the controller) is for the caller to say.
    """

    TASKS_MAX = 50
    MATCHING_TIMEOUT_S = 1.0
    DELAY_MIN_S = 0.025
    DELAY_MAX_S = 0.5

    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self._by_model: defaultdict[str, _Line] = defaultdict(lambda: _Line(self._waiting))
        self._unrouted = _Line(self._waiting)
        self._asleep: list[tuple[float, int, _Task]] = []
        self._sleeps = itertools.count()

    @property
    def next_tick(self) -> float | None:
        wakes = self._asleep[0][0] if self._asleep else None
        return min((at for at in (self._next_deadline(), wakes) if at is not None), default=None)

    def choose(self, request: _Request | None, now: float) -> _Replica | None:
        return self._less_busy_of_two(self._candidates(request, now))

    def _candidates(self, request: _Request | None, now: float) -> list[_Replica]:
        everyone = list(self._replicas.values())
        if request is None or not request.model_id:
            return everyone
        if request.matching_since is None:
            request.matching_since = now
        # It draws the end of this time anew at each look.
        if now - request.matching_since < self._rng.uniform(1, 2) * self.MATCHING_TIMEOUT_S:
            first, request.tried_holders = not request.tried_holders, True
            if first and (holders := [replica for replica in everyone if request.model_id in replica.models]):
                return holders
        elif request.tried_fewest:
            return everyone
        else:
            request.tried_fewest = True
        fewest = min((len(replica.models) for replica in everyone), default=0)
        return [replica for replica in everyone if len(replica.models) == fewest]

    def _wait(self, request: _Request) -> None:
        super()._wait(request)
        self._unrouted.add(request)
        self._by_model[request.model_id].add(request)

    def _serve(self, now: float) -> list[Command]:
        commands: list[Command] = []
        while (task := self._next_task(now)) is not None:
            replica = self.choose(task.request, now)
            if replica is None and not task.delay_s:
                replica = self.choose(task.request, now)
            oldest = self._line.first()
            if replica is not None and oldest is not None:
                model_id = task.request.model_id if task.request is not None else ""
                same = self._by_model[model_id].first() if model_id else None
                commands.append(self._send(same or oldest, replica))
            else:
                task.delay_s = min(2 * task.delay_s or self.DELAY_MIN_S, self.DELAY_MAX_S)
                heapq.heappush(self._asleep, (now + task.delay_s, next(self._sleeps), task))
        return commands

    def _next_task(self, now: float) -> _Task | None:
        """One that is to look now: a new one as long as more are wanted, else one that has slept enough."""
        if len(self._asleep) < self._tasks_wanted:
            return _Task(self._take_up())
        while self._asleep and self._asleep[0][0] <= now:
            task = heapq.heappop(self._asleep)[2]
            if len(self._asleep) < self._tasks_wanted:
                return task
        return None

    @property
    def _tasks_wanted(self) -> int:
        return min(len(self._waiting), 2 * len(self._replicas), self.TASKS_MAX)

    def _take_up(self) -> _Request | None:
        """The oldest waiting request that no task has taken up yet."""
        request = self._unrouted.first()
        if request is not None:
            heapq.heappop(self._unrouted.heap)
        return request
