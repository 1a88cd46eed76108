"""Bodies of requests that come slowly: who has a slot of a replica meanwhile."""

import asyncio
from typing import Any

import pytest
from proxy_client import Wire, client_of
from starlette.requests import Request

from modelplex import serve
from modelplex.config import HTTPOptions
from modelplex.runtime import held_bodies
from modelplex.runtime.held_bodies import HELD_BYTES_MAX, HeldBodies
from modelplex.testing import InlineCluster, run_virtual


@serve.deployment(max_ongoing_requests=1)
class Echo:
    """One request at a time; says how much it was given, and how much of that at first."""

    async def __call__(self, request: Request) -> list[int]:
        sizes = [len(part) async for part in request.stream()]
        return [sum(sizes), sizes[0]]


HEAD = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n"


def with_echo(check: Any, **options: Any) -> None:
    async def main() -> None:
        async with InlineCluster() as cluster:
            await cluster.run(Echo.bind())  # type: ignore[attr-defined]
            async with client_of(cluster.directory) as other:
                await check(lambda: Wire(cluster.directory, HTTPOptions(**options)), other)

    run_virtual(main())


@pytest.mark.parametrize("head", [HEAD % 10, HEAD % 10**6, b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"])
def test_a_slow_body_takes_no_slot(head: bytes) -> None:
    async def check(wire: Any, other: Any) -> None:
        slow = [wire() for _ in range(20)]
        for one in slow:
            one.say(head)
            one.say(b"1\r\nx\r\n" if b"chunked" in head else b"x")
        await asyncio.sleep(10)
        async with asyncio.timeout(5):
            assert (await other.post("/", content=b"abc")).json() == [3, 3]

    with_echo(check)


def test_with_stream_bodies_user_code_gets_what_is_there() -> None:
    async def check(wire: Any, other: Any) -> None:
        slow = wire()
        slow.say(HEAD % 10)
        slow.say(b"x")
        await asyncio.sleep(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):  # it has the one slot
                await other.post("/", content=b"abc")
        slow.say(b"x" * 9)
        assert (await slow.read()).endswith(b"[10,1]")

    with_echo(check, stream_bodies=True)


def test_a_body_in_parts_is_whole_and_a_large_one_goes_on_before_it_is() -> None:
    async def check(wire: Any, other: Any) -> None:
        parts = wire()
        parts.say(HEAD % 10)
        for _ in range(10):
            await asyncio.sleep(1)
            parts.say(b"x")
        assert (await parts.read()).endswith(b"[10,10]")
        large = wire()
        large.say(HEAD % (2 * HELD_BYTES_MAX))
        for _ in range(4):
            await asyncio.sleep(1)
            large.say(b"x" * (HELD_BYTES_MAX // 2))
        answer = await large.read()
        assert b"200 OK" in answer
        assert b"[%d," % (2 * HELD_BYTES_MAX) in answer

    with_echo(check)


def test_what_is_held_counts_towards_the_requests_time_and_size() -> None:
    async def check(wire: Any, other: Any) -> None:
        slow = wire()
        slow.say(HEAD % 10)
        assert (await slow.read()).startswith(b"HTTP/1.1 408 ")
        large = wire()
        large.say(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(3):
            await asyncio.sleep(0.1)
            large.say(b"5\r\nhello\r\n")
        large.say(b"0\r\n\r\n")
        assert (await large.read()).startswith(b"HTTP/1.1 413 ")

    with_echo(check, request_timeout_s=3, max_body_bytes=12)


def test_a_client_that_waits_to_be_told_is_told_to_go_on() -> None:
    async def check(wire: Any, other: Any) -> None:
        waiting = wire()
        waiting.say(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
        assert await waiting.read() == b"HTTP/1.1 100 Continue\r\n\r\n"
        waiting.say(b"abc")
        assert (await waiting.read()).endswith(b"[3,3]")

    with_echo(check)


def test_a_client_that_leaves_meanwhile_leaves_nothing() -> None:
    async def check(wire: Any, other: Any) -> None:
        await other.post("/", content=b"abc")
        await asyncio.sleep(1)
        before = len(asyncio.all_tasks())
        for _ in range(10):
            leaving = wire()
            leaving.say(HEAD % 10 + b"x")
            await asyncio.sleep(0.1)
            leaving.leave()
        await asyncio.sleep(1)
        assert len(asyncio.all_tasks()) <= before

    with_echo(check)


def test_all_together_may_have_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[HeldBodies] = []

    class Small(HeldBodies):
        def __init__(self) -> None:
            super().__init__(bytes_max=1000)
            made.append(self)

    monkeypatch.setattr("modelplex.runtime.proxy.HeldBodies", Small)

    async def main() -> None:
        async with InlineCluster() as cluster:
            await cluster.run(Echo.bind())  # type: ignore[attr-defined]
            wire = Wire(cluster.directory, HTTPOptions())
            wire.say(HEAD % 2000)
            wire.say(b"x" * 400)
            await asyncio.sleep(1)
            assert made[0].size_bytes == 400
            wire.say(b"x" * 601)
            answer = await wire.read()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1\r\n" in answer
            await asyncio.sleep(1)
            assert made[0].size_bytes == 0
            other = Wire(cluster.directory, HTTPOptions())
            other.say(HEAD % 2000 + b"x" * 2000)  # which need not be held
            assert (await other.read()).endswith(b"[2000,2000]")
            assert made[1].size_bytes == 0
            assert held_bodies.ALL_HELD_BYTES_MAX >= 100 * HELD_BYTES_MAX

    run_virtual(main())
