"""Links over TCP: who is let in, what is said to the others, and what becomes of what was sent."""

import asyncio
import contextlib
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from clusters import OTHER_SECRET, PLAIN, SECRET, make_tls
from on_loops import on_both_loops

from modelplex.errors import ProtocolError
from modelplex.runtime import tcp_link
from modelplex.runtime.credentials import Credentials
from modelplex.runtime.link import Link, SocketLink, is_cut
from modelplex.runtime.tcp_link import TCPServer, connect_tcp
from modelplex.wire import handshake, messages
from modelplex.wire.framing import prefix
from modelplex.wire.messages import Cancel, Hello, Message

pytestmark = pytest.mark.system


class Ear:
    """Keeps what it hears; the end is None (`link.Receiver`)."""

    def __init__(self, *, echoes: bool = False) -> None:
        self.heard: asyncio.Queue[tuple[Message, bytes] | None] = asyncio.Queue()
        self.links: list[Link] = []
        self.echoes = echoes

    def received(self, link: Link, message: Message, body: bytes) -> None:
        if link not in self.links:
            self.links.append(link)
        self.heard.put_nowait((message, body))
        if self.echoes:
            link.send(message, body)

    def lost(self, link: Link) -> None:
        self.heard.put_nowait(None)


def no_relay(transport: asyncio.Transport, rest: bytes, address: str) -> None:
    raise AssertionError("nobody has asked for a relay")


class Served(Ear):
    """A server that echoes what it hears."""

    def __init__(self, server: TCPServer) -> None:
        super().__init__(echoes=True)
        self.server = server

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.server.port)

    async def link(self, credentials: Credentials = PLAIN, ear: Ear | None = None) -> Link:
        return await connect_tcp("127.0.0.1", self.server.port, credentials, ear or Ear())


@contextlib.asynccontextmanager
async def serving(credentials: Credentials = PLAIN) -> AsyncIterator[Served]:
    """At the end all of its connections are gone."""
    server = TCPServer(credentials, lambda: served, no_relay)
    served = Served(server)
    await server.start("127.0.0.1")
    try:
        yield served
    finally:
        await server.close()
        for link in served.links:
            link.close()
        await asyncio.sleep(0.02)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


async def talk(link: Link, ear: Ear) -> None:
    """Both ends hear each other, in order, whatever the size."""
    sizes = [0, 1, 60_000, 5, 65_536]
    for number, size in enumerate(sizes):
        link.send(Cancel(number), bytes(size))
    for number, size in enumerate(sizes):
        assert await ear.heard.get() == (Cancel(number), bytes(size))


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return Credentials(SECRET, make_tls(tmp_path_factory.mktemp("tls")))


@pytest.fixture(scope="module")
def other_tls(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return Credentials(SECRET, make_tls(tmp_path_factory.mktemp("tls"), "stranger"))


@pytest.mark.parametrize("encrypted", [False, True])
@on_both_loops
async def test_two_that_know_the_secret_talk(encrypted: bool, tls: Credentials) -> None:
    credentials = tls if encrypted else PLAIN
    async with serving(credentials) as served:
        ears = [Ear() for _ in range(5)]
        links = []
        for ear in ears:
            links.append(await served.link(credentials, ear))
            await talk(links[-1], ear)  # in this order for the server, too
        assert all(link.is_remote for link in links)
        await asyncio.gather(*(talk(link, ear) for link, ear in zip(links, ears, strict=True)))
        links[0].close()
        assert await ears[0].heard.get() is None
        served.links[1].close()
        assert await ears[1].heard.get() is None
        assert not links[1].is_cut
        for link in links:
            link.close()


@pytest.mark.parametrize("case", ["secret", "CA", "own certificate", "TLS at the server", "TLS at the client"])
@on_both_loops
async def test_who_differs_is_refused_by_a_clear_error_and_the_server_serves_on(
    case: str, tls: Credentials, other_tls: Credentials
) -> None:
    assert tls.tls is not None
    assert other_tls.tls is not None
    wrong_cert = Credentials(SECRET, replace(other_tls.tls, ca=tls.tls.ca))  # trusts the server, but is a stranger
    server, client = {
        "secret": (PLAIN, Credentials(OTHER_SECRET)),
        "CA": (tls, other_tls),
        "own certificate": (tls, wrong_cert),
        "TLS at the server": (tls, PLAIN),
        "TLS at the client": (PLAIN, tls),
    }[case]
    async with serving(server) as served:
        for _ in range(3):
            with pytest.raises(ProtocolError, match=r"No link to 127\.0\.0\.1"):
                await served.link(client)
        assert served.links == []
        ear = Ear()
        link = await served.link(server, ear)
        await talk(link, ear)
        link.close()


@on_both_loops
async def test_a_wrong_secret_is_heard_by_whoever_connects_as_well() -> None:
    """A server that answers without knowing the secret is none."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(handshake.HELLO_BYTES)
        writer.write(bytes(handshake.ANSWER_BYTES))
        assert await reader.read() == b""
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    with pytest.raises(ProtocolError, match="does not know this cluster's secret"):
        await connect_tcp("127.0.0.1", server.sockets[0].getsockname()[1], PLAIN, Ear())
    server.close()
    await asyncio.sleep(0.02)


@on_both_loops
async def test_what_follows_the_handshake_in_one_write_is_heard() -> None:
    async with serving() as served:
        reader, writer = await served.raw()
        client = handshake.Client(SECRET, os.urandom(32))
        writer.write(client.hello)
        proof = client.feed(await reader.readexactly(handshake.ANSWER_BYTES))
        frames = b"".join(prefix(messages.encode(m), 0) for m in (Hello(messages.VERSION), Cancel(1), Cancel(2)))
        writer.write(proof + frames[:-3])
        assert await served.heard.get() == (Hello(messages.VERSION), b"")
        writer.write(frames[-3:])
        assert [await served.heard.get() for _ in range(2)] == [(Cancel(1), b""), (Cancel(2), b"")]
        writer.close()


@pytest.mark.parametrize("wrong", [b"GET / HTTP/1.1\r\n\r\n", b"\x00", handshake.MAGIC[:-1] + b"\x02", b"\xff" * 10**6])
@on_both_loops
async def test_a_stranger_is_refused_at_the_first_wrong_byte_without_a_word(wrong: bytes) -> None:
    async with serving() as served:
        reader, writer = await served.raw()
        writer.write(wrong)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        assert served.links == []


@on_both_loops
async def test_the_silent_are_parted_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_link, "PROOF_TIMEOUT_S", 0.1)
    async with serving() as served:
        for said in (b"", handshake.MAGIC, handshake.Client(SECRET, os.urandom(32)).hello):
            reader, writer = await served.raw()
            writer.write(said)
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()


@on_both_loops
async def test_of_too_many_that_have_not_proved_themselves_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_link, "UNPROVED_MAX", 3)
    async with serving() as served:
        ear = Ear()
        link = await served.link(ear=ear)
        link.send(Cancel(0))  # it is in, and counts no more
        await ear.heard.get()
        strangers = [await served.raw() for _ in range(5)]
        ends = [asyncio.ensure_future(reader.read()) for reader, _ in strangers]
        await asyncio.wait(ends[:2])
        assert [end.done() for end in ends] == [True, True, False, False, False]
        await talk(link, ear)
        await talk(await served.link(ear=ear), ear)
        for _, writer in strangers:
            writer.close()
        await asyncio.gather(*ends, return_exceptions=True)
        link.close()


@on_both_loops
async def test_nobody_listens_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await connect_tcp("127.0.0.1", port, PLAIN, Ear())


@on_both_loops
async def test_a_server_that_never_answers_is_given_up_and_so_is_one_that_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tcp_link, "PROOF_TIMEOUT_S", 0.1)
    monkeypatch.setattr(tcp_link, "CONNECT_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(TimeoutError) as busy:
            await connect_tcp("127.0.0.1", port, PLAIN, Ear())
        # The first one has filled the backlog: the kernel answers nobody.
        with pytest.raises(TimeoutError) as unreachable:
            await connect_tcp("127.0.0.1", port, PLAIN, Ear())
    assert (is_cut(busy.value), is_cut(unreachable.value)) == (False, True)


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("encrypted", [False, True])
@on_both_loops
async def test_a_cancelled_connect_leaves_nothing(turns: int, encrypted: bool, tls: Credentials) -> None:
    """At whichever of its awaits."""
    credentials = tls if encrypted else PLAIN
    async with serving(credentials) as served:
        ear = Ear()
        (await served.link(credentials)).close()  # what the loop opens for itself is open now
        await asyncio.sleep(0.05)
        before = descriptors()
        connecting = asyncio.create_task(connect_tcp("127.0.0.1", served.server.port, credentials, ear))
        for _ in range(turns):
            await asyncio.sleep(0)
        connecting.cancel()
        result = (await asyncio.gather(connecting, return_exceptions=True))[0]
        if isinstance(result, SocketLink):
            result.close()
        else:
            assert isinstance(result, asyncio.CancelledError)
        deadline = time.monotonic() + 2
        while descriptors() > before:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)


@on_both_loops
async def test_a_closed_server_lets_nobody_in_and_keeps_the_links_that_it_has() -> None:
    async with serving() as served:
        ear = Ear()
        link = await served.link(ear=ear)
        await talk(link, ear)
        reader, writer = await served.raw()
        await asyncio.sleep(0.01)
        await served.server.close()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await served.link()
        await talk(link, ear)
        link.close()
        writer.close()


@on_both_loops
async def test_strangers_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    async with serving() as served:
        for _ in range(50):
            with pytest.raises(ProtocolError):
                await served.link(Credentials(OTHER_SECRET))
    assert len(caplog.records) == 1
    assert "127.0.0.1: it does not know this cluster's secret" in caplog.text
    assert OTHER_SECRET.hex() not in caplog.text
