"""The server's end of an HTTP/1.1 connection (RFC 9110 and 9112).

A request costs no task, no future and no timer: its application is a plain call, and answers by plain calls.
"""

import asyncio
import logging
from collections import deque
from typing import Literal, Protocol, cast

from modelplex.runtime.answers import Headers
from modelplex.runtime.http_exchange import HTTPExchange as HTTPExchange
from modelplex.runtime.http_exchange import Output
from modelplex.runtime.http_parser import Refusal, RequestParser
from modelplex.runtime.http_patience import Awaited, Patience

log = logging.getLogger(__name__)

UNREAD_BYTES_MAX = 256 * 2**10  # of bodies, before a connection is read no further
DROPPED_BYTES_MAX = 2**20  # of a body that comes after its answer
PIPELINED_MAX = 16  # requests that wait, before a connection is read no further; what one read brought is kept

# A client that has just had an answer may send its next request before it hears that the connection is closed, and that
# request would be lost: an idle connection is closed so much later, or with the answer to that request.
LINGER_S = 0.5

_BODY_TOO_SLOW: Refusal = 408, b"The request's body comes too slowly."

_TEXT: Headers = [(b"content-type", b"text/plain; charset=utf-8")]

Address = tuple[str, int] | None


class Application(Protocol):
    """What answers requests."""

    def __call__(self, exchange: HTTPExchange, /) -> None:
        """A request's head has come, with what of its body came along. Must not raise for what a client did."""


class Owner(Protocol):
    """Whoever is told which connections there are."""

    def opened(self, connection: "HTTPConnection") -> None: ...

    def closed(self, connection: "HTTPConnection") -> None: ...


class Upgraded(Protocol):
    """What has taken over a connection. It passes on `connection_lost`, `pause_writing` and `resume_writing`."""

    def stop(self) -> None:
        """The server stops."""


class HTTPConnection(asyncio.Protocol):
    """The server's end of a connection.

    Requests are given to the application in their order, the next one when the one before has been answered.

    Args:
        application: what answers them.
        owner: told when the connection has opened and closed.
        keep_alive_timeout_s: for the client to send the next request.
        body_timeout_s: for each KiB of a body.
    """

    def __init__(
        self, application: Application, owner: Owner, keep_alive_timeout_s: float, body_timeout_s: float = 60.0
    ) -> None:
        self._application = application
        self._owner = owner
        self._timeouts_s = keep_alive_timeout_s, body_timeout_s
        self._loop = asyncio.get_running_loop()
        self._parser = RequestParser(self)
        self._deaf = False  # no further request is taken
        self._refusal: Refusal | None = None  # of what came last, when all before it is answered
        self._queue: deque[HTTPExchange] = deque()
        self._receiving: HTTPExchange | None = None  # not all of its body has come
        self._running: HTTPExchange | None = None
        self._serving = False
        self._unread_bytes = 0
        self._dropped_bytes = 0
        self._paused = False
        self._upgraded: Upgraded | None = None
        self.stopping = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self.output = Output(self._transport)
        self.scheme: Literal["http", "https"] = "https" if transport.get_extra_info("ssl_object") else "http"
        self.client = _address(transport, "peername")
        self.server = _address(transport, "sockname")
        self.patience = Patience(self, *self._timeouts_s)
        self._owner.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.patience.close()
        self._owner.closed(self)
        self._lose()

    def eof_received(self) -> None:
        # As most servers, take a client that has closed its half for one that has left. The transport closes itself.
        self._lose()

    def pause_writing(self) -> None:
        self.output.pause()

    def resume_writing(self) -> None:
        self.output.resume()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        refusal = self._parser.feed(data)
        if refusal is not None:
            self._refuse(refusal)
        elif self._parser.unframed_bytes == len(data) and self._receiving is None:
            self.patience.begin()  # a head has begun
        if self._receiving is not None:
            self.patience.part_received(self._receiving)
        if self._running is None:
            self._serve()
        if self._unread_bytes > UNREAD_BYTES_MAX or len(self._queue) >= PIPELINED_MAX:
            self._pace()

    # http_parser.Receiver

    def request_begun(self, method: str, target: bytes, version: str, headers: Headers, keep_alive: bool) -> None:
        if not self._deaf:
            exchange = self._receiving = HTTPExchange(self, method, target, version, headers, keep_alive)
            self._queue.append(exchange)

    def body_received(self, data: bytes) -> None:
        exchange = self._receiving
        if exchange is None:
            return
        if exchange.ended:
            self._dropped_bytes += len(data)
            if self._dropped_bytes > DROPPED_BYTES_MAX:
                self._close()
            return
        exchange.parts.append(data)
        self._unread_bytes += len(data)
        self.patience.body_received(len(data))
        if exchange.arrived is not None:
            exchange.arrived.set()

    def request_complete(self) -> None:
        exchange, self._receiving = self._receiving, None
        if exchange is None:
            return
        exchange.complete = True
        self._dropped_bytes = 0
        if exchange.arrived is not None:
            exchange.arrived.set()
        if not exchange.keep_alive:
            self._deaf = True
            if exchange.ended:
                self._close()

    # For the exchanges

    def consumed(self, size_bytes: int) -> None:
        self._unread_bytes -= size_bytes
        if self._paused:
            self._pace()

    def answered(self, exchange: HTTPExchange) -> None:
        self._running = None
        exchange.on_lost = None  # which often knows the exchange: a circle, for the garbage collection to find
        self.patience.begin()
        if exchange.parts:
            exchange.take()
        if exchange.arrived is not None:
            exchange.arrived.set()
        if exchange.keep_alive and not self.stopping:
            self._serve()
        elif exchange is self._receiving and not self.stopping and self._transport.can_write_eof():
            # Bytes that nobody has read when a connection is closed make the system throw the answer away.
            exchange.keep_alive = False
            self._transport.write_eof()
        else:
            self._close()
        if self._paused:
            self._pace()

    def upgrade(self, exchange: HTTPExchange, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Leave the connection to another protocol (an `Upgraded`). Raises ConnectionResetError if that cannot be."""
        if exchange.lost or self._refusal is not None or self._queue:
            self.break_off(exchange)
            raise ConnectionResetError("There is no connection to be upgraded.")
        exchange.begun = True
        self._upgraded = cast(Upgraded, protocol)
        self._transport.set_protocol(protocol)
        if self.stopping:
            self._loop.call_soon(self._upgraded.stop)
        return self._transport

    def break_off(self, exchange: HTTPExchange) -> None:
        exchange.lost = True
        self._deaf = True
        self._transport.abort()

    def refuse(self, status: int, text: bytes) -> None:
        """Answer this whatever comes, and close."""
        self._refuse((status, text))
        self._serve()

    def stop(self) -> None:
        """Close the connection when the request that runs has been answered, or the next one if it is on its way."""
        self.stopping = True
        if self._upgraded is not None:
            self._upgraded.stop()
        self._loop.call_later(LINGER_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self._running is None:
            self._close()

    def abort(self) -> None:
        self._deaf = True
        self._transport.abort()

    def _serve(self) -> None:
        """Give the requests that wait to the application, as long as it answers at once."""
        if self._serving:
            return
        self._serving = True
        while self._running is None and self._queue:
            exchange = self._running = self._queue.popleft()
            if exchange.parts:
                exchange.body = exchange.take()
            if exchange.complete:
                exchange.more = False
            elif not exchange.body and exchange.http_version == "1.1":
                wanted = (name == b"expect" and value.lower() == b"100-continue" for name, value in exchange.headers)
                exchange.expects_continue = any(wanted)
            try:
                self._application(exchange)
            except Exception:  # a fault in the application may end this request, and nothing else
                log.exception("%s %r could not be answered.", exchange.method, exchange.path)
                if exchange.begun:
                    exchange.abort()
                else:
                    exchange.respond(500, _TEXT, b"Internal Server Error")
        self._serving = False
        if self._running is None and self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            _answer_refused(self, refusal)

    def _refuse(self, refusal: Refusal) -> None:
        """What comes is no request, or no body of one: nothing that follows can be told apart."""
        if self._deaf:
            return
        self._deaf = True
        exchange, self._receiving = self._receiving, None
        if exchange is not None and exchange.ended:
            self._close()
        elif exchange is not None and exchange.begun:
            self.break_off(exchange)
        else:
            self._refusal = refusal
            if exchange is not None and exchange is self._running:
                self._running = None
                exchange.lose()
            elif exchange is not None:
                self._queue.pop()

    def _pace(self) -> None:
        """Read on, or no further, by what is kept of what was read."""
        full = self._unread_bytes > UNREAD_BYTES_MAX or len(self._queue) >= PIPELINED_MAX
        if full != self._paused and not self._transport.is_closing():
            self._paused = full
            if full:
                self._transport.pause_reading()
            else:
                self.patience.begin_body()
                self._transport.resume_reading()

    @property
    def awaits(self) -> Awaited:
        return _awaited(self)

    def time_is_up(self, awaited: Awaited) -> None:
        if awaited is Awaited.BODY:
            self.refuse(*_BODY_TOO_SLOW)
        else:
            self._close()

    def _close(self) -> None:
        """End the connection when all that was written has been taken."""
        self._deaf = True
        self._queue.clear()
        self._transport.close()

    def _lose(self) -> None:
        self._deaf = True
        self._queue.clear()
        running, self._running = self._running, None
        self.output.resume()
        if running is not None:
            running.lose()


def _answer_refused(connection: HTTPConnection, refusal: Refusal) -> None:
    exchange = HTTPExchange(connection, "", b"*", "1.1", [], keep_alive=False)
    exchange.respond(refusal[0], _TEXT, refusal[1])


def _awaited(connection: HTTPConnection) -> Awaited:
    running, receiving = connection._running, connection._receiving
    if connection._upgraded is not None or connection._transport.is_closing():
        return Awaited.NOTHING
    if running is None:
        return Awaited.HEAD if connection._parser.unframed_bytes and receiving is None else Awaited.REQUEST
    is_partial = running is receiving and not running.begun and not connection._paused
    return Awaited.BODY if is_partial and not running.expects_continue else Awaited.NOTHING


def _address(transport: asyncio.BaseTransport, name: str) -> Address:
    address = transport.get_extra_info(name)
    return (str(address[0]), int(address[1])) if isinstance(address, tuple) else None
