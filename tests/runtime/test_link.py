"""Links: what arrives, in which order, and how they end."""

import asyncio
import errno
import math
from collections.abc import Iterable

import pytest

from modelplex.runtime.link import TOGETHER_BYTES_MAX, Link, MemoryLink, SocketLink
from modelplex.wire.messages import Cancel, Message


class Recorder:
    """Keeps what it hears, in order; the end is None (`link.Receiver`)."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, bytes] | None] = []
        self.links: set[Link] = set()

    def received(self, link: Link, message: Message, body: bytes) -> None:
        assert isinstance(message, Cancel)
        self.links.add(link)
        self.heard.append((message.stream, body))

    def lost(self, link: Link) -> None:
        self.links.add(link)
        self.heard.append(None)


class Pair:
    """Both ends of a link, and what is heard at each."""

    def __init__(self) -> None:
        self.hears_a, self.hears_b = Recorder(), Recorder()
        self.a, self.b = MemoryLink.pair(self.hears_a, self.hears_b)


@pytest.fixture
async def pair() -> Pair:
    return Pair()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_messages_arrive_in_order_at_the_other_end(pair: Pair) -> None:
    for number in range(100):
        pair.a.send(Cancel(number), b"%d" % number)
    pair.b.send(Cancel(7))
    await settle()
    assert pair.hears_b.heard == [(number, b"%d" % number) for number in range(100)]
    assert pair.hears_a.heard == [(7, b"")]


async def test_a_receiver_is_told_of_its_own_end(pair: Pair) -> None:
    pair.a.send(Cancel(1))
    pair.b.send(Cancel(2))
    await settle()
    assert (pair.hears_a.links, pair.hears_b.links) == ({pair.a}, {pair.b})


async def test_nothing_arrives_while_it_is_being_sent(pair: Pair) -> None:
    """As over a socket: a sender is never called back in the middle of what it does."""
    pair.a.send(Cancel(1))
    assert pair.hears_b.heard == []
    await settle()
    assert pair.hears_b.heard == [(1, b"")]


async def test_a_body_is_as_it_was_when_it_was_sent(pair: Pair) -> None:
    buffer = bytearray(b"before")
    pair.a.send(Cancel(1), memoryview(buffer))
    buffer[:] = b"after!"
    await settle()
    assert pair.hears_b.heard == [(1, b"before")]


async def test_what_was_sent_has_arrived_when_it_is_flushed(pair: Pair) -> None:
    pair.a.send(Cancel(1))
    pair.a.send(Cancel(2))
    await pair.a.flushed(1.0)
    assert pair.hears_b.heard == [(1, b""), (2, b"")]


@pytest.mark.parametrize("closer", ["a", "b"])
async def test_closing_either_end_ends_both_once(pair: Pair, closer: str) -> None:
    end = pair.a if closer == "a" else pair.b
    end.close()
    end.close()
    await settle()
    end.close()
    await settle()
    assert (pair.hears_a.heard, pair.hears_b.heard) == ([None], [None])


async def test_closing_both_ends_at_a_time_ends_each_once(pair: Pair) -> None:
    pair.a.close()
    pair.b.close()
    await settle()
    assert (pair.hears_a.heard, pair.hears_b.heard) == ([None], [None])


async def test_nobody_is_told_of_the_end_while_it_is_being_closed(pair: Pair) -> None:
    pair.a.close()
    assert (pair.hears_a.heard, pair.hears_b.heard) == ([], [])


async def test_what_was_sent_arrives_before_the_end(pair: Pair) -> None:
    pair.a.send(Cancel(1))
    pair.b.send(Cancel(2))
    pair.a.close()
    await settle()
    assert (pair.hears_a.heard, pair.hears_b.heard) == ([(2, b""), None], [(1, b""), None])


async def test_sending_after_the_end_is_nothing(pair: Pair) -> None:
    pair.a.close()
    pair.a.send(Cancel(1))
    await settle()
    pair.a.send(Cancel(2))
    pair.b.send(Cancel(3))
    await settle()
    assert (pair.hears_a.heard, pair.hears_b.heard) == ([None], [None])


async def test_nothing_arrives_after_the_end(pair: Pair) -> None:
    """Not from an end that has yet to hear of it, either."""
    pair.a.close()
    pair.b.send(Cancel(1))
    await settle()
    assert (pair.hears_a.heard, pair.hears_b.heard) == ([None], [None])


async def test_a_receiver_may_close_the_link_that_it_hears_from() -> None:
    class Closer(Recorder):
        def received(self, link: Link, message: Message, body: bytes) -> None:
            super().received(link, message, body)
            link.close()

    hears_a, hears_b = Recorder(), Closer()
    a, _ = MemoryLink.pair(hears_a, hears_b)
    a.send(Cancel(1))
    await settle()
    assert (hears_a.heard, hears_b.heard) == ([None], [(1, b""), None])


# Over a socket


@pytest.mark.parametrize(
    ("error", "cut"),
    [
        (None, False),
        (ConnectionResetError(errno.ECONNRESET, "reset"), False),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), False),
        (TimeoutError(), False),  # somebody's patience, not the network
        (TimeoutError(errno.ETIMEDOUT, "timed out"), True),
        (OSError(errno.EHOSTUNREACH, "no route"), True),
    ],
)
async def test_a_link_that_is_lost_says_whether_the_network_was_cut(error: Exception | None, cut: bool) -> None:
    link = over(Wire())
    link.connection_lost(error)
    assert link.is_cut == cut


class Wire(asyncio.Transport):
    """Keeps what is written to it, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.writes.append(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def get_write_buffer_size(self) -> int:
        return 0


def over(wire: Wire, together_s: float = math.inf) -> SocketLink:
    link = SocketLink(Recorder(), together_s)
    link.connection_made(wire)
    return link


def heard(*writes: bytes) -> list[tuple[int, bytes] | None]:
    """What the other end makes of these bytes."""
    recorder = Recorder()
    SocketLink(recorder).data_received(b"".join(writes))
    return recorder.heard


async def test_a_message_after_a_pause_is_written_at_once() -> None:
    """A replica whose code blocks its event loop must not keep an answer back that another request was given before."""
    wire = Wire()
    over(wire, together_s=0.0).send(Cancel(1), b"body")
    assert heard(*wire.writes) == [(1, b"body")]


async def test_messages_in_close_succession_are_written_together() -> None:
    wire = Wire()
    link = over(wire)
    for number in range(3):
        link.send(Cancel(number), b"%d" % number)
    assert wire.writes == []
    await settle()
    link.send(Cancel(3))
    await settle()
    assert len(wire.writes) == 2
    assert heard(*wire.writes) == [(0, b"0"), (1, b"1"), (2, b"2"), (3, b"")]


async def test_a_large_body_takes_along_what_waits_before_it() -> None:
    wire, large = Wire(), bytes(TOGETHER_BYTES_MAX)
    link = over(wire)
    link.send(Cancel(1))
    link.send(Cancel(2), large)
    assert heard(*wire.writes) == [(1, b""), (2, large)]
    await settle()
    assert len(wire.writes) == 1


@pytest.mark.parametrize("end", ["flushed", "close"])
async def test_what_waits_is_written_when_the_link_is_flushed_or_closed(end: str) -> None:
    wire = Wire()
    link = over(wire)
    link.send(Cancel(1))
    if end == "flushed":
        await link.flushed(1.0)
    else:
        link.close()
    assert heard(*wire.writes) == [(1, b"")]
    await settle()
    assert len(wire.writes) == 1


async def test_what_waits_when_the_socket_is_lost_is_not_written() -> None:
    wire = Wire()
    link = over(wire)
    link.send(Cancel(1))
    link.connection_lost(None)
    await settle()
    link.send(Cancel(2))
    await settle()
    assert wire.writes == []
