"""Which processes are started and ended, step by step."""

import pytest
from rollout_world import FORGET_S, HANDOVER_S, World

from modelplex.core.rollout import Complete, Failing, GivenUp, Goal


def test_as_many_as_wanted_are_started_at_once() -> None:
    world = World()
    world.want("v1", 3)
    assert world.starting == [0, 1, 2]
    world.starts(0, 1)
    assert world.said == []
    world.starts(2)
    assert world.said == [Complete("v1")]


def test_a_new_version_takes_over_one_by_one() -> None:
    world = World()
    world.running("v1", 2)
    world.want("v2", 2)
    assert world.starting == [2]
    assert world.in_place_of[2] == 0
    world.later(100)
    assert world.retiring == set()
    world.starts(2)
    world.later(HANDOVER_S - 0.1)
    assert world.retiring == set()
    world.later(0.2)
    assert world.retiring == {0}
    assert world.starting == []  # one at a time, until the old one has exited
    world.exits(0)
    assert world.starting == [3]
    world.starts(3)
    assert world.said == []
    world.later(HANDOVER_S)
    world.ends()
    assert world.said == [Complete("v2")]
    assert world.ready == {2, 3}


def test_several_are_replaced_at_a_time_if_step_and_surge_say_so() -> None:
    world = World()
    world.running("v1", 5)
    world.want("v2", 5, step=2, surge=2)
    assert world.starting == [5, 6]
    world.want("v3", 5, step=3, surge=1)
    assert world.retiring == {5, 6}
    assert world.starting == [7]


def test_without_surge_an_old_one_exits_before_a_new_one_starts() -> None:
    world = World()
    world.running("v1", 3)
    world.want("v2", 3, step=2, surge=0)
    assert world.retiring == {0, 1}
    assert world.starting == []
    world.exits(0)
    assert world.starting == [3]
    world.starts(3)
    assert world.retiring == {1, 2}  # one that is ready makes it two again that are not
    world.ends()
    world.starts(*world.starting)
    assert (len(world.ready), world.said) == (3, [Complete("v2")])


def test_more_and_fewer_of_the_same_version() -> None:
    world = World(stop_order=lambda numbers: [n for n in (1, 4, 0, 2, 3) if n in numbers])
    world.running("v1", 2)
    world.want("v1", 5)
    assert world.starting == [2, 3, 4]
    world.starts(2, 3)
    world.want("v1", 2)
    assert world.retiring == {4, 1, 0}  # the one that serves nobody yet first, then by the order
    assert world.ready == {2, 3}
    world.ends()
    world.later(100)
    assert world.alive == {2: "v1", 3: "v1"}


def test_none_and_back() -> None:
    world = World()
    world.running("v1", 2)
    world.want("v1", 0)
    assert world.retiring == {0, 1}
    world.want("v1", 1)
    assert world.starting == [2]


def test_one_that_dies_is_replaced_at_once_and_later_each_time() -> None:
    world = World()
    world.running("v1", 1)
    waits = []
    for number in range(5):
        world.exits(number)
        died = world.now
        world.later(0 if number + 1 in world.alive else (world.rollout.next_tick or 0) - world.now)
        waits.append(world.now - died)
        world.starts(number + 1)
    assert waits == pytest.approx([0, 0.1, 0.2, 0.4, 0.8])
    world.later(FORGET_S + 1)
    world.exits(5)
    assert 6 in world.alive


def test_one_that_dies_during_an_update_comes_back_in_the_new_version() -> None:
    world = World()
    world.running("v1", 3)
    world.want("v2", 3)
    world.exits(2)
    assert [world.alive[n] for n in world.starting] == ["v2", "v2"]


def test_a_version_that_fails_is_given_up_for_the_last_one_that_ran() -> None:
    world = World()
    world.running("v1", 3)
    world.want("v2", 3, failures=2)
    world.starts(3)
    world.later(HANDOVER_S)
    world.ends()
    assert world.starting == [4]
    world.exits(4, why="no such file")
    assert world.said == []
    world.later(1)
    world.exits(5, why="no such file")
    assert world.said == [GivenUp("v2", "no such file", "v1")]
    world.starts(*world.starting)
    world.later(HANDOVER_S)
    world.ends()
    assert sorted(world.alive.values()) == ["v1"] * 3
    assert world.said[1:] == [Complete("v1")]


def test_a_first_version_that_fails_is_given_up_for_nothing() -> None:
    world = World()
    world.want("v1", 2, failures=1)
    world.starts(0)
    world.exits(1, why="no memory")
    assert world.said == [GivenUp("v1", "no memory", None)]
    assert world.retiring == {0}
    world.ends()
    world.later(100)
    assert world.alive == {}


def test_one_that_has_run_before_is_never_given_up() -> None:
    world = World()
    world.running("v1", 1)
    for number in range(20):
        world.exits(number)
        world.later(30)
    assert world.said == []
    assert world.starting


def test_more_of_a_version_that_has_run_that_cannot_be_started_are_told_of_and_tried_on() -> None:
    world = World()
    world.running("v1", 1)
    world.want("v1", 2, failures=2)
    for number in range(1, 8):
        world.exits(number, why="no memory")
        world.later(30)
    assert world.said == [Failing("v1", "no memory")] * 3
    assert world.starting == [8]
    assert world.ready == {0}
    world.want("v1", 3, failures=2)
    world.starts(*world.starting)
    assert world.said[3:] == [Complete("v1")]


def test_one_that_is_found_unwell_counts_as_a_failure_of_a_new_version() -> None:
    world = World()
    world.running("v1", 1)
    world.want("v2", 1, failures=1)
    world.starts(1)
    world.obey(world.rollout.unwell(1, "check_health raised", world.now))
    assert world.said == [GivenUp("v2", "check_health raised", "v1"), Complete("v1")]
    assert (world.retiring, world.ready) == ({1}, {0})


def test_one_that_is_unwell_later_is_retired_at_once_and_replaced() -> None:
    world = World()
    world.running("v1", 2)
    world.obey(world.rollout.unwell(0, "hangs", world.now))
    assert (world.retiring, world.starting) == ({0}, [2])
    assert world.rollout.unwell(0, "hangs", world.now) == []


def test_one_that_is_to_be_replaced_goes_when_its_successor_serves() -> None:
    world = World()
    world.running("v1", 2)
    world.obey(world.rollout.replace(0, world.now))
    world.obey(world.rollout.replace(1, world.now))
    assert world.starting == [2]
    world.starts(2)
    world.later(HANDOVER_S)
    assert world.retiring == {0}
    world.ends()
    assert world.starting == [3]


def test_what_is_outdated_waits_until_all_run() -> None:
    world = World()
    world.want("v1", 2)
    world.starts(0)
    world.obey(world.rollout.replace(0, world.now))
    world.later(100)
    assert world.starting == [1]
    world.starts(1)
    assert world.starting == [2]


def test_going_back_in_the_middle_ends_what_had_begun() -> None:
    world = World()
    world.running("v1", 2)
    world.want("v2", 2)
    world.want("v1", 2)
    assert (world.retiring, world.ready) == ({2}, {0, 1})
    assert world.said == [Complete("v1")]


def test_an_update_that_is_called_off_goes_back() -> None:
    world = World()
    world.running("v1", 1)
    world.want("v2", 1)
    world.obey(world.rollout.give_up("it was called off", world.now))
    assert (world.retiring, world.ready) == ({1}, {0})
    assert world.rollout.give_up("again", world.now) == []


def test_what_runs_is_adopted_and_only_what_is_missing_is_started_in_time() -> None:
    world = World()
    goal = Goal("v1", 3)
    world.obey(world.rollout.recover(goal, goal, 2.0, world.now))
    for _ in range(2):
        number, commands = world.rollout.adopt("v1", world.now)
        world.alive[number] = "v1"
        world.ready.add(number)
        world.obey(commands)
    assert world.starting == []
    world.later(3)
    assert world.starting == [2]


def test_a_change_after_all_have_been_adopted_waits_for_nobody_else() -> None:
    world = World()
    goal = Goal("v1", 1)
    world.obey(world.rollout.recover(goal, goal, 10.0, world.now))
    number, commands = world.rollout.adopt("v1", world.now)
    world.alive[number] = "v1"
    world.ready.add(number)
    world.obey(commands)
    assert world.starting == []
    world.obey(world.rollout.want(Goal("v2", 1), world.now))
    assert len(world.starting) == 1


def test_an_update_goes_on_with_what_is_adopted() -> None:
    world = World()
    world.obey(world.rollout.recover(Goal("v2", 2), Goal("v1", 2), 2.0, world.now))
    for version in ("v2", "v1", "v1", "v2", "v1"):
        number, commands = world.rollout.adopt(version, world.now)
        world.alive[number] = version
        world.ready.add(number)
        world.obey(commands)
    world.later(5)
    world.ends()
    assert sorted(world.alive.values()) == ["v2", "v2"]


def test_one_that_exits_twice_or_is_unknown_changes_nothing() -> None:
    world = World()
    world.running("v1", 1)
    assert world.rollout.exited(7, "?", 0.0) == []
    assert world.rollout.unwell(7, "?", 0.0) == []
