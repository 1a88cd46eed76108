"""The HTTP server round the proxy: uvicorn, on the event loop and the listening socket that it is given."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator
from typing import Any

import uvicorn

from modelplex.config import HTTPOptions
from modelplex.runtime.proxy import Proxy


class HTTPServer(uvicorn.Server):
    """Leaves signals alone, and says when it accepts connections."""

    def __init__(self, proxy: Proxy, options: HTTPOptions, on_started: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                proxy,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=options.keep_alive_timeout_s,
            )
        )
        self._on_started = on_started

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()


async def serve(server: HTTPServer, listener: socket.socket, stop: "asyncio.Future[float]") -> None:
    """Serve until told to stop, and then give what runs the time that `stop` says."""
    serving = asyncio.create_task(server.serve([listener]))
    first: list[asyncio.Future[Any]] = [serving, stop]
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    if stop.done():
        server.config.timeout_graceful_shutdown = max(1, round(stop.result()))
        server.should_exit = True
    await serving
