"""The server's end of a WebSocket (RFC 6455), on the connection of the HTTP request that asked for it.

The protocol itself is that of the `websockets` library, which does no input or output.
"""

import asyncio
import logging
from collections import deque

from websockets.datastructures import Headers as HandshakeHeaders
from websockets.exceptions import ProtocolError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from modelplex.runtime.answers import Headers
from modelplex.runtime.http_connection import UNREAD_BYTES_MAX
from modelplex.runtime.http_exchange import HTTPExchange
from modelplex.runtime.streams import Body, Upload, Wakeup
from modelplex.wire import framing, websocket

MESSAGE_BYTES_MAX = 16 * 2**20
CLOSE_TIMEOUT_S = 5.0  # for the other end to close, too

# What is taken of compressed bytes at a time, since they may become a thousand times as many.
FED_BYTES = 4 * 2**10
_MESSAGE_COST_BYTES = 100  # of memory, for one that is empty

# Fewer than the library's own defaults: 12 bits of window take 64 KiB for each connection rather than 300.
_DEFLATE = ServerPerMessageDeflateFactory(
    server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5}
)

log = logging.getLogger(__name__)
_quiet = logging.getLogger(f"{__name__}.protocol")
_quiet.setLevel(logging.ERROR)


class WebSocket(asyncio.Protocol):
    """One WebSocket; its messages are those of `wire.websocket`.

    Attributes:
        refusal: the status, headers and text to answer a handshake with that is none.
        is_closed: the client has closed it, in good order, or has been told why it is closed.
    """

    def __init__(self, http: HTTPExchange) -> None:
        self._connection = http.connection
        self._http = http
        self._loop = asyncio.get_running_loop()
        handshake = ServerProtocol(extensions=[_DEFLATE], logger=_quiet)
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in http.headers]
        request = Request(http.raw_path.decode("ascii"), HandshakeHeaders(headers))
        self._response = handshake.accept(request)
        self._protocol = ServerProtocol(state=State.OPEN, max_size=MESSAGE_BYTES_MAX, logger=_quiet)
        self._protocol.extensions = handshake.extensions
        self.refusal: tuple[int, Headers, bytes] | None = None
        if self._response.status_code != 101:
            text: Headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"upgrade", b"websocket")]
            self.refusal = self._response.status_code, text, bytes(self._response.body or b"")
        self._transport: asyncio.Transport | None = None
        self._unfed = bytearray()
        self._kind = websocket.BINARY
        self._message = bytearray()
        self._messages: deque[bytes] = deque()
        self._unread_bytes = 0
        self._arrived = Wakeup()
        self._is_stalled = False
        self._is_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self.is_closed = False

    def open(self, headers: Headers) -> None:
        """Accept it, with these headers. Raises ValueError for one that cannot be sent."""
        for name, value in headers:
            if (name + value).translate(None, b"\r\n\0") != name + value:
                raise ValueError("A header of the answer has a line break or a NUL in it.")
            self._response.headers[name.decode("latin-1")] = value.decode("latin-1")
        self._transport = self._connection.upgrade(self._http, self)
        self._connection.output.send(self._response.serialize())

    # Messages of the client

    async def to_app(self, upload: Upload) -> None:
        """Pass on what the client says, to the end."""
        more = True
        while more:
            while not self._messages:
                await self._arrived.wait()
            message = self._messages.popleft()
            self._unread_bytes -= len(message) + _MESSAGE_COST_BYTES
            self._feed()
            more = message[:1] != websocket.CLOSE
            await upload.write(framing.part(message), more=more)

    def _feed(self) -> None:
        protocol = self._protocol
        while self._unfed and not self._is_full and protocol.state is not State.CLOSED:
            piece = bytes(self._unfed[:FED_BYTES])
            del self._unfed[:FED_BYTES]
            protocol.receive_data(piece)
            for frame in protocol.events_received():
                if isinstance(frame, Frame):
                    self._take(frame)
            if protocol.parser_exc is not None and protocol.close_sent is not None:
                self._tell_closed(protocol.close_sent.code, protocol.close_sent.reason)
        self._flush()
        self._pace()

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            received = self._protocol.close_rcvd
            self._tell_closed(*((received.code, received.reason) if received else (websocket.NO_STATUS, "")))
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT) and not self.is_closed:
            if frame.opcode is not Opcode.CONT:
                self._kind = websocket.TEXT if frame.opcode is Opcode.TEXT else websocket.BINARY
            self._message += frame.data
            if frame.fin:
                self._take_message(self._kind, self._message)
                self._message = bytearray()

    def _take_message(self, kind: bytes, data: bytearray) -> None:
        if kind == websocket.TEXT:
            try:
                data.decode()
            except UnicodeDecodeError:
                self._protocol.fail(websocket.INVALID_TEXT, "the text is no UTF-8")
                self._tell_closed(websocket.INVALID_TEXT, "the text is no UTF-8")
                return
        self._put(kind + data)

    def _tell_closed(self, code: int, reason: str) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._put(websocket.close(int(code), reason))

    def _put(self, message: bytes) -> None:
        self._messages.append(message)
        self._unread_bytes += len(message) + _MESSAGE_COST_BYTES
        self._arrived.set()

    # Messages for the client

    async def to_client(self, body: Body) -> None:
        """Pass on what the app says, to the end, as fast as the client takes it. Raises what the body fails with."""
        reader = framing.PartReader()
        while not body.exhausted:
            for message in reader.feed(await body.read()):
                self._say(message)
                await self._connection.output.drain()
        self.close(websocket.INTERNAL_ERROR)  # unless the app has closed it

    def _say(self, message: bytes) -> None:
        if message[:1] == websocket.CLOSE:
            self.close(*websocket.close_of(message))
        elif self._protocol.state is State.OPEN:
            send = self._protocol.send_text if message[:1] == websocket.TEXT else self._protocol.send_binary
            send(memoryview(message)[1:])
            self._flush()

    def close(self, code: int, reason: str = "") -> None:
        """Say goodbye. Nothing happens if that has been said."""
        if self._protocol.state is not State.OPEN:
            return
        try:
            self._protocol.send_close(code, reason)
        except ProtocolError as error:
            log.error("A WebSocket cannot be closed with code %s and reason %r: %s", code, reason, error)
            self._protocol.send_close(websocket.INTERNAL_ERROR)
        self._expect_end()
        self._flush()

    def stop(self) -> None:
        """The server stops."""
        self.close(websocket.GOING_AWAY)

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._connection.output.send(b"", data)
            else:
                self._end()

    def _end(self) -> None:
        assert self._transport is not None
        self._expect_end()
        if self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            # Bytes that nobody has read when a connection is closed make the system throw the last words away.
            self._transport.write_eof()
        else:
            self._transport.close()

    def _expect_end(self) -> None:
        assert self._transport is not None
        if self._timer is None:
            self._timer = self._loop.call_later(CLOSE_TIMEOUT_S, self._transport.abort)

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._unfed += data
        self._feed()

    def eof_received(self) -> None:
        self._protocol.receive_eof()  # and the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.receive_eof()
        if self._timer is not None:
            self._timer.cancel()
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self._connection.pause_writing()
        self._is_stalled = True
        self._pace()  # it would be answered each ping

    def resume_writing(self) -> None:
        self._connection.resume_writing()
        self._is_stalled = False
        self._feed()

    @property
    def _is_full(self) -> bool:
        return self._unread_bytes > UNREAD_BYTES_MAX or self._is_stalled

    def _pace(self) -> None:
        transport = self._transport
        if transport is not None and self._is_full != self._is_paused and not transport.is_closing():
            self._is_paused = self._is_full
            if self._is_paused:
                transport.pause_reading()
            else:
                transport.resume_reading()
