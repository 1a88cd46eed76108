"""Processes that are kept running, under virtual time."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from scripted_engine import ScriptedProcess

from modelplex import config, errors
from modelplex.core.rollout import Goal
from modelplex.runtime.engine import Process
from modelplex.runtime.process_set import ProcessSet
from modelplex.testing import run_virtual
from modelplex.wire import messages


class World:
    """A set of processes that start when the test says so."""

    def __init__(self, count: int = 2, failed_starts_max: int = 3) -> None:
        self.processes: list[ScriptedProcess] = []
        self.changes = 0
        self.published: list[list[str]] = []
        self.set = ProcessSet("app_D", self._start, self._changed)
        self.set.want(Goal("v1", count, failures_max=failed_starts_max))

    async def _start(self, version: str, in_place_of: str | None) -> tuple[str, Process]:
        await asyncio.sleep(0.01)  # starting a process takes its time, and can be interrupted
        process = ScriptedProcess(f"p{len(self.processes)}")
        self.processes.append(process)
        return process.name, process

    def _changed(self) -> None:
        self.changes += 1
        self.published.append(list(self.set.running))

    def replace(self, number: int, timeout_s: float = 5.0) -> None:
        self.set.grace_s = timeout_s
        self.set.replace(f"p{number}", "is old")

    def told_to_stop(self) -> list[str]:
        return [p.name for p in self.processes if any(isinstance(m, messages.Stop) for m in p.said)]

    async def count_above(self, count: int) -> None:
        """Return when more processes than that have been started."""
        while len(self.processes) <= count:  # noqa: ASYNC110 - virtual time makes waiting free
            await asyncio.sleep(0.01)

    async def all_started(self) -> None:
        await asyncio.sleep(0.02)
        for process in self.processes:
            if not process.started.done():
                process.starts()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def in_world(check: Callable[[World], Awaitable[None]], **options: int) -> None:
    async def main() -> None:
        world = World(**options)
        async with asyncio.timeout(1000):
            await check(world)
        await world.set.stop(1.0)
        assert all(p.exited.done() for p in world.processes)
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


def test_it_is_ready_when_all_have_started() -> None:
    async def check(world: World) -> None:
        await asyncio.sleep(0.02)
        world.processes[0].starts()
        await asyncio.sleep(1)
        assert not world.set.outcome.done()
        world.processes[1].starts()
        await world.set.outcome
        assert world.set.running == {"p0": "address of p0", "p1": "address of p1"}

    in_world(check)


def test_one_that_dies_is_replaced_at_once_and_said_to_have_changed() -> None:
    async def check(world: World) -> None:
        await world.all_started()
        changes = world.changes
        world.processes[0].dies()
        await asyncio.sleep(0.02)
        assert (list(world.set.running), len(world.processes), world.changes) == (["p1"], 3, changes + 1)
        await world.all_started()
        assert list(world.set.running) == ["p1", "p2"]

    in_world(check)


def test_one_that_keeps_dying_is_replaced_later_each_time() -> None:
    async def check(world: World) -> None:
        died: list[float] = []
        for _ in range(6):
            await world.all_started()
            world.processes[-1].dies()
            died.append(asyncio.get_running_loop().time())
            count = len(world.processes)
            await world.count_above(count)
        waits = [p.began - at for p, at in zip(world.processes[1:], died, strict=True)]
        assert waits == pytest.approx([0.01, 0.11, 0.21, 0.41, 0.81, 1.61], abs=0.011)

    in_world(check, count=1)


def test_one_that_lived_long_is_replaced_at_once_again() -> None:
    async def check(world: World) -> None:
        for _ in range(5):
            await world.all_started()
            await asyncio.sleep(config.RESTART_FORGET_S + 1)
            count = len(world.processes)
            world.processes[-1].dies()
            await asyncio.sleep(0.02)
            assert len(world.processes) == count + 1

    in_world(check, count=1)


def test_it_gives_up_after_so_many_failed_starts_and_says_why() -> None:
    async def check(world: World) -> None:
        for number in range(3):
            await world.count_above(number)
            assert not world.set.outcome.done()
            world.processes[number].fails("no such file")
        with pytest.raises(errors.DeploymentFailedError, match="no such file"):
            await asyncio.shield(world.set.outcome)
        await asyncio.sleep(100)
        assert len(world.processes) == 3
        assert "no such file" in world.set.message

    in_world(check, count=1)


def test_one_that_has_run_before_is_never_given_up() -> None:
    async def check(world: World) -> None:
        await world.all_started()
        world.processes[0].dies()
        for number in range(1, 8):
            await world.count_above(number)
            world.processes[number].fails()
        await asyncio.sleep(20)
        assert world.set.message
        await world.all_started()
        assert (len(world.set.running), world.set.message) == (1, "")

    in_world(check, count=1)


def test_stopping_asks_and_then_kills() -> None:
    async def main() -> None:
        world = World()
        await world.all_started()
        world.processes[1].stubborn = True
        loop = asyncio.get_running_loop()
        began = loop.time()
        changes = world.changes
        await world.set.stop(5.0)
        assert world.changes == changes
        assert loop.time() - began == pytest.approx(5.0 + config.STOP_MARGIN_S)
        assert [p.killed for p in world.processes] == [True, True]
        assert all(messages.Stop(5.0) in p.said for p in world.processes)
        assert not world.set.running

    run_virtual(main())


@pytest.mark.parametrize("delay_s", [0.0, 0.005, 0.015])
def test_stopping_during_a_start_leaves_no_process(delay_s: float) -> None:
    async def main() -> None:
        world = World()
        await asyncio.sleep(delay_s)
        await world.set.stop(1.0)
        await asyncio.sleep(1)
        assert all(p.exited.done() for p in world.processes)
        with pytest.raises(errors.DeploymentFailedError):
            await world.set.outcome

    run_virtual(main())


def test_a_machine_that_can_start_no_process_is_asked_again() -> None:
    async def main() -> None:
        refusals = 2

        async def start(version: str, in_place_of: str | None) -> tuple[str, Process]:
            nonlocal refusals
            if refusals:
                refusals -= 1
                raise OSError("too many processes")
            process = ScriptedProcess("p")
            process.starts()
            return "p", process

        processes = ProcessSet("app_D", start, lambda: None)
        processes.want(Goal("v1", 1, failures_max=5))
        await asyncio.shield(processes.outcome)
        assert list(processes.running) == ["p"]
        await processes.stop(1.0)

    run_virtual(main())


# Replacing one that runs


def test_a_successor_is_ready_and_published_before_the_old_one_is_told_to_stop() -> None:
    async def check(world: World) -> None:
        await world.all_started()
        world.published.clear()
        world.replace(0)
        await asyncio.sleep(60)
        assert (len(world.processes), world.published) == (3, [])
        world.processes[2].starts()
        await asyncio.sleep(config.HANDOVER_S - 0.1)
        assert (world.published, world.told_to_stop()) == ([["p0", "p1", "p2"]], [])
        await asyncio.sleep(0.2)
        assert world.published == [["p0", "p1", "p2"], ["p1", "p2"]]
        assert messages.Stop(5.0) in world.processes[0].said
        assert world.told_to_stop() == ["p0"]
        await asyncio.sleep(60)
        assert len(world.processes) == 3

    in_world(check)


def test_one_is_replaced_at_a_time_and_until_it_has_exited(caplog: pytest.LogCaptureFixture) -> None:
    async def check(world: World) -> None:
        await world.all_started()
        world.processes[0].stubborn = True
        world.replace(0)
        world.replace(1)
        world.replace(0)
        assert caplog.text.count("p0 is old; starting another in its place.") == 1
        await world.all_started()
        await asyncio.sleep(5.0 + config.STOP_MARGIN_S)
        assert (world.told_to_stop(), len(world.processes)) == (["p0"], 3)
        await asyncio.sleep(config.HANDOVER_S + 0.1)
        assert world.processes[0].killed
        await world.all_started()
        await asyncio.sleep(2)
        assert list(world.set.running) == ["p2", "p3"]
        assert world.told_to_stop() == ["p0", "p1"]

    in_world(check)


def test_what_does_not_run_is_not_replaced() -> None:
    async def check(world: World) -> None:
        await world.all_started()
        world.processes[0].dies()
        await world.all_started()
        world.replace(0)
        world.replace(7)
        await asyncio.sleep(60)
        assert len(world.processes) == 3

    in_world(check)


def test_nothing_is_replaced_before_all_run() -> None:
    async def check(world: World) -> None:
        await asyncio.sleep(0.02)
        world.processes[0].starts()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        world.replace(0)
        await asyncio.sleep(60)
        assert (len(world.processes), world.set.outcome.done()) == (2, False)
        world.processes[1].starts()
        await world.count_above(2)

    in_world(check)


def test_an_old_one_that_dies_before_its_successor_is_ready_is_succeeded_all_the_same() -> None:
    async def check(world: World) -> None:
        await world.all_started()
        world.replace(0)
        await asyncio.sleep(1)
        world.published.clear()
        world.processes[0].dies()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert world.published == [["p1"]]
        await world.all_started()
        await asyncio.sleep(60)
        assert world.published == [["p1"], ["p1", "p2"]]
        assert len(world.processes) == 3

    in_world(check)


def test_an_old_one_that_dies_while_both_run_is_not_succeeded_twice() -> None:
    async def check(world: World) -> None:
        await world.all_started()
        world.replace(0)
        await world.all_started()
        world.processes[0].dies()
        await asyncio.sleep(60)
        assert list(world.set.running) == ["p1", "p2"]
        assert len(world.processes) == 3

    in_world(check)


def test_one_that_dies_while_it_waits_for_its_turn_is_started_again_at_once() -> None:
    async def check(world: World) -> None:
        await world.all_started()
        world.replace(0)
        world.replace(1)
        await asyncio.sleep(1)
        world.processes[1].dies()
        await asyncio.sleep(0.02)
        assert len(world.processes) == 4
        await world.all_started()
        await asyncio.sleep(60)
        assert list(world.set.running) == ["p2", "p3"]
        assert len(world.processes) == 4

    in_world(check)


def test_the_old_one_goes_on_while_no_successor_can_start() -> None:
    async def check(world: World) -> None:
        await world.all_started()
        world.published.clear()
        world.replace(0)
        waits = []
        for number in range(2, 8):
            await world.count_above(number)
            failed = asyncio.get_running_loop().time()
            world.processes[number].fails("no memory")
            await world.count_above(number + 1)
            waits.append(world.processes[number + 1].began - failed)
        assert waits == pytest.approx([0.11, 0.21, 0.41, 0.81, 1.61, 3.21], abs=0.021)
        assert (world.published, world.told_to_stop()[:1]) == ([], ["p2"])
        assert list(world.set.running) == ["p0", "p1"]
        assert "no memory" in world.set.message
        await world.all_started()
        await asyncio.sleep(60)
        assert list(world.set.running) == ["p1", "p8"]
        assert world.set.message == ""

    in_world(check)


def test_an_old_one_that_dies_while_no_successor_can_start_is_succeeded_when_one_can() -> None:
    async def check(world: World) -> None:
        await world.all_started()
        world.replace(0)
        await world.count_above(2)
        world.processes[2].fails()
        world.processes[0].dies()
        await world.count_above(3)
        await world.all_started()
        await asyncio.sleep(60)
        assert list(world.set.running) == ["p1", "p3"]
        assert len(world.processes) == 4

    in_world(check)


def test_the_old_one_stays_if_its_successor_dies_while_both_run() -> None:
    async def check(world: World) -> None:
        await world.all_started()
        world.replace(0)
        await world.all_started()
        world.processes[2].dies()
        await world.count_above(3)
        assert world.told_to_stop() == []
        assert list(world.set.running) == ["p0", "p1"]
        await world.all_started()
        await asyncio.sleep(60)
        assert list(world.set.running) == ["p1", "p3"]

    in_world(check)


def test_a_successor_that_dies_while_the_old_one_still_ends_is_replaced_at_once() -> None:
    async def check(world: World) -> None:
        await world.all_started()
        world.processes[0].stubborn = True
        world.replace(0, timeout_s=1000)
        await world.all_started()
        await asyncio.sleep(config.HANDOVER_S + 1)
        world.processes[2].dies()
        await asyncio.sleep(1)
        await world.all_started()
        assert list(world.set.running) == ["p1", "p3"]
        assert not world.processes[0].exited.done()
        world.processes[0].dies()

    in_world(check)


@pytest.mark.parametrize(
    ("lived_s", "expected_s"), [(1.0, [0.01, 0.11, 0.21, 0.41, 0.81]), (config.RESTART_FORGET_S + 1, [0.01] * 5)]
)
def test_those_that_are_replaced_again_soon_are_replaced_later_each_time(
    lived_s: float, expected_s: list[float]
) -> None:
    async def check(world: World) -> None:
        await world.all_started()
        waits = []
        for number in range(5):
            await asyncio.sleep(lived_s)
            asked = asyncio.get_running_loop().time()
            world.replace(number)
            await world.count_above(number + 1)
            waits.append(world.processes[-1].began - asked)
            await world.all_started()
            await asyncio.sleep(config.HANDOVER_S + 0.1)
        assert waits == pytest.approx(expected_s, abs=0.011)

    in_world(check, count=1)


@pytest.mark.parametrize("delay_s", [0.0, 0.005, 0.015, 0.5, 0.9, 1.1, 3.0])
def test_stopping_during_a_replacement_leaves_no_process(delay_s: float) -> None:
    """While the successor is being started, starts, runs beside the old one, and while that ends."""

    async def main() -> None:
        world = World(count=1)
        await world.all_started()
        world.processes[0].stubborn = True
        world.replace(0)
        if delay_s < 0.5:
            await asyncio.sleep(delay_s)
        else:
            await world.all_started()
            await asyncio.sleep(delay_s - 0.02)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await world.set.stop(1.0)
        assert loop.time() - began < 1.0 + 2 * config.STOP_MARGIN_S
        assert all(p.exited.done() for p in world.processes)
        await asyncio.sleep(60)
        assert len(world.processes) <= 2
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main())


def test_those_that_are_to_stop_have_left_and_that_is_told_before_any_of_them_is_told_to() -> None:
    async def main() -> None:
        told: list[tuple[list[str], list[str]]] = []
        world = World(count=3)
        world.set._before_stop = lambda: told.append((list(world.set.running), world.told_to_stop()))
        await world.all_started()
        world.set.want(Goal("v1", 1))
        assert told == [(["p0"], [])]
        assert world.published[-1] == ["p0"]
        await asyncio.sleep(1)
        assert world.told_to_stop() == ["p2", "p1"] or world.told_to_stop() == ["p1", "p2"]
        await world.set.stop()

    run_virtual(main())
