"""The HTTP server on real sockets: who is accepted, and how it ends."""

import asyncio
import contextlib
import functools
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import uvloop
from http_echo import echo

from modelplex.config import HTTPOptions
from modelplex.runtime.http_connection import HTTPExchange
from modelplex.runtime.http_server import HTTPServer

pytestmark = pytest.mark.system

GUARD_S = 10.0
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

Application = Callable[[HTTPExchange], None]


def on_uvloop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run an async test on the event loop that proxies run on."""

    @functools.wraps(test)
    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test())

    return run


@contextlib.asynccontextmanager
async def serving(application: Application, **options: Any) -> AsyncIterator[tuple[HTTPServer, int]]:
    """A server, and its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    server = HTTPServer(application, HTTPOptions(**options))
    await server.start(listener)
    async with asyncio.timeout(GUARD_S):
        try:
            yield server, listener.getsockname()[1]
        finally:
            await server.stop(0.0)


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


async def ask(port: int, data: bytes = GET) -> bytes:
    """All that is answered to a request, until the server closes the connection."""
    reader, writer = await connect(port)
    writer.write(data)
    answer = await reader.read()
    writer.close()
    return answer


class Held:
    """An application that answers when the test does."""

    def __init__(self) -> None:
        self.exchanges: asyncio.Queue[HTTPExchange] = asyncio.Queue()
        self.lost = asyncio.Event()

    def __call__(self, exchange: HTTPExchange) -> None:
        exchange.on_lost = self.lost.set
        self.exchanges.put_nowait(exchange)


@on_uvloop
async def test_requests_on_one_connection() -> None:
    seen = []

    def application(exchange: HTTPExchange) -> None:
        seen.append((exchange.client, exchange.server))
        exchange.respond(200, [], exchange.path.encode())

    async with serving(application) as (_, port):
        reader, writer = await connect(port)
        for path in (b"/one", b"/two"):
            writer.write(b"GET " + path + b" HTTP/1.1\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
            assert head.endswith(b"content-length: 4\r\n\r\n")
            assert await reader.readexactly(4) == path
        assert seen == [(writer.get_extra_info("sockname"), ("127.0.0.1", port))] * 2
        writer.close()


@on_uvloop
async def test_large_bodies_in_both_directions_wait_for_each_other() -> None:
    size_bytes, part_bytes = 20_000_000, 1_000_000
    tasks = []

    async with serving(lambda e: tasks.append(asyncio.create_task(echo(e)))) as (_, port):
        reader, writer = await connect(port)
        writer.write(b"POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size_bytes)
        sent = bytes(range(256)) * (part_bytes // 256 + 1)
        reading = asyncio.create_task(reader.read())
        for _ in range(size_bytes // part_bytes):
            writer.write(sent[:part_bytes])
            await writer.drain()
        answer = await reading
        body = bytearray()
        _, _, rest = answer.partition(b"\r\n\r\n")
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            body += rest[: int(size, 16)]
            rest = rest[int(size, 16) + 2 :]
        assert bytes(body) == sent[:part_bytes] * (size_bytes // part_bytes)
        await asyncio.gather(*tasks)
        writer.close()


@on_uvloop
async def test_an_early_answer_arrives_although_the_body_is_still_being_sent() -> None:
    def refuse(exchange: HTTPExchange) -> None:
        exchange.respond(413, [(b"connection", b"close")], b"too large")

    async with serving(refuse) as (_, port):
        reader, writer = await connect(port)
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 900000\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413 ")
        writer.write(bytes(900_000))
        await writer.drain()
        assert await reader.read() == b"too large"
        writer.close()


@on_uvloop
async def test_a_client_that_leaves_is_noticed() -> None:
    held = Held()
    async with serving(held) as (_, port):
        _, writer = await connect(port)
        writer.write(GET)
        exchange = await held.exchanges.get()
        writer.close()
        await held.lost.wait()
        exchange.respond(200, [], b"nobody hears")


@on_uvloop
async def test_abort_resets_the_connection() -> None:
    def fail(exchange: HTTPExchange) -> None:
        exchange.respond(200, [], b"", more=True)
        exchange.abort()

    async with serving(fail) as (_, port):
        with contextlib.suppress(ConnectionResetError):
            assert not (await ask(port)).endswith(b"0\r\n\r\n")


@on_uvloop
async def test_stopped_it_accepts_nobody_and_closes_who_is_idle() -> None:
    held = Held()
    async with serving(held) as (server, port):
        reader, _ = await connect(port)
        await ask(port, b"nonsense\r\n\r\n")  # so that both have been accepted
        await server.stop(GUARD_S)
        assert await reader.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await connect(port)


@on_uvloop
async def test_stopped_it_waits_for_what_runs() -> None:
    held = Held()
    async with serving(held) as (server, port):
        asking = asyncio.create_task(ask(port))
        exchange = await held.exchanges.get()
        stopping = asyncio.create_task(server.stop(GUARD_S))
        await asyncio.sleep(0)
        assert not stopping.done()
        exchange.respond(200, [], b"done")
        answer = await asking
        assert b"\r\nconnection: close\r\n" in answer
        assert answer.endswith(b"\r\n\r\ndone")
        await stopping


@on_uvloop
async def test_stopped_it_breaks_off_what_takes_too_long() -> None:
    held = Held()
    async with serving(held) as (server, port):
        asking = asyncio.create_task(ask(port))
        await held.exchanges.get()
        await server.stop(0.01)
        assert held.lost.is_set()
        with contextlib.suppress(ConnectionResetError):
            assert await asking == b""


@on_uvloop
async def test_stopped_it_closes_who_was_accepted_last() -> None:
    class Late:
        client = None
        stopped = False

        def stop(self) -> None:
            self.stopped = True

    async with serving(Held()) as (server, _):
        await server.stop(0.0)
        late: Any = Late()
        server.opened(late)
        assert late.stopped
        server.closed(late)
