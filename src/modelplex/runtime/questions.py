"""Questions of the controller to its processes, and their answers (`Done`)."""

import asyncio
import itertools
from collections.abc import Callable

from modelplex.wire.messages import Done, Message


class Questions:
    """Numbers them, and finds who waits for an answer.

    Args:
        tell: sends a message to the process of a name; answers whether there is one.
    """

    def __init__(self, tell: Callable[[str, Message], bool]) -> None:
        self._tell = tell
        self._numbers = itertools.count(1)
        self._open: dict[int, tuple[str, asyncio.Future[str]]] = {}

    async def ask(self, name: str, make: Callable[[int], Message]) -> str:
        """What is wrong, or nothing. The caller bounds the time."""
        number = next(self._numbers)
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._open[number] = name, answer
        try:
            return await answer if self._tell(name, make(number)) else "it has ended"
        finally:
            del self._open[number]

    def answered(self, done: Done) -> None:
        if done.number in self._open and not (answer := self._open[done.number][1]).done():
            answer.set_result(done.error)

    def gone(self, name: str) -> None:
        """That process answers nothing any more."""
        for asked, answer in self._open.values():
            if asked == name and not answer.done():
                answer.set_result("it has ended")
