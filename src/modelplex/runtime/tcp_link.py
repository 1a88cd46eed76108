"""Links over TCP: nobody is listened to, or answered, who has not proved that they belong to the cluster."""

import asyncio
import errno
import functools
import logging
import secrets
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, cast

from modelplex.errors import ProtocolError
from modelplex.runtime import keepalive
from modelplex.runtime.credentials import Credentials
from modelplex.runtime.link import TOGETHER_S, Link, Receiver, SocketLink, is_cut
from modelplex.wire import framing, handshake, messages

log = logging.getLogger(__name__)

# A machine that does not answer within this is not there, or the network to it is cut.
CONNECT_TIMEOUT_S = 2.0

# For both sides to prove who they are, and for TLS. The process may be busy: its event loop runs user code.
PROOF_TIMEOUT_S = 5.0

# Connections that have not proved themselves; of more, the oldest go.
UNPROVED_MAX = 256

BACKLOG = 1024

# Strangers are spoken of so often, all together.
WARNING_EVERY_S = 60.0

# What accepting fails with when the process or the system has no more room for connections, and for how long it rests.
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
FULL_PAUSE_S = 0.1

# Takes a connection whose first message was `Relay`, with the bytes after that, and the address.
Relays = Callable[[asyncio.Transport, bytes, str], None]


class _Proving(asyncio.Protocol):
    """A connection until both sides have proved themselves; whoever waits for that hands it on then."""

    def __init__(self, proof: handshake.Client | handshake.Server) -> None:
        self._proof = proof
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.rest = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        if isinstance(self._proof, handshake.Client):
            self.transport.write(self._proof.hello)

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        try:
            if self._proof.rest is None:
                if answer := self._proof.feed(data):
                    self.transport.write(answer)
                self.rest += self._proof.rest or b""
            else:
                self.rest += data
            if self._proof.rest is not None and self._is_over() and not self.over.done():
                self.transport.pause_reading()
                self.over.set_result(None)
        except ProtocolError as error:
            self._fail(error)
            self.transport.abort()

    def _is_over(self) -> bool:
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if exc is not None and is_cut(exc):
            self._fail(exc)
        self._fail(ProtocolError("it closed the connection: it has another secret, or only one of the two uses TLS"))

    def _fail(self, error: Exception) -> None:
        if not self.over.done():
            self.over.set_exception(error)
            self.over.exception()  # nobody may wait for it any more


class _Newcomer(_Proving):
    """The same at the listening side, with the first message, which says what the connection is for."""

    def __init__(self, secret: bytes) -> None:
        super().__init__(handshake.Server(secret, secrets.token_bytes(handshake.NONCE_BYTES)))
        self.relay: messages.Relay | None = None

    def _is_over(self) -> bool:
        first = framing.first(self.rest)
        if first is None:
            return False
        head, size = first
        message = messages.decode(head)
        if isinstance(message, messages.Relay):
            self.relay = message
            del self.rest[:size]
        return True


def _link(transport: asyncio.Transport, rest: bytes, receiver: Receiver, together_s: float = TOGETHER_S) -> SocketLink:
    """A proved connection as a link."""
    link = SocketLink(receiver, together_s, is_remote=True)
    transport.set_protocol(link)
    link.connection_made(transport)
    keepalive.watch(transport, link.cut)
    if rest:
        link.data_received(rest)
    if not transport.is_closing():
        transport.resume_reading()
    return link


async def connect_tcp(
    host: str, port: int, credentials: Credentials, receiver: Receiver, together_s: float = TOGETHER_S
) -> Link:
    """A link to a process that listens there, proved and, if so configured, encrypted.

    Raises:
        OSError: it cannot be reached. With an error number of `link.CUT_ERRNOS` that is the network's fault.
        ProtocolError: it does not prove to be of this cluster, or does not take this process for one.
    """
    return _link(*await open_tcp(host, port, credentials), receiver, together_s)


async def open_tcp(host: str, port: int, credentials: Credentials) -> tuple[asyncio.Transport, bytes]:
    """The same as bytes: a connection whose reading is paused, and what came after the handshake. Raises likewise."""
    loop = asyncio.get_running_loop()
    tls = None if credentials.tls is None else credentials.tls.context(is_server=False)
    sock = await _connected_socket(host, port)
    proving = _Proving(handshake.Client(credentials.secret, secrets.token_bytes(handshake.NONCE_BYTES)))
    try:
        async with asyncio.timeout(PROOF_TIMEOUT_S):
            name = None if tls is None else ""  # whoever the CA has signed may be there
            await loop.create_connection(lambda: proving, sock=sock, ssl=tls, server_hostname=name)
            await proving.over
            if proving.transport is None:
                raise ConnectionResetError(errno.ECONNRESET, f"{host}:{port} closed the connection")
    except BaseException as error:
        _abort(proving, sock)
        if not isinstance(error, ProtocolError | OSError) or isinstance(error, TimeoutError) or is_cut(error):
            raise
        raise ProtocolError(f"No link to {host}:{port}: {error or 'it has broken the connection off'}") from error
    return proving.transport, bytes(proving.rest)


async def _connected_socket(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    failure = OSError(f"{host} has no address")
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                sock = socket.socket(family, kind, protocol)
                try:
                    sock.setblocking(False)
                    keepalive.set_options(sock)
                    await loop.sock_connect(sock, address)
                    return sock
                except OSError as error:
                    failure = error
                    sock.close()
                except BaseException:
                    sock.close()
                    raise
    except TimeoutError as error:
        raise TimeoutError(errno.ETIMEDOUT, f"{host}:{port} does not answer") from error
    raise failure


def _abort(proving: _Proving, sock: socket.socket) -> None:
    if proving.transport is not None:
        proving.transport.abort()
    else:
        sock.close()


class TCPServer:
    """Lets those in who prove themselves, and answers nobody else.

    Args:
        credentials: what they have to know and to show.
        receiver: called for each link, for whoever is at this end of it.
        relay: takes connections that are to go on to another address.

    Attributes:
        port: chosen by the system.
    """

    def __init__(self, credentials: Credentials, receiver: Callable[[], Receiver], relay: Relays) -> None:
        self._credentials = credentials
        self._receiver, self._relay = receiver, relay
        self._tls = None if credentials.tls is None else credentials.tls.context(is_server=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._unproved: dict[_Newcomer, asyncio.Task[None]] = {}  # the oldest first
        self._strangers = _Strangers()
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self.port = 0

    async def start(self, host: str) -> None:
        """Listen on this address of the machine. Raises OSError if it has no such address."""
        family, _, _, _, address = (await self._loop.getaddrinfo(host, 0, type=socket.SOCK_STREAM))[0]
        self._socket = sock = socket.create_server(address[:2], family=family, backlog=BACKLOG)
        sock.setblocking(False)
        self.port = sock.getsockname()[1]
        self._own(self._accept(sock))

    async def close(self) -> None:
        """Let nobody else in. Links that there are stay."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, address = await self._loop.sock_accept(listener)
            except OSError as error:  # the one that came is gone again, or there is no room for it
                if error.errno in _FULL:
                    self._drop_oldest()
                    self._strangers.refused("", error)
                    await asyncio.sleep(FULL_PAUSE_S)
                continue
            if len(self._unproved) >= UNPROVED_MAX:
                self._drop_oldest()
            newcomer = _Newcomer(self._credentials.secret)
            task = self._own(self._let_in(newcomer, sock, address[0]))
            self._unproved[newcomer] = task
            task.add_done_callback(functools.partial(self._let_in_over, newcomer, sock))

    def _drop_oldest(self) -> None:
        for newcomer, task in list(self._unproved.items())[:1]:
            del self._unproved[newcomer]
            task.cancel()

    async def _let_in(self, newcomer: _Newcomer, sock: socket.socket, host: str) -> None:
        try:
            keepalive.set_options(sock)
            async with asyncio.timeout(PROOF_TIMEOUT_S):
                await self._loop.connect_accepted_socket(lambda: newcomer, sock, ssl=self._tls)
                await newcomer.over
        except (OSError, ProtocolError) as error:
            _abort(newcomer, sock)
            self._strangers.refused(host, error)
            return
        if newcomer.transport is None:
            return
        if newcomer.relay is not None:
            self._relay(newcomer.transport, bytes(newcomer.rest), newcomer.relay.address)
        else:
            _link(newcomer.transport, bytes(newcomer.rest), self._receiver())

    def _let_in_over(self, newcomer: _Newcomer, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._unproved.pop(newcomer, None)
        if task.cancelled():  # perhaps before it had begun
            _abort(newcomer, sock)


class _Strangers:
    """Says that some were refused, seldom: a scan of ports must fill no log."""

    def __init__(self) -> None:
        self._count = 0
        self._quiet_until = 0.0

    def refused(self, host: str, error: Exception) -> None:
        self._count += 1
        now = asyncio.get_running_loop().time()
        if now < self._quiet_until:
            return
        self._quiet_until = now + WARNING_EVERY_S
        why = str(error) or "it broke the connection off"
        if isinstance(error, ssl.SSLError):
            why = f"it showed no certificate of this cluster ({error.reason})"
        elif isinstance(error, TimeoutError) and not is_cut(error):
            why = "it did not prove itself in time"
        log.warning("Refused %d connections to the port for links, the last from %s: %s", self._count, host, why)
        self._count = 0
