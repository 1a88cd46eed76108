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
from typing import TYPE_CHECKING, Any, TypeVar

from modelplex import context, errors
from modelplex.config import HTTPOptions
from modelplex.deployment import Application, flatten
from modelplex.engines.inline import InlineEngine
from modelplex.handle import DeploymentHandle
from modelplex.runtime.app_spec import AppSpec
from modelplex.runtime.controller import Controller
from modelplex.runtime.directory import Directory
from modelplex.status import ServeStatus

if TYPE_CHECKING:
    import httpx

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
        spec = AppSpec.of(name, flatten(application, name), route_prefix)
        await self.controller.deploy(spec)
        return DeploymentHandle(name, spec.ingress)

    def http_client(
        self, http_options: HTTPOptions | dict[str, Any] | None = None, **client_options: Any
    ) -> "httpx.AsyncClient":
        """An HTTP client of what the cluster runs; see the function `http_client`. Use it with `async with`."""
        from modelplex.in_process_http import async_client

        return async_client(self.directory, http_options, **client_options)

    def status(self) -> ServeStatus:
        return self.controller.status()


def http_client(http_options: HTTPOptions | dict[str, Any] | None = None, **client_options: Any) -> "httpx.Client":
    """An HTTP client of what this program serves, by way of a proxy of its own in this process, without a port.

    Needs httpx.

    Args:
        http_options: see `serve.start`; those that have to do with listening mean nothing here.
        client_options: those of `httpx.Client`. `base_url` is `http://testserver` and `timeout` 30 s, unless given.

    Raises `NotInReplicaError` if nothing is served.
    """
    from modelplex.in_process_http import sync_client

    return sync_client(_directory(), http_options, **client_options)


def async_http_client(
    http_options: HTTPOptions | dict[str, Any] | None = None, **client_options: Any
) -> "httpx.AsyncClient":
    """The same for the running event loop. Use it with `async with`."""
    from modelplex.in_process_http import async_client

    return async_client(_directory(), http_options, **client_options)


def _directory() -> Directory:
    caller = context.caller()
    if not isinstance(caller, Directory):
        raise errors.ModelplexError("Another kind of caller has taken the place of this process's directory.")
    return caller
