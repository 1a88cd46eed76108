"""Tests on a clock that jumps: a decorator in place of an event loop."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from modelplex.testing import run_virtual

P = ParamSpec("P")

# Longer than anything that a test waits for. A test that hangs is at this time at once, and fails.
GUARD_S = 100_000.0


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test without waiting for its sleeps. Not for tests whose code runs in threads: see `run_virtual`."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def main() -> None:
            async with asyncio.timeout(GUARD_S):
                await test(*args, **kwargs)

        run_virtual(main())

    return run


async def turns(count: int) -> None:
    """Let the event loop run so many times."""
    for _ in range(count):
        await asyncio.sleep(0)
