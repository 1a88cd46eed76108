"""Questions to processes, and who gets the answers."""

import asyncio

import pytest
from virtual_time import in_virtual_time, turns

from modelplex.runtime.questions import Questions
from modelplex.wire.messages import CheckHealth, Done, Message


class World:
    def __init__(self) -> None:
        self.said: list[tuple[str, int]] = []
        self.questions = Questions(self.tell)

    def tell(self, name: str, message: Message) -> bool:
        assert isinstance(message, CheckHealth)
        self.said.append((name, message.number))
        return name != "nobody"

    def ask(self, name: str) -> "asyncio.Task[str]":
        return asyncio.create_task(self.questions.ask(name, CheckHealth))


@in_virtual_time
async def test_each_answer_goes_to_whoever_asked() -> None:
    world = World()
    asked = [world.ask(name) for name in ("a", "b", "a")]
    await turns(1)
    assert [name for name, _ in world.said] == ["a", "b", "a"]
    one, two, three = (number for _, number in world.said)
    assert len({one, two, three}) == 3
    world.questions.answered(Done(three, "bad"))
    world.questions.answered(Done(one, ""))
    await turns(2)
    assert [task.done() for task in asked] == [True, False, True]
    assert (asked[0].result(), asked[2].result()) == ("", "bad")
    world.questions.answered(Done(two, "late"))
    assert await asked[1] == "late"


@in_virtual_time
async def test_what_has_ended_answers_so_to_all_and_others_still_may() -> None:
    world = World()
    asked = [world.ask(name) for name in ("a", "b", "a")]
    await turns(1)
    world.questions.gone("a")
    world.questions.answered(Done(world.said[0][1], ""))  # it was on its way
    await turns(2)
    assert [task.result() for task in (asked[0], asked[2])] == ["it has ended"] * 2
    assert not asked[1].done()
    world.questions.answered(Done(world.said[1][1], ""))
    assert await asked[1] == ""


@in_virtual_time
async def test_an_answer_that_nobody_waits_for_is_nothing() -> None:
    world = World()
    asked = world.ask("a")
    await turns(1)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    world.questions.answered(Done(world.said[0][1], ""))
    world.questions.answered(Done(99, ""))
    again = world.ask("a")
    await turns(1)
    assert world.said[1][1] != world.said[0][1]  # or a late answer to the first would be one to the second
    for _ in range(2):
        world.questions.answered(Done(world.said[1][1], "bad"))
    assert await again == "bad"


@in_virtual_time
async def test_a_question_that_cannot_be_sent_is_not_open() -> None:
    def fails(name: str, message: Message) -> bool:
        raise OSError("broken")

    questions = Questions(fails)
    with pytest.raises(OSError, match="broken"):
        await questions.ask("a", CheckHealth)
    assert not questions._open


@in_virtual_time
async def test_what_runs_no_more_is_not_waited_for() -> None:
    world = World()
    assert await world.questions.ask("nobody", CheckHealth) == "it has ended"
    assert not world.questions._open
