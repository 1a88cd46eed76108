"""What each tenant has of one cache: accounts, and the shelf that keeps them."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from modelplex.core.backoff import Backoff
from modelplex.core.budget import UNLIMITED, Room
from modelplex.core.eviction import EvictionPolicy
from modelplex.core.learned import Learned
from modelplex.core.shelf import Entry, Phase, Shelf
from modelplex.core.tenants import EVERYONE_ELSE, Limits


@dataclass(slots=True, eq=False)
class Account:
    """All that a cache keeps of one tenant. What one of them does teaches the cache nothing about another's models.

    Attributes:
        name: the tenant.
        limits: what it may take.
        policy: orders its idle models.
        learned: of the models that it has had loaded: failures, sizes, uses by itself.
        room: what its models take, of its burst.
        leaving: the part of it that is being unloaded.
        loading, unproven_loading: its loads that run; those of models that it never had before.
        start: grows with each of its loads: among those that wait, whose is least comes first.
        size_max: the largest model that it can ever have.
    """

    name: str
    limits: Limits
    policy: EvictionPolicy
    learned: Learned
    size_max: int = UNLIMITED
    room: Room = field(init=False)
    leaving: Room = field(init=False)
    loading: int = 0
    unproven_loading: int = 0
    start: float = 0.0

    def __post_init__(self) -> None:
        self.room = Room(self.limits.burst_models, self.limits.burst_bytes)
        self.leaving = replace(self.room)

    def ahead(self) -> Room:
        """What it will have when what is being unloaded has gone."""
        room, leaving = self.room, self.leaving
        return replace(room, models=room.models - leaving.models, size_bytes=room.size_bytes - leaving.size_bytes)

    @property
    def has_more_than_reserved(self) -> bool:
        """Whether it has more than others are to leave it."""
        limits, models = self.limits, self.room.models - self.leaving.models
        size_bytes = self.room.size_bytes - self.leaving.size_bytes
        more_models = limits.reserved_models != UNLIMITED and models > limits.reserved_models
        return more_models or (limits.reserved_bytes != UNLIMITED and size_bytes > limits.reserved_bytes)

    def spares(self, size_bytes: int) -> bool:
        """Whether it still had what is reserved for it, and no less, without a model of this size."""
        ahead, limits = self.ahead(), self.limits
        models_left = limits.reserved_models == UNLIMITED or ahead.models - 1 >= limits.reserved_models
        bytes_left = limits.reserved_bytes == UNLIMITED or ahead.size_bytes - size_bytes >= limits.reserved_bytes
        return models_left and bytes_left

    def is_reserved(self, room: Room) -> bool:
        """Whether so much is reserved for it."""
        limits = self.limits
        models_fit = limits.reserved_models == UNLIMITED or room.models <= limits.reserved_models
        return models_fit and (limits.reserved_bytes == UNLIMITED or room.size_bytes <= limits.reserved_bytes)

    def can_ever_fit(self, size_bytes: int) -> bool:
        return self.size_max == UNLIMITED or size_bytes <= self.size_max

    def expected_bytes(self, entry: Entry) -> int:
        """What a model that waits is expected to take if it is loaded on this tenant's behalf."""
        size_bytes = entry.size_bytes if entry.account is self else self.learned.recall(entry.model_id).size_bytes
        return size_bytes if self.size_max == UNLIMITED else min(size_bytes, self.size_max)


class Accounts:
    """The accounts of a cache, by tenant.

    Args:
        limits: by tenant; that of `EVERYONE_ELSE` has no reservation unless it is among them.
        bytes_max: of the cache, or UNLIMITED.
        policies: one for each account and one more.
        backoff: see `Learned`.
    """

    def __init__(
        self, limits: Mapping[str, Limits], bytes_max: int, policies: Iterator[EvictionPolicy], backoff: Backoff
    ) -> None:
        everyone = Limits(
            reserved_models=min(0, *(each.reserved_models for each in limits.values())),
            reserved_bytes=min(0, *(each.reserved_bytes for each in limits.values())),
        )
        limits = {EVERYONE_ELSE: everyone, **limits}
        self._accounts = {name: Account(name, each, next(policies), Learned(backoff)) for name, each in limits.items()}
        self._others = self._accounts[EVERYONE_ELSE]
        for account in self:
            most = [account.limits.burst_bytes] if account.limits.burst_bytes != UNLIMITED else []
            if bytes_max != UNLIMITED:
                most.append(bytes_max - sum(a.limits.reserved_bytes for a in self if a is not account))
            account.size_max = min(most, default=UNLIMITED)

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def of(self, tenant: str) -> Account:
        return self._accounts.get(tenant, self._others)


class TenantShelf(Shelf):
    """A shelf whose models have accounts.

    Attributes:
        payers: on whose behalf each ticket is.
        starving: the first model of each account that waits for room that will not come free, in the order in which
            they will get it, and whether what it lacks is its own burst; the allocator says so.
    """

    def __init__(self, room: Room) -> None:
        super().__init__(room)
        self.payers: dict[int, Account] = {}
        self.starving: dict[Account, tuple[Entry, bool]] = {}

    def assign(self, entry: Entry, account: Account) -> None:
        """The model, which takes no room now, is to be loaded on this tenant's behalf."""
        if entry.account is not account:
            entry.size_bytes = account.expected_bytes(entry)
            entry.known = account.learned.recall(entry.model_id)
            entry.account, entry.tenant = account, account.name

    def claimants(self, entry: Entry) -> dict[Account, None]:
        """On whose behalf the model is waited for, in the order of arrival."""
        return {self.payers[ticket]: None for ticket in entry.waiters}

    def lines(self) -> dict[Account, list[Entry]]:
        """What waits for room, in order; a model that several wait for is in the line of each."""
        lines: dict[Account, list[Entry]] = {}
        for entry in self.queue.values():
            for account in self.claimants(entry):
                lines.setdefault(account, []).append(entry)
        return lines

    def move(self, entry: Entry, to: Phase | None) -> None:
        before = entry.phase
        super().move(entry, to)
        if (account := entry.account) is None:
            return
        if to is Phase.LOADING:
            account.room.take(entry.size_bytes)
        elif before is Phase.UNLOADING or (before is Phase.LOADING and to is None):
            account.room.free(entry.size_bytes)
        if to is Phase.UNLOADING:
            account.leaving.take(entry.size_bytes)
        elif before is Phase.UNLOADING:
            account.leaving.free(entry.size_bytes)
        change = (to is Phase.LOADING) - (before is Phase.LOADING)
        account.loading += change
        account.unproven_loading += change * (not entry.known.proven)
        if to is Phase.WAITING:
            self.assign(entry, next(iter(self.claimants(entry)), account))

    def resize(self, entry: Entry, size_bytes: int) -> None:
        assert entry.account is not None
        entry.account.room.size_bytes += size_bytes - entry.size_bytes
        super().resize(entry, size_bytes)

    def drop_waiter(self, ticket: int) -> Entry:
        entry = super().drop_waiter(ticket)
        del self.payers[ticket]
        if entry.phase is Phase.WAITING and entry.account not in (left := self.claimants(entry)):
            self.assign(entry, next(iter(left)))
        return entry

    def end_lease(self, ticket: int) -> None:
        super().end_lease(ticket)
        del self.payers[ticket]

    def may_give(self, entry: Entry, account: Account) -> bool:
        """Whether the account that starves could have the room of the model if that were idle."""
        own = entry.account
        assert own is not None
        by_burst = account in self.starving and self.starving[account][1]
        return own is account or (not by_burst and own.has_more_than_reserved)

    def first_waiting(self) -> Entry | None:
        """The model that starves and comes first."""
        return next((entry for entry, _ in self.starving.values()), None)

    def longest_granted(self) -> Entry | None:
        if not self.starving:
            return None
        account = next(iter(self.starving))
        blocked = self.blocked_owners()
        ends = [
            e
            for e in self.entries.values()
            if e.leases and self.may_give(e, account) and blocked.isdisjoint(e.leases.values())
        ]
        return min(ends, key=lambda e: e.granted_last, default=None)

    # Who waits for whom

    def blocked_owners(self) -> set[Hashable]:
        return self._owners_in(self.starving)

    def _owners_in(self, starving: Iterable[Account]) -> set[Hashable]:
        """Owners that wait for what only these accounts wait for."""
        among = set(starving)
        entries = [entry for entry in self.queue.values() if among.issuperset(self.claimants(entry))]
        return {owner for entry in entries for owner in entry.waiters.values()} - {None}

    def deadlocked(self, draining: Entry | None) -> int | None:
        """The acquire to reject, the newest of a lessee, when accounts starve for ever, for each other or themselves.

        Those that are left of the accounts that starve when those have been taken out, again and again, that could have
        the room of a model whose users do not all wait for those that are left.
        """
        if self._leaving.models or not self.starving:
            return None
        owners_of = {
            entry: {*entry.leases.values(), *(entry.waiters.values() if entry is not draining else ())}
            for entry in self.entries.values()
            if entry.phase in (Phase.LOADING, Phase.RESIDENT)
        }
        left, goes_on = dict(self.starving), True
        while goes_on:
            blocked, goes_on = self._owners_in(left), False
            for account in list(left):
                gives = [owners for entry, owners in owners_of.items() if self.may_give(entry, account)]
                # One that only waits for what is kept for another goes on when that does.
                waits_behind = not gives and len(left) < len(self.starving)
                if waits_behind or any(blocked.isdisjoint(owners) for owners in gives):
                    del left[account]
                    goes_on = True
        held = (owners for e, owners in owners_of.items() if any(self.may_give(e, account) for account in left))
        blocked = self._owners_in(left)
        stuck: set[Hashable] = set().union(*held) & blocked
        tickets = (t for e in self.queue.values() for t, owner in e.waiters.items() if owner in stuck)
        return max(tickets, default=None)
