"""Bodies over a link: flow control, what failure and cancellation leave, and bodies that are sent again."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelplex.runtime import streams
from modelplex.runtime.streams import REPLAY_BYTES_MAX, WINDOW_BYTES, Incoming, Outgoing, Upload, WholeBody
from modelplex.wire.framing import CHUNK_BYTES


async def settle() -> None:
    """Let everything run that does not wait for something that only the test can do."""
    for _ in range(20):
        await asyncio.sleep(0)


async def soon(writing: Awaitable[None]) -> None:
    """Wait for what nothing holds up any more; a test that fails should not hang."""
    async with asyncio.timeout(5):
        await writing


def some_bytes(size: int) -> bytes:
    """Not two places of it look alike, so that no part can be lost, doubled or moved unseen."""
    return random.Random(size).randbytes(size)


class Wire:
    """Where a sender's chunks arrive."""

    def __init__(self) -> None:
        self.chunks: list[tuple[bytes, bool]] = []
        self.outgoing = Outgoing(self.send)

    def send(self, data: bytes | memoryview, more: bool) -> None:
        self.chunks.append((bytes(data), more))

    @property
    def data(self) -> bytes:
        return b"".join(data for data, _ in self.chunks)

    @property
    def sizes(self) -> list[int]:
        return [len(data) for data, _ in self.chunks]

    @property
    def flags(self) -> list[bool]:
        return [more for _, more in self.chunks]


@pytest.fixture
def wire() -> Wire:
    return Wire()


async def joined(receiver_reads: Callable[[Incoming], Awaitable[bytes]], sender: Callable[[Wire], Any]) -> bytes:
    """What a receiver got of what a sender sent, each as fast as the other lets it."""
    wire = Wire()
    incoming = Incoming(lambda size: wire.outgoing.credit(size))
    wire.outgoing = Outgoing(lambda data, more: incoming.feed(bytes(data), more=more))
    async with asyncio.timeout(5):
        _, got = await asyncio.gather(sender(wire), receiver_reads(incoming))
    return got


# Outgoing


async def test_a_body_is_cut_into_chunks_and_only_the_last_says_so(wire: Wire) -> None:
    await soon(wire.outgoing.write(some_bytes(2 * CHUNK_BYTES + 1), last=True))
    assert wire.data == some_bytes(2 * CHUNK_BYTES + 1)
    assert wire.sizes == [CHUNK_BYTES, CHUNK_BYTES, 1]
    assert wire.flags == [True, True, False]


async def test_a_body_of_whole_chunks_has_no_empty_one_at_the_end(wire: Wire) -> None:
    await soon(wire.outgoing.write(bytes(2 * CHUNK_BYTES), last=True))
    assert (wire.sizes, wire.flags) == ([CHUNK_BYTES, CHUNK_BYTES], [True, False])


async def test_an_empty_end_is_a_chunk_of_its_own(wire: Wire) -> None:
    await soon(wire.outgoing.write(b"part"))
    await soon(wire.outgoing.write(b"", last=True))
    assert wire.chunks == [(b"part", True), (b"", False)]


async def test_an_empty_part_is_nothing_to_send(wire: Wire) -> None:
    await soon(wire.outgoing.write(b""))
    assert wire.chunks == []


async def test_a_sender_stops_at_the_window(wire: Wire) -> None:
    writing = asyncio.create_task(wire.outgoing.write(bytes(WINDOW_BYTES + 10), last=True))
    await settle()
    assert not writing.done()
    assert sum(wire.sizes) == WINDOW_BYTES
    assert all(wire.flags)
    writing.cancel()


async def test_what_went_along_with_the_head_counts_into_the_window(wire: Wire) -> None:
    assert wire.outgoing.first(bytes(CHUNK_BYTES)) == bytes(CHUNK_BYTES)
    writing = asyncio.create_task(wire.outgoing.write(bytes(WINDOW_BYTES)))
    await settle()
    assert sum(wire.sizes) == WINDOW_BYTES - CHUNK_BYTES
    writing.cancel()


async def test_one_chunk_goes_along_with_the_head(wire: Wire) -> None:
    assert wire.outgoing.first(some_bytes(CHUNK_BYTES + 1)) == some_bytes(CHUNK_BYTES + 1)[:CHUNK_BYTES]
    assert wire.outgoing.first(b"") == b""
    assert wire.chunks == []


async def test_a_body_of_exactly_the_window_needs_no_credit(wire: Wire) -> None:
    await soon(wire.outgoing.write(bytes(WINDOW_BYTES), last=True))
    assert wire.flags[-1] is False


async def test_credit_lets_as_much_through_as_it_is(wire: Wire) -> None:
    writing = asyncio.create_task(wire.outgoing.write(some_bytes(WINDOW_BYTES + 10), last=True))
    await settle()
    wire.outgoing.credit(7)
    await settle()
    assert sum(wire.sizes) == WINDOW_BYTES + 7
    assert not writing.done()
    wire.outgoing.credit(7)
    await soon(writing)
    assert wire.data == some_bytes(WINDOW_BYTES + 10)
    assert wire.flags[-2:] == [True, False]


async def test_credit_that_comes_early_is_kept(wire: Wire) -> None:
    wire.outgoing.credit(10)
    await soon(wire.outgoing.write(bytes(WINDOW_BYTES + 10), last=True))
    assert sum(wire.sizes) == WINDOW_BYTES + 10


async def test_the_end_of_a_body_needs_no_credit(wire: Wire) -> None:
    await soon(wire.outgoing.write(bytes(WINDOW_BYTES)))
    await soon(wire.outgoing.write(b"", last=True))
    assert wire.chunks[-1] == (b"", False)


async def test_closing_frees_a_writer_that_waits(wire: Wire) -> None:
    writing = asyncio.create_task(wire.outgoing.write(bytes(10 * WINDOW_BYTES), last=True))
    await settle()
    wire.outgoing.close()
    await soon(writing)
    assert sum(wire.sizes) == WINDOW_BYTES
    assert all(wire.flags)


async def test_after_closing_nothing_is_sent_and_nobody_waits(wire: Wire) -> None:
    wire.outgoing.close()
    await soon(wire.outgoing.write(bytes(10 * WINDOW_BYTES), last=True))
    await soon(wire.outgoing.write(b"", last=True))
    assert wire.chunks == []


async def test_credit_after_closing_wakes_nothing_up(wire: Wire) -> None:
    writing = asyncio.create_task(wire.outgoing.write(bytes(2 * WINDOW_BYTES)))
    await settle()
    wire.outgoing.close()
    wire.outgoing.credit(2 * WINDOW_BYTES)
    await soon(writing)
    assert sum(wire.sizes) == WINDOW_BYTES


async def test_a_writer_that_is_cancelled_uses_up_no_credit(wire: Wire) -> None:
    writing = asyncio.create_task(wire.outgoing.write(bytes(WINDOW_BYTES + 10)))
    await settle()
    writing.cancel()
    await asyncio.wait([writing])
    wire.outgoing.credit(5)
    await soon(wire.outgoing.write(b"after", last=True))
    assert wire.chunks[-1] == (b"after", False)


# Incoming


async def test_a_reader_gets_what_came_in_order_and_then_the_end() -> None:
    incoming = Incoming(lambda size: None)
    incoming.feed(b"a", more=True)
    incoming.feed(b"b", more=False)
    assert [await incoming.read() for _ in range(4)] == [b"a", b"b", b"", b""]


async def test_a_reader_waits_for_what_has_not_come() -> None:
    incoming = Incoming(lambda size: None)
    reading = asyncio.create_task(incoming.read())
    await settle()
    assert not reading.done()
    incoming.feed(b"a", more=True)
    assert await reading == b"a"


async def test_an_empty_chunk_in_the_middle_is_not_the_end() -> None:
    incoming = Incoming(lambda size: None)
    reading = asyncio.create_task(incoming.read())
    await settle()
    incoming.feed(b"", more=True)
    await settle()
    assert not reading.done()
    incoming.feed(b"", more=False)
    assert await reading == b""


@pytest.mark.parametrize("data", [b"all of it", b""])
async def test_a_body_that_came_at_once_reads_as_one_that_came_in_parts(data: bytes) -> None:
    def bodies() -> tuple[Incoming, WholeBody]:
        incoming = Incoming(lambda size: None)
        incoming.feed(data, more=False)
        return incoming, WholeBody(data)

    for body in bodies():
        assert (await body.read(), body.exhausted, await body.read(), body.read_nowait()) == (data, True, b"", b"")
    for body in bodies():
        assert body.exhausted is not bool(data)
        body.fail(ValueError("what failed later is no fault of what had come"))
        assert (await body.read_all(), await body.read_all()) == (data, b"")


async def test_a_body_is_exhausted_when_all_has_come_and_been_read() -> None:
    incoming = Incoming(lambda size: None)
    incoming.feed(b"a", more=True)
    await incoming.read()
    assert (incoming.complete, incoming.exhausted) == (False, False)
    incoming.feed(b"b", more=False)
    assert (incoming.complete, incoming.exhausted) == (True, False)
    await incoming.read()
    assert incoming.exhausted


async def test_an_empty_body_is_exhausted_at_once() -> None:
    incoming = Incoming(lambda size: None)
    incoming.feed(b"", more=False)
    assert incoming.exhausted
    assert await incoming.read_all() == b""


async def test_failure_comes_after_what_has_come_and_stays() -> None:
    incoming = Incoming(lambda size: None)
    incoming.feed(b"a", more=True)
    incoming.feed(b"b", more=True)
    incoming.fail(ConnectionError("lost"))
    assert [await incoming.read(), await incoming.read()] == [b"a", b"b"]
    for _ in range(2):
        with pytest.raises(ConnectionError, match="lost"):
            await incoming.read()


async def test_failure_reaches_a_reader_that_waits() -> None:
    incoming = Incoming(lambda size: None)
    reading = asyncio.create_task(incoming.read_all())
    await settle()
    incoming.fail(ConnectionError("lost"))
    with pytest.raises(ConnectionError, match="lost"):
        await reading


async def test_a_body_that_is_complete_cannot_fail_any_more() -> None:
    incoming = Incoming(lambda size: None)
    incoming.feed(b"a", more=False)
    incoming.fail(ConnectionError("lost"))
    assert await incoming.read_all() == b"a"
    assert await incoming.read() == b""


async def test_a_reader_that_is_cancelled_takes_nothing_along() -> None:
    incoming = Incoming(lambda size: None)
    reading = asyncio.create_task(incoming.read())
    await settle()
    incoming.feed(b"a", more=True)
    reading.cancel()
    await asyncio.wait([reading])
    assert reading.cancelled()
    assert await incoming.read() == b"a"


async def test_credit_is_given_for_what_was_read_not_for_what_came() -> None:
    given_back: list[int] = []
    incoming = Incoming(given_back.append)
    for _ in range(WINDOW_BYTES // CHUNK_BYTES):
        incoming.feed(bytes(CHUNK_BYTES), more=True)
    assert given_back == []
    await incoming.read()
    assert given_back == []
    await incoming.read()
    assert given_back == [2 * CHUNK_BYTES]


async def test_credit_is_given_once_for_each_byte() -> None:
    given_back: list[int] = []
    incoming = Incoming(given_back.append)
    for _ in range(100):
        incoming.feed(bytes(CHUNK_BYTES // 3), more=True)
        await incoming.read()
    read_bytes = 100 * (CHUNK_BYTES // 3)
    assert read_bytes - WINDOW_BYTES // 2 < sum(given_back) <= read_bytes


async def test_no_credit_is_given_when_nothing_more_will_come() -> None:
    given_back: list[int] = []
    incoming = Incoming(given_back.append)
    for _ in range(4):
        incoming.feed(bytes(CHUNK_BYTES), more=True)
    incoming.feed(b"end", more=False)
    await incoming.read_all()
    assert given_back == []


# Both


@settings(deadline=None, max_examples=40)
@given(sizes=st.lists(st.integers(0, 3 * CHUNK_BYTES) | st.integers(0, 2 * WINDOW_BYTES), max_size=6))
@example(sizes=[])
@example(sizes=[0, 0])
@example(sizes=[WINDOW_BYTES, 0])
@example(sizes=[CHUNK_BYTES, CHUNK_BYTES, 2 * WINDOW_BYTES, 1])
def test_what_goes_in_comes_out(sizes: list[int]) -> None:
    parts = [some_bytes(size) for size in sizes]

    async def send(wire: Wire) -> None:
        for part in parts:
            await wire.outgoing.write(part)
        await wire.outgoing.write(b"", last=True)

    assert asyncio.run(joined(Incoming.read_all, send)) == b"".join(parts)


async def test_a_slow_reader_bounds_what_is_on_the_way() -> None:
    sent = read = 0

    def send(data: bytes | memoryview, more: bool) -> None:
        nonlocal sent
        sent += len(data)
        incoming.feed(bytes(data), more=more)

    outgoing = Outgoing(send)
    incoming = Incoming(outgoing.credit)
    writing = asyncio.create_task(outgoing.write(bytes(5 * WINDOW_BYTES), last=True))
    while not incoming.exhausted:
        await settle()
        assert sent - read <= WINDOW_BYTES
        read += len(await incoming.read())
    await soon(writing)
    assert read == 5 * WINDOW_BYTES


# Upload


async def uploaded(upload: Upload, parts: list[bytes], wire: Wire, *, pause: bool = True) -> tuple[bytes, list[bool]]:
    """Send an upload whose further parts come one by one; what arrived, and every flag, the head's first."""
    head, more = upload.begin(wire.outgoing)
    for number, part in enumerate(parts, start=1):
        if pause:
            await settle()
        await soon(upload.write(part, more=number < len(parts)))
    await settle()
    return head + wire.data, [more, *wire.flags]


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, WINDOW_BYTES])
async def test_a_body_that_is_there_has_one_end(wire: Wire, size: int) -> None:
    got, flags = await uploaded(Upload(some_bytes(size), more=False), [], wire)
    assert got == some_bytes(size)
    assert flags == [True] * (max(0, size - 1) // CHUNK_BYTES) + [False]


@pytest.mark.parametrize("pause", [True, False], ids=["sent meanwhile", "all at once"])
@pytest.mark.parametrize(
    "sizes",
    [
        [0, 0],
        [0, 5],
        [5, 0],
        [5, 5],
        [0, 0, 0],
        [5, 0, 5, 0],
        [0, 5, 0, 5],
        [CHUNK_BYTES, 0],
        [CHUNK_BYTES, CHUNK_BYTES],
        [CHUNK_BYTES + 1, 0],
        [2 * CHUNK_BYTES, 2 * CHUNK_BYTES],
        [WINDOW_BYTES, 0],
        [0, WINDOW_BYTES],
    ],
    ids=str,
)
async def test_a_body_that_comes_in_parts_has_one_end(wire: Wire, sizes: list[int], pause: bool) -> None:
    first, *rest = (some_bytes(size) for size in sizes)
    got, flags = await uploaded(Upload(first, more=True), rest, wire, pause=pause)
    assert got == first + b"".join(rest)
    assert flags == [True] * (len(flags) - 1) + [False]


async def test_a_body_that_has_not_ended_has_no_end(wire: Wire) -> None:
    upload = Upload(b"a", more=True)
    head, more = upload.begin(wire.outgoing)
    await soon(upload.write(b"b", more=True))
    await settle()
    assert (head, more, wire.chunks) == (b"a", True, [(b"b", True)])
    upload.stop()


async def test_whoever_writes_waits_while_much_has_not_been_sent(wire: Wire) -> None:
    upload = Upload(b"", more=True)
    upload.begin(wire.outgoing)
    await soon(upload.write(bytes(WINDOW_BYTES), more=True))
    await settle()
    await soon(upload.write(bytes(1), more=True))  # the window is used up: this one is being sent, and
    await settle()
    await soon(upload.write(bytes(WINDOW_BYTES), more=True))  # this one waits
    writing = asyncio.create_task(upload.write(bytes(1), more=False))
    await settle()
    assert not writing.done()
    wire.outgoing.credit(WINDOW_BYTES)
    await soon(writing)
    upload.stop()


async def test_before_it_is_begun_whoever_writes_waits_as_well() -> None:
    upload = Upload(b"", more=True)
    await soon(upload.write(bytes(WINDOW_BYTES), more=True))
    writing = asyncio.create_task(upload.write(b"x", more=False))
    await settle()
    assert not writing.done()
    wire = Wire()
    upload.begin(wire.outgoing)
    await soon(writing)
    await settle()
    wire.outgoing.credit(1)
    await settle()
    assert wire.data == bytes(WINDOW_BYTES) + b"x"


async def test_whoever_stops_waiting_takes_nothing_back(wire: Wire) -> None:
    upload = Upload(b"", more=True)
    await soon(upload.write(bytes(WINDOW_BYTES), more=True))
    writing = asyncio.create_task(upload.write(b"x", more=False))
    await settle()
    writing.cancel()
    await asyncio.wait([writing])
    upload.begin(wire.outgoing)
    wire.outgoing.credit(1)
    await settle()
    assert wire.data == bytes(WINDOW_BYTES) + b"x"
    assert wire.flags[-1] is False


async def test_a_body_begins_anew_on_another_link(wire: Wire) -> None:
    upload = Upload(some_bytes(2 * WINDOW_BYTES), more=False)
    upload.begin(wire.outgoing)
    await settle()
    second = Wire()
    second.outgoing.credit(WINDOW_BYTES)
    got, flags = await uploaded(upload, [], second)
    assert got == some_bytes(2 * WINDOW_BYTES)
    assert flags == [True] * (2 * WINDOW_BYTES // CHUNK_BYTES - 1) + [False]


async def test_what_came_meanwhile_is_sent_again_too(wire: Wire) -> None:
    upload = Upload(b"a", more=True)
    upload.begin(wire.outgoing)
    await soon(upload.write(b"b", more=True))
    await settle()
    await soon(upload.write(b"c", more=True))
    second = Wire()
    got, flags = await uploaded(upload, [b"d"], second)
    assert (got, flags) == (b"abcd", [True, True, True, False])
    assert wire.data == b"b"


async def test_an_ended_body_can_be_sent_again(wire: Wire) -> None:
    upload = Upload(b"a", more=True)
    await uploaded(upload, [b"b"], wire)
    for _ in range(2):
        assert await uploaded(upload, [], Wire()) == (b"ab", [True, False])


async def test_the_first_link_gets_nothing_more_once_another_is_begun(wire: Wire) -> None:
    upload = Upload(bytes(2 * WINDOW_BYTES), more=False)
    upload.begin(wire.outgoing)
    await settle()
    before = len(wire.chunks)
    second = Wire()
    wire.outgoing.credit(WINDOW_BYTES)
    upload.begin(second.outgoing)
    await settle()
    assert len(wire.chunks) == before
    upload.stop()


async def test_a_body_that_is_stopped_while_it_waits_for_more_can_begin_anew(wire: Wire) -> None:
    upload = Upload(b"a", more=True)
    upload.begin(wire.outgoing)
    await settle()
    upload.stop()
    await soon(upload.write(b"b", more=False))
    await settle()
    assert wire.chunks == []
    assert await uploaded(upload, [], Wire()) == (b"ab", [True, False])


async def test_stopping_twice_or_before_the_beginning_is_nothing(wire: Wire) -> None:
    upload = Upload(b"a", more=True)
    upload.stop()
    upload.begin(wire.outgoing)
    upload.stop()
    upload.stop()
    await settle()
    assert wire.chunks == []


async def test_a_body_up_to_the_limit_can_be_sent_again() -> None:
    upload = Upload(b"", more=True)
    data = some_bytes(REPLAY_BYTES_MAX)

    async def write(wire: Wire) -> None:
        upload.begin(wire.outgoing)
        for at in range(0, len(data), CHUNK_BYTES):
            await upload.write(data[at : at + CHUNK_BYTES], more=True)
        await upload.write(b"", more=False)

    assert await joined(Incoming.read_all, write) == data
    assert upload.replayable


async def test_a_body_past_the_limit_cannot_be_sent_again_and_is_not_kept() -> None:
    upload = Upload(b"", more=True)
    data = some_bytes(2 * REPLAY_BYTES_MAX)
    kept: list[int] = []

    async def write(wire: Wire) -> None:
        upload.begin(wire.outgoing)
        for at in range(0, len(data), CHUNK_BYTES):
            await upload.write(data[at : at + CHUNK_BYTES], more=True)
            kept.append(sum(map(len, upload._chunks)))
        await upload.write(b"", more=False)

    assert await joined(Incoming.read_all, write) == data
    assert not upload.replayable
    assert max(kept) <= REPLAY_BYTES_MAX + WINDOW_BYTES + 2 * CHUNK_BYTES
    assert kept[-1] <= WINDOW_BYTES + 2 * CHUNK_BYTES


async def test_what_was_sent_is_not_kept_once_nothing_can_be_sent_again(wire: Wire) -> None:
    upload = Upload(b"", more=True)
    upload.begin(wire.outgoing)
    upload.settle()
    for _ in range(100):
        await soon(upload.write(b"message", more=True))
        await settle()
        assert sum(map(len, upload._chunks)) <= len(b"message")
    assert wire.data == 100 * b"message"
    assert not upload.replayable
    upload.stop()


async def test_a_body_that_was_there_from_the_start_can_always_be_sent_again(wire: Wire) -> None:
    upload = Upload(some_bytes(2 * REPLAY_BYTES_MAX), more=False)
    wire.outgoing.credit(2 * REPLAY_BYTES_MAX)
    await uploaded(upload, [], wire)
    await settle()
    assert wire.flags[-1] is False
    assert upload.replayable


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 200) | st.integers(0, 2 * CHUNK_BYTES), min_size=1, max_size=8),
    breaks=st.sets(st.integers(0, 8)),
    limit=st.sampled_from([0, 300, REPLAY_BYTES_MAX]),
)
@example(sizes=[0], breaks={0}, limit=REPLAY_BYTES_MAX)
@example(sizes=[0, 0], breaks={0, 1}, limit=REPLAY_BYTES_MAX)
@example(sizes=[2 * CHUNK_BYTES] * 8, breaks={3}, limit=0)
def test_the_link_that_holds_gets_the_whole_body(sizes: list[int], breaks: set[int], limit: int) -> None:
    """Links break now and then, as long as the body can be sent again."""
    parts = [some_bytes(size) for size in sizes]

    async def run() -> None:
        upload = Upload(parts[0], more=len(parts) > 1)
        got = asyncio.create_task(asyncio.sleep(0, b""))
        incoming = Incoming(lambda size: None)

        def begin() -> None:
            nonlocal got, incoming
            got.cancel()
            fresh = incoming = Incoming(lambda size: outgoing.credit(size))
            outgoing = Outgoing(lambda data, more: fresh.feed(bytes(data), more=more))
            head, more = upload.begin(outgoing)
            fresh.feed(head, more=more)
            got = asyncio.create_task(fresh.read_all())

        begin()
        for number, part in enumerate(parts[1:], start=1):
            await soon(upload.write(part, more=number < len(parts) - 1))
            if number % 2:
                await settle()
            if number in breaks and upload.replayable:
                begin()
        async with asyncio.timeout(5):
            assert await got == b"".join(parts)
        assert incoming.exhausted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "REPLAY_BYTES_MAX", limit)
        asyncio.run(run())
