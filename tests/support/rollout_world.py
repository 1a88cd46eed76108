"""Processes that start, end and die when a test says so, under a `core.rollout.Rollout`."""

from collections.abc import Callable

from modelplex.core.backoff import Backoff
from modelplex.core.rollout import Command, Goal, Retire, Rollout, Start

HANDOVER_S = 1.0
FORGET_S = 30.0


class World:
    """A rollout whose processes do what the test says, at the time that it says."""

    def __init__(self, stop_order: Callable[[list[int]], list[int]] = lambda numbers: numbers[::-1]) -> None:
        self.stop_order = stop_order
        self.rollout = Rollout(HANDOVER_S, Backoff(0.1, 10.0), FORGET_S, stop_order)
        self.now = 0.0
        self.alive: dict[int, str] = {}
        self.ready: set[int] = set()
        self.retiring: set[int] = set()
        self.in_place_of: dict[int, int | None] = {}
        self.said: list[Command] = []

    def obey(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Start(number, version, in_place_of):
                    assert number not in self.alive
                    self.alive[number] = version
                    self.in_place_of[number] = in_place_of
                case Retire(number):
                    assert number in self.alive
                    assert number not in self.retiring
                    self.retiring.add(number)
                    self.ready.discard(number)
                case _:
                    self.said.append(command)

    def want(self, version: str, count: int, step: int = 1, surge: int = 1, failures: int = 3) -> None:
        self.obey(self.rollout.want(Goal(version, count, step, surge, failures), self.now))

    def starts(self, *numbers: int) -> None:
        for number in numbers:
            if number not in self.retiring:
                self.ready.add(number)
            self.obey(self.rollout.ready(number, self.now))

    def exits(self, *numbers: int, why: str = "exited") -> None:
        for number in numbers:
            del self.alive[number]
            self.ready.discard(number)
            self.retiring.discard(number)
            self.obey(self.rollout.exited(number, why, self.now))

    def dies(self, register: int, wait_s: float) -> None:
        """Whoever decides has died. The next one is told what was wanted; only so many of those that serve register."""
        goal, before = self.rollout.goal, self.rollout
        assert goal is not None
        serving = [self.alive[number] for number in sorted(self.ready)]
        self.rollout = Rollout(HANDOVER_S, Backoff(0.1, 10.0), FORGET_S, self.stop_order)
        self.alive, self.ready, self.retiring, self.in_place_of = {}, set(), set(), {}
        self.obey(self.rollout.recover(goal, before.fallback, self.now + wait_s, self.now))
        assert not self.alive, "one was started before others could register"
        for version in serving[:register]:
            number, commands = self.rollout.adopt(version, self.now)
            self.alive[number] = version
            self.ready.add(number)
            self.obey(commands)

    def ends(self) -> None:
        """All that were retired exit."""
        self.exits(*self.retiring)

    def later(self, seconds: float) -> None:
        until = self.now + seconds
        while (at := self.rollout.next_tick) is not None and at <= until:
            self.now = max(at, self.now)
            self.obey(self.rollout.tick(self.now))
        self.now = until

    @property
    def starting(self) -> list[int]:
        return sorted(self.alive.keys() - self.ready - self.retiring)

    def running(self, version: str, count: int) -> None:
        """Bring so many of a version to run."""
        self.want(version, count)
        self.starts(*self.starting)
        assert len(self.ready) == count
        self.said.clear()
