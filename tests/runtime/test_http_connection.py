"""HTTP/1.1 without sockets: what a client sends, what the application is given, what the client gets."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from virtual_time import in_virtual_time, turns

from modelplex.runtime import http_exchange
from modelplex.runtime.http_connection import (
    DROPPED_BYTES_MAX,
    LINGER_S,
    PIPELINED_MAX,
    UNREAD_BYTES_MAX,
    HTTPConnection,
)
from modelplex.runtime.http_exchange import COPIED_BYTES_MAX, STALL_TIMEOUT_S, HTTPExchange
from modelplex.runtime.http_parser import HEAD_BYTES_MAX, HEADERS_MAX, TARGET_BYTES_MAX
from modelplex.runtime.http_patience import HEAD_TIMEOUT_S

TIMEOUT_S = 5.0
BODY_TIMEOUT_S = 60.0
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
DATE = b"date: today\r\n"


@pytest.fixture(autouse=True)
def _date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_exchange._Date, "line", lambda self: DATE)


class FakeTransport(asyncio.Transport):
    """Keeps what is written; the client takes it all, unless the test says otherwise (`unsent_bytes`)."""

    def __init__(self) -> None:
        super().__init__({"peername": ("10.0.0.1", 99), "sockname": ("10.0.0.2", 80)})
        self.connection: HTTPConnection | None = None
        self.writes: list[bytes] = []
        self.lines_written = 0
        self.unsent_bytes = 0
        self.paused = self.closing = self.aborted = self.eof = False

    def write(self, data: Any) -> None:
        assert not self.closing
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        self.lines_written += 1
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        self.eof = True

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closing

    def is_reading(self) -> bool:
        return not self.paused

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            if not self.unsent_bytes:
                self._end()

    def abort(self) -> None:
        if not self.aborted:
            already = self.closing and not self.unsent_bytes
            self.aborted = self.closing = True
            if not already:
                self._end()

    def _end(self) -> None:
        assert self.connection is not None
        asyncio.get_running_loop().call_soon(self.connection.connection_lost, None)

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False


class Wire:
    """A connection, its client's end, and the exchanges that the application was given.

    Without an `application` they are answered by the test.
    """

    def __init__(self, application: Callable[[HTTPExchange], None] | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self.exchanges: list[HTTPExchange] = []
        self.lost: list[int] = []
        self.open = 0
        self._application = application
        self.transport = FakeTransport()
        self.connection = self.transport.connection = HTTPConnection(self._apply, self, timeout_s, BODY_TIMEOUT_S)
        self.connection.connection_made(self.transport)

    def _apply(self, exchange: HTTPExchange) -> None:
        number = len(self.exchanges)
        self.exchanges.append(exchange)
        exchange.on_lost = lambda: self.lost.append(number)
        if self._application is not None:
            self._application(exchange)

    def opened(self, connection: HTTPConnection) -> None:
        self.open += 1

    def closed(self, connection: HTTPConnection) -> None:
        self.open -= 1

    def send(self, data: bytes) -> None:
        """The client sends, as long as there is a connection."""
        if not self.transport.closing:
            self.connection.data_received(data)

    def leave(self) -> None:
        self.transport.closing = True
        self.connection.connection_lost(None)

    @property
    def got(self) -> bytes:
        return b"".join(self.transport.writes)

    def answer(self, number: int = -1, body: bytes = b"ok") -> None:
        self.exchanges[number].respond(200, [], body)


def ok(body: bytes = b"ok", *more: bytes) -> bytes:
    lines = b"".join(line + b"\r\n" for line in more)
    return b"%b%bcontent-length: %d\r\n%b\r\n%b" % (OK, DATE, len(body), lines, body)


def echo(exchange: HTTPExchange) -> None:
    assert not exchange.more
    exchange.respond(200, [], exchange.body)


REFUSED = b"HTTP/1.1 400 Bad Request\r\n"


# Requests


@in_virtual_time
async def test_a_request_as_the_application_sees_it() -> None:
    wire = Wire()
    wire.send(b"PUT /a%20b/%ff?x=%20&y HTTP/1.1\r\nHost: h\r\nX-Two: 1\r\nx-two:  2\r\nContent-Length: 3\r\n\r\nabc")
    [exchange] = wire.exchanges
    assert (exchange.method, exchange.path, exchange.raw_path) == ("PUT", "/a b/\ufffd", b"/a%20b/%ff")
    assert (exchange.query_string, exchange.http_version, exchange.scheme) == (b"x=%20&y", "1.1", "http")
    assert exchange.headers == [(b"host", b"h"), (b"x-two", b"1"), (b"x-two", b"2"), (b"content-length", b"3")]
    assert (exchange.client, exchange.server) == (("10.0.0.1", 99), ("10.0.0.2", 80))
    assert (exchange.body, exchange.more, exchange.lost) == (b"abc", False, False)


@pytest.mark.parametrize(
    ("target", "path", "raw_path", "query"),
    [
        (b"/", "/", b"/", b""),
        (b"/?", "/", b"/", b""),
        (b"/a?b?c", "/a", b"/a", b"b?c"),
        (b"//a/../b", "//a/../b", b"//a/../b", b""),
        (b"/a#f?x", "/a", b"/a", b""),
        (b"*", "*", b"*", b""),
        (b"http://h/p%41?q", "/pA", b"/p%41", b"q"),
        (b"http://h:80", "/", b"/", b""),
        (b"http://h?q", "/", b"/", b"q"),
    ],
)
@in_virtual_time
async def test_targets(target: bytes, path: str, raw_path: bytes, query: bytes) -> None:
    wire = Wire()
    host = b"h:80" if b":80" in target else b"h"
    wire.send(b"OPTIONS " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    [exchange] = wire.exchanges
    assert (exchange.path, exchange.raw_path, exchange.query_string) == (path, raw_path, query)


def cuts(data: bytes) -> Iterator[list[bytes]]:
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]
    yield [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"hello",
        CHUNKED + b"1;x=y\r\nh\r\n4\r\nello\r\n0\r\n\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\nX-Trailer: t\r\nHost: evil\r\n\r\n",
        UPGRADE + b"Content-Length: 5\r\n\r\nhello",
        UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
    ids=["length", "chunks", "trailers", "upgrade", "upgrade with chunks"],
)
@in_virtual_time
async def test_wherever_a_request_is_cut_it_is_the_same(request_: bytes) -> None:
    next_one = b"GET /next HTTP/1.1\r\nHost: b\r\n\r\n"
    whole = Wire(echo)
    whole.send(request_ + next_one)
    for parts in cuts(request_ + next_one):
        wire = Wire()
        bodies: list[bytes] = []
        for part in parts:
            wire.send(part)
            if len(wire.exchanges) > len(bodies):  # the application has just been called
                bodies.append(wire.exchanges[-1].body)
            if wire.exchanges and not wire.exchanges[-1].ended and wire.exchanges[-1].complete:
                exchange = wire.exchanges[-1]
                while exchange.more:
                    data, _ = await exchange.read()
                    bodies[-1] += data
                wire.answer(body=bodies[-1])
                if len(wire.exchanges) > len(bodies):
                    bodies.append(wire.exchanges[-1].body)
                    wire.answer(body=bodies[-1])
        assert bodies == [b"hello", b""]
        assert wire.got == whole.got
        assert [e.headers for e in wire.exchanges] == [e.headers for e in whole.exchanges]
        assert wire.exchanges[1].headers == [(b"host", b"b")]
        assert b"x-trailer" not in dict(wire.exchanges[0].headers)
    assert whole.got == ok(b"hello") + ok(b"")


@in_virtual_time
async def test_an_upgrade_is_an_ordinary_request_and_so_is_what_follows() -> None:
    upgrade = b"GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    wire = Wire(echo)
    wire.send(upgrade * 1500 + GET)
    assert wire.got == ok(b"") * 1501
    wire = Wire(echo)
    wire.send(b"GET / HTTP/1.1\r\nConnection: Upgrade, close\r\nUpgrade: x\r\n\r\n" + GET)
    assert wire.got == ok(b"", b"connection: close")


@in_virtual_time
async def test_the_application_is_called_when_the_head_is_there_with_what_came_along() -> None:
    wire = Wire()
    wire.send(POST[:-1])
    assert not wire.exchanges
    wire.send(POST[-1:] + b"he")
    [exchange] = wire.exchanges
    assert (exchange.body, exchange.more) == (b"he", True)
    wire.send(b"l")
    assert await exchange.read() == (b"l", True)
    reading = asyncio.create_task(exchange.read())
    await turns(3)
    assert not reading.done()
    wire.send(b"lo")
    assert await reading == (b"lo", False)
    assert not exchange.more
    assert await exchange.read() == (b"", False)


@in_virtual_time
async def test_the_end_of_chunks_may_come_alone() -> None:
    wire = Wire()
    wire.send(CHUNKED + b"2\r\nab\r\n")
    [exchange] = wire.exchanges
    assert (exchange.body, exchange.more) == (b"ab", True)
    reading = asyncio.create_task(exchange.read())
    await turns(3)
    wire.send(b"0\r\n\r\n")
    assert await reading == (b"", False)


# What is refused


BAD = {
    "garbage": b"\x16\x03\x01\x02\x00\x01",
    "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "length list": b"POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\nhello",
    "length sign": b"POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\nhello",
    "length hex": b"POST / HTTP/1.1\r\nContent-Length: 0x5\r\n\r\nhello",
    "length overflow": b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    "length and chunks": b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "unknown coding": b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked not last": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked twice": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks in 1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare LF after the line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "bare LF after a header": b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "bare CR in a header": b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
    "space before the colon": b"POST / HTTP/1.1\r\nContent-Length : 5\r\n\r\nhello",
    "folded header": b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
    "folded coding": b"POST / HTTP/1.1\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "space before a header": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    "no name": b"GET / HTTP/1.1\r\n: a\r\n\r\n",
    "0.9": b"GET /\r\n\r\n",
    "2.0": b"GET / HTTP/2.0\r\n\r\n",
    "1.2": b"GET / HTTP/1.2\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "lower-case method": b"get / HTTP/1.1\r\n\r\n",
    "CONNECT": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "no target": b"GET a HTTP/1.1\r\n\r\n",
    "no URL": b"GET http:// HTTP/1.1\r\n\r\n",
    "target not ASCII": b"GET /\xff HTTP/1.1\r\n\r\n",
    "chunk size": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "chunk size sign": CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    "chunk size overflow": CHUNKED + b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "chunk too long": CHUNKED + b"4\r\nhello\r\n0\r\n\r\n",
    "bare LF in chunks": CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    "bare LF in a chunk's extension": CHUNKED + b"5;a\nhello\r\n0\r\n\r\n",
    "chunk size after an upgrade": UPGRADE + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "the same host twice": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "a URL of another host": b"GET http://evil/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "a URL of a longer host": b"GET http://ab/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "a URL with a user": b"GET http://a@evil/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "tab before the colon": b"POST / HTTP/1.1\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
    "coding after a vertical tab": b"POST / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "coding in quotes": b'POST / HTTP/1.1\r\nTransfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "identity coding": b"POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\nhello",
    "NUL in a name": b"GET / HTTP/1.1\r\nHo\0st: a\r\n\r\n",
    "NUL in the target": b"GET /\0 HTTP/1.1\r\n\r\n",
    "space in the target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "negative length": b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\nhello",
    "empty length": b"POST / HTTP/1.1\r\nContent-Length: \r\n\r\nhello",
    "two lengths that differ": b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "bare CR in a chunk's extension": CHUNKED + b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "no end of a chunk": CHUNKED + b"5\r\nhelloXX0\r\n\r\n",
    "length in the trailers": CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n",
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
@in_virtual_time
async def test_what_is_no_request_is_refused(bad: bytes, caplog: pytest.LogCaptureFixture) -> None:
    wire = Wire(echo)
    wire.send(bad + GET)
    wire.send(GET)
    assert not wire.exchanges
    text = b"Invalid HTTP request received."
    head = REFUSED + b"content-type: text/plain; charset=utf-8\r\n" + DATE
    assert wire.got == head + b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(text), text)
    assert wire.transport.is_closing()
    assert not caplog.records


@in_virtual_time
async def test_requests_before_a_bad_one_are_answered_first() -> None:
    wire = Wire()
    wire.send(GET + GET + b"nonsense\r\n\r\n")
    assert not wire.got
    wire.answer()
    assert wire.got == ok()
    wire.answer()
    assert wire.got.startswith(ok() * 2 + REFUSED)
    assert wire.got.count(b"HTTP/1.1 ") == 3
    assert wire.transport.is_closing()


@in_virtual_time
async def test_a_body_that_becomes_malformed_ends_its_request() -> None:
    wire = Wire()
    wire.send(CHUNKED + b"1\r\na\r\n")
    [exchange] = wire.exchanges
    reading = asyncio.create_task(exchange.read())
    await turns(3)
    wire.send(b"nonsense")
    with pytest.raises(ConnectionResetError):
        await reading
    assert wire.lost == [0]
    assert exchange.lost
    wire.answer()  # too late
    assert wire.got.startswith(REFUSED)
    assert wire.got.count(b"HTTP/1.1 ") == 1
    await turns(3)
    assert (wire.lost, wire.open) == ([0], 0)


@in_virtual_time
async def test_a_body_that_becomes_malformed_under_its_answer_breaks_it_off() -> None:
    wire = Wire()
    wire.send(CHUNKED + b"1\r\na\r\n")
    wire.exchanges[0].respond(200, [], b"a", more=True)
    wire.send(b"nonsense")
    assert wire.transport.aborted
    assert REFUSED not in wire.got
    await turns(3)
    assert wire.lost == [0]


@in_virtual_time
async def test_a_body_that_becomes_malformed_after_its_answer_ends_the_connection() -> None:
    wire = Wire()
    wire.send(CHUNKED)
    wire.answer()
    wire.send(b"nonsense")
    assert wire.got == ok()
    assert (wire.transport.is_closing(), wire.transport.aborted) == (True, False)


@in_virtual_time
async def test_a_bad_body_that_waits_for_its_turn_never_gets_it() -> None:
    wire = Wire()
    wire.send(GET + CHUNKED + b"1\r\na\r\n")
    wire.send(b"nonsense")
    wire.answer()
    assert len(wire.exchanges) == 1
    assert wire.got.startswith(ok() + REFUSED)


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nX: " + b"x" * HEAD_BYTES_MAX + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (HEADERS_MAX + 1) + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (HEAD_BYTES_MAX // 6 + 1) + b"\r\n",
    ],
    ids=["value", "headers", "many"],
)
@pytest.mark.parametrize("size_bytes", [1000, 2**20])
@in_virtual_time
async def test_a_head_may_have_so_many_bytes(head: bytes, size_bytes: int) -> None:
    wire = Wire(echo)
    for at in range(0, len(head), size_bytes):
        wire.send(head[at : at + size_bytes])
    assert wire.got.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b"connection: close\r\n" in wire.got
    assert wire.transport.is_closing()
    assert not wire.exchanges


@in_virtual_time
async def test_a_large_head_is_taken_and_bodies_and_other_requests_do_not_count() -> None:
    head = b"POST / HTTP/1.1\r\nX: " + b"x" * (HEAD_BYTES_MAX - 100) + b"\r\nContent-Length: 100000\r\n\r\n"
    wire = Wire(echo)
    wire.send(head + b"b" * 100_000 + GET * 3000 + GET[:5])
    wire.send(GET[5:])
    assert len(wire.exchanges) == 3002
    assert not wire.transport.is_closing()


@pytest.mark.parametrize("part", [b"5;" + b"x" * 1000, b"0\r\nX: " + b"x" * 1000], ids=["extension", "trailer"])
@in_virtual_time
async def test_what_frames_a_body_has_an_end_too(part: bytes) -> None:
    wire = Wire()
    wire.send(CHUNKED)
    wire.send(part)
    for _ in range(HEAD_BYTES_MAX // 1000):
        wire.send(b"x" * 1000)
    assert wire.got.startswith(b"HTTP/1.1 431 ")
    assert wire.lost == [0]


# Answers


@in_virtual_time
async def test_an_answer_in_one_part_is_one_write() -> None:
    wire = Wire(lambda e: e.respond(404, [(b"X-A", b"1"), (b"x-b", b"")], memoryview(b"gone")))
    wire.send(GET)
    head = b"HTTP/1.1 404 Not Found\r\nX-A: 1\r\nx-b: \r\n" + DATE + b"content-length: 4\r\n\r\n"
    assert wire.transport.writes == [head + b"gone"]
    assert not wire.transport.is_closing()


@pytest.mark.parametrize(("size_bytes", "lines_written"), [(COPIED_BYTES_MAX, 0), (COPIED_BYTES_MAX + 1, 1)])
@in_virtual_time
async def test_a_large_body_is_not_copied(size_bytes: int, lines_written: int) -> None:
    wire = Wire(lambda e: e.respond(200, [], memoryview(bytes(size_bytes))))
    wire.send(GET)
    assert wire.got == ok(bytes(size_bytes))
    assert wire.transport.lines_written == lines_written


@in_virtual_time
async def test_an_answer_in_parts_is_chunked() -> None:
    wire = Wire()
    wire.send(GET + GET)
    first = wire.exchanges[0]
    first.respond(200, [(b"Transfer-Encoding", b"chunked")], b"one", more=True)
    first.write(b"", more=True)
    first.write(memoryview(b"two"), more=True)
    first.write(bytes(COPIED_BYTES_MAX + 1), more=True)
    assert len(wire.exchanges) == 1
    first.write(b"", more=False)
    head = OK + DATE + b"transfer-encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%b\r\n" % (COPIED_BYTES_MAX + 1, bytes(COPIED_BYTES_MAX + 1))
    assert wire.got == head + b"3\r\none\r\n3\r\ntwo\r\n" + chunk + b"0\r\n\r\n"
    second = wire.exchanges[1]
    second.respond(200, [], more=True)
    second.write(b"end", more=False)
    assert wire.got.endswith(head + b"3\r\nend\r\n0\r\n\r\n")


@in_virtual_time
async def test_a_given_length_and_date_are_kept() -> None:
    wire = Wire()
    wire.send(GET)
    exchange = wire.exchanges[0]
    exchange.respond(200, [(b"Content-Length", b"6"), (b"Date", b"then")], b"one", more=True)
    exchange.write(b"two", more=False)
    assert wire.got == OK + b"Content-Length: 6\r\nDate: then\r\n\r\nonetwo"
    assert not wire.transport.is_closing()


@pytest.mark.parametrize("parts", [[b"seven b"], [b"five "], [b"four", b"mor"], [b"four", b""], [b"four", b"mor", b""]])
@in_virtual_time
async def test_a_body_of_another_length_than_was_said_breaks_off(
    parts: list[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    wire = Wire()
    wire.send(b"GET /here HTTP/1.1\r\n\r\n" + GET)
    exchange = wire.exchanges[0]
    exchange.respond(200, [(b"content-length", b"6")], parts[0], more=len(parts) > 1)
    for number, part in enumerate(parts[1:], 2):
        exchange.write(part, more=number < len(parts))
    assert wire.transport.aborted
    assert exchange.lost
    assert b"mor" not in wire.got
    assert [(r.levelno, "/here" in r.getMessage()) for r in caplog.records] == [(logging.ERROR, True)]
    exchange.write(b"x", more=True)
    await turns(2)
    assert (len(wire.exchanges), wire.lost) == (1, [0])


@pytest.mark.parametrize(
    ("status", "given", "body", "head"),
    [
        (204, [], b"", b"HTTP/1.1 204 No Content\r\n" + DATE),
        (204, [], b"body", b"HTTP/1.1 204 No Content\r\n" + DATE),
        (304, [(b"content-length", b"9")], b"", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n" + DATE),
    ],
)
@pytest.mark.parametrize("more", [False, True])
@in_virtual_time
async def test_some_answers_have_no_body(
    status: int, given: list[tuple[bytes, bytes]], body: bytes, head: bytes, more: bool
) -> None:
    wire = Wire()
    wire.send(GET)
    wire.exchanges[0].respond(status, given, body, more=more)
    if more:
        wire.exchanges[0].write(b"more", more=False)
    assert wire.got == head + b"\r\n"
    assert not wire.transport.is_closing()


@pytest.mark.parametrize(
    ("given", "body", "more", "head"),
    [
        ([], b"body", False, DATE + b"content-length: 4\r\n"),
        ([(b"content-length", b"9")], b"", False, b"content-length: 9\r\n" + DATE),
        ([(b"content-length", b"9")], b"body", False, b"content-length: 9\r\n" + DATE),
        ([], b"", False, DATE),
        ([], b"part", True, DATE),
    ],
)
@in_virtual_time
async def test_head_gets_the_head_alone(given: list[tuple[bytes, bytes]], body: bytes, more: bool, head: bytes) -> None:
    wire = Wire()
    wire.send(b"HEAD / HTTP/1.1\r\n\r\n" + GET)
    wire.exchanges[0].respond(200, given, body, more=more)
    if more:
        wire.exchanges[0].write(b"more", more=False)
    wire.answer(1)
    assert wire.got == OK + head + b"\r\n" + ok()


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, [(b"x", b"a\r\nset-cookie: b")]),
        (200, [(b"x", b"a\nb")]),
        (200, [(b"x", b"a\rb")]),
        (200, [(b"x", b"a\0b")]),
        (200, [(b"x\r\ny", b"a")]),
        (200, [(b"content-length", b"5"), (b"Content-Length", b"5")]),
        (200, [(b"content-length", b"-5")]),
        (200, [(b"content-length", b"")]),
        (99, []),
        (600, []),
    ],
)
@in_virtual_time
async def test_an_answer_that_cannot_be_sent_is_an_error_and_another_can_be(
    status: int, headers: list[tuple[bytes, bytes]]
) -> None:
    wire = Wire()
    wire.send(GET)
    with pytest.raises(ValueError, match=r"answer|status"):
        wire.exchanges[0].respond(status, headers, b"hello")
    assert not wire.got
    wire.answer()
    assert wire.got == ok()


@in_virtual_time
async def test_a_request_is_answered_once() -> None:
    wire = Wire()
    wire.send(GET)
    exchange = wire.exchanges[0]
    with pytest.raises(RuntimeError, match="begun"):
        exchange.write(b"x", more=True)
    exchange.respond(200, [], more=True)
    with pytest.raises(RuntimeError, match="already"):
        exchange.respond(200, [])
    exchange.write(b"", more=False)
    with pytest.raises(RuntimeError, match="ended"):
        exchange.write(b"", more=False)


@in_virtual_time
async def test_a_fault_of_the_application_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    def fail(exchange: HTTPExchange) -> None:
        raise KeyError("secret")

    wire = Wire(fail)
    wire.send(b"GET /here HTTP/1.1\r\n\r\n" + GET)
    assert wire.got.count(b"HTTP/1.1 500 Internal Server Error\r\n") == 2
    assert b"secret" not in wire.got
    assert "'/here'" in caplog.records[0].getMessage()
    assert caplog.records[0].exc_info is not None


@in_virtual_time
async def test_a_fault_after_the_answer_has_begun_breaks_it_off() -> None:
    def fail(exchange: HTTPExchange) -> None:
        exchange.respond(200, [], b"a", more=True)
        raise KeyError

    wire = Wire(fail)
    wire.send(GET + GET)
    assert wire.transport.aborted
    await turns(2)
    assert (len(wire.exchanges), wire.lost, wire.open) == (1, [], 0)


@in_virtual_time
async def test_a_fault_after_the_answer_has_ended_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    def fail(exchange: HTTPExchange) -> None:
        exchange.respond(200, [], b"ok")
        raise KeyError

    wire = Wire(fail)
    wire.send(GET + GET)
    assert wire.got == ok() * 2
    assert len(caplog.records) == 2


# How long a connection lives


@pytest.mark.parametrize(
    ("request_", "headers", "added", "closes"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", [], b"", False),
        (b"GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", [], b"connection: close\r\n", True),
        (b"GET / HTTP/1.1\r\n\r\n", [(b"Connection", b"x, Close")], b"connection: close\r\n", True),
        (b"GET / HTTP/1.1\r\n\r\n", [(b"connection", b"keep-alive")], b"", False),
        (b"GET / HTTP/1.0\r\n\r\n", [], b"connection: close\r\n", True),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", [], b"connection: keep-alive\r\n", False),
    ],
)
@in_virtual_time
async def test_keep_alive(request_: bytes, headers: list[tuple[bytes, bytes]], added: bytes, closes: bool) -> None:
    wire = Wire(lambda e: e.respond(200, headers, b"ok"))
    wire.send(request_ * 2)
    once = OK + DATE + b"content-length: 2\r\n" + added + b"\r\nok"
    assert wire.got == (once if closes else once * 2)
    assert wire.transport.is_closing() is closes


@in_virtual_time
async def test_in_1_0_the_end_of_parts_is_the_end_of_the_connection() -> None:
    wire = Wire()
    wire.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    exchange = wire.exchanges[0]
    exchange.respond(200, [(b"transfer-encoding", b"chunked")], b"one", more=True)
    exchange.write(b"two", more=True)
    assert not wire.transport.is_closing()
    exchange.write(b"", more=False)
    assert wire.got == OK + DATE + b"connection: close\r\n\r\nonetwo"
    assert wire.transport.is_closing()
    assert not wire.transport.aborted


@in_virtual_time
async def test_requests_that_come_together_are_answered_in_their_order() -> None:
    wire = Wire()
    wire.send(b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n" + POST + b"he")
    assert [e.path for e in wire.exchanges] == ["/1"]
    wire.send(b"ll")
    wire.exchanges[0].respond(200, [], b"one", more=True)
    assert len(wire.exchanges) == 1
    wire.exchanges[0].write(b"", more=False)
    wire.answer(1)
    assert [(e.path, e.body, e.more) for e in wire.exchanges[1:]] == [("/2", b"", False), ("/", b"hell", True)]


@in_virtual_time
async def test_any_number_that_came_at_once_is_answered() -> None:
    wire = Wire(lambda e: e.respond(200, [], b"ok"))
    wire.send(GET * 5000)
    assert wire.got == ok() * 5000


@in_virtual_time
async def test_reading_pauses_while_many_wait() -> None:
    wire = Wire()
    wire.send(GET * PIPELINED_MAX)
    assert wire.transport.is_reading()
    wire.send(GET)
    assert not wire.transport.is_reading()
    wire.answer(0)
    assert wire.transport.is_reading()
    for number in range(1, PIPELINED_MAX + 1):
        wire.answer(number)
    assert wire.got == ok() * (PIPELINED_MAX + 1)


# Bodies that nobody reads


@in_virtual_time
async def test_a_body_that_nobody_reads_pauses_reading() -> None:
    wire = Wire()
    wire.send(b"POST / HTTP/1.1\r\nContent-Length: 10000000\r\n\r\n")
    wire.send(bytes(UNREAD_BYTES_MAX))
    assert wire.transport.is_reading()
    wire.send(b"x")
    assert not wire.transport.is_reading()
    assert await wire.exchanges[0].read() == (bytes(UNREAD_BYTES_MAX) + b"x", True)
    assert wire.transport.is_reading()
    wire.send(bytes(UNREAD_BYTES_MAX + 1))
    assert not wire.transport.is_reading()
    wire.answer()
    assert wire.transport.is_reading()  # the rest is dropped


@in_virtual_time
async def test_a_body_that_waits_for_its_turn_pauses_reading() -> None:
    wire = Wire()
    wire.send(GET + b"POST / HTTP/1.1\r\nContent-Length: 10000000\r\n\r\n" + bytes(UNREAD_BYTES_MAX + 1))
    assert not wire.transport.is_reading()
    wire.answer()
    assert wire.transport.is_reading()
    assert len(wire.exchanges[1].body) == UNREAD_BYTES_MAX + 1


@in_virtual_time
async def test_what_is_left_of_a_body_is_dropped_before_the_next_request() -> None:
    wire = Wire()
    wire.send(POST + b"he")
    wire.answer()
    with pytest.raises(ConnectionResetError):
        await wire.exchanges[0].read()
    wire.send(b"ll")
    wire.send(b"o" + GET)
    wire.answer(1)
    assert wire.got == ok() * 2
    assert not wire.lost
    assert [e.on_lost for e in wire.exchanges] == [None, None]


@in_virtual_time
async def test_a_reader_is_told_that_the_answer_has_ended() -> None:
    wire = Wire()
    wire.send(POST)
    reading = asyncio.create_task(wire.exchanges[0].read())
    await turns(3)
    wire.answer()
    with pytest.raises(ConnectionResetError):
        await reading


@in_virtual_time
async def test_only_so_much_is_dropped_of_each_request() -> None:
    wire = Wire(lambda e: e.respond(200, [], b"ok"))
    for _ in range(2):
        wire.send(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % DROPPED_BYTES_MAX)
        wire.send(bytes(DROPPED_BYTES_MAX))
    assert not wire.transport.is_closing()
    wire.send(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (DROPPED_BYTES_MAX + 1))
    wire.send(bytes(DROPPED_BYTES_MAX))
    assert not wire.transport.is_closing()
    wire.send(b"x" + GET)
    assert wire.transport.is_closing()
    assert wire.got == ok() * 3


@in_virtual_time
async def test_a_connection_that_is_to_close_still_takes_a_body_so_that_its_answer_arrives() -> None:
    wire = Wire()
    wire.send(POST + b"he")
    wire.exchanges[0].respond(413, [(b"connection", b"close")], b"no")
    assert (wire.transport.eof, wire.transport.is_closing()) == (True, False)
    wire.send(b"llo" + GET)
    assert wire.transport.is_closing()
    assert len(wire.exchanges) == 1
    assert wire.got.count(b"HTTP/1.1 ") == 1


# Expect: 100-continue

EXPECTS = b"POST / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@in_virtual_time
async def test_a_client_that_waits_for_it_is_told_to_go_on_when_the_body_is_read() -> None:
    wire = Wire()
    wire.send(EXPECTS)
    assert not wire.got
    reading = asyncio.create_task(wire.exchanges[0].read())
    await turns(2)
    assert wire.got == CONTINUE
    wire.send(b"he")
    assert await reading == (b"he", True)
    wire.send(b"llo")
    assert await wire.exchanges[0].read() == (b"llo", False)
    wire.answer()
    assert wire.got == CONTINUE + ok()
    assert not wire.transport.is_closing()


@in_virtual_time
async def test_who_is_not_told_to_go_on_is_told_that_the_connection_closes() -> None:
    wire = Wire()
    wire.send(EXPECTS)
    wire.answer()
    assert wire.got == ok(b"ok", b"connection: close")
    assert wire.transport.eof
    wire.send(b"hello" + GET)
    assert wire.transport.is_closing()
    assert len(wire.exchanges) == 1


@in_virtual_time
async def test_nobody_is_told_to_go_on_within_an_answer() -> None:
    wire = Wire()
    wire.send(EXPECTS)
    wire.exchanges[0].respond(200, [(b"content-length", b"2")], b"o", more=True)
    reading = asyncio.create_task(wire.exchanges[0].read())
    await turns(2)
    wire.send(b"hello")
    assert await reading == (b"hello", False)
    wire.exchanges[0].write(b"k", more=False)
    assert CONTINUE not in wire.got
    assert wire.transport.is_closing()


@pytest.mark.parametrize(
    "request_", [EXPECTS + b"he", EXPECTS.replace(b"1.1", b"1.0"), EXPECTS.replace(b"100-C", b"x")]
)
@in_virtual_time
async def test_others_are_not_told(request_: bytes) -> None:
    wire = Wire()
    wire.send(request_)
    reading = asyncio.create_task(wire.exchanges[0].read())
    await turns(2)
    assert not wire.got
    wire.send(b"hello"[len(wire.exchanges[0].body) :])
    await reading


# Clients that leave


@pytest.mark.parametrize("how", ["leave", "eof"])
@in_virtual_time
async def test_a_client_that_leaves(how: str) -> None:
    wire = Wire()
    wire.send(GET + GET + POST)
    exchange = wire.exchanges[0]
    exchange.respond(200, [], b"a", more=True)
    wire.connection.pause_writing()
    draining = asyncio.create_task(exchange.drain())
    await turns(2)
    assert not draining.done()
    if how == "eof":
        wire.connection.eof_received()
    else:
        wire.leave()
    await draining
    assert wire.lost == [0]
    if how == "eof":
        wire.leave()
    assert (wire.lost, wire.open, exchange.lost, len(wire.exchanges)) == ([0], 0, True, 1)
    exchange.write(b"b", more=True)
    exchange.abort()
    await exchange.drain()
    assert wire.got.endswith(b"1\r\na\r\n")
    wire.transport.unsent_bytes = 1
    await asyncio.sleep(3 * STALL_TIMEOUT_S)
    assert not wire.transport.aborted  # no timer is left


@in_virtual_time
async def test_a_client_that_leaves_while_its_body_is_read() -> None:
    wire = Wire()
    wire.send(POST + b"he")
    reading = asyncio.create_task(wire.exchanges[0].read())
    await turns(2)
    wire.leave()
    with pytest.raises(ConnectionResetError):
        await reading
    with pytest.raises(ConnectionResetError):
        await wire.exchanges[0].read()
    wire.answer()
    assert (wire.lost, wire.got) == ([0], b"")


@pytest.mark.parametrize("request_", [b"", GET[:10], GET, POST], ids=["no", "part of a", "answered", "early answered"])
@in_virtual_time
async def test_nobody_is_told_of_a_client_that_leaves_between_requests(request_: bytes) -> None:
    wire = Wire(lambda e: e.respond(200, [], b"ok"))
    wire.send(request_)
    wire.leave()
    assert (wire.lost, wire.open) == ([], 0)


@in_virtual_time
async def test_abort() -> None:
    wire = Wire()
    wire.send(GET + GET)
    wire.exchanges[0].respond(200, [], b"a", more=True)
    wire.exchanges[0].abort()
    assert wire.transport.aborted
    await turns(2)
    wire.exchanges[0].write(b"b", more=False)
    assert (wire.lost, wire.open, len(wire.exchanges)) == ([], 0, 1)
    assert wire.exchanges[0].lost


@in_virtual_time
async def test_drain_waits_for_the_client() -> None:
    wire = Wire()
    wire.send(GET)
    exchange = wire.exchanges[0]
    await exchange.drain()
    for _ in range(2):
        wire.connection.pause_writing()
        draining = asyncio.create_task(exchange.drain())
        await turns(3)
        assert not draining.done()
        wire.connection.resume_writing()
        await draining


# Time


@pytest.mark.parametrize("data", [b"", GET[:10], b"\r\n"], ids=["nothing", "part of a head", "blank lines"])
@in_virtual_time
async def test_a_connection_without_a_request_is_closed(data: bytes) -> None:
    wire = Wire()
    await asyncio.sleep(3)
    if data:
        wire.send(data)
    rest_s = 5 if data else 2
    await asyncio.sleep(rest_s - 0.01)
    assert not wire.transport.is_closing()
    await asyncio.sleep(0.02)
    assert wire.transport.is_closing()
    assert (wire.got, wire.open) == (b"", 0)


@in_virtual_time
async def test_a_head_has_its_time_from_its_first_byte_however_it_comes() -> None:
    wire = Wire()
    await asyncio.sleep(4)
    for second in range(5):
        wire.send(GET[second : second + 1])
        await asyncio.sleep(0.99)
    assert not wire.transport.is_closing()
    await asyncio.sleep(0.1)
    assert wire.transport.is_closing()


@in_virtual_time
async def test_a_head_after_chunks_has_its_time_too() -> None:
    wire = Wire(lambda e: e.respond(200, [], b"ok"))
    wire.send(CHUNKED + b"1\r\na\r\n")
    wire.send(b"0\r\n\r\n")
    await asyncio.sleep(4)
    wire.send(GET[:5])
    await asyncio.sleep(4)
    assert not wire.transport.is_closing()
    wire.send(GET[5:])
    assert wire.got == ok() * 2


@in_virtual_time
async def test_the_time_begins_anew_with_each_answer_and_stands_still_while_one_runs() -> None:
    wire = Wire()
    for number in range(3):
        wire.send(GET)
        await asyncio.sleep(3 * STALL_TIMEOUT_S)
        wire.answer(number)
        await asyncio.sleep(4.9)
        assert not wire.transport.is_closing()
    await asyncio.sleep(0.2)
    assert wire.transport.is_closing()
    assert not wire.transport.aborted


@in_virtual_time
async def test_the_rest_of_a_body_is_not_waited_for_when_its_answer_has_ended() -> None:
    wire = Wire()
    wire.send(POST + b"he")
    wire.answer()
    for _ in range(3):
        await asyncio.sleep(2)
        wire.send(b"l")
    assert wire.transport.is_closing()
    wire = Wire()
    wire.send(CHUNKED)
    wire.answer()
    for _ in range(6):
        await asyncio.sleep(0.9)
        wire.send(b"0")
    assert wire.transport.is_closing()


@pytest.mark.parametrize("ends", [False, True])
@in_virtual_time
async def test_a_client_that_takes_nothing_is_left(ends: bool) -> None:
    wire = Wire()
    wire.send(GET)
    wire.exchanges[0].respond(200, [], bytes(10_000), more=not ends)
    wire.transport.unsent_bytes = 9000
    await asyncio.sleep(STALL_TIMEOUT_S - TIMEOUT_S)
    wire.transport.unsent_bytes = 8000
    await asyncio.sleep(STALL_TIMEOUT_S - TIMEOUT_S)
    assert (wire.transport.aborted, wire.open) == (False, 1)
    await asyncio.sleep(3 * TIMEOUT_S)
    assert (wire.transport.aborted, wire.open) == (True, 0)
    assert wire.lost == ([] if ends else [0])


@in_virtual_time
async def test_a_client_that_takes_as_much_as_is_written_is_not_left() -> None:
    wire = Wire()
    wire.send(GET)
    wire.exchanges[0].respond(200, [], b"", more=True)
    wire.transport.unsent_bytes = 9000
    for _ in range(10):
        await asyncio.sleep(STALL_TIMEOUT_S / 2)
        wire.exchanges[0].write(bytes(1000), more=True)
    assert not wire.transport.aborted


# The end of the server


@pytest.mark.parametrize("data", [b"", GET[:10]])
@in_virtual_time
async def test_stopped_without_a_request_it_closes_soon(data: bytes) -> None:
    wire = Wire()
    wire.send(data)
    wire.connection.stop()
    await asyncio.sleep(0.9 * LINGER_S)
    assert not wire.transport.is_closing()
    await asyncio.sleep(0.2 * LINGER_S)
    assert wire.transport.is_closing()


@in_virtual_time
async def test_stopped_it_answers_a_request_that_was_on_its_way() -> None:
    wire = Wire()
    wire.connection.stop()
    wire.send(GET)
    await asyncio.sleep(2 * LINGER_S)
    assert not wire.transport.is_closing()
    wire.answer()
    assert wire.got == ok(b"ok", b"connection: close")
    assert wire.transport.is_closing()


@in_virtual_time
async def test_stopped_it_answers_what_runs_and_says_that_it_closes() -> None:
    wire = Wire()
    wire.send(POST + b"he")
    wire.connection.stop()
    wire.send(b"llo" + GET)
    assert await wire.exchanges[0].read() == (b"llo", False)
    wire.answer()
    assert wire.got == ok(b"ok", b"connection: close")
    assert wire.transport.is_closing()
    assert (len(wire.exchanges), wire.lost) == (1, [])


@in_virtual_time
async def test_stopped_it_waits_for_no_body_that_nobody_wants() -> None:
    wire = Wire()
    wire.send(POST)
    wire.connection.stop()
    wire.answer()
    assert wire.transport.is_closing()


@in_virtual_time
async def test_stopped_while_it_answers_it_closes_after_that() -> None:
    wire = Wire()
    wire.send(GET + GET)
    wire.exchanges[0].respond(200, [], b"a", more=True)
    wire.connection.stop()
    wire.exchanges[0].write(b"", more=False)
    assert wire.got.endswith(b"0\r\n\r\n")
    assert wire.transport.is_closing()
    assert not wire.transport.aborted
    assert len(wire.exchanges) == 1


@in_virtual_time
async def test_the_date_is_that_of_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    now = 1_000_000_000.9
    monkeypatch.setattr("time.time", lambda: now)
    wire = Wire(lambda e: e.respond(204, []))
    wire.send(GET)
    now += 0.2
    wire.send(GET)
    assert b"date: Sun, 09 Sep 2001 01:46:40 GMT\r\n" in wire.transport.writes[0]
    assert b"date: Sun, 09 Sep 2001 01:46:41 GMT\r\n" in wire.transport.writes[1]


# Slow clients


@in_virtual_time
async def test_a_url_may_have_so_many_bytes() -> None:
    wire = Wire(echo)
    wire.send(b"GET /" + b"x" * (TARGET_BYTES_MAX - 1) + b" HTTP/1.1\r\n\r\n")
    assert wire.got == ok(b"")
    for size_bytes in (1, 1000, 2**20):
        wire, head = Wire(echo), b"GET /" + b"x" * TARGET_BYTES_MAX + b" HTTP/1.1\r\n\r\n"
        for at in range(0, len(head), size_bytes):
            wire.send(head[at : at + size_bytes])
        assert wire.got.startswith(b"HTTP/1.1 414 ")
        assert wire.transport.is_closing()


@in_virtual_time
async def test_a_head_has_less_time_than_an_idle_connection() -> None:
    wire = Wire(echo, timeout_s=90.0)
    await asyncio.sleep(80)
    for byte in b"GET / HTTP/1.1\r\nX: " + b"x" * 100:
        wire.send(bytes([byte]))
        await asyncio.sleep(1)
        if wire.transport.is_closing():
            break
    now = asyncio.get_running_loop().time()
    assert wire.transport.is_closing()
    assert 80 + HEAD_TIMEOUT_S <= now <= 80 + HEAD_TIMEOUT_S + 2
    assert not wire.got


@in_virtual_time
async def test_a_connection_between_requests_has_its_own_time() -> None:
    wire = Wire(echo, timeout_s=90.0)
    wire.send(GET)
    await asyncio.sleep(89)
    assert not wire.transport.is_closing()
    wire.send(GET)
    await asyncio.sleep(89)
    assert not wire.transport.is_closing()
    await asyncio.sleep(2)
    assert wire.transport.is_closing()


@pytest.mark.parametrize(
    "head", [CHUNKED, b"POST / HTTP/1.1\r\nContent-Length: 9999\r\n\r\n"], ids=["chunks", "length"]
)
@pytest.mark.parametrize("period_s", [1.0, 1e9], ids=["byte by byte", "silent"])
@in_virtual_time
async def test_a_body_that_comes_too_slowly_is_told_so(head: bytes, period_s: float) -> None:
    wire = Wire()
    await asyncio.sleep(4)
    wire.send(head)
    [exchange] = wire.exchanges
    for _ in range(1000):
        if wire.transport.is_closing():
            break
        wire.send(b"1\r\nx\r\n" if head is CHUNKED else b"x")
        await asyncio.sleep(min(period_s, 100.0))
    assert wire.got.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"connection: close\r\n" in wire.got
    await turns(3)
    assert (wire.lost, exchange.lost, wire.open) == ([0], True, 0)


@in_virtual_time
async def test_a_body_that_makes_progress_may_take_any_time() -> None:
    wire = Wire()
    wire.send(b"POST / HTTP/1.1\r\nContent-Length: 20480\r\n\r\n")
    for _ in range(20):
        await asyncio.sleep(BODY_TIMEOUT_S - 1)
        wire.send(b"x" * 1024)
        await wire.exchanges[0].read()
    wire.answer()
    assert wire.got == ok()


@in_virtual_time
async def test_a_client_that_is_not_read_from_is_not_slow() -> None:
    wire = Wire()
    wire.send(b"POST / HTTP/1.1\r\nContent-Length: 10000000\r\n\r\n")
    wire.send(bytes(UNREAD_BYTES_MAX + 1))
    assert wire.transport.paused
    await asyncio.sleep(10 * BODY_TIMEOUT_S)
    assert not wire.transport.is_closing()
    await wire.exchanges[0].read()
    assert wire.transport.is_reading()
    await asyncio.sleep(BODY_TIMEOUT_S - 1)
    assert not wire.transport.is_closing()
    await asyncio.sleep(BODY_TIMEOUT_S)
    assert wire.got.startswith(b"HTTP/1.1 408 ")


@in_virtual_time
async def test_a_client_that_was_not_told_to_go_on_is_not_slow() -> None:
    wire = Wire()
    wire.send(EXPECTS)
    await asyncio.sleep(10 * BODY_TIMEOUT_S)
    assert not wire.transport.is_closing()
    wire.answer()
    assert wire.transport.eof


@in_virtual_time
async def test_whom_a_connection_waits_for() -> None:
    """So that the server knows which to close when they are too many."""
    loop = asyncio.get_running_loop()
    wire = Wire()
    began = loop.time()

    def since() -> float | None:
        return wire.connection.patience.waiting_since

    assert since() == began
    await asyncio.sleep(1)
    wire.send(b"GET")
    assert since() == began + 1
    await asyncio.sleep(1)
    wire.send(b" / HTTP/1.1\r\n\r\n")
    assert since() is None
    wire.answer()
    assert since() == began + 2
    wire.send(POST + b"x")
    await asyncio.sleep(1)
    assert since() == began + 2
    wire.send(b"elloGET")
    assert since() is None


@in_virtual_time
async def test_refused_a_connection_is_told_why_and_closed() -> None:
    wire = Wire(echo)
    wire.connection.refuse(503, b"full")
    wire.send(GET)
    assert wire.got.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert wire.got.endswith(b"connection: close\r\n\r\nfull")
    assert wire.transport.is_closing()
    assert not wire.exchanges
