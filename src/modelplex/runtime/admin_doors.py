"""Where the admin interface listens: a Unix socket of its user and, if asked for, TCP with a token."""

import contextlib
import os
import socket
import ssl

from modelplex.config import AdminOptions, HTTPOptions
from modelplex.runtime.admin import Admin
from modelplex.runtime.admin_door import Door
from modelplex.runtime.admin_token import read_token
from modelplex.runtime.http_server import HTTPServer
from modelplex.runtime.listening_sockets import listen, url
from modelplex.runtime.tls import server_context

# What a request that is under way may take when the system stops.
STOP_S = 0.5


class AdminDoors:
    """Opened by `open`, closed by `close`.

    Args:
        path: of the Unix socket.
        options: for TCP; it stays closed unless given.

    Attributes:
        address: the URL over TCP; empty if there is none.

    Raises `CredentialsError` for the token, and `DeploymentFailedError` if the port is taken or a certificate is wrong.
    """

    def __init__(self, path: str, options: AdminOptions | None) -> None:
        self.address = ""
        self._path = path
        self._options = options
        self._servers: list[HTTPServer] = []
        self._admin: Admin | None = None
        self._token = ""
        self._tls: ssl.SSLContext | None = None
        self._listener: socket.socket | None = None
        if options is not None:
            self._token = read_token(options.token_file)
            self._tls = server_context(options.http)
            self._listener = listen(options.http)
            self._listener.set_inheritable(False)
            self.address = url(options.http, self._listener)

    async def open(self, admin: Admin) -> None:
        self._admin = admin
        if self._listener is not None and self._options is not None:
            port = self._listener.getsockname()[1]
            door = Door(admin, self._token, self._options.host, port, is_tls=self._tls is not None)
            server = HTTPServer(door, self._options.http, self._tls)
            self._servers.append(server)
            await server.start(self._listener)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(self._path)
        server = HTTPServer(admin, HTTPOptions())
        self._servers.append(server)
        await server.start(sock)  # the last, since who finds it open takes the system to have started

    async def close(self) -> None:
        """Let what is under way end, for a moment."""
        if self._listener is not None and not self._servers:
            self._listener.close()
        for server in self._servers:
            await server.stop(STOP_S)
        if self._admin is not None:
            await self._admin.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
        self._servers, self._admin, self._listener = [], None, None
