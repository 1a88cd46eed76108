"""The model cache of one replica: what to load, what to evict, who may use what.

What holds after every step, whatever the history:

1. Models loading, resident and unloading together stay within the budget, in count and in bytes. One that turns out
   larger than expected is paid for by idle models before anyone gets it; one that can never fit is refused, for good.
   Of several that only wait for each other's bytes, the newest is unloaded, and loaded again in its turn.
2. Nothing leased is unloaded.
3. At most one load of a model at a time; everyone who wants it shares it; one who leaves disturbs nobody else.
4. Every acquire gets exactly one answer, a Grant or a Reject, unless it is released first. Models get room in the
   order in which they began to wait for it, and grants of resident models overtake them a bounded number of times.
   At most `loads_max` loads run at a time. While models that nobody has ever seen keep failing to load, one of those at
   a time may take room, so that a flood of invented ids evicts next to nothing.
5. What it advertises (`resident`, `loading`) is what it holds and what it is loading.
6. Each loaded model is unloaded exactly once.
7. A model whose load failed recently is refused at once, with its error and when to try again; that evicts nothing.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum

from modelplex.core import estimates
from modelplex.core.backoff import Backoff
from modelplex.core.budget import UNLIMITED, Room
from modelplex.core.eviction import EvictionPolicy
from modelplex.core.idle import IdleModels
from modelplex.core.learned import Learned
from modelplex.core.shelf import Entry, Phase, Shelf

# How many grants of resident models may overtake the model that has waited longest for room.
OVERTAKES_MAX = 64


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
    TOO_LARGE = "too large"
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
    """The acquire named `ticket` is over. `error` is what `load_failed` was told, or the size of what is too large."""

    ticket: int
    model_id: str
    why: Why
    error: object = None
    retry_after_s: float | None = None


Command = Load | Unload | Grant | Reject


class ModelCache:
    """Decides for one cache of models; the shell performs what it answers.

    Args:
        models_max: models that may occupy the replica at a time, or `UNLIMITED`.
        policy: orders the idle models.
        backoff: how long a failed load is remembered.
        bytes_max: bytes that they may occupy together, or `UNLIMITED`.
        loads_max: loads that may run at a time, or `UNLIMITED`.
        min_residency_s: a model is not evicted before it has been resident for so long.
        idle_ttl_s: a model that nobody has used for so long is unloaded; None for never.

    Tickets are integers that grow with each acquire. `owner` is whoever holds the lease (a request), so that one that
    waits for room which only itself holds can be told so; leases without an owner pass None.
    Times are seconds of any clock that does not go backwards.
    """

    def __init__(
        self,
        models_max: int,
        policy: EvictionPolicy,
        backoff: Backoff,
        *,
        bytes_max: int = UNLIMITED,
        loads_max: int = UNLIMITED,
        min_residency_s: float = 0.0,
        idle_ttl_s: float | None = None,
    ) -> None:
        self.models_max = models_max
        self.bytes_max = bytes_max
        self.loads_max = loads_max
        self._idle = IdleModels(policy, min_residency_s, idle_ttl_s)
        self._learned = Learned(backoff)
        self._shelf = Shelf(Room(models_max, bytes_max))
        self._tickets: dict[int, Entry] = {}
        self._draining: Entry | None = None  # a leased model that takes no new leases, so that room comes free
        self._spared_until: float | None = None  # when a model that could be evicted is spared no longer
        self._closed = False

    def __contains__(self, ticket: int) -> bool:
        """Whether the ticket holds a lease or waits for one."""
        return ticket in self._tickets

    def knows(self, model_id: str) -> bool:
        """Whether the model is here in any phase of its life, or waited for."""
        return model_id in self._shelf.entries

    def measured(self, model_id: str) -> tuple[int, float] | None:
        """Size in bytes and load seconds of a model that is resident; None if it is not."""
        entry = self._shelf.entries.get(model_id)
        return None if entry is None or entry.phase is not Phase.RESIDENT else (entry.size_bytes, entry.load_s)

    def rest_s(self, model_id: str, now: float) -> float:
        """Expected seconds until the model is loaded."""
        entry = self._shelf.entries.get(model_id)
        if entry is None or entry.phase is not Phase.LOADING:
            return self._learned.recall(model_id).load_s
        return estimates.rest_s(entry.load_s, now - entry.load_started)

    # What it advertises

    @property
    def resident(self) -> list[str]:
        return self._shelf.ids(Phase.RESIDENT)

    @property
    def loading(self) -> list[str]:
        return self._shelf.ids(Phase.LOADING, Phase.SETTLING)

    @property
    def room(self) -> int | None:
        """How many more models could be loaded without evicting one, by what is known of sizes; None: any number."""
        return self._shelf.room_for(self._learned.average_bytes)

    @property
    def harm_s(self) -> float:
        """What the next eviction costs: its model's load seconds x the demand for it, 1 for that of an average one.

        As if it were the only one in demand if there is none that could be evicted.
        """
        models, victim = len(self._shelf.entries), self._idle.victim()
        if victim is None:
            return self._learned.average_load_s * models
        known = self._shelf.entries[victim].known
        return known.load_s * self._learned.share(known) * models

    @property
    def next_tick(self) -> float | None:
        """When to call `tick`; None while nothing is due at any time."""
        looks = [at for at in (self._idle.next_look, self._spared_until) if at is not None]
        return min(looks, default=None)

    # Inputs

    def acquire(self, ticket: int, model_id: str, owner: Hashable, now: float) -> list[Command]:
        """Ask for a lease. The answer is among these commands or those of a later input."""
        if ticket in self._tickets:
            raise ValueError(f"ticket {ticket} is in use")
        entry = self._shelf.entries.get(model_id)
        # One that loads is refused only after `load_overdue`, one that unloads only if it can never fit.
        is_here = entry is not None and entry.phase not in (Phase.LOADING, Phase.UNLOADING) and not self._closed
        if not is_here and (refusal := self._refusal(ticket, model_id, now)) is not None:
            return [refusal]
        if entry is None:
            entry = self._shelf.add(model_id, self._learned.recall(model_id), now)
        self._tickets[ticket] = entry
        self._learned.used(entry.known)
        commands: list[Command] = []
        # An owner that already holds the model gets it again even while it drains: it could not end otherwise.
        drains = entry is self._draining and (owner is None or owner not in entry.leases.values())
        if entry.phase is Phase.RESIDENT and not drains:
            commands.append(self._grant(entry, ticket, owner, Start.WARM, now))
            if self._calm:
                return commands
            if (first := self._shelf.first_waiting()) is not None:
                first.overtaken += 1
        else:
            entry.waiters[ticket] = owner
            entry.opener = ticket if entry.opener is None else entry.opener
        return commands + self._make_room(now)

    def release(self, ticket: int, now: float) -> list[Command]:
        """End a lease, or withdraw an acquire that has not been answered."""
        entry = self._tickets.pop(ticket)
        if ticket in entry.leases:
            self._shelf.end_lease(entry, ticket)
            if not entry.leases:
                self._idle.add(entry, now)
            if self._calm:
                return []
        else:
            self._shelf.drop_waiter(entry, ticket)
        return self._make_room(now)

    def loaded(self, model_id: str, size_bytes: int, now: float) -> list[Command]:
        """A load has ended well."""
        entry = self._shelf.in_phase(model_id, Phase.LOADING)
        self._shelf.move(entry, Phase.SETTLING)
        self._shelf.resize(entry, size_bytes)
        self._learned.loaded(model_id, entry.known, size_bytes, now - entry.load_started)
        return self._make_room(now)

    def load_failed(self, model_id: str, error: object, now: float) -> list[Command]:
        """A load has failed: everyone who waited for it is told, once."""
        entry = self._shelf.in_phase(model_id, Phase.LOADING)
        commands = self._tell_failure(entry, error, now)
        self._shelf.move(entry, None)
        return commands + self._make_room(now)

    def load_overdue(self, model_id: str, error: object, now: float) -> list[Command]:
        """A load that cannot be stopped takes too long: who waits is told, as of a failure; its room stays taken."""
        entry = self._shelf.in_phase(model_id, Phase.LOADING)
        return self._tell_failure(entry, error, now) + self._make_room(now)

    def unloaded(self, model_id: str, now: float) -> list[Command]:
        """A model has been destroyed; its room is free."""
        entry = self._shelf.in_phase(model_id, Phase.UNLOADING)
        entry.opener = next(iter(entry.waiters), None)
        entry.waiting_since = now
        self._shelf.move(entry, Phase.WAITING if entry.waiters else None)
        return self._make_room(now)

    def tick(self, now: float) -> list[Command]:
        """Time has passed: models may have become evictable, or have been idle for too long."""
        return [*map(self._evict, self._idle.overdue(now)), *self._make_room(now)]

    def close(self, now: float) -> list[Command]:
        """Reject whoever waits and unload everything: what is idle now, the rest after its load or last lease."""
        self._closed = True
        self._idle.offer_all()
        waiting = [ticket for entry in self._shelf.entries.values() for ticket in entry.waiters]
        return [self._reject(ticket, Why.CLOSED) for ticket in waiting] + self._make_room(now)

    # Decisions

    @property
    def _calm(self) -> bool:
        """Whether nothing waits for room, so that nothing is to be decided about it."""
        shelf = self._shelf
        return not (shelf.queue or shelf.settling or self._closed or self._draining)

    def _refusal(self, ticket: int, model_id: str, now: float) -> Reject | None:
        """Why a model that is not here is not to be loaded."""
        if self._closed:
            return Reject(ticket, model_id, Why.CLOSED)
        if (failure := self._learned.recent_failure(model_id, now)) is not None:
            return Reject(ticket, model_id, Why.FAILED_RECENTLY, failure.error, failure.retry_at - now)
        known = self._learned.known(model_id)
        if known is not None and not self._shelf.room.can_ever_fit(known.size_bytes):
            return Reject(ticket, model_id, Why.TOO_LARGE, known.size_bytes)
        return None

    def _make_room(self, now: float) -> list[Command]:
        """Load what waits, evict for it what is idle, and see that someone can always go on."""
        self._spared_until = None
        commands: list[Command] = []
        while starving := self._settle(commands, now) or self._fill(commands, now):
            if (ticket := self._shelf.deadlocked(self._draining)) is not None:
                commands.append(self._reject(ticket, Why.OVERCOMMITTED))
            elif self._draining and not self._shelf.blocked_owners().isdisjoint(self._draining.leases.values()):
                commands += self._stop_draining(now)  # it would not run dry: one of its lessees waits for room
            else:
                break
        if not starving:  # nothing waits, or room for all that do is on its way
            commands += self._stop_draining(now)
        elif self._draining is None:
            self._start_draining()
        while self._closed and (victim := self._idle.victim()) is not None:
            commands.append(self._evict(victim))
        return commands

    def _settle(self, commands: list[Command], now: float) -> bool:
        """Grant what has been loaded, once its size is paid for. Answers whether one is left that cannot be paid."""
        while (entry := self._shelf.to_settle()) is not None:
            if not self._shelf.room.can_ever_fit(entry.size_bytes):
                commands += [self._reject(t, Why.TOO_LARGE, entry.size_bytes) for t in list(entry.waiters)]
                commands.append(self._evict(entry.model_id))
            elif not self._shelf.room.overdrawn:
                self._shelf.move(entry, Phase.RESIDENT)
                entry.resident_since = now
                self._idle.add(entry, now)
                commands += self._grant_waiters(entry, now, just_loaded=True)
            elif not entry.waiters:
                commands.append(self._evict(entry.model_id))  # nobody wants it any more
            elif not self._shelf.room_ahead().overdrawn:
                return False
            elif (victim := self._idle.victim()) is not None or (victim := self._shelf.surplus()) is not None:
                commands.append(self._evict(victim))
            else:
                return True
        return False

    def _fill(self, commands: list[Command], now: float) -> bool:
        """Begin the loads that room is there for. Answers whether a model waits for which none will come free."""
        ahead, in_turn, cheap = self._shelf.room_ahead(), True, None
        for entry in list(self._shelf.may_load(self.loads_max, strangers_apart=self._learned.suspicious)):
            if not ahead.fits(entry.size_bytes) and (victim := self._idle.victim()) is not None:
                cheap = self._idle.worths(self._shelf.soon_idle(now)) if cheap is None else cheap
                patient_until = entry.waiting_since + entry.load_s
                if cheap and now < patient_until and self._idle.dearer(victim, cheap[0]):
                    cheap.pop(0)
                    self._spared_until = min(patient_until, self._spared_until or patient_until)
                    continue
            while not ahead.fits(entry.size_bytes) and (victim := self._idle.victim()) is not None:
                ahead.free(self._shelf.entries[victim].size_bytes)
                commands.append(self._evict(victim))
            if not ahead.fits(entry.size_bytes):
                return True
            ahead.take(entry.size_bytes)
            in_turn = in_turn and self._shelf.room.fits(entry.size_bytes)
            if in_turn:
                self._shelf.move(entry, Phase.LOADING)
                entry.load_started = now
                commands.append(Load(entry.model_id))
        return False

    def _evict(self, model_id: str) -> Unload:
        entry = self._shelf.entries[model_id]
        self._idle.remove(entry)
        if entry is self._draining:
            self._draining = None
        self._shelf.move(entry, Phase.UNLOADING)
        return Unload(model_id)

    def _grant(self, entry: Entry, ticket: int, owner: Hashable, start: Start, now: float) -> Grant:
        self._idle.remove(entry)
        self._shelf.lease(entry, ticket, owner, now)
        return Grant(ticket, entry.model_id, start)

    def _grant_waiters(self, entry: Entry, now: float, *, just_loaded: bool) -> list[Command]:
        commands: list[Command] = []
        for ticket, owner in entry.waiters.items():
            start = Start.WARM if not just_loaded else Start.COLD if ticket == entry.opener else Start.JOINED
            commands.append(self._grant(entry, ticket, owner, start, now))
        entry.waiters.clear()
        entry.opener = None
        return commands

    def _reject(self, ticket: int, why: Why, error: object = None, retry_after_s: float | None = None) -> Command:
        entry = self._tickets.pop(ticket)
        self._shelf.drop_waiter(entry, ticket)
        return Reject(ticket, entry.model_id, why, error, retry_after_s)

    def _tell_failure(self, entry: Entry, error: object, now: float) -> list[Command]:
        delay_s = self._learned.failed(entry.model_id, entry.known, error, now)
        return [self._reject(ticket, Why.LOAD_FAILED, error, delay_s) for ticket in list(entry.waiters)]

    def _start_draining(self) -> None:
        """If the first that waits was overtaken too often, let the model run dry that was granted longest ago."""
        first = self._shelf.first_waiting()
        if first is not None and first.overtaken >= OVERTAKES_MAX:
            self._draining = self._shelf.longest_granted()

    def _stop_draining(self, now: float) -> list[Command]:
        entry, self._draining = self._draining, None
        return [] if entry is None else self._grant_waiters(entry, now, just_loaded=False)
