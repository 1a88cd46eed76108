"""How processes of one cluster reach each other: by Unix sockets on one machine, by TCP between machines."""

import asyncio
import contextlib
import os
from collections.abc import Callable

from modelplex.runtime.address import Address
from modelplex.runtime.credentials import Credentials
from modelplex.runtime.link import TOGETHER_S, Link, Receiver, SocketLink, connect_unix
from modelplex.runtime.relay import Relays
from modelplex.runtime.tcp_link import TCPServer, connect_tcp, open_tcp


class Listening:
    """What a process listens on.

    Attributes:
        address: where others find it, as text (`Address`).
    """

    def __init__(self, address: str, unix: asyncio.Server, tcp: TCPServer) -> None:
        self.address = address
        self._unix, self._tcp = unix, tcp

    async def close(self) -> None:
        """Let nobody else in; links that there are stay."""
        self._unix.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(Address.parse(self.address).path)
        await self._tcp.close()


class Network:
    """One process's way to all others.

    Args:
        machine: the name of the machine that this process is on, the same in all its processes.
        credentials: what connections over TCP need.
    """

    def __init__(self, machine: str, credentials: Credentials) -> None:
        self._machine = machine
        self._credentials = credentials
        self._relays = Relays(self._open)

    async def connect(self, address: str, receiver: Receiver, together_s: float = TOGETHER_S) -> Link:
        """A link to a process (`link.Connect`). On one machine, TCP is for those that do not see the other's folders.

        Raises:
            OSError: it cannot be reached.
            ProtocolError: it is not of this cluster, or takes this process for a stranger.
        """
        to = Address.parse(address)
        if (to.path and to.machine == self._machine) or not to.host:
            try:
                return await connect_unix(to.path, receiver, together_s)
            except OSError:
                if not to.host:
                    raise
        return await connect_tcp(to.host, to.port, self._credentials, receiver, together_s)

    async def listen(self, receiver: Callable[[], Receiver], path: str, host: str) -> Listening:
        """Be reached from here on, until the answer is closed.

        Args:
            receiver: called for each link, for whoever is at this end of it.
            path: of the Unix socket, in a folder of this user's alone.
            host: this machine's address, as others reach it.

        Raises OSError if there is no such folder or no such address.
        """
        tcp = TCPServer(self._credentials, receiver, self._relays.add)
        await tcp.start(host)
        try:
            loop = asyncio.get_running_loop()
            unix = await loop.create_unix_server(lambda: SocketLink(receiver()), path)
        except BaseException:
            await tcp.close()
            raise
        return Listening(str(Address(host, tcp.port, self._machine, path)), unix, tcp)

    async def close(self) -> None:
        """End the connections of others that go over this process."""
        await self._relays.close()

    async def _open(self, address: str) -> tuple[asyncio.Transport, bytes]:
        """For a relay. By TCP alone: the paths of this machine are nothing that others may choose from."""
        to = Address.parse(address)
        if not to.host:
            raise ConnectionRefusedError(f"{address!r} is no address of another machine")
        return await open_tcp(to.host, to.port, self._credentials)
