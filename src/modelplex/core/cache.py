"""The model cache of one replica: what to load, what to evict, who may use what.

What holds after every step, whatever the history:

1. Models loading, resident and unloading together stay within the budget.
2. Nothing leased is unloaded.
3. At most one load of a model at a time; everyone who wants it shares it; one who leaves disturbs nobody else.
4. Every acquire gets exactly one answer, a Grant or a Reject, unless it is released first. Models get room in the
   order in which they began to wait for it, and grants of resident models overtake them a bounded number of times.
5. What it advertises (`resident`, `loading`) is what it holds and what it is loading.
6. Each loaded model is unloaded exactly once.
7. A model whose load failed recently is refused at once, with its error and when to try again; that evicts nothing.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum

from modelplex.core.backoff import Backoff
from modelplex.core.eviction import EvictionPolicy, IdleModel

UNLIMITED = -1

# How many grants of resident models may overtake the model that has waited longest for room.
OVERTAKES_MAX = 64

# Failed loads that are remembered. Ids come from outside, so their number has to be bounded.
FAILURES_MAX = 1024


class Start(Enum):
    """How a request met its model."""

    WARM = "warm"  # it was resident
    COLD = "cold"  # this request had it loaded
    JOINED = "joined"  # it was being loaded, or waited for, on behalf of another request


class Why(Enum):
    """Why an acquire was rejected."""

    LOAD_FAILED = "load failed"
    FAILED_RECENTLY = "failed recently"
    OVERCOMMITTED = "overcommitted"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Load:
    """Run the loader of this model, then call `loaded` or `load_failed`."""

    model_id: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Destroy this model, then call `unloaded`."""

    model_id: str


@dataclass(frozen=True, slots=True)
class Grant:
    """The acquire named `ticket` holds a lease until it is released."""

    ticket: int
    model_id: str
    start: Start


@dataclass(frozen=True, slots=True)
class Reject:
    """The acquire named `ticket` is over. `error` is what `load_failed` was told."""

    ticket: int
    model_id: str
    why: Why
    error: object = None
    retry_after_s: float | None = None


Command = Load | Unload | Grant | Reject


class Phase(Enum):
    WAITING = "waiting for room"
    LOADING = "loading"
    RESIDENT = "resident"
    UNLOADING = "unloading"


# The legal transitions. None is "the cache does not know the model".
_NEXT: dict[Phase | None, set[Phase | None]] = {
    None: {Phase.WAITING},
    Phase.WAITING: {Phase.LOADING, None},
    Phase.LOADING: {Phase.RESIDENT, None},
    Phase.RESIDENT: {Phase.UNLOADING},
    Phase.UNLOADING: {Phase.WAITING, None},
}
_OCCUPYING = (Phase.LOADING, Phase.RESIDENT, Phase.UNLOADING)


@dataclass(slots=True)
class _Entry:
    model_id: str
    phase: Phase | None = None
    waiters: dict[int, Hashable] = field(default_factory=dict)  # ticket -> owner, in order of arrival
    leases: dict[int, Hashable] = field(default_factory=dict)  # ticket -> owner
    opener: int | None = None  # the ticket that asked for the load
    overtaken: int = 0  # grants of resident models while this one was the first to wait for room
    size_bytes: int = 0
    load_started: float = 0.0
    load_s: float = 0.0
    uses: int = 0
    granted_last: float = 0.0


@dataclass(slots=True)
class _Failure:
    error: object
    count: int
    retry_at: float


class ModelCache:
    """Decides for one cache of models; the shell performs what it answers.

    Args:
        models_max: models that may occupy the replica at a time, or `UNLIMITED`.
        policy: orders the idle models.
        backoff: how long a failed load is remembered.

    Tickets are integers that grow with each acquire. `owner` is whoever holds the lease (a request), so that one that
    waits for room which only itself holds can be told so; leases without an owner pass None.
    Times are seconds of any clock that does not go backwards.
    """

    def __init__(self, models_max: int, policy: EvictionPolicy, backoff: Backoff) -> None:
        if models_max < 1 and models_max != UNLIMITED:
            raise ValueError(f"models_max must be at least 1, or {UNLIMITED} for no limit; got {models_max}")
        self.models_max = models_max
        self._policy = policy
        self._backoff = backoff
        self._entries: dict[str, _Entry] = {}
        self._tickets: dict[int, _Entry] = {}
        self._queue: OrderedDict[str, _Entry] = OrderedDict()  # models waiting for room, oldest first
        self._failures: OrderedDict[str, _Failure] = OrderedDict()
        self._occupied = 0
        self._unloading = 0
        self._draining: _Entry | None = None  # a leased model that takes no new leases, so that room comes free
        self._closed = False

    def __contains__(self, ticket: int) -> bool:
        """Whether the ticket holds a lease or waits for one."""
        return ticket in self._tickets

    # What it advertises

    @property
    def resident(self) -> list[str]:
        return [e.model_id for e in self._entries.values() if e.phase is Phase.RESIDENT]

    @property
    def loading(self) -> list[str]:
        return [e.model_id for e in self._entries.values() if e.phase is Phase.LOADING]

    @property
    def room(self) -> int | None:
        """How many more models could be loaded without evicting one; None means any number."""
        if self.models_max == UNLIMITED:
            return None
        return max(0, self.models_max - self._occupied - len(self._queue))

    def size_bytes(self, model_id: str) -> int:
        return self._entries[model_id].size_bytes

    # Inputs

    def acquire(self, ticket: int, model_id: str, owner: Hashable, now: float) -> list[Command]:
        """Ask for a lease. The answer is among these commands or those of a later input."""
        if ticket in self._tickets:
            raise ValueError(f"ticket {ticket} is in use")
        if self._closed:
            return [Reject(ticket, model_id, Why.CLOSED)]
        entry = self._entries.get(model_id)
        if entry is None:
            failure = self._failures.get(model_id)
            if failure is not None and now < failure.retry_at:
                return [Reject(ticket, model_id, Why.FAILED_RECENTLY, failure.error, failure.retry_at - now)]
            entry = self._entries[model_id] = _Entry(model_id)
            self._move(entry, Phase.WAITING)
        self._tickets[ticket] = entry
        commands: list[Command] = []
        # An owner that already holds the model gets it again even while it drains: it could not end otherwise.
        drains = entry is self._draining and (owner is None or owner not in entry.leases.values())
        if entry.phase is Phase.RESIDENT and not drains:
            commands.append(self._grant(entry, ticket, owner, Start.WARM, now))
            if self._queue:
                next(iter(self._queue.values())).overtaken += 1
        else:
            entry.waiters[ticket] = owner
            entry.opener = ticket if entry.opener is None else entry.opener
        return commands + self._make_room(now)

    def release(self, ticket: int, now: float) -> list[Command]:
        """End a lease, or withdraw an acquire that has not been answered."""
        entry = self._tickets.pop(ticket)
        if ticket in entry.leases:
            del entry.leases[ticket]
            if not entry.leases:
                self._becomes_idle(entry)
        else:
            self._drop_waiter(entry, ticket)
        return self._make_room(now)

    def loaded(self, model_id: str, size_bytes: int, now: float) -> list[Command]:
        """A load has ended well."""
        entry = self._in_phase(model_id, Phase.LOADING)
        self._move(entry, Phase.RESIDENT)
        entry.size_bytes, entry.load_s = size_bytes, now - entry.load_started
        self._failures.pop(model_id, None)
        self._becomes_idle(entry)
        commands = self._grant_waiters(entry, now, just_loaded=True)
        return commands + self._make_room(now)

    def load_failed(self, model_id: str, error: object, now: float) -> list[Command]:
        """A load has failed: everyone who waited for it is told, once."""
        entry = self._in_phase(model_id, Phase.LOADING)
        before = self._failures.pop(model_id, None)
        count = before.count + 1 if before else 1
        delay_s = self._backoff.delay_s(count)
        self._failures[model_id] = _Failure(error, count, now + delay_s)
        if len(self._failures) > FAILURES_MAX:
            self._failures.popitem(last=False)
        commands = [self._reject(ticket, Why.LOAD_FAILED, error, delay_s) for ticket in list(entry.waiters)]
        self._move(entry, None)
        return commands + self._make_room(now)

    def unloaded(self, model_id: str, now: float) -> list[Command]:
        """A model has been destroyed; its room is free."""
        entry = self._in_phase(model_id, Phase.UNLOADING)
        entry.opener = next(iter(entry.waiters), None)
        self._move(entry, Phase.WAITING if entry.waiters else None)
        return self._make_room(now)

    def close(self, now: float) -> list[Command]:
        """Reject whoever waits and unload everything: what is idle now, the rest after its load or last lease."""
        self._closed = True
        waiting = [ticket for entry in self._entries.values() for ticket in entry.waiters]
        commands: list[Command] = [self._reject(ticket, Why.CLOSED) for ticket in waiting]
        return commands + self._make_room(now)

    # Decisions

    def _make_room(self, now: float) -> list[Command]:
        """Load what waits, evict for it what is idle, and see that someone can always go on."""
        commands: list[Command] = []
        while self._queue:
            if self.models_max == UNLIMITED or self._occupied < self.models_max:
                commands.append(self._load(next(iter(self._queue.values())), now))
            elif self._unloading < len(self._queue) and (victim := self._policy.victim()) is not None:
                commands.append(self._evict(victim))
            elif (ticket := self._deadlocked()) is not None:
                commands.append(self._reject(ticket, Why.OVERCOMMITTED))
            elif self._draining and not self._blocked_owners().isdisjoint(self._draining.leases.values()):
                commands += self._stop_draining(now)  # it would not run dry: one of its lessees waits for room
            else:
                break
        if self._unloading >= len(self._queue):  # room for all that wait is on its way
            commands += self._stop_draining(now)
        elif self._draining is None:
            self._start_draining()
        while self._closed and (victim := self._policy.victim()) is not None:
            commands.append(self._evict(victim))
        return commands

    def _load(self, entry: _Entry, now: float) -> Load:
        self._move(entry, Phase.LOADING)
        entry.load_started = now
        return Load(entry.model_id)

    def _evict(self, model_id: str) -> Unload:
        entry = self._entries[model_id]
        self._policy.remove(model_id)
        self._move(entry, Phase.UNLOADING)
        if entry is self._draining:
            self._draining = None
        return Unload(model_id)

    def _grant(self, entry: _Entry, ticket: int, owner: Hashable, start: Start, now: float) -> Grant:
        if not entry.leases:
            self._policy.remove(entry.model_id)
        entry.leases[ticket] = owner
        entry.uses += 1
        entry.granted_last = now
        return Grant(ticket, entry.model_id, start)

    def _grant_waiters(self, entry: _Entry, now: float, *, just_loaded: bool) -> list[Command]:
        commands: list[Command] = []
        for ticket, owner in entry.waiters.items():
            start = Start.WARM if not just_loaded else Start.COLD if ticket == entry.opener else Start.JOINED
            commands.append(self._grant(entry, ticket, owner, start, now))
        entry.waiters.clear()
        entry.opener = None
        return commands

    def _reject(self, ticket: int, why: Why, error: object = None, retry_after_s: float | None = None) -> Command:
        entry = self._tickets.pop(ticket)
        self._drop_waiter(entry, ticket)
        return Reject(ticket, entry.model_id, why, error, retry_after_s)

    def _drop_waiter(self, entry: _Entry, ticket: int) -> None:
        del entry.waiters[ticket]
        if entry.phase is Phase.WAITING and not entry.waiters:
            self._move(entry, None)

    def _becomes_idle(self, entry: _Entry) -> None:
        self._policy.add(IdleModel(entry.model_id, entry.size_bytes, entry.load_s, entry.uses))

    def _start_draining(self) -> None:
        """If the first in the queue was overtaken too often, let the model run dry that was granted longest ago."""
        if next(iter(self._queue.values())).overtaken >= OVERTAKES_MAX:
            blocked = self._blocked_owners()
            ends = [e for e in self._entries.values() if e.leases and blocked.isdisjoint(e.leases.values())]
            self._draining = min(ends, key=lambda e: e.granted_last, default=None)

    def _stop_draining(self, now: float) -> list[Command]:
        entry, self._draining = self._draining, None
        return [] if entry is None else self._grant_waiters(entry, now, just_loaded=False)

    def _blocked_owners(self) -> set[Hashable]:
        """Owners that wait for room, and so release nothing until they get it."""
        return {owner for entry in self._queue.values() for owner in entry.waiters.values()} - {None}

    def _deadlocked(self) -> int | None:
        """The acquire to reject, the newest of a lessee, when all room is held by owners that wait for room."""
        blocked = self._blocked_owners()
        if self._unloading or not blocked:
            return None
        lessees: set[Hashable] = set()
        for entry in self._entries.values():
            if entry.phase in _OCCUPYING:
                owners = {*entry.leases.values(), *(entry.waiters.values() if entry is not self._draining else ())}
                if blocked.isdisjoint(owners):
                    return None
                lessees |= owners
        stuck = lessees & blocked
        return max((t for e in self._queue.values() for t, owner in e.waiters.items() if owner in stuck), default=None)

    def _in_phase(self, model_id: str, phase: Phase) -> _Entry:
        entry = self._entries.get(model_id)
        if entry is None or entry.phase is not phase:
            raise RuntimeError(f"model {model_id!r} is not {phase.value}")
        return entry

    def _move(self, entry: _Entry, to: Phase | None) -> None:
        """The only place where a phase changes, with all that is counted by phase."""
        if to not in _NEXT[entry.phase]:
            raise RuntimeError(f"model {entry.model_id!r} cannot go from {entry.phase} to {to}")
        self._occupied += (to in _OCCUPYING) - (entry.phase in _OCCUPYING)
        self._unloading += (to is Phase.UNLOADING) - (entry.phase is Phase.UNLOADING)
        if to is Phase.WAITING:
            self._queue[entry.model_id] = entry
            entry.overtaken = 0
        elif entry.phase is Phase.WAITING:
            del self._queue[entry.model_id]
        entry.phase = to
        if to is None:
            del self._entries[entry.model_id]
