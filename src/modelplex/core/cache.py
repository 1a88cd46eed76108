"""The model cache of one replica: what to load, what to evict, who may use what.

What holds after every step, whatever the history:

1. Models loading, resident and unloading together stay within the budget, in count and in bytes. One that turns out
   larger than expected is paid for by idle models before anyone gets it; one that can never fit is refused, for good.
   Of several that only wait for each other's bytes, the newest is unloaded, and loaded again in its turn.
2. Nothing leased is unloaded.
3. At most one load of a model at a time; everyone who wants it shares it; one who leaves disturbs nobody else.
4. Every acquire gets exactly one answer, a Grant or a Reject, unless it is released first. Models get room in the
   order in which they began to wait for it, and grants of resident models overtake them a bounded number of times.
   With a policy that says what models are worth, one may wait for the place of a model in use that is worth clearly
   less than every idle one, while those behind it get what room there is: at most 1.5 times as long as its load takes.
   At most `loads_max` loads run at a time. While models that nobody has ever seen keep failing to load, one of those at
   a time may take room, so that a flood of invented ids evicts next to nothing.
5. What it advertises (`resident`, `loading`) is what it holds and what it is loading.
6. Each loaded model is unloaded exactly once.
7. A model whose load failed recently is refused at once, with its error and when to try again; that evicts nothing.
"""

from collections.abc import Collection, Hashable

from modelplex.core import estimates
from modelplex.core.allocation import Allocator, Command, Grant, Load, Reason, Reject, Start, Unload, Why
from modelplex.core.backoff import Backoff
from modelplex.core.budget import UNLIMITED, Room
from modelplex.core.eviction import EvictionPolicy
from modelplex.core.idle import IdleModels
from modelplex.core.learned import Learned
from modelplex.core.shelf import Entry, Phase, Shelf

__all__ = ["Command", "Grant", "Load", "ModelCache", "Reason", "Reject", "Start", "Unload", "Why"]


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
        self._allocator = Allocator(self._shelf, self._idle, self._learned, loads_max)

    def __contains__(self, ticket: int) -> bool:
        """Whether the ticket holds a lease or waits for one."""
        return ticket in self._shelf.tickets

    def knows(self, model_id: str) -> bool:
        """Whether the model is here in any phase of its life, or waited for."""
        return model_id in self._shelf.entries

    def holds(self, model_id: str) -> bool:
        """Whether the model is resident."""
        entry = self._shelf.entries.get(model_id)
        return entry is not None and entry.phase is Phase.RESIDENT

    def keeps(self, model_id: str) -> bool:
        """Whether the model is resident, loads, or is waited for."""
        entry = self._shelf.entries.get(model_id)
        return entry is not None and (entry.phase is not Phase.UNLOADING or bool(entry.waiters))

    def phase(self, model_id: str) -> Phase | None:
        """Where the model is in its life; None if nothing is known of it."""
        entry = self._shelf.entries.get(model_id)
        return None if entry is None else entry.phase

    def measured(self, model_id: str) -> tuple[int, float] | None:
        """Size in bytes and load seconds of a model that is resident; None if it is not."""
        entry = self._shelf.entries.get(model_id)
        return None if entry is None or entry.phase is not Phase.RESIDENT else (entry.size_bytes, entry.load_s)

    def refuses(self, model_id: str, now: float, tenant: str = "") -> bool:
        """Whether a model that is not here would not be loaded: its load has failed recently, or it is too large."""
        return self._refusal(0, model_id, now) is not None

    def rest_s(self, model_id: str, now: float) -> float:
        """Expected seconds until the model is loaded."""
        entry = self._shelf.entries.get(model_id)
        if entry is None or entry.phase is not Phase.LOADING:
            return self._learned.recall(model_id).load_s
        return estimates.rest_s(entry.load_s, now - entry.load_started)

    @property
    def entries(self) -> Collection[Entry]:
        """All models that it knows of, in no certain order: to be looked at, not to be changed."""
        return self._shelf.entries.values()

    @property
    def size_bytes(self) -> int:
        """What they take together."""
        return self._shelf.room.size_bytes

    def tenant_of(self, model_id: str) -> str:
        """On whose behalf the model was loaded, as that is called in the options; empty without tenants."""
        entry = self._shelf.entries.get(model_id)
        return "" if entry is None else entry.tenant

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
        entries, victim = self._shelf.entries, self._idle.victim()
        if victim is None:
            return self._learned.average_load_s * len(entries)
        known = entries[victim].known
        return known.load_s * self._learned.share(known) * len(entries)

    @property
    def next_tick(self) -> float | None:
        """When to call `tick`; None while nothing is due at any time."""
        idle, spared = self._idle.next_look, self._allocator.spared_until
        return spared if idle is None else idle if spared is None else min(idle, spared)

    # Inputs

    def acquire(
        self,
        ticket: int,
        model_id: str,
        owner: Hashable,
        now: float,
        *,
        hurried: bool = False,
        share: float = 0.0,
        tenant: str = "",
    ) -> list[Command]:
        """Ask for a lease. The answer is among these commands or those of a later input.

        One that is `hurried` does not let an idle model be spared: while it waits it keeps from others what is scarcer.
        `share` is the part of all acquires that this model is expected to have from now on, if it is not here: others
        know how much it was used elsewhere. On behalf of which `tenant` makes a difference in a `TenantCache` only.
        """
        if ticket in self._shelf.tickets:
            raise ValueError(f"ticket {ticket} is in use")
        allocator, entry = self._allocator, self._shelf.entries.get(model_id)
        # One that loads is refused only after `load_overdue`, one that unloads only if it can never fit.
        is_here = entry is not None and entry.phase not in (Phase.LOADING, Phase.UNLOADING) and not allocator.closed
        if not is_here and (refusal := self._refusal(ticket, model_id, now)) is not None:
            return [refusal]
        if entry is None:
            entry = self._shelf.add(model_id, self._learned.recall(model_id), now)
        entry.retired = False
        self._learned.used(entry.known)
        if share:
            self._learned.told_share(entry.known, share)
        commands: list[Command] = []
        if entry.phase is Phase.RESIDENT and not allocator.turns_away(entry, owner):
            commands.append(allocator.grant(entry, ticket, owner, Start.WARM, now))
            if allocator.calm:
                return commands
            if (first := self._shelf.first_waiting()) is not None:
                first.overtaken += 1
        else:
            self._shelf.wait(entry, ticket, owner)
            if hurried:
                entry.patient_until = now
        return commands + allocator.make_room(now)

    def release(self, ticket: int, now: float) -> list[Command]:
        """End a lease, or withdraw an acquire that has not been answered."""
        entry = self._shelf.tickets[ticket]
        if ticket in entry.waiters:
            self._shelf.drop_waiter(ticket)
            return self._allocator.make_room(now)
        self._shelf.end_lease(ticket)
        commands: list[Command] = []
        if not entry.leases:
            self._idle.add(entry, now)
            if entry.retired:
                commands.append(self._allocator.evict(entry.model_id, Reason.RETIRED, now))
        return commands if self._allocator.calm else commands + self._allocator.make_room(now)

    def retire(self, model_id: str, now: float) -> list[Command]:
        """The model has been replaced: unload it when nobody uses it or waits for it, unless it is asked for again.

        That it is young does not matter. Nothing happens if it is not here.
        """
        commands: list[Command] = []
        if (entry := self._shelf.entries.get(model_id)) is not None:
            entry.retired = True
            if entry.phase is Phase.RESIDENT and not entry.leases:
                commands.append(self._allocator.evict(model_id, Reason.RETIRED, now))
        return commands + self._allocator.make_room(now)

    def loaded(self, model_id: str, size_bytes: int, now: float) -> list[Command]:
        """A load has ended well."""
        entry = self._shelf.in_phase(model_id, Phase.LOADING)
        self._shelf.move(entry, Phase.SETTLING)
        self._shelf.resize(entry, size_bytes)
        self._learned.loaded(model_id, entry.known, size_bytes, now - entry.load_started)
        return self._allocator.make_room(now)

    def load_failed(self, model_id: str, error: object, now: float) -> list[Command]:
        """A load has failed: everyone who waited for it is told, once."""
        entry = self._shelf.in_phase(model_id, Phase.LOADING)
        commands = self._tell_failure(entry, error, now)
        self._shelf.move(entry, None)
        return commands + self._allocator.make_room(now)

    def load_overdue(self, model_id: str, error: object, now: float) -> list[Command]:
        """A load that cannot be stopped takes too long: who waits is told, as of a failure; its room stays taken."""
        entry = self._shelf.in_phase(model_id, Phase.LOADING)
        return self._tell_failure(entry, error, now) + self._allocator.make_room(now)

    def unloaded(self, model_id: str, now: float) -> list[Command]:
        """A model has been destroyed; its room is free."""
        entry = self._shelf.in_phase(model_id, Phase.UNLOADING)
        entry.opener = next(iter(entry.waiters), None)
        entry.wait_from(now)
        self._shelf.move(entry, Phase.WAITING if entry.waiters else None)
        return self._allocator.make_room(now)

    def tick(self, now: float) -> list[Command]:
        """Time has passed: models may have become evictable, or have been idle for too long."""
        evictions = [self._allocator.evict(model_id, Reason.TTL, now) for model_id in self._idle.overdue(now)]
        return [*evictions, *self._allocator.make_room(now)]

    def close(self, now: float) -> list[Command]:
        """Reject whoever waits and unload everything: what is idle now, the rest after its load or last lease."""
        self._allocator.closed = True
        self._idle.offer_all()
        waiting = [ticket for entry in self._shelf.entries.values() for ticket in entry.waiters]
        rejects = [self._allocator.reject(ticket, Why.CLOSED) for ticket in waiting]
        return [*rejects, *self._allocator.make_room(now)]

    def _refusal(self, ticket: int, model_id: str, now: float) -> Reject | None:
        """Why a model that is not here is not to be loaded."""
        if self._allocator.closed:
            return Reject(ticket, model_id, Why.CLOSED)
        if (failure := self._learned.recent_failure(model_id, now)) is not None:
            return Reject(ticket, model_id, Why.FAILED_RECENTLY, failure.error, failure.retry_at - now)
        known = self._learned.known(model_id)
        if known is not None and not self._shelf.room.can_ever_fit(known.size_bytes):
            return Reject(ticket, model_id, Why.TOO_LARGE, known.size_bytes)
        return None

    def _tell_failure(self, entry: Entry, error: object, now: float) -> list[Command]:
        delay_s = self._learned.failed(entry.model_id, entry.known, error, now)
        return [self._allocator.reject(t, Why.LOAD_FAILED, error, delay_s) for t in list(entry.waiters)]
