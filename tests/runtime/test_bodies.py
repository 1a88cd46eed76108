"""Bodies of requests and answers on a replica: in parts, and no more on the way than the window."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from raw_router import RawRouter, replica_of
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from virtual_time import in_virtual_time

from modelplex.runtime.streams import WINDOW_BYTES
from modelplex.wire.framing import CHUNK_BYTES
from modelplex.wire.messages import Credit

BIG = bytes(range(256)) * (3 * WINDOW_BYTES // 256)


# Bodies of requests


@in_virtual_time
async def test_the_request_is_what_the_client_sent() -> None:
    async def handler(request: Request) -> dict[str, Any]:
        assert request.client is not None
        return {
            "method": request.method,
            "url": str(request.url),
            "kind": request.headers["x-kind"],
            "query": request.query_params["q"],
            "client": request.client.host,
            "body": (await request.body()).decode(),
        }

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        stream = router.http("PUT", "/path", body=b"tea", headers=[(b"x-kind", b"green")], query=b"q=1")
        assert json.loads((await router.reply(stream)).body) == {
            "method": "PUT",
            "url": "http://5.6.7.8/path?q=1",
            "kind": "green",
            "query": "1",
            "client": "1.2.3.4",
            "body": "tea",
        }


async def whole(request: Request) -> bytes:
    return await request.body()


async def in_parts(request: Request) -> bytes:
    return b"".join([part async for part in request.stream()])


@pytest.mark.parametrize("handler", [whole, in_parts])
@in_virtual_time
async def test_a_body_may_come_in_parts(handler: Callable[..., Any]) -> None:
    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        stream = router.http("POST", more=True)
        for part in (b"one ", b"", b"two"):
            await asyncio.sleep(1)
            router.chunk(stream, part, more=True)
        router.chunk(stream, b"", more=False)
        assert (await router.reply(stream)).body == b"one two"


@in_virtual_time
async def test_a_client_that_has_sent_all_is_still_there() -> None:
    async def handler(request: Request) -> list[bool]:
        return [await request.body() == b"all", await request.is_disconnected()]

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        assert (await router.reply(router.http("POST", body=b"all"))).body == b"[true,false]"


@in_virtual_time
async def test_credit_is_given_for_the_body_as_it_is_read_and_not_before() -> None:
    async def handler(request: Request) -> int:
        await asyncio.sleep(10)
        return len(await request.body())

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        stream = router.http("POST", body=b"x" * CHUNK_BYTES, more=True)
        for _ in range(3):
            router.chunk(stream, b"x" * CHUNK_BYTES, more=True)
        await asyncio.sleep(5)
        assert router.all_of(Credit) == []
        await asyncio.sleep(10)
        assert sum(credit.size_bytes for credit in router.all_of(Credit)) == 4 * CHUNK_BYTES
        router.chunk(stream, b"", more=False)
        assert (await router.reply(stream)).body == b"%d" % (4 * CHUNK_BYTES)


# Bodies of answers


async def big_value() -> bytes:
    return BIG


async def big_response() -> Response:
    return Response(BIG)


async def big_parts() -> AsyncIterator[bytes]:
    yield BIG[:1000]
    yield BIG[1000:]


async def big_streaming_response() -> Response:
    return StreamingResponse(big_parts())


@pytest.mark.parametrize("handler", [big_value, big_response, big_parts, big_streaming_response])
@in_virtual_time
async def test_no_more_of_a_big_answer_is_on_the_way_than_the_window(handler: Callable[..., Any]) -> None:
    async with replica_of(handler) as replica:
        router = RawRouter(replica, gives_credit=False)
        stream = router.http()
        await asyncio.sleep(10)
        assert sum(len(body) for _, body in router.heard) == WINDOW_BYTES
        while sum(len(body) for _, body in router.heard) < len(BIG):
            router.say(Credit(stream, CHUNK_BYTES))
            await asyncio.sleep(1)
        reply = await router.reply(stream)
        assert reply.body == BIG
        assert all(len(body) <= CHUNK_BYTES for _, body in router.heard)


@in_virtual_time
async def test_a_big_value_of_a_call_comes_in_parts() -> None:
    async with replica_of(big_value) as replica:
        router = RawRouter(replica)
        assert (await router.reply(router.call())).value == BIG
