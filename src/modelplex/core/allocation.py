"""Room for the models of one cache: which of those that wait gets it next, and which idle one gives it.

Also what a cache tells its shell to do, since nearly all of it is decided here.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum, StrEnum

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


class Reason(StrEnum):
    """Why a model is unloaded."""

    ROOM = "room"  # another one gets its room
    SIZE = "size"  # it pays for one that turned out larger than expected
    TTL = "ttl"  # nobody has used it for too long
    RETIRED = "retired"  # a new version has taken its place, or somebody has asked for it
    CLOSED = "closed"  # the replica stops
    TOO_LARGE = "too_large"  # it turned out never to fit
    SURPLUS = "surplus"  # of several that wait for each other's room, it came last; it is loaded again in its turn
    UNWANTED = "unwanted"  # it turned out larger than expected, and nobody waits for it any more


@dataclass(slots=True)
class Load:
    """Run the loader of this model, then call `loaded` or `load_failed`.

    Attributes:
        model_id: the model.
        ticket: of the acquire that began to wait for it.
        size_bytes, load_s: what is expected of it; 0 while nothing is known of any.
        models, taken_bytes: what is taken with it, those included that are being unloaded.
    """

    model_id: str
    ticket: int | None = field(default=None, compare=False)
    size_bytes: int = field(default=0, compare=False)
    load_s: float = field(default=0.0, compare=False)
    models: int = field(default=0, compare=False)
    taken_bytes: int = field(default=0, compare=False)


@dataclass(slots=True)
class Unload:
    """Destroy this model, then call `unloaded`.

    Attributes:
        model_id: the model.
        reason: why it goes.
        room_for: the model that gets its room, or whose size it pays for, if that is why; else empty.
        idle_s: seconds since it was used last.
        uses: requests that have used it since it was loaded.
        size_bytes: what it takes.
        harm_s: what that costs: its load's seconds x the demand for it, 1 for that of an average one.
        idle_models: how many models were idle, this one included.
    """

    model_id: str
    reason: Reason = field(default=Reason.ROOM, compare=False)
    room_for: str = field(default="", compare=False)
    idle_s: float = field(default=0.0, compare=False)
    uses: int = field(default=0, compare=False)
    size_bytes: int = field(default=0, compare=False)
    harm_s: float = field(default=0.0, compare=False)
    idle_models: int = field(default=0, compare=False)


@dataclass(slots=True)
class Grant:
    """The acquire named `ticket` holds a lease until it is released."""

    ticket: int
    model_id: str
    start: Start


@dataclass(slots=True)
class Reject:
    """The acquire named `ticket` is over. `error` is what `load_failed` was told, or the size of what is too large."""

    ticket: int
    model_id: str
    why: Why
    error: object = None
    retry_after_s: float | None = None


Command = Load | Unload | Grant | Reject


class Allocator:
    """Decides who gets room and who gives it, and books that on the shelf.

    The cache tells the shelf what has happened, then calls `make_room`: it answers with all that follows.

    Args:
        shelf: the models of the cache.
        idle: those of them that nobody uses.
        learned: whether ids are being invented.
        loads_max: loads that may run at a time, or `UNLIMITED`.

    Attributes:
        closed: nothing waits any more, and what becomes idle is unloaded at once.
        spared_until: when an idle model is no longer spared for one that waits; None while none is.
    """

    def __init__(self, shelf: Shelf, idle: IdleModels, learned: Learned, loads_max: int) -> None:
        self.closed = False
        self.spared_until: float | None = None
        self._shelf = shelf
        self._idle = idle
        self._learned = learned
        self._loads_max = loads_max
        self._draining: Entry | None = None  # a leased model that takes no new leases, so that room comes free

    @property
    def calm(self) -> bool:
        """Whether nothing waits for room, so that `make_room` would do nothing."""
        return not (self._shelf.queue or self._shelf.settling or self.closed or self._draining)

    def turns_away(self, entry: Entry, owner: Hashable) -> bool:
        """Whether the model is running dry, and takes no new lease of this owner.

        One that already holds it gets it again: it could not end otherwise.
        """
        return entry is self._draining and (owner is None or owner not in entry.leases.values())

    def make_room(self, now: float) -> list[Command]:
        """Load what waits, evict for it what is idle, and see that someone can always go on."""
        commands: list[Command] = []
        while starving := self._serve(commands, now):
            if (ticket := self._shelf.deadlocked(self._draining)) is not None:
                commands.append(self.reject(ticket, Why.OVERCOMMITTED))
            elif self._draining and not self._shelf.blocked_owners().isdisjoint(self._draining.leases.values()):
                commands += self._stop_draining(now)  # it would not run dry: one of its lessees waits for room
            else:
                break
        if not starving:  # nothing waits, or room for all that do is on its way
            commands += self._stop_draining(now)
        elif self._draining is None:
            self._start_draining()
        while self.closed and (victim := self._idle.victim()) is not None:
            commands.append(self.evict(victim, Reason.CLOSED, now))
        return commands

    def evict(self, model_id: str, reason: Reason, now: float, room_for: str = "") -> Unload:
        entry = self._shelf.entries[model_id]
        idle_s = 0.0 if entry.idle_since is None or entry.phase is not Phase.RESIDENT else now - entry.idle_since
        harm_s = entry.load_s * self._share(entry) * len(self._shelf.entries)
        idle_models = len(self._idle)
        self._idle.remove(entry)
        if entry is self._draining:
            self._draining = None
        self._shelf.move(entry, Phase.UNLOADING)
        return Unload(model_id, reason, room_for, idle_s, entry.uses, entry.size_bytes, harm_s, idle_models)

    def _share(self, entry: Entry) -> float:
        """The part of all uses of late that were of the model."""
        return self._learned.share(entry.known)

    def grant(self, entry: Entry, ticket: int, owner: Hashable, start: Start, now: float) -> Grant:
        self._idle.remove(entry)
        self._shelf.lease(entry, ticket, owner, now)
        return Grant(ticket, entry.model_id, start)

    def reject(self, ticket: int, why: Why, error: object = None, retry_after_s: float | None = None) -> Reject:
        entry = self._shelf.drop_waiter(ticket)
        return Reject(ticket, entry.model_id, why, error, retry_after_s)

    def _serve(self, commands: list[Command], now: float) -> bool:
        """Give what room there is or can be made. Answers whether a model waits for room that will not come free."""
        self.spared_until = None
        return self._settle(commands, now) or self._fill(commands, now)

    def _settle(self, commands: list[Command], now: float) -> bool:
        """Grant what has been loaded, once its size is paid for. Answers whether one is left that cannot be paid."""
        while (entry := self._shelf.to_settle()) is not None:
            if not self._shelf.room.can_ever_fit(entry.size_bytes):
                commands += [self.reject(t, Why.TOO_LARGE, entry.size_bytes) for t in list(entry.waiters)]
                commands.append(self.evict(entry.model_id, Reason.TOO_LARGE, now))
            elif not self._shelf.room.overdrawn:
                self._shelf.move(entry, Phase.RESIDENT)
                entry.resident_since = now
                self._idle.add(entry, now)
                commands += self._grant_waiters(entry, now, just_loaded=True)
                if entry.retired and not entry.leases:
                    commands.append(self.evict(entry.model_id, Reason.RETIRED, now))
            elif not entry.waiters:  # nobody wants it any more
                commands.append(self.evict(entry.model_id, Reason.CLOSED if self.closed else Reason.UNWANTED, now))
            elif not self._shelf.room_ahead().overdrawn:
                return False
            elif (victim := self._idle.victim()) is not None:
                commands.append(self.evict(victim, Reason.SIZE, now, entry.model_id))
            elif (victim := self._shelf.surplus()) is not None:
                commands.append(self.evict(victim, Reason.SURPLUS, now))
            else:
                return True
        return False

    def _fill(self, commands: list[Command], now: float) -> bool:
        """Begin the loads that room is there for. Answers whether a model waits for which none will come free."""
        ahead, in_turn, cheap = self._shelf.room_ahead(), True, None
        for entry in list(self._shelf.may_load(self._loads_max, strangers_apart=self._learned.suspicious)):
            victim = None if self._draining or ahead.fits(entry.size_bytes) else self._idle.victim()
            if victim is not None:  # it may be spared, unless somebody has been overtaken too often already
                cheap = self._idle.worths(self._shelf.soon_idle(now)) if cheap is None else cheap
                if cheap and now < entry.patient_until and self._idle.dearer(victim, cheap[0]):
                    cheap.pop(0)
                    self.spared_until = min(entry.patient_until, self.spared_until or entry.patient_until)
                    continue
            while not ahead.fits(entry.size_bytes) and (victim := self._idle.victim()) is not None:
                ahead.free(self._shelf.entries[victim].size_bytes)
                commands.append(self.evict(victim, Reason.ROOM, now, entry.model_id))
            if not ahead.fits(entry.size_bytes):
                return True
            ahead.take(entry.size_bytes)
            in_turn = in_turn and self._shelf.room.fits(entry.size_bytes)
            if in_turn:
                commands.append(self._begin_load(entry, now))
        return False

    def _begin_load(self, entry: Entry, now: float) -> Load:
        self._shelf.move(entry, Phase.LOADING)
        entry.load_started = now
        room = self._shelf.room
        return Load(entry.model_id, entry.opener, entry.size_bytes, entry.load_s, room.models, room.size_bytes)

    def _grant_waiters(self, entry: Entry, now: float, *, just_loaded: bool) -> list[Command]:
        commands: list[Command] = []
        for ticket, owner in entry.waiters.items():
            start = Start.WARM if not just_loaded else Start.COLD if ticket == entry.opener else Start.JOINED
            commands.append(self.grant(entry, ticket, owner, start, now))
        entry.waiters.clear()
        entry.opener = None
        return commands

    def _start_draining(self) -> None:
        """If the first that waits was overtaken too often, let the model run dry that was granted longest ago."""
        first = self._shelf.first_waiting()
        if first is not None and first.overtaken >= OVERTAKES_MAX:
            self._draining = self._shelf.longest_granted()

    def _stop_draining(self, now: float) -> list[Command]:
        entry, self._draining = self._draining, None
        return [] if entry is None else self._grant_waiters(entry, now, just_loaded=False)
