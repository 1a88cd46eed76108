"""Who comes to a controller by itself, on real sockets."""

import asyncio
import contextlib
import functools
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from modelplex.runtime import control_server
from modelplex.runtime.control_server import ControlServer, RegisteredProcess
from modelplex.runtime.controller import Controller
from modelplex.runtime.link import SocketLink
from modelplex.wire import messages
from modelplex.wire.messages import Message, Register

pytestmark = pytest.mark.system

GUARD_S = 10.0


class Wants:
    """In place of a controller: wants deployment `D`, and keeps whom it has heard of."""

    def __init__(self) -> None:
        self.known: dict[str, RegisteredProcess] = {}
        self.heard: list[Message] = []

    def register(self, register: Register, process: RegisteredProcess) -> bool:
        self.known[register.name] = process
        process.heard = self.heard.append
        return register.deployment == "D"


class Peer:
    """A process's end."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[Message] = asyncio.Queue()
        self.is_lost = asyncio.Event()
        self.link: SocketLink | None = None

    def received(self, link: Any, message: Message, body: bytes) -> None:
        self.said.put_nowait(message)

    def lost(self, link: Any) -> None:
        self.is_lost.set()

    def send(self, message: Message) -> None:
        assert self.link is not None
        self.link.send(message)


def on_uvloop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @functools.wraps(test)
    def run() -> None:
        async def guarded() -> None:
            async with asyncio.timeout(GUARD_S):
                await test()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(guarded())

    return run


@contextlib.asynccontextmanager
async def listening(*, serves: bool = True) -> AsyncIterator[tuple[ControlServer, Wants, str]]:
    """A server at a path, and whom it serves. Nothing may be left of it."""
    with tempfile.TemporaryDirectory() as folder:
        before = asyncio.all_tasks()
        path = str(Path(folder) / "control")
        with socket.socket(socket.AF_UNIX) as earlier:
            earlier.bind(path)  # and was left there
        server, wants = ControlServer(path), Wants()
        if serves:
            server.serve(cast(Controller, wants))
        yield server, wants, path
        await server.stop()
        server.close()
        assert asyncio.all_tasks() <= before
        assert os.listdir(folder) == []


async def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, path)
    return sock


async def greet(path: str, *descriptors: int) -> Peer:
    sock = await connect(path)
    socket.send_fds(sock, [b"+"], list(descriptors))
    peer = Peer()
    _, peer.link = await asyncio.get_running_loop().create_unix_connection(lambda: SocketLink(peer), sock=sock)
    return peer


async def closed(sock: socket.socket) -> None:
    """Return when the other side has closed the connection."""
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
    sock.close()


def replica(deployment: str = "D", name: str = "r", pid: int = 0) -> Register:
    return Register("replica", name, "address", "app", deployment, "v1", pid=pid)


async def known(wants: Wants, name: str = "r") -> RegisteredProcess:
    while name not in wants.known:  # noqa: ASYNC110 - it comes over a socket
        await asyncio.sleep(0.001)
    return wants.known[name]


@on_uvloop
async def test_who_registers_is_heard_and_answered_and_ends_with_its_link() -> None:
    async with listening() as (_, wants, path):
        peer = await greet(path)
        peer.send(replica())
        process = await known(wants)
        assert await process.started == "address"
        peer.send(messages.Leaving())
        process.send(messages.Stop(3.0))
        assert await peer.said.get() == messages.Stop(3.0)
        while not wants.heard:  # noqa: ASYNC110 - it comes over a socket
            await asyncio.sleep(0.001)
        assert wants.heard == [messages.Leaving()]
        assert peer.link is not None
        peer.link.close()
        assert await process.exited == "has ended"
        process.send(messages.Stop(4.0))  # nobody hears


@on_uvloop
async def test_who_is_not_wanted_is_told_to_stop() -> None:
    async with listening() as (_, _, path):
        peer = await greet(path)
        peer.send(replica("unknown"))
        assert await peer.said.get() == messages.Stop(0.0)


@on_uvloop
async def test_who_comes_before_there_is_a_controller_waits_for_it() -> None:
    async with listening(serves=False) as (server, wants, path):
        peer = await greet(path)
        peer.send(replica())
        await asyncio.sleep(0.05)
        assert wants.known == {}
        server.serve(cast(Controller, wants))
        await known(wants)


@on_uvloop
async def test_who_still_waits_when_it_ends_is_let_go() -> None:
    async with listening(serves=False) as (server, _, path):
        peer = await greet(path)
        silent = await connect(path)
        await asyncio.sleep(0.05)
        await server.stop()
        await peer.is_lost.wait()
        await closed(silent)


@on_uvloop
async def test_the_links_of_those_who_are_there_end_with_it() -> None:
    async with listening() as (server, wants, path):
        peer = await greet(path)
        peer.send(replica())
        process = await known(wants)
        await server.stop()
        assert not peer.is_lost.is_set()
        server.close()
        await peer.is_lost.wait()
        assert await process.exited


@on_uvloop
async def test_only_the_first_message_is_to_say_who_it_is() -> None:
    async with listening() as (_, wants, path):
        peer = await greet(path)
        peer.send(messages.Leaving())
        peer.send(replica())
        await peer.is_lost.wait()
        assert wants.known == {}


@on_uvloop
async def test_what_is_no_message_is_broken_off() -> None:
    async with listening() as (_, wants, path):
        sock = await connect(path)
        await asyncio.get_running_loop().sock_sendall(sock, b"+" + b"\xff" * 100)
        await closed(sock)
        assert wants.known == {}


@on_uvloop
async def test_who_leaves_without_a_word_disturbs_nobody() -> None:
    async with listening() as (_, wants, path):
        (await connect(path)).close()
        (await greet(path)).send(replica())
        await known(wants)


@pytest.mark.parametrize("greeting", [b"", b"+"])
def test_who_says_nothing_is_parted_with(greeting: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "GREETING_TIMEOUT_S", 0.05)

    @on_uvloop
    async def run() -> None:
        async with listening() as (_, wants, path):
            sock = await connect(path)
            await asyncio.get_running_loop().sock_sendall(sock, greeting)
            peer = await greet(path)
            peer.send(replica())
            await closed(sock)
            await asyncio.sleep(0.1)
            assert list(wants.known) == ["r"]
            assert not peer.is_lost.is_set(), "who has said who it is may be silent"

    run()


@on_uvloop
async def test_the_first_listener_that_is_sent_is_taken_and_others_are_closed() -> None:
    async with listening() as (server, _, path):
        with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
            await greet(path, first.fileno())
            taken = await server.listener
            assert taken.getsockname() == first.getsockname()
            peer = await greet(path, second.fileno())
            peer.send(replica())
            address = second.getsockname()
        while True:  # until its copy there is closed, too
            try:
                socket.create_connection(address).close()
            except ConnectionRefusedError:
                break
            await asyncio.sleep(0.001)
        socket.create_connection(taken.getsockname()).close()
    assert taken.fileno() == -1, "closed in the end"


@on_uvloop
async def test_a_descriptor_that_is_no_socket_is_closed() -> None:
    async with listening() as (server, _, path):
        reader, writer = os.pipe()
        peer = await greet(path, writer)
        os.close(writer)
        await peer.is_lost.wait()
        assert os.read(reader, 1) == b"", "nobody has the other end any more"
        os.close(reader)
        assert not server.listener.done()


def test_another_users_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(socket, "SO_PEERCRED"):
        pytest.skip("only Linux says who it is")
    monkeypatch.setattr("struct.unpack", lambda *_: (1, os.getuid() + 1, 0))

    @on_uvloop
    async def run() -> None:
        async with listening() as (_, wants, path):
            peer = await greet(path)
            peer.send(replica())
            await peer.is_lost.wait()
            assert wants.known == {}

    run()


@on_uvloop
async def test_a_process_is_killed_by_its_number_as_long_as_its_link_is_there() -> None:
    async with listening() as (_, wants, path):
        child = await asyncio.create_subprocess_exec("sleep", "60")
        peer = await greet(path)
        peer.send(replica(pid=child.pid))
        process = await known(wants)
        assert peer.link is not None
        peer.link.close()
        await process.exited
        process.kill()
        await asyncio.sleep(0.05)
        assert child.returncode is None
        peer = await greet(path)
        peer.send(replica(name="again", pid=child.pid))
        (await known(wants, "again")).kill()
        assert await child.wait() == -9
