"""Random histories against the model cache that tenants share.

`Shell` keeps books of its own, from the inputs that it gave and the commands that it got, and checks after every step
what `core.tenant_cache` promises. Planted bugs show that each check can fail.
"""

import random
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import pytest

from modelplex.core import allocation as allocation_module
from modelplex.core import learned as learned_module
from modelplex.core.backoff import Backoff
from modelplex.core.budget import UNLIMITED
from modelplex.core.cache import Command, Grant, Load, Reject, Unload, Why
from modelplex.core.eviction import GDSF, LRU
from modelplex.core.shelf import Entry, Phase, Shelf
from modelplex.core.tenant_allocation import TenantAllocator, TenantIdle
from modelplex.core.tenant_cache import TenantCache
from modelplex.core.tenant_shelf import Account, TenantShelf
from modelplex.core.tenants import EVERYONE_ELSE, Limits

HISTORIES = 1500
STEPS = 120
BYTES_MAX = 60
OVERTAKES_MAX = 3


@pytest.fixture(autouse=True)
def _small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation_module, "OVERTAKES_MAX", OVERTAKES_MAX)
    monkeypatch.setattr(learned_module, "SUSPICION_FAILURES", 2)


class InvariantError(AssertionError):
    pass


def must(holds: bool, promise: str) -> None:
    if not holds:
        raise InvariantError(promise)


@dataclass
class Held:
    tenant: str
    size_bytes: int
    state: str = "loading"
    paid: bool = False  # somebody was granted it


@dataclass(frozen=True)
class Ask:
    model_id: str
    owner: Hashable
    tenant: str


@dataclass
class Rules:
    tenants: dict[str, Limits]
    models_max: int = UNLIMITED
    bytes_max: int = UNLIMITED
    loads_max: int = UNLIMITED
    policy: Callable[[], Any] = LRU
    idle_ttl_s: float | None = None
    min_residency_s: float = 0.0


@dataclass
class Shell:
    rules: Rules
    now: float = 0.0
    asked: int = 0
    waiting: dict[int, Ask] = field(default_factory=dict)
    leased: dict[int, Ask] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)
    closed: bool = False
    ticking: bool = False
    met: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        rules = self.rules
        self.cache = TenantCache(
            rules.models_max,
            rules.policy,
            Backoff(base_s=1.0, max_s=8.0),
            rules.tenants,
            bytes_max=rules.bytes_max,
            loads_max=rules.loads_max,
            idle_ttl_s=rules.idle_ttl_s,
            min_residency_s=rules.min_residency_s,
        )

    def account_of(self, tenant: str) -> str:
        return tenant if tenant in self.rules.tenants else EVERYONE_ELSE

    def limits(self, account: str) -> Limits:
        nothing = Limits(
            reserved_models=UNLIMITED if self.rules.models_max == UNLIMITED else 0,
            reserved_bytes=UNLIMITED if self.rules.bytes_max == UNLIMITED else 0,
        )
        return self.rules.tenants.get(account, nothing)

    def size_max(self, account: str) -> float:
        most = [float(b)] if (b := self.limits(account).burst_bytes) != UNLIMITED else []
        if self.rules.bytes_max != UNLIMITED:
            others = sum(max(0, each.reserved_bytes) for name, each in self.rules.tenants.items() if name != account)
            most.append(self.rules.bytes_max - others)
        return min(most, default=float("inf"))

    # Inputs

    def acquire(self, model_id: str, owner: Hashable, tenant: str) -> None:
        self.asked += 1
        self.waiting[self.asked] = Ask(model_id, owner, self.account_of(tenant))
        self.obey("acquire", self.cache.acquire(self.asked, model_id, owner, self.now, tenant=tenant))

    def give_back(self, ticket: int) -> None:
        self.met["withdraw" if ticket in self.waiting else "release"] += 1
        self.waiting.pop(ticket, None) or self.leased.pop(ticket)
        self.obey("release", self.cache.release(ticket, self.now))

    def loaded(self, model_id: str) -> None:
        held = self.held[model_id]
        held.state, held.size_bytes = "loaded", self.sizes.get(model_id, 1)
        self.obey("loaded", self.cache.loaded(model_id, held.size_bytes, self.now))

    def load_failed(self, model_id: str) -> None:
        del self.held[model_id]
        self.obey("load_failed", self.cache.load_failed(model_id, "broken", self.now))

    def load_overdue(self, model_id: str) -> None:
        self.obey("load_overdue", self.cache.load_overdue(model_id, "slow", self.now))

    def unloaded(self, model_id: str) -> None:
        del self.held[model_id]
        self.obey("unloaded", self.cache.unloaded(model_id, self.now))

    def retire(self, model_id: str) -> None:
        self.retired.add(model_id)
        self.obey("retire", self.cache.retire(model_id, self.now))

    def tick(self) -> None:
        self.now = max(self.now, self.cache.next_tick or 0.0)
        self.ticking = True
        self.obey("tick", self.cache.tick(self.now))
        self.ticking = False

    def close(self) -> None:
        self.closed = True
        self.obey("close", self.cache.close(self.now))

    # Commands

    def obey(self, name: str, commands: list[Command]) -> None:
        self.met[name] += 1
        for command in commands:
            self.met[type(command).__name__] += 1
            match command:
                case Load(model_id):
                    self.on_load(model_id)
                case Unload(model_id):
                    self.on_unload(model_id)
                case Grant(ticket, model_id):
                    ask = self.waiting.pop(ticket)
                    must(self.held[model_id].state == "loaded", "a grant is of what is loaded")
                    self.held[model_id].paid = True
                    self.leased[ticket] = ask
                    self.met["foreign grant"] += self.held[model_id].tenant != ask.tenant
                case Reject():
                    self.on_reject(command)
        self.check()

    def on_load(self, model_id: str) -> None:
        must(model_id not in self.held, "3. one load at a time")
        tenant = self.cache.tenant_of(model_id)
        wanting = {ask.tenant for ask in self.waiting.values() if ask.model_id == model_id}
        must(tenant in wanting, "12. a model is loaded on behalf of one who waits for it")
        self.held[model_id] = Held(tenant, 0)
        loads = [held for held in self.held.values() if held.state == "loading"]
        must(self.rules.loads_max in (UNLIMITED, *range(len(loads), 100)), "at most loads_max loads run")
        own, most = [held for held in loads if held.tenant == tenant], self.limits(tenant).loads_max
        must(most == UNLIMITED or len(own) <= most, "12. loads of a tenant are never more than its loads_max")
        self.met["loads of several"] += len({held.tenant for held in loads}) > 1

    def on_unload(self, model_id: str) -> None:
        held = self.held[model_id]
        must(held.state == "loaded", "6. unloaded once")
        must(all(ask.model_id != model_id for ask in self.leased.values()), "2. nothing leased is unloaded")
        tenant = held.tenant
        wants = any(ask.tenant == tenant and ask.model_id != model_id for ask in self.waiting.values())
        wants = wants or any(h.tenant == tenant and not h.paid and h.state == "loaded" for h in self.held.values())
        other = self.closed or self.ticking or model_id in self.retired or not held.paid
        must(
            wants or other or self.has_more(tenant),
            "10. a model is evicted for another tenant only while its own has more than is reserved for it",
        )
        self.met["evicted for others"] += not (wants or other)
        held.state = "unloading"

    def has_more(self, tenant: str) -> bool:
        there = [h for h in self.held.values() if h.tenant == tenant and h.state != "unloading"]
        limits = self.limits(tenant)
        more_models = limits.reserved_models != UNLIMITED and len(there) > limits.reserved_models
        # What loads is expected to take no more than the largest that there is.
        expected = max((*self.sizes.values(), 1))
        size_bytes = sum(h.size_bytes if h.state == "loaded" else expected for h in there)
        return more_models or (limits.reserved_bytes != UNLIMITED and size_bytes > limits.reserved_bytes)

    def on_reject(self, reject: Reject) -> None:
        ask = self.waiting.pop(reject.ticket)
        self.met[reject.why.name] += 1
        if reject.why is Why.TOO_LARGE:
            must(reject.error > self.size_max(ask.tenant), "11. only what can never be had is too large")  # type: ignore[operator]
        if reject.why is Why.OVERCOMMITTED:
            mine = [a for a in self.leased.values() if a.owner == ask.owner]
            joined = [a for a in self.waiting.values() if a.owner == ask.owner]
            must(ask.owner is not None and bool(mine or joined), "only one who holds something can be in its own way")

    def check(self) -> None:
        cache, shelf = self.cache, self.cache._shelf
        must(sorted(cache.resident) == sorted(m for m, h in self.held.items() if self.is_resident(m, h)), "5. resident")
        for account in cache._accounts:
            there = [h for h in self.held.values() if h.tenant == account.name]
            must(account.room.models == len(there), "the books of each tenant are of what it has")
            must(account.loading == sum(h.state == "loading" for h in there), "and of its loads")
            burst = account.limits
            must(
                burst.burst_models == UNLIMITED or len(there) <= burst.burst_models, "9. no more models than its burst"
            )
            paid = sum(h.size_bytes for h in there if h.paid)
            must(burst.burst_bytes == UNLIMITED or paid <= burst.burst_bytes, "9. no more bytes than its burst")
        rules, paid = self.rules, sum(h.size_bytes for h in self.held.values() if h.paid)
        must(rules.models_max == UNLIMITED or len(self.held) <= rules.models_max, "1. the budget of models")
        must(rules.bytes_max == UNLIMITED or paid <= rules.bytes_max, "1. the budget of bytes")
        must(
            set(shelf.tickets) == set(self.waiting) | set(self.leased), "4. every ticket is known until it is answered"
        )
        must(set(shelf.payers) == set(shelf.tickets), "and who pays for it")
        self.check_that_someone_goes_on()

    def is_resident(self, model_id: str, held: Held) -> bool:
        return held.state == "loaded" and self.cache.holds(model_id)

    def check_that_someone_goes_on(self) -> None:
        """If nothing is on its way, whoever waits, waits for a lease of one who does not wait itself."""
        waiting = list(self.waiting.values())
        if not waiting or self.cache.next_tick is not None or any(h.state != "loaded" for h in self.held.values()):
            return
        stuck = {ask.owner for ask in waiting} - {None}
        must(any(a.owner not in stuck for a in self.leased.values()), "4. a deadlock is found; no wake-up is lost")

    def settle(self) -> None:
        for _ in range(5_000):
            by_state = {held.state: model_id for model_id, held in self.held.items()}
            stuck = {ask.owner for ask in self.waiting.values()} - {None}
            free = [ticket for ticket, ask in self.leased.items() if ask.owner not in stuck]
            if "unloading" in by_state:
                self.unloaded(by_state["unloading"])
            elif "loading" in by_state:
                self.loaded(by_state["loading"])
            elif free:
                self.give_back(free[0])
            elif self.waiting and self.cache.next_tick is not None:
                self.tick()
            else:
                break
        must(not self.waiting, "4. nobody waits for ever")


def draw_rules(rng: random.Random) -> Rules:
    counts, weighs = rng.choice([(True, False), (False, True), (True, True)])
    models_max = rng.randint(2, 6) if counts else UNLIMITED
    bytes_max = BYTES_MAX if weighs else UNLIMITED
    left_models, left_bytes, tenants = models_max, bytes_max, dict[str, Limits]()
    for name in rng.choice([("a",), ("a", "b"), ("a", EVERYONE_ELSE), ("a", "b", EVERYONE_ELSE)]):
        reserved_models = rng.randint(0, left_models - 1) if counts and left_models > 1 else 0
        reserved_bytes = rng.randint(0, left_bytes * 2 // 3) if weighs else 0
        left_models, left_bytes = left_models - reserved_models, left_bytes - reserved_bytes
        bursts = rng.random() < 0.5
        tenants[name] = Limits(
            reserved_models=reserved_models if counts else UNLIMITED,
            reserved_bytes=reserved_bytes if weighs else UNLIMITED,
            burst_models=max(1, reserved_models, rng.randint(1, models_max)) if counts and bursts else UNLIMITED,
            burst_bytes=max(1, reserved_bytes, rng.randint(1, bytes_max)) if weighs and bursts else UNLIMITED,
            loads_max=rng.choice([UNLIMITED, 1, 2]),
        )
    times = rng.random() < 0.2
    return Rules(
        tenants,
        models_max,
        bytes_max,
        loads_max=rng.choice([UNLIMITED, 1, 2, 3]),
        policy=rng.choice([LRU, GDSF]),
        idle_ttl_s=rng.choice([None, 3.0]) if times else None,
        min_residency_s=rng.choice([0.0, 2.0]) if times else 0.0,
    )


def play(seed: int, steps: int = STEPS) -> Shell:
    rng = random.Random(seed)
    shell = Shell(draw_rules(rng))
    tenants, models = ["a", "b", "", "stranger"], list("uvwxyz")[: rng.randint(3, 6)]
    owners, largest = rng.choice([3, 6, 30]), rng.choice([5, 20, 70])
    surprising, failing = rng.random() < 0.3, rng.choice([0.0, 0.1])
    shell.sizes = {model_id: rng.randint(0, largest) for model_id in models}
    belongs = {f"r{n}": rng.choice(tenants) for n in range(owners)}
    closes_at = rng.randrange(STEPS) if rng.random() < 0.1 else None
    for step in range(steps):
        if step == closes_at:
            shell.close()
        if surprising and rng.random() < 0.1:
            shell.sizes[rng.choice(models)] = rng.randint(0, largest)
        one_step(shell, rng, models, belongs, failing)
    shell.settle()
    return shell


def one_step(shell: Shell, rng: random.Random, models: list[str], belongs: dict[str, str], failing: float) -> None:
    loading = [m for m, held in shell.held.items() if held.state == "loading"]
    unloading = [m for m, held in shell.held.items() if held.state == "unloading"]
    action = rng.choices(["acquire", "give_back", "loaded", "unloaded", "advance", "retire"], [10, 5, 5, 6, 2, 0.3])[0]
    if action == "acquire":
        owner = rng.choice(list(belongs))
        model_id = f"invented {shell.asked}" if rng.random() < failing else rng.choice(models)
        tenant = belongs[owner]
        shell.acquire(model_id, None if rng.random() < 0.1 else owner, tenant)
    elif action == "give_back" and (tickets := [*shell.leased, *shell.waiting]):
        shell.give_back(rng.choice(tickets))
    elif action == "loaded" and loading:
        model_id = rng.choice(loading)
        if model_id.startswith("invented") or rng.random() < 0.1:
            rng.choice([shell.load_failed, shell.load_failed, shell.load_overdue])(model_id)
        else:
            shell.loaded(model_id)
    elif action == "unloaded" and unloading:
        shell.unloaded(rng.choice(unloading))
    elif action == "advance":
        shell.now += rng.choice([0.1, 1.0, 5.0])
        if shell.cache.next_tick is not None and shell.cache.next_tick <= shell.now:
            shell.tick()
    elif action == "retire":
        shell.retire(rng.choice(models))


def play_many(seeds: range) -> Counter[str]:
    met: Counter[str] = Counter()
    for seed in seeds:
        try:
            met.update(play(seed).met)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
    return met


def test_random_histories_of_tenants_keep_every_promise() -> None:
    met = play_many(range(HISTORIES))
    assert all(met[each] >= 100 for each in ("foreign grant", "loads of several", "evicted for others"))
    assert all(met[why.name] >= 50 for why in Why), met


# Planted bugs


def _spends_reservations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Account, "has_more_than_reserved", property(lambda self: True))


def _evicts_own_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody gives way to one whose reservation others have used."""
    monkeypatch.setattr(TenantIdle, "victim_for", lambda self, account, *, reserved: self.victim_of(account))


def _never_goes_below(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is more than reserved but less than a model is kept for ever."""
    monkeypatch.setattr(
        Account, "has_more_than_reserved", property(lambda self: self.spares(max(1, self.ahead().size_bytes // 2)))
    )


def _grows_over_its_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    def ahead(self: Account) -> Any:
        room = original(self)
        room.models_max = room.bytes_max = UNLIMITED
        return room

    original = Account.ahead
    monkeypatch.setattr(Account, "ahead", ahead)


def _ignores_its_loads_max(monkeypatch: pytest.MonkeyPatch) -> None:
    def loading(self: TenantAllocator, commands: list[Command], now: float) -> bool:
        for account in self._shelf.lines():
            account.loading = -100
        return original(self, commands, now)

    original = TenantAllocator._fill
    monkeypatch.setattr(TenantAllocator, "_fill", loading)


def _finds_no_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TenantShelf, "deadlocked", lambda self, draining: None)


def _looks_for_deadlocks_without_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TenantShelf, "deadlocked", Shelf.deadlocked)


def _evicts_what_others_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TenantIdle, "victim_of", lambda self, account: account.policy.victim())


def _loads_on_behalf_of_who_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def drop_waiter(self: TenantShelf, ticket: int) -> Entry:
        entry = Shelf.drop_waiter(self, ticket)
        del self.payers[ticket]
        return entry

    monkeypatch.setattr(TenantShelf, "drop_waiter", drop_waiter)
    monkeypatch.setattr(TenantShelf, "assign", lambda self, entry, account: None)


def _keeps_what_it_cannot_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TenantAllocator, "_is_paid", lambda self, account: True)


def _books_a_load_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def move(self: TenantShelf, entry: Entry, to: Phase | None) -> None:
        original(self, entry, to)
        if to is Phase.LOADING and entry.account is not None:
            entry.account.room.models += 1

    original = TenantShelf.move
    monkeypatch.setattr(TenantShelf, "move", move)


BUGS = [bug for name, bug in list(globals().items()) if name[:1] == "_" != name[1] and name != "_small_bounds"]


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    with pytest.raises((InvariantError, AssertionError, RuntimeError, KeyError, RecursionError, TypeError)):
        play_many(range(HISTORIES))
