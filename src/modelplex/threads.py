"""Calls of the user's code in threads."""

import asyncio
import contextlib
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any


async def in_thread(threads: Executor, call: Callable[[], Any]) -> Any:
    """Run a call in a thread with this task's context. A cancellation takes effect when the thread has ended.

    Threads cannot be stopped, and what the call uses (its slot, its models) must stay its own for as long as it runs.
    """
    copied = contextvars.copy_context()
    future = asyncio.get_running_loop().run_in_executor(threads, copied.run, _without_stop_iteration, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):  # one cancellation is enough
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()
        raise


def _without_stop_iteration(call: Callable[[], Any]) -> Any:
    """What a coroutine does, too (PEP 479): a future takes no StopIteration, and would never be done."""
    try:
        return call()
    except StopIteration as error:
        raise RuntimeError("the call raised StopIteration") from error
