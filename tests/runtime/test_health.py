"""Replicas that are asked how they are."""

import asyncio
from typing import Any

from virtual_time import in_virtual_time, turns

from modelplex.config import DeploymentConfig
from modelplex.runtime.health import HealthWatch
from modelplex.runtime.questions import Questions
from modelplex.wire.messages import CheckHealth, Done, Message


def options(**changes: Any) -> DeploymentConfig:
    numbers = {"health_check_period_s": 10, "health_check_timeout_s": 4, "health_check_failure_threshold": 3}
    return DeploymentConfig(name="D", **{**numbers, **changes})


class World:
    """A watch, and what its replicas answer: "" is well, None never comes."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, float]] = []
        self.unwell: list[tuple[str, str, float]] = []
        self.watch = HealthWatch(self.check, self.tell)

    async def check(self, name: str) -> str:
        self.asked.append((name, self.now))
        answer = self.answers.pop(0) if self.answers else ""
        if answer is None:
            await asyncio.Event().wait()
        return answer or ""

    def tell(self, name: str, why: str) -> None:
        self.unwell.append((name, why, self.now))
        self.watch.follow([], options())

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()


@in_virtual_time
async def test_each_is_asked_once_a_period_and_for_the_first_time_after_one() -> None:
    world = World()
    world.watch.follow(["a"], options())
    await asyncio.sleep(5)
    world.watch.follow(["a", "b"], options())
    await asyncio.sleep(21)
    world.watch.close()
    assert world.asked == [("a", 10), ("b", 15), ("a", 20), ("b", 25)]
    assert world.unwell == []


@in_virtual_time
async def test_one_that_fails_so_often_in_a_row_is_not_well() -> None:
    world = World("one", "two", "three")
    world.watch.follow(["a"], options())
    await asyncio.sleep(100)
    assert world.unwell == [("a", "failed its health check 3 times: three", 30)]
    assert len(world.asked) == 3


@in_virtual_time
async def test_one_that_is_well_again_begins_to_count_anew() -> None:
    world = World("bad", "bad", "", "bad", "bad", "", "bad", "bad", "bad")
    world.watch.follow(["a"], options())
    await asyncio.sleep(85)
    assert world.unwell == []
    await asyncio.sleep(5)
    assert [name for name, _, _ in world.unwell] == ["a"]


@in_virtual_time
async def test_no_answer_in_time_is_a_failure() -> None:
    world = World(None, "bad", None)
    world.watch.follow(["a"], options())
    await asyncio.sleep(100)
    # 10 to 14, then at 24, then 34 to 38.
    assert world.unwell == [("a", "failed its health check 3 times: check_health took longer than 4 s", 38)]


@in_virtual_time
async def test_one_failure_is_enough_if_the_threshold_says_so() -> None:
    world = World("bad")
    world.watch.follow(["a"], options(health_check_failure_threshold=1))
    await asyncio.sleep(10.1)
    assert world.unwell == [("a", "failed its health check 1 times: bad", 10)]


@in_virtual_time
async def test_one_that_does_not_run_any_more_is_not_asked_and_not_told_of() -> None:
    world = World(None)
    once = options(health_check_failure_threshold=1)
    world.watch.follow(["a"], once)
    await asyncio.sleep(1)
    world.watch.follow(["a", "b"], once)
    await asyncio.sleep(9.5)  # a is being asked, and does not answer
    world.watch.follow(["b"], once)
    await asyncio.sleep(20)
    world.watch.close()
    assert world.unwell == []
    assert world.asked == [("a", 10), ("b", 11), ("b", 21)]


@in_virtual_time
async def test_a_replica_that_ends_while_it_is_asked_is_told_of_once_at_most() -> None:
    said: dict[str, Message] = {}

    def tell(name: str, message: Message) -> bool:
        said[name] = message
        return True

    questions = Questions(tell)
    unwell: list[str] = []
    watch = HealthWatch(
        lambda name: questions.ask(name, CheckHealth), lambda name, why: unwell.append(f"{name}: {why}")
    )
    once = options(health_check_failure_threshold=1)
    watch.follow(["a", "b"], once)
    await asyncio.sleep(11)
    questions.gone("a")
    watch.follow(["b"], once)  # in the same turn, as whoever hears of its end does
    asked = said["b"]
    assert isinstance(asked, CheckHealth)
    questions.answered(Done(asked.number, ""))
    await asyncio.sleep(1)
    watch.close()
    assert unwell == []


@in_virtual_time
async def test_other_numbers_go_for_those_that_are_asked_already() -> None:
    world = World()
    world.watch.follow(["a"], options(health_check_period_s=10_000))
    await asyncio.sleep(7)
    world.watch.follow(["a"], options(health_check_period_s=5))
    world.watch.follow(["a"], options(health_check_period_s=5))
    await asyncio.sleep(11)
    world.watch.close()
    assert world.asked == [("a", 12), ("a", 17)]


@in_virtual_time
async def test_nothing_is_left_after_closing() -> None:
    before = asyncio.all_tasks()
    world = World(None)
    world.watch.follow(["a", "b"], options())
    await asyncio.sleep(11)
    world.watch.close()
    await turns(3)
    assert asyncio.all_tasks() == before
    await asyncio.sleep(100)
    assert len(world.asked) == 2
