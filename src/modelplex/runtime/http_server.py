"""The HTTP server: a listening socket's connections, from the first to the last."""

import asyncio
import socket
import ssl

from modelplex.config import HTTPOptions
from modelplex.runtime.http_connection import Application, HTTPConnection
from modelplex.runtime.http_crowd import Crowd, connections_max

# Clients that the system lets wait to be accepted; it may allow fewer (net.core.somaxconn).
BACKLOG = 2048

# A client that has connected has so long to agree on how to encrypt, and a connection to end in good order.
HANDSHAKE_TIMEOUT_S = 10.0
TLS_SHUTDOWN_TIMEOUT_S = 5.0

FULL = 503, b"There are too many connections."

# What connections may take to go that were broken off.
ABORT_TIMEOUT_S = 1.0


class HTTPServer:
    """Serves an application on the current event loop.

    Args:
        application: called once for each request.
        options: those of connections are used here; the address is the listener's.
        tls: how connections are encrypted; they are not unless given.
    """

    def __init__(self, application: Application, options: HTTPOptions, tls: ssl.SSLContext | None = None) -> None:
        self._application = application
        self._options = options
        self._tls = tls
        self._connections: set[HTTPConnection] = set()
        self._crowd = Crowd(connections_max(options.max_connections), options.max_connections_per_address)
        self._server: asyncio.Server | None = None
        self._empty = asyncio.Event()
        self._empty.set()
        self._stopping = False

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def start(self, listener: socket.socket) -> None:
        """Accept connections from here on. The socket is closed by `stop`."""
        self._server = await asyncio.get_running_loop().create_server(
            self._connection,
            sock=listener,
            backlog=BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=None if self._tls is None else HANDSHAKE_TIMEOUT_S,
            ssl_shutdown_timeout=None if self._tls is None else TLS_SHUTDOWN_TIMEOUT_S,
        )

    def _connection(self) -> HTTPConnection:
        options = self._options
        return HTTPConnection(self._application, self, options.keep_alive_timeout_s, options.body_timeout_s)

    async def stop(self, timeout_s: float) -> None:
        """Accept no more, close idle connections, and wait so long for running answers before breaking them off.

        An answer whose head is not sent yet tells its client that the connection closes.
        """
        self._stopping = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.stop()
        if not await self._all_closed(timeout_s):
            for connection in list(self._connections):
                connection.abort()
            await self._all_closed(ABORT_TIMEOUT_S)

    async def _all_closed(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    # http_connection.Owner

    def opened(self, connection: HTTPConnection) -> None:
        self._connections.add(connection)
        self._empty.clear()
        if not self._crowd.add(connection):
            connection.refuse(*FULL)
        elif self._stopping:
            connection.stop()

    def closed(self, connection: HTTPConnection) -> None:
        self._connections.discard(connection)
        self._crowd.discard(connection)
        if not self._connections:
            self._empty.set()
