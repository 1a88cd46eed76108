"""Room for the models of several tenants: what one may evict for itself, and whose turn it is."""

from collections.abc import Hashable

from modelplex.core.allocation import Allocator, Command, Grant, Reason, Start, Unload, Why
from modelplex.core.budget import UNLIMITED, Room
from modelplex.core.idle import IdleModels
from modelplex.core.shelf import Entry, Phase
from modelplex.core.tenant_shelf import Account, Accounts, TenantShelf


class TenantIdle(IdleModels):
    """The idle models of each account, and which account gives one.

    A use on behalf of another than its own tenant changes nothing about when a model goes: it stays in its place in the
    order, and is passed over while it is leased.
    """

    def __init__(self, accounts: Accounts, shelf: TenantShelf, min_residency_s: float, ttl_s: float | None) -> None:
        super().__init__(next(iter(accounts)).policy, min_residency_s, ttl_s)
        self._accounts = accounts
        self._shelf = shelf

    def add(self, entry: Entry, now: float) -> None:
        if entry.model_id not in self._idle:
            super().add(entry, now)

    def remove(self, entry: Entry) -> None:
        if self._idle.pop(entry.model_id, None) is not None and entry.evictable:
            entry.evictable = False
            assert entry.account is not None
            entry.account.policy.remove(entry.model_id)

    def _offer(self, entry: Entry) -> None:
        if not entry.evictable:
            entry.evictable = True
            assert entry.account is not None
            entry.account.policy.add(entry)

    def overdue(self, now: float) -> list[str]:
        overdue = [self._idle[model_id] for model_id in super().overdue(now)]
        for entry in overdue:
            if entry.leases:  # by others; it is idle, and its time begins, when they have ended
                self.remove(entry)
        return [entry.model_id for entry in overdue if not entry.leases]

    def victim(self) -> str | None:
        """The one that has been idle longest of those that come first in their accounts."""
        return self._longest_idle(self._firsts())

    def excess(self) -> str | None:
        """The same of accounts that have more than is reserved for them."""
        over = [account for account in self._accounts if account.has_more_than_reserved]
        return self._longest_idle([self._idle[m] for a in over if (m := self.victim_of(a)) is not None])

    def victim_of(self, account: Account) -> str | None:
        """The model that this account gives first."""
        while (model_id := account.policy.victim()) is not None:
            entry = self._idle[model_id]
            if not entry.leases:
                return model_id
            self.remove(entry)  # others use it: it is idle again when they have ended
        return None

    def victim_for(self, account: Account, *, reserved: bool) -> str | None:
        """The model that goes for one of this account; None if it can have none.

        One that takes what is `reserved` for it takes from itself last.
        """
        firsts = self._firsts()
        own = [e for e in firsts if e.account is account]
        others = [e for e in firsts if e.account and e.account is not account and e.account.has_more_than_reserved]
        spared = [e for e in others if e.account and e.account.spares(e.size_bytes)]
        if reserved:
            return self._longest_idle(spared) or self._longest_idle(others) or self._longest_idle(own)
        return self._longest_idle(own + spared) or self._longest_idle(others)

    def _firsts(self) -> list[Entry]:
        return [self._idle[model_id] for account in self._accounts if (model_id := self.victim_of(account)) is not None]

    def _longest_idle(self, entries: list[Entry]) -> str | None:
        first = min(entries, key=lambda e: e.idle_since or 0.0, default=None)
        return None if first is None else first.model_id


class TenantAllocator(Allocator):
    """Gives room in the order of arrival within a tenant, and fairly between tenants.

    Whoever takes what is reserved for it comes first. Among others, and among those, by turns: start-time fair queueing
    (Goyal, Vin, Cheng, SIGCOMM 1996), each load counting one. Who has to wait for leases to end keeps what has come
    free already from those that come later, and holds up nobody who finds room all the same.
    """

    _shelf: TenantShelf
    _idle: TenantIdle

    def __init__(self, shelf: TenantShelf, idle: TenantIdle, accounts: Accounts, loads_max: int) -> None:
        super().__init__(shelf, idle, next(iter(accounts)).learned, loads_max)
        self._turn = 0.0
        self._waited: set[Account] = set()

    def _share(self, entry: Entry) -> float:
        assert entry.account is not None
        return entry.account.learned.share(entry.known)

    def grant(self, entry: Entry, ticket: int, owner: Hashable, start: Start, now: float) -> Grant:
        if self._shelf.payers[ticket] is entry.account:
            self._idle.remove(entry)
        self._shelf.lease(entry, ticket, owner, now)
        return Grant(ticket, entry.model_id, start)

    def _serve(self, commands: list[Command], now: float) -> bool:
        self._shelf.starving = {}
        self._settle(commands, now)
        starving = self._fill(commands, now)
        draining, starved = self._draining, next(iter(self._shelf.starving), None)
        if draining is not None and (starved is None or not self._shelf.may_give(draining, starved)):
            commands += self._stop_draining(now)
        return starving

    def _settle(self, commands: list[Command], now: float) -> bool:
        """As without tenants; but what its tenant cannot pay for now is unloaded, and loaded again in its turn."""
        for entry in reversed(list(self._shelf.settling.values())):  # the newest is whose size was not known
            account = entry.account
            assert account is not None
            while account.ahead().overdrawn and (own := self._idle.victim_of(account)) is not None:
                commands.append(self.evict(own, Reason.SIZE, now, entry.model_id))
            while self._shelf.room_ahead().overdrawn and (victim := self._payer(account)) is not None:
                commands.append(self.evict(victim, Reason.SIZE, now, entry.model_id))
            is_short = account.ahead().overdrawn or self._shelf.room_ahead().overdrawn
            if is_short or not account.can_ever_fit(entry.size_bytes) or not (entry.waiters or self._is_paid(account)):
                payers, size_bytes = self._shelf.payers, entry.size_bytes
                vain = [ticket for ticket in entry.waiters if not payers[ticket].can_ever_fit(size_bytes)]
                commands += [self.reject(ticket, Why.TOO_LARGE, size_bytes) for ticket in vain]
                fits = account.can_ever_fit(size_bytes)
                reason = Reason.TOO_LARGE if not fits else Reason.SURPLUS if entry.waiters else Reason.UNWANTED
                commands.append(self.evict(entry.model_id, reason, now))
            elif self._is_paid(account):
                self._shelf.move(entry, Phase.RESIDENT)
                entry.resident_since = now
                self._idle.add(entry, now)
                commands += self._grant_waiters(entry, now, just_loaded=True)
                if entry.retired and not entry.leases:
                    commands.append(self.evict(entry.model_id, Reason.RETIRED, now))
        return False

    def _is_paid(self, account: Account) -> bool:
        return not (account.room.overdrawn or self._shelf.room.overdrawn)

    def _payer(self, account: Account) -> str | None:
        return self._idle.victim_for(account, reserved=account.is_reserved(account.ahead()))

    def _fill(self, commands: list[Command], now: float) -> bool:
        lines = self._shelf.lines()
        for account in lines.keys() - self._waited:
            account.start = max(account.start, self._turn)
        self._waited = set(lines)
        plan = _Plan(self._shelf, self._loads_max, lines)
        while (found := plan.next()) is not None:
            account, entry = found
            lacks = self._make_place(account, entry, plan, commands, now)
            if lacks:
                plan.wait(account, entry, lacks)
                self._shelf.starving[account] = entry, lacks is _BURST
            elif plan.take(account, entry):
                self._turn, account.start = account.start, account.start + 1.0
                self._shelf.assign(entry, account)
                commands.append(self._begin_load(entry, now))
        return bool(self._shelf.starving)

    def _make_place(self, account: Account, entry: Entry, plan: "_Plan", commands: list[Command], now: float) -> str:
        """Evict what may be for the model. Answers what there is not enough of: nothing, if it has a place."""
        size_bytes, own, ahead = account.expected_bytes(entry), plan.of(account), plan.ahead
        while not own.fits(size_bytes):
            if (victim := self._idle.victim_of(account)) is None:
                return _BURST
            commands.append(self._evict_for(victim, entry, plan, now))
        while not ahead.fits(size_bytes):
            if (victim := self._idle.victim_for(account, reserved=plan.is_reserved(account, entry))) is None:
                return _ROOM
            commands.append(self._evict_for(victim, entry, plan, now))
        return ""

    def _evict_for(self, victim: str, entry: Entry, plan: "_Plan", now: float) -> Unload:
        gone = self._shelf.entries[victim]
        assert gone.account is not None
        plan.ahead.free(gone.size_bytes)
        plan.of(gone.account).free(gone.size_bytes)
        return self.evict(victim, Reason.ROOM, now, entry.model_id)


_BURST, _ROOM = "burst", "room"


class _Plan:
    """One look at all that waits: who is next, what each will have had by then, and what is kept for whom.

    Attributes:
        ahead: the room as it will be, with what those that came before will take.
    """

    def __init__(self, shelf: TenantShelf, loads_max: int, lines: dict[Account, list[Entry]]) -> None:
        self.ahead = shelf.room_ahead()
        self._shelf = shelf
        self._lines = {account: list(reversed(line)) for account, line in lines.items()}
        self._own = {account: account.ahead() for account in lines}
        self._loads = len(shelf.queue) if loads_max == UNLIMITED else loads_max - shelf.loading
        self._own_loads: dict[Account, int] = {}
        self._strangers: dict[Account, int] = {}
        for account in lines:
            most = account.limits.loads_max
            self._own_loads[account] = len(shelf.queue) if most == UNLIMITED else most - account.loading
            apart = account.learned.suspicious
            self._strangers[account] = 1 - account.unproven_loading if apart else len(shelf.queue)
        self._taken: set[Entry] = set()
        self._held_up: set[Account] = set()  # they have a place, but what is there now has not gone yet

    def next(self) -> tuple[Account, Entry] | None:
        """Whose turn it is, and for which model."""
        if self._loads <= 0:
            return None
        heads = [(account, entry) for account in list(self._lines) if (entry := self._head(account)) is not None]
        return min(heads, key=lambda h: (not self.is_reserved(*h), h[0].start + self._planned(h[0])), default=None)

    def _planned(self, account: Account) -> int:
        """Loads that have a place and have not begun."""
        return self._own[account].models - (account.room.models - account.leaving.models)

    def _head(self, account: Account) -> Entry | None:
        line = self._lines[account]
        strangers = self._strangers[account]
        while line and (line[-1] in self._taken or not (_knows(account, line[-1]) or strangers > 0)):
            line.pop()
        if not line or self._own_loads[account] <= 0:
            return None
        return line[-1]

    def of(self, account: Account) -> Room:
        """What the account will have."""
        own = self._own.get(account)
        if own is None:
            own = self._own[account] = account.ahead()
        return own

    def is_reserved(self, account: Account, entry: Entry) -> bool:
        """Whether the account's reservation has room for the model."""
        own = self._own[account]
        size_bytes = own.size_bytes + account.expected_bytes(entry)
        return account.is_reserved(Room(UNLIMITED, UNLIMITED, own.models + 1, size_bytes))

    def wait(self, account: Account, entry: Entry, lacks: str) -> None:
        """The account goes no further now. What has come free already is kept for it."""
        del self._lines[account]
        if lacks is not _ROOM:
            return
        ahead, size_bytes = self.ahead, account.expected_bytes(entry)
        if ahead.models_max == UNLIMITED or ahead.models < ahead.models_max:
            ahead.models += 1
        if ahead.bytes_max != UNLIMITED:
            ahead.size_bytes = max(ahead.size_bytes, min(ahead.size_bytes + size_bytes, ahead.bytes_max))

    def take(self, account: Account, entry: Entry) -> bool:
        """The model has a place. Answers whether it is there now, so that its load may begin."""
        size_bytes = account.expected_bytes(entry)
        own = self._own[account]
        self._lines[account].pop()
        self._taken.add(entry)
        self._loads -= 1
        self._own_loads[account] -= 1
        self._strangers[account] -= not _knows(account, entry)
        self.ahead.take(size_bytes)
        own.take(size_bytes)
        if self._shelf.room.fits(size_bytes) and account.room.fits(size_bytes) and account not in self._held_up:
            return True
        self._held_up.add(account)
        return False


def _knows(account: Account, entry: Entry) -> bool:
    """Whether the model was loaded on this tenant's behalf before."""
    return account.learned.known(entry.model_id) is not None
