"""Questions to all processes of a system at once, for who wants to see it whole."""

import asyncio
import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from modelplex.runtime.inspection import Topic, answered
from modelplex.runtime.process_set import ProcessSet
from modelplex.runtime.questions import Questions
from modelplex.wire.messages import Ask, Done

# A process whose user code blocks its event loop is left out.
ANSWER_TIMEOUT_S = 2.0

# The name under which the controller's own process answers.
CONTROLLER = "controller"


class Survey:
    """Asks, and puts the answers together.

    Args:
        processes: all that there are.

    Attributes:
        own_topics: what the controller's own process answers.
    """

    def __init__(self, processes: Callable[[], Iterable[ProcessSet]]) -> None:
        self._processes = processes
        self._questions = Questions(lambda name, message: any(each.tell(name, message) for each in processes()))
        self.own_topics: dict[str, Topic] = {}

    async def ask(self, topic: str, argument: Any = None) -> dict[str, Any]:
        """By process, what it says about a topic (`inspection.Topic`).

        Those are left out that do not answer in time, or know nothing about it.
        """
        data = json.dumps(argument).encode()
        asked = [name for each in self._processes() for name in each.running]
        make = partial(Ask, topic=topic, argument=data)
        answers = await asyncio.gather(*(self._one(name, make) for name in asked))
        found = {name: json.loads(done.answer) for name, done in zip(asked, answers, strict=True) if done is not None}
        if topic in self.own_topics:
            done = answered(self.own_topics, Ask(0, topic, data))
            if not done.error:
                found[CONTROLLER] = json.loads(done.answer)
        return found

    async def _one(self, name: str, make: Callable[[int], Ask]) -> Done | None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                done = await self._questions.answer(name, make)
        except TimeoutError:
            return None
        return None if done.error else done

    def answered(self, done: Done) -> None:
        self._questions.answered(done)

    def gone(self, name: str) -> None:
        """That process answers nothing any more."""
        self._questions.gone(name)
