"""Tests with real sockets, which run on asyncio's event loop and on uvloop's: a decorator."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

# Longer than anything that such a test waits for.
GUARD_S = 20.0


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on either loop; nothing of it is left then, neither tasks nor what the loop complains about."""

    @pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    @functools.wraps(test)
    def run(loop_factory: Callable[[], asyncio.AbstractEventLoop], **kwargs: Any) -> None:
        complaints: list[dict[str, Any]] = []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, complaint: complaints.append(complaint))
            async with asyncio.timeout(GUARD_S):
                await test(**kwargs)
            await asyncio.sleep(0.01)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())
        assert complaints == []

    # What pytest passes: the test's own fixtures and parameters, and the loop.
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [p.replace(kind=keyword) for p in inspect.signature(test).parameters.values()]
    run.__dict__["__signature__"] = inspect.Signature([inspect.Parameter("loop_factory", keyword), *own])
    done: Callable[..., None] = run
    return done
