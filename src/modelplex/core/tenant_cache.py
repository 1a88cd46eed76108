"""A model cache that several tenants share, each with a part of it that the others leave alone.

What holds after every step, besides the promises of `core.cache`:

8. A model belongs to the tenant on whose behalf it was loaded, until it is unloaded. Others may use it; that neither
   makes it theirs nor changes when it goes. So nobody can pay for another's models, or have another pay, or spoil the
   order in which another's models go.
9. No tenant's models take more than its burst.
10. For a model of one tenant another's is evicted only while that one has more than is reserved for it; if there is a
    choice, only one without which it still has no less. Since models come whole, it may else lose the one with which it
    has more. A tenant that takes what is reserved for it takes its own models last.
11. A model that its tenant could have only at others' cost is refused: one larger than its burst, or than what all
    others' reservations leave. So everybody who waits gets an answer.
12. Loads on behalf of one tenant never are more at a time than its `loads_max`, and its models get room in the order
    in which they began to wait. Between tenants, those come first that take what is reserved for them, then whose turn
    it is; one that waits holds up nobody who finds room. A model that several wait for is in the lines of all, and
    belongs to the first whose turn comes.
13. What is remembered of models (failures, sizes, uses, that ids are being invented) is each tenant's own.

Of promise 1, one that turns out larger than its tenant can pay for is unloaded, and loaded again in its turn. Of
promise 4, nobody waits for a cheaper place, and what runs dry for one that waits is a model whose room it could have.
"""

import itertools
from collections.abc import Callable, Hashable, Mapping

from modelplex.core.allocation import Command, Reject, Start, Why
from modelplex.core.backoff import Backoff
from modelplex.core.budget import UNLIMITED, Room
from modelplex.core.cache import ModelCache
from modelplex.core.eviction import EvictionPolicy
from modelplex.core.shelf import Entry, Phase
from modelplex.core.tenant_allocation import TenantAllocator, TenantIdle
from modelplex.core.tenant_shelf import Account, Accounts, TenantShelf
from modelplex.core.tenants import Limits


class TenantCache(ModelCache):
    """Decides as `ModelCache` does, for tenants that have each their part.

    Args:
        models_max: as there, and so are the others that are not explained here.
        policy: makes what orders the idle models of one tenant. Between tenants, those idle longest go first.
        tenants: what each may take; whoever is not among them is `tenants.EVERYONE_ELSE`.
    """

    def __init__(
        self,
        models_max: int,
        policy: Callable[[], EvictionPolicy],
        backoff: Backoff,
        tenants: Mapping[str, Limits],
        *,
        bytes_max: int = UNLIMITED,
        loads_max: int = UNLIMITED,
        min_residency_s: float = 0.0,
        idle_ttl_s: float | None = None,
    ) -> None:
        super().__init__(models_max, policy(), backoff, bytes_max=bytes_max, loads_max=loads_max)
        policies = (policy() for _ in itertools.count())
        self._accounts = Accounts(tenants, bytes_max, policies, backoff)
        self._shelf: TenantShelf = TenantShelf(Room(models_max, bytes_max))
        self._idle: TenantIdle = TenantIdle(self._accounts, self._shelf, min_residency_s, idle_ttl_s)
        self._allocator = TenantAllocator(self._shelf, self._idle, self._accounts, loads_max)

    @property
    def harm_s(self) -> float:
        """As without tenants, of what goes for one that has nothing reserved; uses are compared within a tenant."""
        entries, victim = self._shelf.entries, self._idle.excess()
        if victim is None:
            return self._learned.average_load_s * len(entries)
        entry = entries[victim]
        assert entry.account is not None
        return entry.load_s * entry.account.learned.share(entry.known) * max(1, entry.account.room.models)

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
        if ticket in self._shelf.tickets:
            raise ValueError(f"ticket {ticket} is in use")
        allocator, entry, account = self._allocator, self._shelf.entries.get(model_id), self._accounts.of(tenant)
        is_here = entry is not None and entry.phase not in (Phase.LOADING, Phase.UNLOADING) and not allocator.closed
        # One who waits for the same model already has been refused nothing; another tenant may be.
        is_known = (
            is_here
            and entry is not None
            and (entry.phase is not Phase.WAITING or account in self._shelf.claimants(entry))
        )
        if not is_known and (refusal := self._refused(ticket, model_id, account, now)) is not None:
            return [refusal]
        if entry is None:
            entry = self._shelf.add(model_id, account.learned.recall(model_id), now)
            entry.account, entry.tenant = account, account.name
            entry.size_bytes = account.expected_bytes(entry)
        entry.retired = False
        if entry.account is account:
            account.learned.used(entry.known)
            if share:
                account.learned.told_share(entry.known, share)
        self._shelf.payers[ticket] = account
        commands: list[Command] = []
        if entry.phase is Phase.RESIDENT and not allocator.turns_away(entry, owner):
            commands.append(allocator.grant(entry, ticket, owner, Start.WARM, now))
            if allocator.calm:
                return commands
            self._count_overtaking(entry)
        else:
            self._shelf.wait(entry, ticket, owner)
        return commands + allocator.make_room(now)

    def refuses(self, model_id: str, now: float, tenant: str = "") -> bool:
        return self._refused(0, model_id, self._accounts.of(tenant), now) is not None

    def _count_overtaking(self, entry: Entry) -> None:
        """A grant has overtaken the first that starves, if that could have had the model's room."""
        starving = next(iter(self._shelf.starving.items()), None)
        if starving is not None and self._shelf.may_give(entry, starving[0]):
            starving[1][0].overtaken += 1

    def loaded(self, model_id: str, size_bytes: int, now: float) -> list[Command]:
        entry = self._shelf.in_phase(model_id, Phase.LOADING)
        assert entry.account is not None
        self._shelf.move(entry, Phase.SETTLING)
        self._shelf.resize(entry, size_bytes)
        load_s = now - entry.load_started
        entry.account.learned.loaded(model_id, entry.known, size_bytes, load_s)
        self._learned.loaded(model_id, self._learned.recall(model_id), size_bytes, load_s)  # what all have, for routers
        return self._allocator.make_room(now)

    def _tell_failure(self, entry: Entry, error: object, now: float) -> list[Command]:
        assert entry.account is not None
        delay_s = entry.account.learned.failed(entry.model_id, entry.known, error, now)
        return [self._allocator.reject(t, Why.LOAD_FAILED, error, delay_s) for t in list(entry.waiters)]

    def _refused(self, ticket: int, model_id: str, account: Account, now: float) -> Reject | None:
        """Why a model that is not here is not to be loaded on behalf of this tenant."""
        if self._allocator.closed:
            return Reject(ticket, model_id, Why.CLOSED)
        failure = account.learned.recent_failure(model_id, now)
        entry = self._shelf.entries.get(model_id)
        if failure is None and entry is not None and entry.phase is Phase.LOADING and entry.account is not None:
            failure = entry.account.learned.recent_failure(model_id, now)  # its load takes too long
        if failure is not None:
            return Reject(ticket, model_id, Why.FAILED_RECENTLY, failure.error, failure.retry_at - now)
        known = account.learned.known(model_id)
        if known is not None and not account.can_ever_fit(known.size_bytes):
            return Reject(ticket, model_id, Why.TOO_LARGE, known.size_bytes)
        return None
