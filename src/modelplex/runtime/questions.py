"""Questions of the controller to its processes, and their answers (`Done`)."""

import asyncio
import itertools
from collections.abc import Callable

from modelplex.wire.messages import Done, Message

# One number is never two questions of a process, whoever asks.
_numbers = itertools.count(1)


class Questions:
    """Numbers them, and finds who waits for an answer.

    Args:
        tell: sends a message to the process of a name; answers whether there is one.
    """

    def __init__(self, tell: Callable[[str, Message], bool]) -> None:
        self._tell = tell
        self._open: dict[int, tuple[str, asyncio.Future[Done]]] = {}

    async def ask(self, name: str, make: Callable[[int], Message]) -> str:
        """What is wrong, or nothing. The caller bounds the time."""
        return (await self.answer(name, make)).error

    async def answer(self, name: str, make: Callable[[int], Message]) -> Done:
        """The whole answer. The caller bounds the time."""
        number = next(_numbers)
        answer: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self._open[number] = name, answer
        try:
            return await answer if self._tell(name, make(number)) else Done(number, "it has ended")
        finally:
            del self._open[number]

    def answered(self, done: Done) -> None:
        if done.number in self._open and not (answer := self._open[done.number][1]).done():
            answer.set_result(done)

    def gone(self, name: str) -> None:
        """That process answers nothing any more."""
        for number, (asked, answer) in self._open.items():
            if asked == name and not answer.done():
                answer.set_result(Done(number, "it has ended"))
