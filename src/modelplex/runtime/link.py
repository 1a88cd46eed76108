"""One connection between two processes, as messages; and its stand-in inside of one process."""

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

from modelplex.errors import ProtocolError
from modelplex.wire import framing, messages
from modelplex.wire.messages import Message

# Messages that are sent within so long of the last write, and have no body of this size, are written together. At 0.5
# ms nothing more is saved.
TOGETHER_S = 0.0002
TOGETHER_BYTES_MAX = 16 * 2**10


class Receiver(Protocol):
    """Whoever is at this end of a link."""

    def received(self, link: "Link", message: Message, body: bytes) -> None: ...

    def lost(self, link: "Link") -> None:
        """The link is gone, by either side's will or by accident. Called once."""


class Link(Protocol):
    """Sends messages, in order, to the other end.

    Attributes:
        is_remote: whether it goes over TCP, to a process that connects on for others (`messages.Relay`).
        is_cut: when it is lost, whether by the network, so that the process at the other end may well live.
    """

    is_remote: bool
    is_cut: bool

    def send(self, message: Message, body: bytes | memoryview = b"") -> None:
        """Send, or do nothing if the link is gone: its receiver is told so by `lost`."""

    async def flushed(self, timeout_s: float) -> None:
        """Return when all that was sent has left this process, or after the time-out."""

    def close(self) -> None: ...


# What a socket's error says if the network does not lead to the other machine. A process that ends is heard of.
CUT_ERRNOS = frozenset(
    {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET}
)


def is_cut(error: BaseException | None) -> bool:
    """Whether this error is the network's."""
    return isinstance(error, OSError) and error.errno in CUT_ERRNOS


# Opens a link to a replica's address.
Connect = Callable[[str, Receiver], Awaitable[Link]]


class SocketLink(asyncio.Protocol):
    """A link over a stream socket.

    Messages in close succession are written together, since a write costs about as much as all else of a message. One
    that comes after a pause is written at once, with whatever was kept back while the event loop was blocked.

    Args:
        receiver: told of what comes.
        together_s: what counts as a pause. Where nothing ever blocks the event loop, `math.inf` saves most.
        is_remote: see `Link`.
    """

    def __init__(self, receiver: Receiver, together_s: float = TOGETHER_S, *, is_remote: bool = False) -> None:
        self.is_remote = is_remote
        self.is_cut = False
        self._together_s = together_s
        self._receiver = receiver
        self._reader = framing.FrameReader()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._unwritten: list[bytes | memoryview] = []
        self._written_at = 0.0

    def send(self, message: Message, body: bytes | memoryview = b"") -> None:
        if self._transport is None or self._transport.is_closing():
            return
        unwritten = self._unwritten
        first = not unwritten
        unwritten.append(framing.prefix(messages.encode(message), len(body)))
        if body:
            unwritten.append(body)
        if len(body) >= TOGETHER_BYTES_MAX or time.perf_counter() - self._written_at > self._together_s:
            self._write()
        elif first:
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        unwritten, self._unwritten = self._unwritten, []
        if self._transport is None or not unwritten:
            return
        self._written_at = time.perf_counter()
        if len(unwritten[-1]) < TOGETHER_BYTES_MAX:
            self._transport.write(b"".join(unwritten))
        else:
            self._transport.writelines(unwritten)  # copies nothing

    async def flushed(self, timeout_s: float) -> None:
        self._write()
        # uvloop writes at the end of the loop's turn, asyncio at once; in either, what a full socket did not take stays
        # in the buffer.
        await asyncio.sleep(0)
        deadline = self._loop.time() + timeout_s
        while self._transport is not None and self._transport.get_write_buffer_size():
            if self._loop.time() > deadline:
                return
            await asyncio.sleep(0.001)

    def close(self) -> None:
        self._write()
        if self._transport is not None:
            self._transport.close()

    def cut(self) -> None:
        """The other machine has not answered for so long that the network must be cut."""
        self.is_cut = True
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        try:
            for head, body in self._reader.feed(data):
                self._receiver.received(self, messages.decode(head), body)
        except ProtocolError:
            # A peer that does not speak the protocol gets no answer; its own side reports the loss.
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._unwritten.clear()
        self.is_cut = self.is_cut or is_cut(exc)
        self._receiver.lost(self)


class MemoryLink:
    """One end of a link whose ends are in the same process, on the same event loop."""

    def __init__(self, receiver: Receiver) -> None:
        self.is_remote = self.is_cut = False
        self._receiver = receiver
        self._peer: MemoryLink | None = None
        self._is_lost = False
        self._loop = asyncio.get_running_loop()

    @classmethod
    def pair(cls, one: Receiver, other: Receiver) -> tuple["MemoryLink", "MemoryLink"]:
        """The two ends, each with its receiver."""
        ends = cls(one), cls(other)
        ends[0]._peer, ends[1]._peer = ends[1], ends[0]
        return ends

    def send(self, message: Message, body: bytes | memoryview = b"") -> None:
        if self._peer is not None:
            self._loop.call_soon(self._peer._receive, message, bytes(body))

    async def flushed(self, timeout_s: float) -> None:
        await asyncio.sleep(0)

    def close(self) -> None:
        """Both ends are lost, after what was sent has arrived."""
        peer, self._peer = self._peer, None
        if peer is not None:
            self._loop.call_soon(self._lose)
            self._loop.call_soon(peer._lose)

    def _receive(self, message: Message, body: bytes) -> None:
        if not self._is_lost:
            self._receiver.received(self, message, body)

    def _lose(self) -> None:
        self._peer = None
        if not self._is_lost:
            self._is_lost = True
            self._receiver.lost(self)


async def connect_unix(address: str, receiver: Receiver, together_s: float = TOGETHER_S) -> Link:
    """A link to a Unix socket. Raises OSError if nobody listens there."""
    loop = asyncio.get_running_loop()
    _, link = await loop.create_unix_connection(lambda: SocketLink(receiver, together_s), address)
    return link
