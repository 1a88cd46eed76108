"""Whoever connects to a replica's port without the cluster's secret, and sends whatever they like: 100,000 tries."""

import asyncio
import contextlib
import gc
import os
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
from clusters import OTHER_SECRET, PLAIN, SECRET
from raw_router import replica_of

from modelplex.errors import ProtocolError
from modelplex.runtime import tcp_link
from modelplex.runtime.address import Address
from modelplex.runtime.link import Link
from modelplex.runtime.network import Network
from modelplex.wire import handshake, messages
from modelplex.wire.framing import prefix
from modelplex.wire.handshake import ANSWER_BYTES, HELLO_BYTES, MAGIC
from modelplex.wire.messages import Message

pytestmark = pytest.mark.system

TRIES, OVER_TCP, IN_PARALLEL = 100_000, 10_000, 32

# What the process may grow by while it refuses a hundred thousand.
GROWTH_MAX_BYTES = 16 * 2**20


class Strangers:
    """What strangers send, in pieces. One in so many of each kind; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._kinds: list[Callable[[], bytes]] = [
            self.noise,
            self.truncated,
            self.mutated,
            self.replayed,
            self.announcement,
            self.frames,
            self.stranger,
            self.almost,
        ]

    def pieces(self) -> tuple[list[bytes], int]:
        """What is sent, and how many bytes at most may come back."""
        kind = self._random.choice(self._kinds)
        data = kind()
        cut = self._random.randrange(len(data) + 1)
        allowed = ANSWER_BYTES if kind == self.replayed else 0
        return [piece for piece in (data[:cut], data[cut:]) if piece], allowed

    def hello(self, secret: bytes = SECRET) -> bytes:
        return handshake.Client(secret, self._random.randbytes(32)).hello

    def noise(self) -> bytes:
        return self._random.randbytes(self._random.randrange(1, 500))

    def truncated(self) -> bytes:
        return self.hello()[: self._random.randrange(1, HELLO_BYTES)]

    def mutated(self) -> bytes:
        data = bytearray(self.hello())
        for _ in range(self._random.randrange(1, 4)):
            data[self._random.randrange(len(data))] ^= self._random.randrange(1, 256)
        with contextlib.suppress(ProtocolError):
            handshake.Server(SECRET, bytes(32)).feed(bytes(data))
            return bytes(HELLO_BYTES)  # the same byte has been changed back
        return bytes(data)

    def replayed(self) -> bytes:
        """A good handshake that was recorded, and what followed it."""
        client, server = (
            handshake.Client(SECRET, self._random.randbytes(32)),
            handshake.Server(SECRET, self._random.randbytes(32)),
        )
        self._proof = client.feed(server.feed(client.hello))
        return client.hello

    def after_answer(self) -> bytes:
        return self._proof + self.frames()

    def announcement(self) -> bytes:
        return struct.pack(
            "!II", self._random.randrange(2**32), self._random.randrange(2**32)
        ) + self._random.randbytes(64)

    def frames(self) -> bytes:
        said: list[Message] = [messages.Hello(messages.VERSION), messages.Relay("127.0.0.1:1"), messages.Cancel(1)]
        return b"".join(prefix(messages.encode(message), 0) for message in said)

    def stranger(self) -> bytes:
        return self.hello(OTHER_SECRET) + self._random.randbytes(32)

    def almost(self) -> bytes:
        return MAGIC[: self._random.randrange(1, 9)] + self._random.randbytes(self._random.randrange(200))


class Wire(asyncio.Transport):
    """A stranger's end, without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0
        self.is_over = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += len(data)

    def abort(self) -> None:
        self.is_over = True

    def pause_reading(self) -> None:
        raise AssertionError("a stranger was let in")


class Good:
    """A client of the cluster, which wants a welcome now and then."""

    def __init__(self) -> None:
        self.welcomed: asyncio.Queue[None] = asyncio.Queue()

    def received(self, link: Link, message: Message, body: bytes) -> None:
        if isinstance(message, messages.Welcome):
            self.welcomed.put_nowait(None)

    def lost(self, link: Link) -> None: ...

    async def check(self, network: Network, address: str) -> None:
        async with asyncio.timeout(5):
            link = await network.connect(address, self)
            link.send(messages.Hello(messages.VERSION))
            await self.welcomed.get()
            link.close()


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def feed_one(strangers: Strangers) -> None:
    newcomer, wire = tcp_link._Newcomer(SECRET), Wire()
    newcomer.connection_made(wire)
    pieces, allowed = strangers.pieces()
    for piece in pieces:
        if not wire.is_over:
            newcomer.data_received(piece)
    if wire.written:
        newcomer.data_received(strangers.after_answer())
        assert wire.is_over
    assert wire.written <= allowed
    assert newcomer.rest == b""
    newcomer.connection_lost(None)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory and descriptors are looked up in /proc")
def test_strangers_hear_nothing_and_do_no_harm(tmp_path: Path) -> None:
    seed = time.time_ns() % 10**6
    print(f"seed {seed}")  # shown if it fails

    class D:
        async def __call__(self) -> int:
            return 1

    async def one(strangers: Strangers, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        pieces, allowed = strangers.pieces()
        heard = b""
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            if allowed:
                heard = await reader.readexactly(ANSWER_BYTES)
                writer.write(strangers.after_answer())
            else:
                writer.write_eof()  # it will not wait for what does not come
            heard += await reader.read()
        assert len(heard) <= allowed
        writer.close()

    async def some(seed: int, count: int, port: int) -> None:
        strangers = Strangers(seed)
        for _ in range(count):
            await one(strangers, port)

    async def main() -> None:
        network, good = Network("there", PLAIN), Good()
        async with replica_of(D) as replica:
            listening = await network.listen(lambda: replica, str(tmp_path / "r.sock"), "127.0.0.1")
            port = Address.parse(listening.address).port
            address = f"127.0.0.1:{port}"
            await some(seed, 300, port)  # what is made once is made now
            await good.check(network, address)
            gc.collect()
            await asyncio.sleep(0.05)
            size, descriptors = resident_bytes(), len(os.listdir("/proc/self/fd"))

            over_tcp = [
                asyncio.create_task(some(seed + n, OVER_TCP // IN_PARALLEL + 1, port)) for n in range(IN_PARALLEL)
            ]
            checks = 0
            while not all(task.done() for task in over_tcp):
                await good.check(network, address)
                checks += 1
                await asyncio.sleep(0.1)
            await asyncio.gather(*over_tcp)
            strangers = Strangers(seed)
            for number in range(TRIES - OVER_TCP):
                feed_one(strangers)
                if number % 5000 == 0:
                    await good.check(network, address)

            await asyncio.sleep(0.2)
            gc.collect()
            assert checks > 3
            assert len(os.listdir("/proc/self/fd")) <= descriptors
            assert resident_bytes() - size < GROWTH_MAX_BYTES
            assert not list(replica._occupancy.routers)
            await listening.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
