"""Random histories of processes that are wanted, start, fail, die and exit late: what `core.rollout` promises holds."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from rollout_world import HANDOVER_S, World

from modelplex.core import rollout
from modelplex.core.rollout import GivenUp, Goal, Retire, Rollout

STEPS = 120
SEEDS = 1500
SEEDS_TO_CATCH = 400


class BrokenError(AssertionError):
    """A history in which something that must hold did not."""


class History:
    """One history, by its seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = World()
        self.versions = 0
        self.gaps = 0  # places that lost theirs by an accident, in this step
        self.inputs = 0
        self.pairs_before = self.started_before = 0

    def run(self) -> None:
        self.want()
        for _ in range(STEPS):
            served, self.gaps, told, self.pairs_before = self.served(), 0, len(self.world.said), self.pairs()
            self.started_before = len(self.world.in_place_of)
            self.step()
            self.inputs += 1
            self.check(served, told)
        self.settle()

    def step(self) -> None:
        world, pick = self.world, self.random.choice
        chance = self.random.random()
        unready, live = world.starting, sorted(world.ready)
        if chance < 0.3 and unready:
            world.starts(pick(unready))
        elif chance < 0.4 and unready:
            world.exits(pick(unready), why="failed")
        elif chance < 0.45 and live:
            self.gaps = 1
            world.exits(pick(live), why="died")
        elif chance < 0.48 and live:
            self.gaps = 1
            world.obey(world.rollout.unwell(pick(live), "unwell", world.now))
        elif chance < 0.53 and live:
            world.obey(world.rollout.replace(pick(live), world.now))
        elif chance < 0.7 and world.retiring:
            world.exits(pick(sorted(world.retiring)))
        elif chance < 0.74:
            self.want()
        elif chance < 0.76:
            world.obey(world.rollout.give_up("called off", world.now))
        elif chance < 0.77:
            self.gaps = self.pairs_before = len(world.alive)  # nothing that was before need be there
            world.dies(self.random.randint(0, 6), 2.0)
        else:
            world.later(pick([0.05, 0.3, HANDOVER_S, 5.0, 40.0]))

    def want(self) -> None:
        pick = self.random.choice
        goal = self.world.rollout.goal
        if goal is None or self.random.random() < 0.5:
            self.versions += 1
            version = f"v{self.versions}"
        else:
            version = goal.version
        self.world.want(version, pick([0, 1, 1, 2, 3, 5]), pick([1, 2, 3]), pick([0, 1, 1, 2]), pick([1, 2, 4]))

    def place(self, number: int) -> int:
        """The first one in whose place it is."""
        while (before := self.world.in_place_of.get(number)) is not None:
            number = before
        return number

    def served(self) -> int:
        """Places in which one serves."""
        return len({self.place(number) for number in self.world.ready})

    def pairs(self) -> int:
        """Places that two have, of which one is to go."""
        active = self.world.alive.keys() - self.world.retiring
        return len(active) - len({self.place(number) for number in active})

    def check(self, served_before: int, told: int) -> None:
        world, goal = self.world, self.goal
        left_nothing = any(isinstance(c, GivenUp) and c.instead is None for c in world.said[told:])
        reserve = goal.step if goal.surge_max == 0 else 0
        if not left_nothing:
            self.must(self.served() >= min(goal.count, served_before) - self.gaps - reserve, "too many were retired")
        active = world.alive.keys() - world.retiring
        self.must(len(active) <= goal.count + max(self.pairs(), self.pairs_before), "too many are alive")
        allowed = max(min(goal.step, goal.surge_max), self.pairs_before)
        self.must(self.pairs() <= allowed, "too many are replaced at a time")
        if goal.surge_max == 0 and len(world.in_place_of) > self.started_before:
            self.must(len(world.alive) <= goal.count, "one was started before another one had exited")
        for given_up in [c for c in world.said[told:] if isinstance(c, GivenUp)]:
            went_back = goal.version == given_up.instead if given_up.instead else goal.count == 0
            self.must(went_back, "what failed goes on")
        waits = world.rollout.next_tick
        self.must(waits is None or waits > world.now, "it is overdue")

    def settle(self) -> None:
        world = self.world
        for _ in range(200):
            world.ends()
            world.starts(*world.starting)
            world.later(20.0)
        goal = self.goal
        self.must(not world.starting, "some are started for ever")
        self.must(list(world.alive.values()) == [goal.version] * goal.count, "it ends with others than are wanted")
        self.must(world.rollout.is_complete, "it is never complete")
        self.must(not any(map(self.is_outdated, world.alive)), "what is outdated stays")

    def is_outdated(self, number: int) -> bool:
        return self.world.rollout._members[number].outdated

    @property
    def goal(self) -> Goal:
        goal = self.world.rollout.goal
        assert goal is not None
        return goal

    def must(self, holds: bool, words: str) -> None:
        if not holds:
            raise BrokenError(words)


def test_what_is_promised_holds_in_every_history() -> None:
    inputs = 0
    for seed in range(SEEDS):
        history = History(seed)
        try:
            history.run()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        inputs += history.inputs
    assert inputs >= SEEDS * STEPS


def hasty(self: Rollout, place: Any, now: float) -> list[rollout.Command]:
    """Hands over before the successor is ready."""
    if place.current is not None and place.successor is not None:
        before, place.current, place.successor = place.current, place.successor, None
        return self._retire(before)
    return original_hand_over(self, place, now)


def many_at_a_time(self: Rollout, place: Any, goal: Goal, now: float) -> list[rollout.Command]:
    place.successor = self._new_member(place, goal, now)
    return [rollout.Start(place.successor.number, goal.version, place.current.number)]


def forgetful(self: Rollout, member: Any, why: str, now: float) -> list[rollout.Command]:
    """Does not notice that a place is empty."""
    return []


def unforgiving(self: Rollout, goal: Goal, why: str) -> rollout.Command:
    """Gives up, and goes on all the same."""
    return GivenUp(goal.version, why, None)


def wasteful(self: Rollout, goal: Goal) -> list[rollout.Command]:
    """Does not become fewer."""
    self._places += [rollout._Place() for _ in range(goal.count - len(self._places))]
    return []


def sleepless(self: Rollout, at: float) -> None:
    """Forgets to wake."""


def twice(self: Rollout, member: Any) -> list[rollout.Command]:
    return [Retire(member.number), Retire(member.number)]


original_hand_over = Rollout._hand_over


@pytest.mark.parametrize(
    ("method", "bug"),
    [
        ("_hand_over", hasty),
        ("_renew", many_at_a_time),
        ("_lost", forgetful),
        ("_give_up", unforgiving),
        ("_fit_places", wasteful),
        ("_wake", sleepless),
        ("_retire", twice),
        ("_is_old", lambda self, member: False),
        ("_in_turn", lambda self: []),
    ],
)
def test_planted_bugs_are_caught(method: str, bug: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rollout, method, bug)
    for seed in range(SEEDS_TO_CATCH):
        try:
            History(seed).run()
        except (AssertionError, AttributeError, RecursionError):
            return
    pytest.fail("no history shows it")
