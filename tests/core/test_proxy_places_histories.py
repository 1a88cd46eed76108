"""Random histories of machines, replicas and proxies that come and go: what `core.proxy_places` promises holds."""

import random
from collections.abc import Callable

import pytest

from modelplex.core import proxy_places
from modelplex.core.proxy_places import LOCATIONS, Close, Machine, Open, ProxyPlaces
from modelplex.runtime import engine

STEPS = 60
SEEDS = 800
SEEDS_TO_CATCH = 200
LINGER_S = 30.0
NAMES = ["a", "b", "c", "d"]


class BrokenError(AssertionError):
    """A history in which something that must hold did not."""


class History:
    """One history, by its seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.location = self.random.choice(LOCATIONS)
        self.places = ProxyPlaces(self.location, LINGER_S)
        self.machines: dict[str, engine.Machine] = {}
        self.used: set[str] = set()
        self.ready: set[str] = set()
        self.open: set[str] = set()
        self.wanted_at: dict[str, float] = {}
        self.now = 0.0

    def run(self) -> None:
        for _ in range(STEPS):
            self.step()
            self.decide()
        self.settle()

    def step(self) -> None:
        name, chance = self.random.choice(NAMES), self.random.random()
        if chance < 0.2:
            self.machines[name] = engine.Machine(name, name == "a", self.random.random() < 0.3)
        elif chance < 0.28:
            self.machines.pop(name, None)
            self.used.discard(name)
        elif chance < 0.5 and name in self.machines:
            self.used ^= {name}
        elif chance < 0.6:
            self.ready.discard(name)
        elif chance < 0.8 and name in self.open:
            self.ready.add(name)
        elif chance < 0.83 and name not in self.open:
            self.places.adopt(name)
            self.open.add(name)
            self.ready.add(name)
            self.wanted_at[name] = self.now
        elif (at := self.places.next_tick) is not None and self.random.random() < 0.5:
            self.now = at
        else:
            self.now += self.random.choice([0.1, 5.0, 40.0])

    def is_wanted(self, name: str) -> bool:
        machine = self.machines.get(name)
        if machine is None or machine.is_draining or self.location == "Disabled":
            return False
        return machine.is_head or self.location == "AllNodes" or (self.location == "EveryNode" and name in self.used)

    def decide(self) -> None:
        machines: list[Machine] = list(self.machines.values())
        serves = {name for name in self.ready if self.is_wanted(name)}
        for command in self.places.decide(machines, self.used, self.ready, self.now):
            name = command.machine
            if isinstance(command, Open):
                self.must(name not in self.open, "it is opened twice")
                self.must(self.is_wanted(name), "it is opened where it is not wanted")
                self.open.add(name)
            else:
                self.must(name in self.open, "it is closed twice")
                self.check_close(name, serves)
                self.open.discard(name)
                self.ready.discard(name)
        self.must(self.open == self.places.open.keys(), "it believes that others are open")
        for name in NAMES:
            if self.is_wanted(name):
                self.must(name in self.open, "it is not opened where it is wanted")
                self.wanted_at[name] = self.now
        waits = self.places.next_tick
        self.must(waits is None or waits > self.now, "it is overdue")

    def check_close(self, name: str, serves: set[str]) -> None:
        machine = self.machines.get(name)
        if machine is None:
            return
        self.must(not self.is_wanted(name), "it is closed where it is wanted")
        self.must(bool(serves - {name}), "the last that serves is closed")
        if machine.is_draining:
            self.must(name not in self.used, "it is closed before its replicas are gone")
        else:
            self.must(self.now >= self.wanted_at.get(name, 0.0) + LINGER_S, "it is closed at once")

    def settle(self) -> None:
        """Once every proxy serves, only time is missing."""
        self.ready = set(self.open)
        self.decide()
        self.ready |= self.open
        for _ in NAMES:
            self.decide()
            self.now = self.places.next_tick or self.now
        self.decide()
        serves = any(map(self.is_wanted, NAMES))
        left = {name for name in self.open if not self.is_wanted(name)}
        stays = {name for name in left if self.machines[name].is_draining and name in self.used}
        self.must(left == stays or not serves, "some stay open for ever")

    def must(self, holds: bool, words: str) -> None:
        if not holds:
            raise BrokenError(words)


def run(seeds: int) -> None:
    for seed in range(seeds):
        History(seed).run()


def test_what_is_promised_holds_in_every_history() -> None:
    for seed in range(SEEDS):
        try:
            History(seed).run()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error


Decide = Callable[..., list[proxy_places.Command]]


def impatient(decide: Decide) -> Decide:
    def broken(
        self: ProxyPlaces, machines: object, used: object, ready: object, now: float
    ) -> list[proxy_places.Command]:
        self._linger_s = LINGER_S / 2
        return decide(self, machines, used, ready, now)

    return broken


def trusting(decide: Decide) -> Decide:
    """Takes every machine's proxies to serve."""

    def broken(
        self: ProxyPlaces, machines: object, used: object, ready: object, now: float
    ) -> list[proxy_places.Command]:
        return decide(self, machines, used, NAMES, now)

    return broken


def blind(decide: Decide) -> Decide:
    """Sees no replicas."""

    def broken(
        self: ProxyPlaces, machines: object, used: object, ready: object, now: float
    ) -> list[proxy_places.Command]:
        return decide(self, machines, set(), ready, now)

    return broken


def keeping(decide: Decide) -> Decide:
    """Closes nothing."""

    def broken(
        self: ProxyPlaces, machines: object, used: object, ready: object, now: float
    ) -> list[proxy_places.Command]:
        before = dict(self.open)
        commands = decide(self, machines, used, ready, now)
        self.open = before | self.open
        return [command for command in commands if not isinstance(command, Close)]

    return broken


@pytest.mark.parametrize("breaks", [impatient, trusting, blind, keeping])
def test_histories_find_each_promise_that_is_broken(
    breaks: Callable[[Decide], Decide], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProxyPlaces, "decide", breaks(ProxyPlaces.decide))
    with pytest.raises((BrokenError, KeyError)):
        run(SEEDS_TO_CATCH)
