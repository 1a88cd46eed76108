"""Attacks on a port, each by one process at a rate that it states: `python -m benchmarks.hostile.attacks NAME PORT`."""

import argparse
import asyncio
import contextlib
import itertools
import os
import random
from collections.abc import Awaitable, Callable

from .malformed import CASES

LOOPBACK = "127.0.0.1"
CONNECT_PER_S = 500  # connections that an attack opens at most
ANSWER_TIMEOUT_S = 5.0

Attack = Callable[[int], Awaitable[None]]


async def _held(port: int, count: int, first: bytes, each: bytes, period_s: float) -> None:
    """So many connections that each say a little now and then, and come again when they are closed."""

    async def one(number: int) -> None:
        await asyncio.sleep(number / CONNECT_PER_S)
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(LOOPBACK, port)
                try:
                    writer.write(first)
                    while not writer.is_closing():
                        await asyncio.sleep(period_s)
                        writer.write(each)
                        await writer.drain()
                finally:
                    writer.transport.abort()
            await asyncio.sleep(1.0)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))


async def slow_heads(port: int) -> None:
    """1,000 connections, a byte of a head each second on each."""
    await _held(port, 1000, b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"x", 1.0)


async def slow_bodies(port: int) -> None:
    """1,000 connections, a byte of a body each second on each."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nserve_multiplexed_model_id: model-1\r\nContent-Length: 100000\r\n\r\n"
    await _held(port, 1000, head, b"x", 1.0)


async def slow_chunks(port: int) -> None:
    """1,000 connections, a chunk of a byte each second on each."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nserve_multiplexed_model_id: model-1\r\nTransfer-Encoding: chunked\r\n\r\n"
    await _held(port, 1000, head, b"1\r\nx\r\n", 1.0)


async def idle(port: int) -> None:
    """2,000 connections that say nothing."""
    await _held(port, 2000, b"", b"", 5.0)


async def _each(port: int, per_s: float, said: Callable[[], bytes]) -> None:
    """A connection for each of these."""

    async def one(data: bytes) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(LOOPBACK, port)
                try:
                    writer.write(data)
                    await reader.read(4096)
                finally:
                    writer.transport.abort()

    async with asyncio.TaskGroup() as group:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in itertools.count():
            await asyncio.sleep(max(0.0, began + number / per_s - loop.time()))
            group.create_task(one(said()))


async def malformed(port: int) -> None:
    """100 requests a second that are none, of all the kinds in turn."""
    cases = itertools.cycle(data for data, _ in CASES.values())
    await _each(port, 100, lambda: next(cases))


async def noise(port: int) -> None:
    """100 connections a second with up to 4 KiB of random bytes."""
    chance = random.Random(1)
    await _each(port, 100, lambda: chance.randbytes(chance.randrange(1, 4096)))


def invented_id(chance: random.Random) -> bytes:
    """An id that no model has; of ten, three are none."""
    kind = chance.randrange(10)
    if kind == 0:
        return b"../" + b"%x" % chance.getrandbits(64)
    if kind == 1:
        return bytes(chance.randrange(0x80, 0xFF) for _ in range(8))
    if kind == 2:
        return b"x" * chance.randrange(257, 1000)
    return b"invented-%x" % chance.getrandbits(64)


def asking_for(model_id: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: a\r\nserve_multiplexed_model_id: " + model_id + b"\r\n\r\n"


async def ask_for_invented(port: int, count: int, connections: int = 8, per_s: float = 1e9) -> dict[int, int]:
    """So many requests for models that do not exist, and how many got which status."""
    statuses: dict[int, int] = {}

    async def one(number: int) -> None:
        chance = random.Random(number)
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for done in range(count // connections):
            await asyncio.sleep(max(0.0, began + done * connections / per_s - loop.time()))
            writer.write(asking_for(invented_id(chance)))
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            await reader.readexactly(length)
            statuses[int(head[9:12])] = statuses.get(int(head[9:12]), 0) + 1
        writer.close()

    async with asyncio.TaskGroup() as group:
        for number in range(connections):
            group.create_task(one(number))
    return statuses


async def invented_ids(port: int) -> None:
    """300 requests a second for models that do not exist."""
    await ask_for_invented(port, 2**40, per_s=300)


ATTACKS: dict[str, Attack] = {
    attack.__name__.replace("_", "-"): attack
    for attack in (slow_heads, slow_bodies, slow_chunks, idle, malformed, noise, invented_ids)
}


async def _until_told(attack: Awaitable[None]) -> None:
    """Attack until the parent closes our input."""
    attacking = asyncio.ensure_future(attack)
    closed = asyncio.ensure_future(asyncio.to_thread(os.read, 0, 1))
    await asyncio.wait([attacking, closed], return_when=asyncio.FIRST_COMPLETED)
    attacking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await attacking


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=ATTACKS)
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    asyncio.run(_until_told(ATTACKS[options.name](options.port)))


if __name__ == "__main__":
    main()
