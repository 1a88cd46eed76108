"""The models of a cache, each in one phase of its life, and the room that they take."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

from modelplex.core.budget import UNLIMITED, Room
from modelplex.core.learned import Known

if TYPE_CHECKING:
    from modelplex.core.tenant_shelf import Account

# A model waits for a cheaper place at most so many times as long as its own load takes. A little more than once, or
# places of models that load just as long would come too late: measured in the simulator, it is worth 3% of all loads.
PATIENCE_LOADS = 1.5


class Phase(Enum):
    WAITING = "waiting for room"
    LOADING = "loading"
    SETTLING = "loaded, while idle models pay for its size"
    RESIDENT = "resident"
    UNLOADING = "unloading"


# The legal transitions. None is "the cache does not know the model".
_NEXT: dict[Phase | None, set[Phase | None]] = {
    None: {Phase.WAITING},
    Phase.WAITING: {Phase.LOADING, None},
    Phase.LOADING: {Phase.SETTLING, None},
    Phase.SETTLING: {Phase.RESIDENT, Phase.UNLOADING},
    Phase.RESIDENT: {Phase.UNLOADING},
    Phase.UNLOADING: {Phase.WAITING, None},
}
_OCCUPYING = (Phase.LOADING, Phase.SETTLING, Phase.RESIDENT, Phase.UNLOADING)


@dataclass(slots=True, eq=False)
class Entry:
    """One model: who uses it, who waits for it, and what is known of it."""

    model_id: str
    size_bytes: int  # expected until it is loaded, then its own
    known: Known = field(default_factory=Known)
    phase: Phase | None = None
    waiters: dict[int, Hashable] = field(default_factory=dict)  # ticket -> owner, in order of arrival
    leases: dict[int, Hashable] = field(default_factory=dict)  # ticket -> owner
    opener: int | None = None  # the ticket that asked for the load
    overtaken: int = 0  # grants of resident models while this one was the first to wait for room
    patient_until: float = 0.0  # while it waits for room, it may wait for a cheaper place
    load_started: float = 0.0
    resident_since: float = 0.0
    idle_since: float | None = None
    evictable: bool = False  # it is idle, and old enough
    retired: bool = False  # to be unloaded when nobody uses it, or waits for it, any more
    uses: int = 0
    granted_last: float = 0.0
    tenant: str = ""  # on whose behalf it was loaded, as that is called in the options; empty without tenants
    account: "Account | None" = None  # the tenant's

    def wait_from(self, now: float) -> None:
        """From now on the model waits for room."""
        self.patient_until = now + PATIENCE_LOADS * self.load_s

    @property
    def load_s(self) -> float:
        return self.known.load_s

    @property
    def log_frequency(self) -> float:
        return self.known.log_frequency


class Shelf:
    """All models that a cache knows of. A phase changes only by `move`, which keeps what is counted by phase."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.entries: dict[str, Entry] = {}
        self.tickets: dict[int, Entry] = {}  # of those who wait or hold a lease
        self.queue: OrderedDict[str, Entry] = OrderedDict()  # those that wait for room, oldest first
        self.settling: OrderedDict[str, Entry] = OrderedDict()
        self.in_use: dict[str, Entry] = {}  # those that load or are leased
        self.loading = 0
        self.unproven_loading = 0
        self._leaving = replace(room)  # taken by what is being unloaded

    def add(self, model_id: str, known: Known, now: float) -> Entry:
        """A model that waits for room from now on."""
        entry = self.entries[model_id] = Entry(model_id, self._at_most_all(known.size_bytes), known)
        entry.wait_from(now)
        self.move(entry, Phase.WAITING)
        return entry

    def in_phase(self, model_id: str, phase: Phase) -> Entry:
        """The entry of a model that must be in this phase; RuntimeError if it is not."""
        entry = self.entries.get(model_id)
        if entry is None or entry.phase is not phase:
            raise RuntimeError(f"model {model_id!r} is not {phase.value}")
        return entry

    def ids(self, *phases: Phase) -> list[str]:
        return [entry.model_id for entry in self.entries.values() if entry.phase in phases]

    def room_ahead(self) -> Room:
        """The room as it will be when what is being unloaded has gone."""
        room, leaving = self.room, self._leaving
        return replace(room, models=room.models - leaving.models, size_bytes=room.size_bytes - leaving.size_bytes)

    def room_for(self, size_bytes: int) -> int | None:
        """How many models of this size fit beside what is there and what waits; None for any number."""
        room, waiting, size_bytes = self.room, self.queue.values(), self._at_most_all(size_bytes)
        free = [] if room.models_max == UNLIMITED else [room.models_max - room.models - len(waiting)]
        if room.bytes_max != UNLIMITED and size_bytes:
            free.append((room.bytes_max - room.size_bytes - sum(e.size_bytes for e in waiting)) // size_bytes)
        return max(0, min(free)) if free else None

    def _at_most_all(self, size_bytes: int) -> int:
        """An expected size may be an average of models that did not fit either."""
        return size_bytes if self.room.bytes_max == UNLIMITED else min(size_bytes, self.room.bytes_max)

    def first_waiting(self) -> Entry | None:
        """The model that has waited for room longest."""
        return next(iter(self.settling.values()), None) or next(iter(self.queue.values()), None)

    def to_settle(self) -> Entry | None:
        """Of the models that have been loaded, the one to see to next: one that can never fit, else the oldest."""
        settling = self.settling.values()
        never_fits = (entry for entry in settling if not self.room.can_ever_fit(entry.size_bytes))
        return next(never_fits, None) or next(iter(settling), None)

    def surplus(self) -> str | None:
        """The newest of models that only wait for each other's room, to be unloaded and loaded again in its turn."""
        if len(self.settling) < 2 or any(e.phase in (Phase.LOADING, Phase.RESIDENT) for e in self.entries.values()):
            return None
        return next(reversed(self.settling))

    def may_load(self, loads_max: int, *, strangers_apart: bool) -> Iterator[Entry]:
        """What waits, in order, as far as the number of loads lets it; of models never loaded one at a time, if so."""
        loads = len(self.queue) if loads_max == UNLIMITED else loads_max - self.loading
        strangers = 1 - self.unproven_loading if strangers_apart else loads
        for entry in self.queue.values():
            if loads <= 0:
                return
            if entry.known.proven or strangers > 0:
                loads -= 1
                strangers -= not entry.known.proven
                yield entry

    def soon_idle(self, now: float) -> Iterator[Entry]:
        """Models in use that will probably be idle soon: those that load, or were granted no longer ago than a load.

        Not one whose users wait for room themselves: it is idle only when they have got it.
        """
        blocked = self.blocked_owners()
        for entry in self.in_use.values():
            lately = not entry.leases or now - entry.granted_last < entry.load_s
            if lately and blocked.isdisjoint((*entry.leases.values(), *entry.waiters.values())):
                yield entry

    def longest_granted(self) -> Entry | None:
        """Of the models in use that can run dry, the one that was granted longest ago."""
        blocked = self.blocked_owners()
        ends = [e for e in self.entries.values() if e.leases and blocked.isdisjoint(e.leases.values())]
        return min(ends, key=lambda e: e.granted_last, default=None)

    def move(self, entry: Entry, to: Phase | None) -> None:
        if to not in _NEXT[entry.phase]:
            raise RuntimeError(f"model {entry.model_id!r} cannot go from {entry.phase} to {to}")
        came, went = to in _OCCUPYING, entry.phase in _OCCUPYING
        if came and not went:
            self.room.take(entry.size_bytes)
        elif went and not came:
            self.room.free(entry.size_bytes)
        if to is Phase.UNLOADING:
            self._leaving.take(entry.size_bytes)
        elif entry.phase is Phase.UNLOADING:
            self._leaving.free(entry.size_bytes)
        if to is Phase.LOADING:
            self.in_use[entry.model_id] = entry
        elif to is not Phase.SETTLING:
            self.in_use.pop(entry.model_id, None)
        change = (to is Phase.LOADING) - (entry.phase is Phase.LOADING)
        self.loading += change
        self.unproven_loading += change * (not entry.known.proven)
        for phase, line in ((Phase.WAITING, self.queue), (Phase.SETTLING, self.settling)):
            if to is phase:
                line[entry.model_id] = entry
                entry.overtaken = 0
            elif entry.phase is phase:
                del line[entry.model_id]
        entry.phase = to
        if to is None:
            del self.entries[entry.model_id]

    def wait(self, entry: Entry, ticket: int, owner: Hashable) -> None:
        """Somebody waits for the model."""
        self.tickets[ticket] = entry
        entry.waiters[ticket] = owner
        entry.opener = ticket if entry.opener is None else entry.opener

    def drop_waiter(self, ticket: int) -> Entry:
        """One who waits has left; a model that nobody waits for any more needs no room."""
        entry = self.tickets.pop(ticket)
        del entry.waiters[ticket]
        if entry.phase is Phase.WAITING and not entry.waiters:
            self.move(entry, None)
        return entry

    def lease(self, entry: Entry, ticket: int, owner: Hashable, now: float) -> None:
        self.tickets[ticket] = entry
        entry.leases[ticket] = owner
        entry.uses += 1
        entry.granted_last = now
        self.in_use[entry.model_id] = entry

    def end_lease(self, ticket: int) -> None:
        entry = self.tickets.pop(ticket)
        del entry.leases[ticket]
        if not entry.leases:
            del self.in_use[entry.model_id]

    def resize(self, entry: Entry, size_bytes: int) -> None:
        """The model that loads has turned out to have this size."""
        self.room.size_bytes += size_bytes - entry.size_bytes
        entry.size_bytes = size_bytes

    # Who waits for whom

    def blocked_owners(self) -> set[Hashable]:
        """Owners that wait for room, and so release nothing until they get it."""
        waiting = (*self.settling.values(), *self.queue.values())
        return {owner for entry in waiting for owner in entry.waiters.values()} - {None}

    def deadlocked(self, draining: Entry | None) -> int | None:
        """The acquire to reject, the newest of a lessee, when all room is held by owners that wait for room."""
        blocked = self.blocked_owners()
        if self._leaving.models or not blocked:
            return None
        lessees: set[Hashable] = set()
        for entry in self.entries.values():
            if entry.phase in (Phase.LOADING, Phase.RESIDENT):
                owners = {*entry.leases.values(), *(entry.waiters.values() if entry is not draining else ())}
                if blocked.isdisjoint(owners):
                    return None
                lessees |= owners
        stuck = lessees & blocked
        waiting = (*self.settling.values(), *self.queue.values())
        return max((t for e in waiting for t, owner in e.waiters.items() if owner in stuck), default=None)
