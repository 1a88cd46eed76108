"""Fakes for tests of programs that use Modelplex, and of Modelplex itself: time that passes at once, and replicas in
this process.

A test of an application needs no server:

    from modelplex.testing import InlineCluster, run_virtual

    async def check():
        async with InlineCluster() as cluster:
            handle = await cluster.run(app)
            assert await handle.options(multiplexed_model_id="a").remote(2) == 4

    def test_it():
        run_virtual(check())
"""

import asyncio
import selectors
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

from modelplex import context
from modelplex.deployment import Application, flatten
from modelplex.engines.inline import InlineEngine
from modelplex.handle import DeploymentHandle
from modelplex.runtime.controller import Controller
from modelplex.runtime.directory import Directory
from modelplex.status import ServeStatus

T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer whenever nothing else is to be done.

    Sleeps and time-outs take no time. Work in threads does take time, and the clock does not wait for it.
    (The idea is that of trio's autojumping mock clock.)
    """

    def __init__(self) -> None:
        super().__init__(_JumpingSelector(self))
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def jump(self, seconds: float) -> None:
        self._now += seconds


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)  # only a thread can go on from here
        events = super().select(0)
        if not events and timeout > 0:
            self._loop.jump(timeout)
        return events


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a `VirtualTimeLoop`, and return what it returns."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


class InlineCluster:
    """Applications whose replicas run on the current event loop. Use it with `async with`."""

    async def __aenter__(self) -> "InlineCluster":
        self.engine = InlineEngine()
        self.directory = Directory(self.engine.connect)
        self.controller = Controller(self.engine, self.directory)
        context.set_caller(self.directory)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.controller.stop()
        await self.directory.close()
        context.set_caller(None)

    async def run(
        self, application: Application, name: str = "default", route_prefix: str | None = "/"
    ) -> DeploymentHandle:
        """Start an application and return a handle to it; see `serve.run`."""
        nodes = flatten(application, name)
        await self.controller.deploy(name, nodes, route_prefix)
        return DeploymentHandle(name, nodes[-1].deployment.name)

    def status(self) -> ServeStatus:
        return self.controller.status()
