"""What all processes say of themselves, and that one which says nothing is left out."""

import asyncio

import pytest

from modelplex.runtime.inspection import ANSWER_BYTES_MAX, answered
from modelplex.runtime.process_set import ProcessSet
from modelplex.runtime.survey import CONTROLLER, Survey
from modelplex.testing import run_virtual
from modelplex.wire.messages import Ask, Message


class Silent(ProcessSet):
    """One process that answers nothing."""

    def __init__(self) -> None:
        self.running = {"silent": ""}
        self.told: list[Message] = []

    def tell(self, name: str, message: Message) -> bool:
        self.told.append(message)
        return name == "silent"


def test_the_silent_are_left_out_and_the_controller_answers_for_itself() -> None:
    async def run() -> None:
        silent = Silent()
        survey = Survey(lambda: [silent])
        survey.own_topics["twice"] = lambda number: 2 * number
        began = asyncio.get_running_loop().time()
        assert await survey.ask("twice", 21) == {CONTROLLER: 42}
        assert asyncio.get_running_loop().time() - began >= 2
        began = asyncio.get_running_loop().time()
        asking = asyncio.ensure_future(survey.ask("twice", 4))
        await asyncio.sleep(1)
        survey.gone("silent")
        assert await asking == {CONTROLLER: 8}
        assert asyncio.get_running_loop().time() == began + 1

    run_virtual(run())


@pytest.mark.parametrize("topic", ["unknown", "fails"])
def test_what_cannot_be_answered_is_told(topic: str) -> None:
    done = answered({"fails": lambda _: 1 / 0}, Ask(7, topic, b"null"))
    assert (done.number, done.answer) == (7, b"")
    assert done.error


def test_an_answer_that_would_break_the_channel_is_none() -> None:
    done = answered({"large": lambda size: "x" * size}, Ask(7, "large", b"%d" % ANSWER_BYTES_MAX))
    assert (done.answer, "more than" in done.error) == (b"", True)
    assert not answered({"large": lambda size: "x" * size}, Ask(7, "large", b"1000")).error
