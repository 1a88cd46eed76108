"""Processes of one cluster on real sockets: by Unix sockets, by TCP, and over one another."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from clusters import OTHER_SECRET, PLAIN, SECRET, make_tls
from on_loops import on_both_loops

from modelplex.errors import ProtocolError
from modelplex.runtime.address import Address
from modelplex.runtime.credentials import Credentials
from modelplex.runtime.link import Link
from modelplex.runtime.network import Listening, Network
from modelplex.wire import messages
from modelplex.wire.framing import CHUNK_BYTES
from modelplex.wire.messages import Cancel, Message

pytestmark = pytest.mark.system

HOST = "127.0.0.1"


class Ear:
    """Keeps what it hears; the end is None (`link.Receiver`)."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[Message, bytes] | None] = asyncio.Queue()
        self.links: list[Link] = []

    def received(self, link: Link, message: Message, body: bytes) -> None:
        if link not in self.links:
            self.links.append(link)
        self.heard.put_nowait((message, body))

    def lost(self, link: Link) -> None:
        self.heard.put_nowait(None)


class Process:
    """One that listens, on a machine of its own."""

    def __init__(self, machine: str, network: Network) -> None:
        self.machine, self.network = machine, network
        self.ear = Ear()
        self.listening: Listening | None = None

    @property
    def address(self) -> str:
        assert self.listening is not None
        return self.listening.address


@contextlib.asynccontextmanager
async def processes(
    folder: Path, *machines: str, credentials: Credentials = PLAIN, listen: bool = True
) -> AsyncIterator[list[Process]]:
    started = [Process(machine, Network(machine, credentials)) for machine in machines]
    for number, process in enumerate(started):
        if listen:
            ear = process.ear
            path = str(folder / f"{number}.sock")
            process.listening = await process.network.listen(lambda ear=ear: ear, path, HOST)  # type: ignore[misc]
    try:
        yield started
    finally:
        for process in started:
            if process.listening is not None:
                await process.listening.close()
            await process.network.close()
            for link in process.ear.links:
                link.close()
        await asyncio.sleep(0.05)


@on_both_loops
async def test_on_one_machine_it_is_the_unix_socket_else_tcp(tmp_path: Path) -> None:
    async with processes(tmp_path, "here", "there") as (here, there):
        for process, is_remote in ((here, False), (there, True)):
            link = await here.network.connect(process.address, Ear())
            assert link.is_remote == is_remote
            link.send(Cancel(1))
            assert await process.ear.heard.get() == (Cancel(1), b"")
            link.close()
            assert await process.ear.heard.get() is None


@on_both_loops
async def test_a_path_that_is_not_there_is_no_hindrance(tmp_path: Path) -> None:
    """As between containers on one machine."""
    async with processes(tmp_path, "here") as (here,):
        os.unlink(Address.parse(here.address).path)
        link = await here.network.connect(here.address, Ear())
        assert link.is_remote
        link.close()


@pytest.mark.parametrize("address", ["/nowhere/x.sock", "app_D#tag", ""])
@on_both_loops
async def test_an_address_of_nothing_is_an_error_of_the_system(address: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - whichever the system says
        await Network("here", PLAIN).connect(address, Ear())


@on_both_loops
async def test_a_closed_one_cannot_be_reached_and_leaves_no_file(tmp_path: Path) -> None:
    async with processes(tmp_path, "here", "there") as (here, there):
        assert here.listening is not None
        await here.listening.close()
        assert not os.path.exists(Address.parse(here.address).path)  # noqa: ASYNC240 - at once
        for process in (here, there):
            with pytest.raises(OSError, match=r".*"):
                await process.network.connect(here.address, Ear())


@on_both_loops
async def test_one_that_cannot_listen_says_so_and_holds_nothing(tmp_path: Path) -> None:
    network = Network("here", PLAIN)
    with pytest.raises(OSError, match=r".*"):
        await network.listen(Ear, str(tmp_path / "no folder" / "x.sock"), HOST)
    with pytest.raises(OSError, match=r".*"):
        await network.listen(Ear, str(tmp_path / "x.sock"), "192.0.2.1")


# Relays


@pytest.mark.parametrize("encrypted", [False, True])
@on_both_loops
async def test_a_relayed_link_is_as_a_direct_one(encrypted: bool, tmp_path: Path) -> None:
    credentials = Credentials(SECRET, make_tls(tmp_path)) if encrypted else PLAIN
    async with processes(tmp_path, "a", "b", "c", credentials=credentials) as (a, b, c):
        ear = Ear()
        link = await a.network.connect(b.address, ear)
        link.send(messages.Relay(c.address))
        link.send(messages.Hello(messages.VERSION))
        assert await c.ear.heard.get() == (messages.Hello(messages.VERSION), b"")
        for number in range(100):
            link.send(Cancel(number), os.urandom(CHUNK_BYTES) if number % 10 == 0 else b"%d" % number)
        got = [await c.ear.heard.get() for _ in range(100)]
        assert [heard[0] for heard in got if heard] == [Cancel(number) for number in range(100)]
        c.ear.links[0].send(Cancel(7), b"back")
        assert await ear.heard.get() == (Cancel(7), b"back")
        link.close()
        assert await c.ear.heard.get() is None
        assert b.ear.links == []


@pytest.mark.parametrize("end", ["near", "far", "relay"])
@on_both_loops
async def test_a_relayed_link_ends_at_both_ends(end: str, tmp_path: Path) -> None:
    async with processes(tmp_path, "a", "b", "c") as (a, b, c):
        ear = Ear()
        link = await a.network.connect(b.address, ear)
        link.send(messages.Relay(c.address))
        link.send(Cancel(1))
        assert await c.ear.heard.get() == (Cancel(1), b"")
        if end == "near":
            link.close()
        elif end == "far":
            c.ear.links[0].send(Cancel(2))  # what is on its way still arrives
            c.ear.links[0].close()
            assert await ear.heard.get() == (Cancel(2), b"")
        else:
            await b.network.close()
        assert (await ear.heard.get(), await c.ear.heard.get()) == (None, None)


@pytest.mark.parametrize("target", ["nobody", "a stranger", "a path", "nonsense"])
@on_both_loops
async def test_a_relay_to_where_there_is_no_way_ends_the_link(target: str, tmp_path: Path) -> None:
    stranger = Network("d", Credentials(OTHER_SECRET))
    with socket.create_server((HOST, 0)) as sock:
        nobody = f"{HOST}:{sock.getsockname()[1]}"
    async with processes(tmp_path, "a", "b") as (a, b):
        listening = await stranger.listen(Ear, str(tmp_path / "d.sock"), HOST)
        addresses = {"nobody": nobody, "a stranger": listening.address, "a path": str(tmp_path / "0.sock")}
        ear = Ear()
        link = await a.network.connect(b.address, ear)
        link.send(messages.Relay(addresses.get(target, "nonsense")))
        assert await ear.heard.get() is None
        assert a.ear.links == []
        await listening.close()


@on_both_loops
async def test_who_does_not_read_behind_a_relay_holds_up_the_sender_and_fills_no_memory(tmp_path: Path) -> None:
    """Bytes that nobody takes stay with the one that sends them."""
    async with processes(tmp_path, "a", "b", credentials=PLAIN) as (a, b):
        reading, all_taken = asyncio.Event(), asyncio.Event()
        taken = 0

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal taken
            from modelplex.wire import handshake

            proof = handshake.Server(SECRET, os.urandom(32))
            while proof.rest is None:
                writer.write(proof.feed(await reader.read(200)))
            await reading.wait()
            while data := await reader.read(2**20):
                taken += len(data)
            writer.close()
            all_taken.set()

        server = await asyncio.start_server(slow, HOST, 0, limit=2**16)
        link = await a.network.connect(b.address, Ear())
        link.send(messages.Relay(f"{HOST}:{server.sockets[0].getsockname()[1]}"))
        sent = 64 * 2**20
        for _ in range(sent // CHUNK_BYTES):
            link.send(Cancel(1), bytes(CHUNK_BYTES))
        await link.flushed(1.0)
        (near_task,) = b.network._relays._tasks
        transports = [t for t in _transports(near_task) if t.get_write_buffer_size()]
        assert all(t.get_write_buffer_size() < 4 * 2**20 for t in transports)
        reading.set()
        await link.flushed(20.0)
        link.close()
        await all_taken.wait()
        assert taken > sent
        server.close()


def _transports(task: "asyncio.Task[None]") -> list[asyncio.Transport]:
    frame = task.get_stack()[0]
    return [t for t in (frame.f_locals.get("near"), frame.f_locals.get("far")) if t is not None]


@on_both_loops
async def test_a_stranger_can_have_nothing_relayed(tmp_path: Path) -> None:
    async with processes(tmp_path, "b", "c") as (b, c):
        with pytest.raises(ProtocolError):
            await Network("x", Credentials(OTHER_SECRET)).connect(b.address, Ear())
        assert len(b.network._relays) == 0
        assert c.ear.links == []
