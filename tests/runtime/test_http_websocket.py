"""WebSockets at the proxy: real frames on a connection without a socket, with the app on the same loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from inline_app import app_of
from proxy_client import Wire
from virtual_time import in_virtual_time, turns
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from modelplex import serve
from modelplex.config import HTTPOptions
from modelplex.runtime import http_websocket
from modelplex.runtime.http_connection import UNREAD_BYTES_MAX
from modelplex.testing import InlineCluster

heard: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_heard() -> None:
    heard.clear()


async def echo(scope: Any, receive: Any, send: Any) -> None:
    heard.append((scope["scheme"], scope["path"], scope["root_path"]))
    await receive()
    if scope["path"] == "/slow":
        await asyncio.sleep(10)
    await send({"type": "websocket.accept"})
    if scope["path"] == "/deaf":
        await asyncio.sleep(1000)
    while scope["path"] == "/flood":
        await send({"type": "websocket.send", "bytes": b"x" * 10_000})
        heard.append(10_000)
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "odd":
            await send({"type": "websocket.close", "code": 1006})
            return
        await send({**message, "type": "websocket.send"})
    heard.append((message["code"], message["reason"]))


class PacedWire(Wire):
    """One that knows whether it is read."""

    is_read = True

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True


class Client:
    """The client's end of a WebSocket."""

    def __init__(self, wire: Wire, path: str) -> None:
        self.wire = wire
        self.protocol = ClientProtocol(parse_uri(f"ws://test{path}"), max_size=None)
        self.protocol.send_request(self.protocol.connect())
        self.frames: list[Frame] = []
        self.flush()

    def flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.wire.say(data)

    async def next(self) -> Frame:
        """The next frame of the server."""
        while not self.frames:
            await self.hear()
        return self.frames.pop(0)

    async def hear(self) -> None:
        data = await self.wire.read()
        assert data, "the connection has ended"
        self.protocol.receive_data(data)
        self.frames += [event for event in self.protocol.events_received() if isinstance(event, Frame)]
        self.flush()

    async def opened(self) -> None:
        while self.protocol.state.name == "CONNECTING":
            await self.hear()
        assert self.protocol.handshake_exc is None

    def say(self, frame: Frame) -> None:
        self.protocol.send_frame(frame)
        self.flush()


@contextlib.asynccontextmanager
async def proxy_before_echo() -> AsyncIterator[InlineCluster]:
    async with InlineCluster() as cluster:
        await cluster.run(app_of(serve.ingress(echo)(type("D", (), {}))))
        yield cluster


@contextlib.asynccontextmanager
async def client(path: str = "/") -> AsyncIterator[Client]:
    async with proxy_before_echo() as cluster:
        client = Client(PacedWire(cluster.directory, HTTPOptions()), path)
        await client.opened()
        yield client
        client.wire.leave()
        await asyncio.sleep(20)


@in_virtual_time
async def test_messages_are_echoed_whole_or_in_fragments() -> None:
    async with client() as c:
        c.say(Frame(Opcode.TEXT, b"whole"))
        assert (await c.next()).data == b"whole"
        for n, data in enumerate([b"fr", b"agm", b"ents"]):
            c.say(Frame(Opcode.CONT if n else Opcode.BINARY, data, fin=n == 2))
        frame = await c.next()
        assert (frame.opcode, frame.data) == (Opcode.BINARY, b"fragments")
    assert heard[0] == ("ws", "/", "")


@in_virtual_time
async def test_pings_are_answered() -> None:
    async with client() as c:
        c.say(Frame(Opcode.PING, b"there?"))
        frame = await c.next()
        assert (frame.opcode, frame.data) == (Opcode.PONG, b"there?")


@in_virtual_time
async def test_the_clients_close_is_answered_and_told() -> None:
    async with client() as c:
        c.protocol.send_close(4000, "bye")
        c.flush()
        assert (await c.next()).opcode is Opcode.CLOSE
        assert await c.wire.read() == b""  # and then the connection is closed
        await turns(20)
        assert heard[1:] == [(4000, "bye")]


@in_virtual_time
async def test_a_client_that_vanishes_is_told_as_such() -> None:
    async with client() as c:
        c.wire.leave()
        await turns(20)
        assert heard[1:] == [(1006, "")]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (Frame(Opcode.TEXT, b"\xff\xfe"), 1007),
        (Frame(Opcode.CONT, b"of nothing"), 1002),
        (Frame(Opcode.BINARY, b"x" * 2001), 1009),
        (Frame(Opcode.TEXT, b"odd"), 1011),  # the app closes with a code that may not be sent
    ],
)
@in_virtual_time
async def test_what_cannot_go_on_is_closed_with_a_code(
    frame: Frame, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_websocket, "MESSAGE_BYTES_MAX", 2000)
    async with client() as c:
        c.say(frame)
        while (last := await c.next()).opcode is not Opcode.CLOSE:
            pass
        assert int.from_bytes(last.data[:2], "big") == code
        await turns(20)
        assert [note[0] for note in heard[1:]] == ([code] if code != 1011 else [])


@in_virtual_time
async def test_a_client_that_takes_nothing_holds_up_the_app() -> None:
    async with client("/flood") as c:
        c.wire.connection._upgraded.pause_writing()  # type: ignore[union-attr]
        await asyncio.sleep(10)
        before = sum(heard[1:])
        await asyncio.sleep(10)
        assert sum(heard[1:]) == before
        assert before < 2**20


@in_virtual_time
async def test_an_app_that_reads_nothing_holds_up_the_client() -> None:
    async with client("/deaf") as c:
        assert isinstance(c.wire, PacedWire)
        said_bytes = 0
        while c.wire.is_read and said_bytes < 10 * 2**20:
            c.say(Frame(Opcode.BINARY, b"x" * 50_000))
            said_bytes += 50_000
            await turns(5)
        assert said_bytes < 2**20 + UNREAD_BYTES_MAX


@in_virtual_time
async def test_a_server_that_stops_says_so() -> None:
    async with client() as c:
        c.wire.connection.stop()
        frame = await c.next()
        assert (frame.opcode, frame.data[:2]) == (Opcode.CLOSE, (1001).to_bytes(2, "big"))
        await turns(20)
        assert heard[1:] == [(1001, "")]


@in_virtual_time
async def test_a_client_that_does_not_answer_a_close_is_left() -> None:
    async with client() as c:
        c.wire.connection.stop()
        c.wire.say = lambda data: None  # type: ignore[method-assign]
        await asyncio.sleep(2 * http_websocket.CLOSE_TIMEOUT_S)
        assert c.wire.is_closed
        assert heard[1:] == [(1006, "")]


@in_virtual_time
async def test_a_client_that_leaves_before_it_is_accepted_is_forgotten() -> None:
    async with proxy_before_echo() as cluster:
        c = Client(PacedWire(cluster.directory, HTTPOptions()), "/slow")
        await asyncio.sleep(1)
        c.wire.leave()
        await asyncio.sleep(30)
        assert c.wire.is_closed


@in_virtual_time
async def test_one_that_goes_on_as_if_nothing_had_been_asked_for_is_broken_off() -> None:
    async with proxy_before_echo() as cluster:
        c = Client(PacedWire(cluster.directory, HTTPOptions()), "/slow")
        c.wire.say(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await asyncio.sleep(30)
        assert c.wire.is_closed


@pytest.mark.parametrize("line", [b"POST / HTTP/1.1", b"GET / HTTP/1.0"])
@in_virtual_time
async def test_what_cannot_become_a_socket_is_a_request_like_any_other(line: bytes) -> None:
    async with proxy_before_echo() as cluster:
        wire = PacedWire(cluster.directory, HTTPOptions())
        wire.say(line + b"\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 0\r\n\r\n")
        await wire.read()
        assert heard == [("http", "/", "")]


@pytest.mark.parametrize(
    ("headers", "status"),
    [(b"", b"426"), (b"connection: upgrade\r\n", b"400"), (b"connection: upgrade\r\nsec-websocket-key: x\r\n", b"400")],
)
@in_virtual_time
async def test_what_is_no_handshake_is_refused(headers: bytes, status: bytes) -> None:
    async with proxy_before_echo() as cluster:
        wire = PacedWire(cluster.directory, HTTPOptions())
        wire.say(b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\n%b\r\n" % headers)
        assert (await wire.read()).split(b" ")[1] == status
        assert heard == []
