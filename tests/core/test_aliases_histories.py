"""Random histories against the aliases of a cache.

`World` is a shell with a store, a cache and requests of its own. It performs what the core answers, at any later time,
and checks after every step what the core promises, from what it has seen alone.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pytest

from modelplex.core.aliases import (
    UNUSED_INTERVALS,
    Aliases,
    Command,
    Forget,
    Load,
    Resolve,
    Retire,
    Stay,
    Switch,
    Unresolved,
)
from modelplex.core.backoff import Backoff

BACKOFF = Backoff(base_s=1.0, max_s=8.0)
INTERVAL_S = 2.0
UNUSED_S = INTERVAL_S * UNUSED_INTERVALS
ALIASES = ["a", "b", "c", "pinned"]
VERSIONS = ["v0", "v1", "v2", "v3", "v4"]
ALIASES_MAX = 4
STEPS = 150
HISTORIES = 600


class InvariantError(AssertionError):
    """The core broke a promise."""


def must(holds: bool, promise: str) -> None:
    if not holds:
        raise InvariantError(promise)


@dataclass
class Past:
    """What an alias has been since it became known."""

    stood_for: set[str] = field(default_factory=set)
    now_stands_for: str = ""
    has_loaded: set[str] = field(default_factory=set)
    used_at: float = 0.0
    retry_at: float = 0.0


@dataclass(eq=False)
class Request:
    name: str
    version: str


class World:
    def __init__(self, core_class: type[Aliases], rng: random.Random) -> None:
        self.rng = rng
        self.now = 0.0
        self.store = {name: rng.choice(VERSIONS[:2]) for name in ALIASES}
        self.store_is_up = True
        self.broken: set[str] = set(rng.sample(VERSIONS, rng.choice([0, 1, 2])))
        self.held: set[str] = set()
        self.coming: set[str] = set()
        self.refreshing: set[str] = set()  # loads that the core asked for
        self.retired: set[str] = set()
        self.leases: list[Request] = []
        self.waiting: list[Request] = []
        self.resolving: dict[str, list[str]] = {}  # alias -> requests that wait for it
        self.past: dict[str, Past] = {}
        self.named: dict[str, float] = {}
        self.met: Counter[str] = Counter()
        self.core = core_class(self, BACKOFF, interval_s=INTERVAL_S, pinned=["pinned"], aliases_max=ALIASES_MAX)

    # What the core asks

    def holds(self, model_id: str) -> bool:
        return model_id in self.held

    def keeps(self, model_id: str) -> bool:
        return model_id in self.held or model_id in self.coming

    # Inputs

    def request(self, name: str) -> None:
        version = self.core.choose(name, self.now)
        if version is None:
            self.obey(self.core.asked(name))
            self.resolving[name].append(name)
            return
        if name in self.past:
            self.past[name].used_at = self.now
            must(version in self.past[name].stood_for, "1. a request gets a version that its alias has stood for")
        else:
            must(version == name, "1. an id that stands for itself leads to itself")
            self.named[name] = self.now
        self.retired.discard(version)
        request = Request(name, version)
        if version in self.held:
            self.grant(request)
        else:
            self.waiting.append(request)
            self.coming.add(version)

    def grant(self, request: Request) -> None:
        self.leases.append(request)
        self.obey(self.core.granted(request.name, request.version, self.now))

    def resolve(self, name: str) -> None:
        requests = self.resolving.pop(name)
        if requests and name in self.past:
            self.past[name].used_at = self.now
        target = self.store.get(name, name if name in VERSIONS else None)
        if self.store_is_up and target is not None:
            if target != name or name in self.past:
                past = self.past.setdefault(name, Past(used_at=self.now))
                past.stood_for.add(target)
                if target in self.held:
                    past.has_loaded.add(target)
                if past.now_stands_for != target:
                    past.retry_at = 0.0
                past.now_stands_for = target
            self.obey(self.core.resolved(name, target, self.now))
        else:
            before = self.core.leads_to(name)
            self.met["resolve failed"] += 1
            missing = self.store_is_up
            self.obey(self.core.resolve_failed(name, "away", self.now, missing=missing))
            must(name not in self.past or self.core.leads_to(name) == before, "5. a failed resolve changes nothing")
            if name not in self.past or missing:
                requests = []  # told 404 or 503
        for waiting in requests:
            if self.core.choose(waiting, self.now) is not None:
                self.request(waiting)
            else:
                must(waiting not in self.past, "1. what has been resolved can be chosen")

    def load_ends(self, version: str) -> None:
        serving = self.core.versions
        self.coming.discard(version)
        mine = [request for request in self.waiting if request.version == version]
        self.waiting = [request for request in self.waiting if request.version != version]
        is_refresh = version in self.refreshing
        self.refreshing.discard(version)
        if version in self.broken and not any(version in past.has_loaded for past in self.past.values()):
            self.met["load failed"] += 1
            self.obey(self.core.load_failed(version, "broken", self.now))
            for request in mine:
                if request.name in self.past:
                    self.obey(self.core.load_failed(version, "broken", self.now))
                    self.fall_back(request)
            return
        self.held.add(version)
        for name, past in self.past.items():
            if version in (past.now_stands_for, serving[name]):
                past.has_loaded.add(version)
        for request in mine:
            self.grant(request)
        if is_refresh:
            self.obey(self.core.loaded(version, self.now))
        self.unload_retired()

    def fall_back(self, request: Request) -> None:
        other = self.core.choose(request.name, self.now)
        past = self.past[request.name]
        past.used_at = self.now
        if other is None or other == request.version:
            must(not past.has_loaded or other is None, "1. none that fails is the last word once one has loaded")
            self.met["refused"] += 1
        else:
            self.met["fell back"] += 1
            self.request(request.name)

    def release(self) -> None:
        if self.leases:
            self.leases.remove(self.rng.choice(self.leases))
            self.unload_retired()

    def evict(self) -> None:
        idle = sorted(self.held - {lease.version for lease in self.leases})
        if idle:
            self.held.discard(self.rng.choice(idle))

    def unload_retired(self) -> None:
        self.held -= self.retired - {lease.version for lease in self.leases}

    def tick(self) -> None:
        due = self.core.next_tick
        if due is not None:
            self.now = max(self.now, due)
            self.obey(self.core.tick(self.now), asked=False)
            next_tick = self.core.next_tick
            must(next_tick is None or next_tick > self.now, "after a tick nothing is due any more")

    # Answers

    def obey(self, commands: Sequence[Command], *, asked: bool = True) -> None:
        for command in commands:
            self.met[type(command).__name__] += 1
            match command:
                case Resolve(alias):
                    must(alias not in self.resolving, "4. an alias is resolved once at a time")
                    is_used = alias == "pinned" or asked or self.now <= self.past[alias].used_at + UNUSED_S
                    must(is_used, "6. an alias that nobody uses is not looked at")
                    self.resolving[alias] = []
                case Load(version):
                    self.on_load(version)
                case Switch():
                    self.on_switch(command)
                case Retire(version):
                    self.on_retire(version)
                case Stay(alias, _, new, _, retry_after_s):
                    past = self.past[alias]
                    must(new == past.now_stands_for, "4. what has failed is what the alias stands for")
                    must(retry_after_s >= BACKOFF.base_s, "4. what fails is left alone for a while")
                    past.retry_at = self.now + retry_after_s
                case Unresolved(alias, version, _):
                    must(version in self.past[alias].stood_for, "5. the version before serves on")
                case Forget(alias):
                    must(alias != "pinned", "6. what is pinned is not forgotten")
                    del self.past[alias]
        must(len(self.core.versions) <= ALIASES_MAX + 1, "6. at most so many aliases are known")
        must(self.core.versions.keys() == self.past.keys(), "6. known is what was resolved and not forgotten")
        for name, version in self.core.versions.items():
            must(name in self.core.names_of(version), "an alias is found by its version")
            must(version in self.past[name].stood_for, "1. a request gets a version that its alias has stood for")

    def on_load(self, version: str) -> None:
        must(version not in self.refreshing, "4. a version is loaded once at a time")
        must(version not in self.held, "4. what is loaded is not loaded again")
        wanting = [past for past in self.past.values() if past.now_stands_for == version]
        must(any(self.now >= past.retry_at for past in wanting), "4. what has failed is left alone for a while")
        self.refreshing.add(version)
        self.coming.add(version)

    def on_switch(self, switch: Switch) -> None:
        past = self.past[switch.alias]
        must(switch.new == past.now_stands_for, "2. traffic moves to what the alias stands for")
        must(switch.new in self.held or not past.has_loaded, "2. traffic moves only to a version that is loaded")

    def on_retire(self, version: str) -> None:
        for name, past in self.past.items():
            in_use = name == "pinned" or self.now < past.used_at + UNUSED_S
            serves = version in (past.now_stands_for, self.core.leads_to(name))
            must(not (in_use and serves), "3. what an alias in use stands for, or serves by, is not retired")
        must(self.now >= self.named.get(version, -UNUSED_S) + UNUSED_S, "3. what was named of late is not retired")
        self.retired.add(version)
        if version in self.refreshing:
            self.refreshing.discard(version)
            if not any(request.version == version for request in self.waiting):
                self.coming.discard(version)
        self.unload_retired()

    # The end

    def settle(self) -> None:
        """With a store that answers and versions that load, each alias in use comes to what it stands for."""
        self.store_is_up = True
        self.broken.clear()
        for _ in range(30):
            self.store = {name: self.store.get(name, "v0") for name in ALIASES}
            for name in ALIASES:
                self.request(name)
            for name in list(self.resolving):
                self.resolve(name)
            for version in sorted(self.coming):
                self.load_ends(version)
            self.now += 1.0
            while self.core.next_tick is not None and self.core.next_tick <= self.now:
                self.obey(self.core.tick(self.now))
        for name in ALIASES:
            must(self.core.leads_to(name) == self.store[name], "an alias comes to what it stands for")
            must(self.store[name] in self.held, "and that is loaded")
        must(not self.waiting, "nobody waits for ever")


def move(world: World, rng: random.Random) -> None:
    world.store[rng.choice(ALIASES)] = rng.choice(VERSIONS)


def drop(world: World, rng: random.Random) -> None:
    world.store.pop(rng.choice(ALIASES), None)


def go_up_or_down(world: World, rng: random.Random) -> None:
    world.store_is_up = not world.store_is_up


def advance(world: World, rng: random.Random) -> None:
    world.now += rng.choice([0.1, 1.0, 1.0, 15.0])


def stranger(world: World, rng: random.Random) -> None:
    name = f"x{rng.randrange(1_000_000)}"
    if rng.random() < 0.5:
        world.store[name] = rng.choice(VERSIONS)
    world.request(name)


def some_resolve(world: World, rng: random.Random) -> None:
    if world.resolving:
        world.resolve(rng.choice(list(world.resolving)))


def some_load(world: World, rng: random.Random) -> None:
    if world.coming:
        world.load_ends(rng.choice(sorted(world.coming)))


ACTIONS: dict[Callable[[World, random.Random], None], float] = {
    lambda world, rng: world.request(rng.choice(ALIASES)): 8,
    lambda world, rng: world.request(rng.choice(VERSIONS)): 1,
    stranger: 1,
    some_resolve: 6,
    some_load: 6,
    lambda world, rng: world.release(): 4,
    lambda world, rng: world.evict(): 1,
    move: 2,
    drop: 0.3,
    go_up_or_down: 0.5,
    advance: 3,
    lambda world, rng: world.tick(): 4,
}


def play(seed: int, core_class: type[Aliases] = Aliases) -> World:
    rng = random.Random(seed)
    world = World(core_class, rng)
    for _ in range(STEPS):
        rng.choices(list(ACTIONS), list(ACTIONS.values()))[0](world, rng)
    world.settle()
    return world


def play_many(seeds: Iterable[int], core_class: type[Aliases] = Aliases) -> Counter[str]:
    met: Counter[str] = Counter()
    for seed in seeds:
        try:
            met.update(play(seed, core_class).met)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
    return met


def test_random_histories_keep_every_promise() -> None:
    met = play_many(range(HISTORIES))
    kinds = ["Resolve", "Load", "Switch", "Retire", "Stay", "Unresolved", "Forget", "load failed", "fell back"]
    assert not {kind: met[kind] for kind in kinds if met[kind] < HISTORIES / 10}


# Bugs that the histories have to notice


class MovesBeforeTheLoad(Aliases):
    def _pursue(self, alias, now):  # type: ignore[no-untyped-def]
        return [self._switch(alias)] if alias.current != alias.wanted else []


class WaitsForTheNew(Aliases):
    def _choice(self, alias):  # type: ignore[no-untyped-def]
        return alias.wanted


class RetiresWhatOthersUse(Aliases):
    def _retire(self, version, now):  # type: ignore[no-untyped-def]
        return [Retire(version)]


class RetiresWhatIsNamed(Aliases):
    def choose(self, name: str, now: float) -> str | None:
        version = super().choose(name, now)
        self._named.clear()
        return version


class TriesAgainAtOnce(Aliases):
    def _pursue(self, alias, now):  # type: ignore[no-untyped-def]
        alias.retry_at = None
        return super()._pursue(alias, now)


class LoadsTwice(Aliases):
    def _pursue(self, alias, now):  # type: ignore[no-untyped-def]
        self._loading.clear()
        return super()._pursue(alias, now)


class ForgetsFailures(Aliases):
    def load_failed(self, version: str, error: object, now: float, retry_after_s: float = 0.0) -> list[Command]:
        self._loading.discard(version)
        return []


class NeverGivesUp(Aliases):
    def load_failed(self, version: str, error: object, now: float, retry_after_s: float = 0.0) -> list[Command]:
        return super().load_failed(version, error, now, 1e9)


class ResolvesTwice(Aliases):
    def asked(self, name: str) -> Sequence[Command]:
        return (Resolve(name),)


class ForgetsOnFailure(Aliases):
    def resolve_failed(self, name: str, error: object, now: float, *, missing: bool = False) -> list[Command]:
        commands = super().resolve_failed(name, error, now, missing=missing)
        alias = self._aliases.get(name)
        return commands if alias is None else [self._forget(alias)]


class LooksForEver(Aliases):
    def tick(self, now: float) -> list[Command]:
        for alias in self._aliases.values():
            alias.used_at = now
        return super().tick(now)


class KnowsAll(Aliases):
    def _learn(self, name: str, version: str, now: float) -> list[Command]:
        self._aliases_max += 1
        return super()._learn(name, version, now)


class ForgetsThePinned(Aliases):
    def _learn(self, name: str, version: str, now: float) -> list[Command]:
        self._pinned = frozenset()
        return super()._learn(name, version, now)


class LosesTheSwitch(Aliases):
    def loaded(self, version: str, now: float) -> list[Command]:
        self._loading.discard(version)
        return []


class NeverLooksAgain(Aliases):
    def _set_timer(self, alias):  # type: ignore[no-untyped-def]
        pass


BUGS: list[type[Aliases]] = [
    MovesBeforeTheLoad,
    WaitsForTheNew,
    RetiresWhatOthersUse,
    RetiresWhatIsNamed,
    TriesAgainAtOnce,
    LoadsTwice,
    ForgetsFailures,
    NeverGivesUp,
    ResolvesTwice,
    ForgetsOnFailure,
    LooksForEver,
    KnowsAll,
    ForgetsThePinned,
    LosesTheSwitch,
    NeverLooksAgain,
]


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(bug: type[Aliases]) -> None:
    with pytest.raises((InvariantError, KeyError)):
        play_many(range(HISTORIES), bug)
