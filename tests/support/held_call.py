"""A call for a thread that ends when the test lets it."""

import asyncio
import threading

# Longer than a thread of a test ever takes.
THREAD_S = 10.0


class HeldCall:
    """Blocks its thread until `end`.

    Args:
        failure: raised at the end.
    """

    def __init__(self, failure: BaseException | None = None) -> None:
        self.ended = False
        self._failure = failure
        self._may_end = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._began = asyncio.Event()

    def __call__(self) -> str:
        self._loop.call_soon_threadsafe(self._began.set)
        assert self._may_end.wait(THREAD_S)
        self.ended = True
        if self._failure is not None:
            raise self._failure
        return "result"

    async def until_begun(self) -> None:
        await self._began.wait()

    def end(self) -> None:
        self._may_end.set()
