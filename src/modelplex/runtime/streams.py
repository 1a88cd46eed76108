"""Bodies on their way over a link: chunked, with flow control, and the kind that can be sent again.

A sender may have `WINDOW_BYTES` on the way that the receiver has not consumed; the receiver's `Credit` lets it go on.
So a slow consumer bounds what any process keeps for it.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from modelplex.wire.framing import CHUNK_BYTES

WINDOW_BYTES = 4 * CHUNK_BYTES

# A body that still arrives from a client is kept up to this size in case it has to be sent again.
REPLAY_BYTES_MAX = 2**20


class Wakeup:
    """Wakes the one task that waits for something to change. An asyncio.Event that costs next to nothing until then."""

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Something has changed."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def wait(self) -> None:
        """Return when something changes from now on."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter


class Outgoing:
    """The sending end of one body.

    Args:
        send: puts one chunk on the link, and says whether more will follow.
    """

    __slots__ = ("_closed", "_credit", "_more_credit", "_send")

    def __init__(self, send: Callable[[bytes | memoryview, bool], None]) -> None:
        self._send = send
        self._credit = WINDOW_BYTES
        self._more_credit = Wakeup()
        self._closed = False

    def first(self, data: bytes) -> bytes:
        """The part of a body that goes along with its head."""
        part = data[:CHUNK_BYTES]
        self._credit -= len(part)
        return part

    async def write(self, data: bytes | memoryview, *, last: bool = False) -> None:
        """Send bytes as the receiver makes room for them; return when the last of them is on the link."""
        rest = memoryview(data)
        while len(rest):
            while self._credit <= 0:
                if self._closed:
                    return
                await self._more_credit.wait()
            size = min(len(rest), self._credit, CHUNK_BYTES)
            self._credit -= size
            part, rest = rest[:size], rest[size:]
            if not self._closed:
                self._send(part, not (last and not len(rest)))
        if last and not len(data) and not self._closed:
            self._send(b"", False)

    def credit(self, size_bytes: int) -> None:
        self._credit += size_bytes
        self._more_credit.set()

    def close(self) -> None:
        """Nobody wants the rest: whoever writes returns."""
        self._closed = True
        self._credit = max(self._credit, 1)
        self._more_credit.set()


class Incoming:
    """The receiving end of one body.

    Args:
        credit: tells the sender how many bytes were consumed.
    """

    __slots__ = ("_arrived", "_chunks", "_consumed", "_error", "_give_credit", "complete")

    def __init__(self, credit: Callable[[int], None]) -> None:
        self._give_credit = credit
        self._chunks: deque[bytes] = deque()
        self._arrived = Wakeup()
        self._consumed = 0
        self._error: Exception | None = None
        self.complete = False

    def feed(self, data: bytes, *, more: bool) -> None:
        if data:
            self._chunks.append(data)
        self.complete = not more
        self._arrived.set()

    def fail(self, error: Exception) -> None:
        """The rest will not come; whoever reads gets the error after what has come."""
        self._error = error
        self._arrived.set()

    @property
    def exhausted(self) -> bool:
        """Whether all has come and been read."""
        return self.complete and not self._chunks

    async def read(self) -> bytes:
        """The next bytes, or none at the end. Raises what `fail` was told."""
        while not self._chunks:
            if self.complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._arrived.wait()
        return self.read_nowait()

    def read_nowait(self) -> bytes:
        """The next bytes, or none if none are there."""
        if not self._chunks:
            return b""
        data = self._chunks.popleft()
        self._consumed += len(data)
        if self._consumed >= WINDOW_BYTES // 2 and not self.complete:
            self._give_credit(self._consumed)
            self._consumed = 0
        return data

    async def read_all(self) -> bytes:
        if self.complete and len(self._chunks) == 1:
            return self._chunks.popleft()
        parts = []
        while part := await self.read():
            parts.append(part)
        return b"".join(parts)


class WholeBody:
    """A body that has come at once: an `Incoming` that nothing more comes to."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def fail(self, error: Exception) -> None:
        """All has come before."""

    @property
    def exhausted(self) -> bool:
        return not self._data

    def read_nowait(self) -> bytes:
        data, self._data = self._data, b""
        return data

    async def read(self) -> bytes:
        return self.read_nowait()

    async def read_all(self) -> bytes:
        return self.read_nowait()


Body = Incoming | WholeBody


class Upload:
    """The body of a request, which may have to be sent to one replica after another.

    Args:
        data: what is there of it.
        more: whether more will come, by `write`.
    """

    __slots__ = ("_changed", "_chunks", "_live", "_more", "_next", "_pump", "_sent_bytes", "replayable")

    def __init__(self, data: bytes, *, more: bool) -> None:
        self._chunks = [data]
        self._next = 0  # the chunk to be sent next
        self._more = self._live = more
        self._sent_bytes = 0
        self._changed = Wakeup()
        self._pump: asyncio.Task[None] | None = None
        self.replayable = True

    @property
    def whole(self) -> bytes | None:
        """The body, if it is all there and goes along with the request's head; there is nothing to `begin` then."""
        if self._more or len(self._chunks) > 1 or len(self._chunks[0]) > CHUNK_BYTES:
            return None
        return self._chunks[0]

    def begin(self, outgoing: Outgoing) -> tuple[bytes, bool]:
        """Start over on another link: the bytes that go with the request's head, and whether more will follow."""
        self.stop()
        head, self._next = self._chunks[0], 1
        part = outgoing.first(head)
        more = self._more or len(self._chunks) > 1 or len(part) < len(head)
        if more:
            rest = memoryview(head)[len(part) :]
            self._pump = asyncio.get_running_loop().create_task(self._send_rest(outgoing, rest))
        return part, more

    async def write(self, data: bytes, *, more: bool) -> None:
        """More of the body has come. Waits while much of it has not been sent yet."""
        self._more = more
        self._chunks.append(data)
        self._changed.set()
        while sum(map(len, self._chunks[self._next :])) > WINDOW_BYTES:
            await self._changed.wait()

    async def _send_rest(self, outgoing: Outgoing, chunk: bytes | memoryview) -> None:
        last = False
        while not last:
            last = not self._more and self._next == len(self._chunks)
            await outgoing.write(chunk, last=last)
            self._sent_bytes += len(chunk) if self._live else 0
            if self._sent_bytes > REPLAY_BYTES_MAX:
                del self._chunks[: self._next]
                self._next = 0
                self.replayable = False
            while not last and self._next == len(self._chunks):
                await self._changed.wait()
            if not last:
                chunk = self._chunks[self._next]
                self._next += 1
                self._changed.set()

    def settle(self) -> None:
        """The answer has begun, so nothing will be sent again: what has been sent need not be kept."""
        self._sent_bytes = REPLAY_BYTES_MAX + 1

    def stop(self) -> None:
        """Stop sending; `begin` may start over."""
        if self._pump is not None:
            self._pump.cancel()
            self._pump = None
