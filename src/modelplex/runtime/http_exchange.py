"""One request on an HTTP/1.1 connection, and its answer (RFC 9110 and 9112)."""

import asyncio
import http
import logging
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import unquote

import httptools

from modelplex.runtime.answers import Headers
from modelplex.runtime.meters import Counts

if TYPE_CHECKING:
    from modelplex.runtime.http_connection import HTTPConnection

log = logging.getLogger(__name__)

COPIED_BYTES_MAX = 64 * 2**10  # a larger body is not joined with its head
STALL_TIMEOUT_S = 60.0  # for a client that takes nothing of what is sent to it; nginx's send_timeout

# How the end of an answer's body is told; 0 and more are the bytes that are still missing of its content-length.
_CHUNKED, _UNTIL_CLOSE, _NO_BODY = -1, -2, -3

_REASONS = {status.value: status.phrase for status in http.HTTPStatus}
_STATUS_LINES = {n: f"HTTP/1.1 {n} {_REASONS.get(n, '')}".encode() for n in range(100, 600)}

# Headers of an answer that mean something to this module; those that only the connection can know the value of.
_CONNECTION = frozenset([b"connection", b"transfer-encoding", b"keep-alive"])
_OWN = _CONNECTION | {b"content-length", b"date"}

# Answers of this process to what never became a request, by status: what cannot be read, connections that are too many.
refusals = Counts()


class _Date:
    """The header that says the time, made once in a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._line = b"date: %b\r\n" % formatdate(second, usegmt=True).encode()
        return self._line


_date = _Date()


class Output:
    """What is sent over a connection, and whether the client takes it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._sent_bytes = 0
        self._taken: tuple[int, float] = 0, 0.0  # bytes that the client had taken, and since when it took no more
        self._writable: asyncio.Event | None = None

    def send(self, head: bytes, data: bytes | memoryview = b"", tail: bytes = b"") -> None:
        size_bytes = len(head) + len(data) + len(tail)
        self._sent_bytes += size_bytes
        if len(data) > COPIED_BYTES_MAX:
            self._transport.writelines([part for part in (head, data, tail) if part])
        elif size_bytes:
            self._transport.write(b"".join((head, data, tail)))

    async def drain(self) -> None:
        if self._writable is not None:
            await self._writable.wait()

    def pause(self) -> None:
        if self._writable is None:
            self._writable = asyncio.Event()
        self._writable.clear()

    def resume(self) -> None:
        if self._writable is not None:
            self._writable.set()

    def is_stalled(self, now: float) -> bool:
        """Whether the client has taken nothing for too long. To be asked now and then."""
        unsent_bytes = self._transport.get_write_buffer_size()
        taken_bytes = self._sent_bytes - unsent_bytes
        if not unsent_bytes or taken_bytes != self._taken[0]:
            self._taken = taken_bytes, now
        return now - self._taken[1] >= STALL_TIMEOUT_S


class HTTPExchange:
    """One request on a connection, and its answer.

    Attributes:
        method: such as "GET".
        path: percent-decoded (UTF-8, with U+FFFD for what is none), without the query.
        raw_path: the path as it was sent.
        query_string: what follows the "?", as it was sent.
        http_version: "1.0" or "1.1".
        headers: names in lower case, in the order in which they came.
        body: the part of the body that was there when the application was called.
        more: whether `read` will return more of it.
        scheme: "http", or "https" over TLS.
        client, server: host and port of the two ends; None over a Unix socket.
        lost: the client has left, or the connection was broken off; nothing that is written goes anywhere.
        on_lost: called once if the client leaves before the answer has ended; the application sets it.
        on_ended: called once when the answer has ended or cannot be sent any more, then `lost`; likewise.
        status: of the answer; 0 until it has begun.
        trace: what follows from it is a part of (`tracing.Tracing`); empty if nothing is traced.
        app_name, began: whose it is, and the time of `perf_counter` when it was passed on, for those who count.
    """

    __slots__ = (
        "app_name",
        "arrived",
        "began",
        "begun",
        "body",
        "client",
        "complete",
        "connection",
        "ended",
        "expects_continue",
        "headers",
        "http_version",
        "keep_alive",
        "left",
        "lost",
        "method",
        "more",
        "on_ended",
        "on_lost",
        "parts",
        "path",
        "query_string",
        "raw_path",
        "scheme",
        "server",
        "status",
        "trace",
    )

    def __init__(
        self, connection: "HTTPConnection", method: str, target: bytes, version: str, headers: Headers, keep_alive: bool
    ) -> None:
        self.connection = connection
        self.method = method
        self.path, self.raw_path, self.query_string = _split(target)
        self.http_version = version
        self.headers = headers
        self.scheme = connection.scheme
        self.client = connection.client
        self.server = connection.server
        self.body = b""
        self.more = True
        self.lost = False
        self.on_lost: Callable[[], None] | None = None
        self.on_ended: Callable[[HTTPExchange], None] | None = None
        self.status, self.app_name, self.began, self.trace = 0, "", 0.0, ""
        self.keep_alive = keep_alive
        self.expects_continue = False
        self.parts: list[bytes] = []  # of the body, which nobody has read
        self.complete = False  # all of the request has come
        self.arrived: asyncio.Event | None = None
        self.begun = self.ended = False
        self.left = 0

    @property
    def outcome(self) -> int:
        """The status of an answer that was given whole, 101 for what became a WebSocket; 0 for what was broken off."""
        if self.ended:
            return self.status
        return 101 if self.begun and not self.status else 0

    async def read(self) -> tuple[bytes, bool]:
        """More of the body, and whether more will come after it; possibly no bytes.

        Raises ConnectionResetError if the client has left, or the answer has ended: the rest is dropped then.
        """
        if self.expects_continue and not self.begun and not self.lost:
            self.expects_continue = False
            self.connection.output.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self.parts and not self.complete and not self.lost and not self.ended:
            if self.arrived is None:
                self.arrived = asyncio.Event()
            self.arrived.clear()
            await self.arrived.wait()
        if self.lost or self.ended:
            raise ConnectionResetError("The rest of the request's body will not come.")
        return self.take(), self.more

    def take(self) -> bytes:
        """What has come of the body since the last time."""
        body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        self.more = not self.complete
        if body:
            self.parts = []
            self.connection.consumed(len(body))
        return body

    def respond(
        self,
        status: int,
        headers: Headers,
        body: bytes | memoryview = b"",
        *,
        more: bool = False,
        lines: bytes = b"",
    ) -> None:
        """Begin the answer, and end it unless more will be written.

        `date`, `connection` and what frames the body are added; a `content-length` among the headers is kept, and one
        that the body does not match breaks the connection off. `lines` are more headers, as they are sent, which are
        not looked at.
        Raises ValueError for a status or a header that cannot be sent, and RuntimeError for a second answer.
        """
        if self.lost:
            return
        if self.begun:
            raise RuntimeError("The request has been answered already.")
        status_line = _STATUS_LINES.get(status)
        if status_line is None:
            raise ValueError(f"{status} is not an HTTP status.")
        length, has_date, has_connection = _own_headers(headers)
        if has_connection:
            headers, closes = _without_connection(headers)
            self.keep_alive = self.keep_alive and not closes
        head = b"\r\n".join([status_line, *map(b": ".join, headers), b""])
        # An end of line within a header would begin another header, or another answer.
        if len(head) - len(head.translate(None, b"\r\n\0")) != 2 * len(headers) + 2:
            raise ValueError("A header of the answer has a line break or a NUL in it.")
        framing = self._frame(status, length, len(body), more)
        self.begun, self.status = True, status
        if self.expects_continue or self.connection.stopping:
            # A client that was not told to go on may send its body or not: what follows could be either.
            self.keep_alive = False
        if not self.keep_alive:
            framing += b"connection: close\r\n"
        elif self.http_version == "1.0":
            framing += b"connection: keep-alive\r\n"
        date = b"" if has_date else _date.line()
        self._send(b"".join((head, lines, date, framing, b"\r\n")), body, more)

    def _frame(self, status: int, length: int | None, size_bytes: int, more: bool) -> bytes:
        """Choose how the end of the body is told, and return the header that says so."""
        if self.method == "HEAD" or status in (204, 304) or status < 200:
            self.left = _NO_BODY
            wanted = self.method == "HEAD" and length is None and size_bytes and not more
            return b"content-length: %d\r\n" % size_bytes if wanted else b""
        if length is not None:
            self.left = length
        elif not more:
            self.left = size_bytes
            return b"content-length: %d\r\n" % size_bytes
        elif self.http_version == "1.1":
            self.left = _CHUNKED
            return b"transfer-encoding: chunked\r\n"
        else:
            self.left = _UNTIL_CLOSE
            self.keep_alive = False
        return b""

    def write(self, data: bytes | memoryview, *, more: bool) -> None:
        """Go on with an answer that `respond` has begun, and end it unless more will be written."""
        if self.lost:
            return
        if not self.begun or self.ended:
            raise RuntimeError("There is no answer to go on with: it has not begun, or has ended.")
        self._send(b"", data, more)

    def _send(self, head: bytes, data: bytes | memoryview, more: bool) -> None:
        tail = b""
        if self.left >= 0:
            self.left -= len(data)
            if self.left < 0 or (self.left and not more):
                log.error("The answer to %s %r has a body of another size than it says.", self.method, self.path)
                self.connection.break_off(self)
                self._end()
                return
        elif self.left == _CHUNKED:
            if data:
                head, tail = b"%b%x\r\n" % (head, len(data)), b"\r\n"
            if not more:
                tail += b"0\r\n\r\n"
        elif self.left == _NO_BODY:
            data = b""
        self.connection.output.send(head, data, tail)
        if not more:
            self.ended = True
            self._end()
            self.connection.answered(self)

    def _end(self) -> None:
        on_ended, self.on_ended = self.on_ended, None
        if on_ended is not None:
            on_ended(self)
        elif not self.method:
            refusals.add(self.status)

    async def drain(self) -> None:
        """Return when the client has taken enough for more to be written, or has left."""
        if not self.lost:
            await self.connection.output.drain()

    def abort(self) -> None:
        """Break the connection off: all that can still be said after an answer has begun. `on_lost` is not called."""
        if not self.lost and not self.ended:
            self.on_lost = None
            self.connection.break_off(self)
            self._end()

    def lose(self) -> None:
        """Nothing more can be read or written; tell whoever waits for it."""
        self.lost = True
        if self.arrived is not None:
            self.arrived.set()
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost()
        self._end()


def _split(target: bytes) -> tuple[str, bytes, bytes]:
    """The path, decoded and as it was sent, and the query. Raises HttpParserError."""
    if target.startswith(b"/"):
        raw_path, _, query = target.partition(b"#")[0].partition(b"?")
    else:  # a whole URL, as proxies are sent it, or "*"
        url = httptools.parse_url(target)
        raw_path, query = url.path or b"/", url.query or b""
    path = raw_path.decode("ascii")
    return unquote(path) if "%" in path else path, raw_path, query


def _own_headers(headers: Headers) -> tuple[int | None, bool, bool]:
    """The answer's content-length; whether there is a date; whether there is what only the connection can say.

    Raises ValueError for a content-length that is not one number.
    """
    length, has_date, has_connection = None, False, False
    for mixed_case, value in headers:
        name = mixed_case.lower()
        if name in _OWN:
            if name == b"content-length":
                if length is not None or not value.isdigit():
                    raise ValueError("The content-length of an answer must be one number.")
                length = int(value)
            elif name == b"date":
                has_date = True
            else:
                has_connection = True
    return length, has_date, has_connection


def _without_connection(headers: Headers) -> tuple[Headers, bool]:
    """The headers without those that are the connection's own, and whether they ask for it to be closed."""
    kept = [h for h in headers if h[0].lower() not in _CONNECTION]
    asked = b",".join(value for name, value in headers if name.lower() == b"connection").lower().split(b",")
    return kept, b"close" in [token.strip() for token in asked]
