"""What a proxy counts of its HTTP requests, however they end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from inline_app import app_of
from proxy_client import Wire
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from virtual_time import in_virtual_time
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from modelplex import serve
from modelplex.config import HTTPOptions
from modelplex.runtime import http_exchange
from modelplex.runtime.http_meters import HTTPMeters
from modelplex.runtime.meters import KINDS_MAX, OTHER
from modelplex.runtime.proxy import Proxy
from modelplex.testing import InlineCluster


class Shop:
    async def __call__(self, request: Request) -> Response:
        match request.url.path:
            case "/slow":
                await asyncio.sleep(100)
            case "/parts":
                return StreamingResponse(parts())
            case "/teapot":
                return Response(status_code=418)
            case "/raises":
                raise ValueError("as asked")
        return Response(b"answer")


async def parts() -> AsyncIterator[bytes]:
    for number in range(3):
        await asyncio.sleep(1)
        yield b"%d" % number


class Metered:
    """A proxy before a cluster, and what it has counted."""

    def __init__(self, cluster: InlineCluster) -> None:
        self._cluster = cluster
        self.meters = HTTPMeters()

    def wire(self) -> Wire:
        wire = Wire(self._cluster.directory, HTTPOptions(max_body_bytes=10))
        wire.connection._application = Proxy(
            self._cluster.directory, HTTPOptions(max_body_bytes=10), meters=self.meters
        )
        return wire

    def begin(self, line: str, headers: str = "") -> Wire:
        wire = self.wire()
        wire.say(f"{line} HTTP/1.1\r\nhost: a\r\n{headers}\r\n".encode())
        return wire

    async def ask(self, line: str, headers: str = "") -> None:
        """One request, to the end of its answer."""
        wire = self.begin(line, headers + "connection: close\r\n")
        while await wire.read():
            pass


@contextlib.asynccontextmanager
async def metered() -> AsyncIterator[Metered]:
    async with InlineCluster() as cluster:
        await cluster.run(app_of(Shop), "shop", "/")
        yield Metered(cluster)


@in_virtual_time
async def test_requests_are_counted_by_application_method_and_status() -> None:
    async with metered() as m:
        before = http_exchange.refusals.get(400, 0)
        for line in ("GET /", "GET /parts", "POST /teapot", "GET /raises", "GET /-/healthz", "BREW /"):
            await m.ask(line)
        await m.ask("POST /", "content-length: 11\r\n")
        await asyncio.sleep(1)
        assert m.meters.requests == {
            ("shop", "GET", 200): 2,
            ("shop", "POST", 418): 1,
            ("shop", "GET", 500): 1,
            ("", "GET", 200): 1,
            ("shop", "POST", 413): 1,
        }
        assert http_exchange.refusals[400] == before + 1  # which is no method that there is
        assert m.meters.running == 0
        assert sum(m.meters.seconds["shop"].counts) == 5


@in_virtual_time
async def test_a_client_that_leaves_is_counted_as_such() -> None:
    async with metered() as m:
        for path in ("/slow", "/parts"):
            wire = m.begin(f"GET {path}")
            await asyncio.sleep(1.5)  # of the latter, an answer has begun
            assert m.meters.running == 1
            wire.leave()
            await asyncio.sleep(200)
        assert (m.meters.requests, m.meters.running) == ({("shop", "GET", 0): 2}, 0)


@in_virtual_time
async def test_a_websocket_is_counted_when_it_ends_and_is_no_latency() -> None:
    async def echo(scope: object, receive: object, send: object) -> None:
        await send({"type": "websocket.accept"})  # type: ignore[operator]
        await receive()  # type: ignore[operator]
        await receive()  # type: ignore[operator]

    async with InlineCluster() as cluster:
        await cluster.run(app_of(serve.ingress(echo)(type("D", (), {}))), "sockets", "/")
        m = Metered(cluster)
        wire = m.wire()
        protocol = ClientProtocol(parse_uri("ws://test/"))
        protocol.send_request(protocol.connect())
        for data in protocol.data_to_send():
            wire.say(data)
        assert b"101" in await wire.read()
        await asyncio.sleep(1)
        assert (m.meters.requests, m.meters.running) == ({}, 1)
        wire.leave()
        await asyncio.sleep(20)
        assert (m.meters.requests, m.meters.running) == ({("sockets", "GET", 101): 1}, 0)
        assert sum(m.meters.seconds["sockets"].counts) == 0


def test_an_application_cannot_make_kinds_without_end() -> None:
    class Ended:
        ended, app_name, method, began = True, "a", "GET", 0.0

        def __init__(self, outcome: int) -> None:
            self.outcome = outcome

    meters = HTTPMeters()
    for status in range(100, 600):
        meters._ended(Ended(status))  # type: ignore[arg-type]
    assert len(meters.requests) == KINDS_MAX + 1
    assert meters.requests["a", "GET", OTHER] == 500 - KINDS_MAX
