"""Frames out of bytes that come in pieces of any size."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplex.errors import ProtocolError
from modelplex.wire import framing
from modelplex.wire.framing import CHUNK_BYTES, HEAD_BYTES_MAX, FrameReader, prefix

Frames = list[tuple[bytes, bytes]]


def sent(frames: Frames) -> bytes:
    return b"".join(prefix(head, len(body)) + body for head, body in frames)


def fed(pieces: list[bytes]) -> Frames:
    reader = FrameReader()
    return [frame for piece in pieces for frame in reader.feed(piece)]


def sizes(head: int, body: int) -> bytes:
    return struct.pack("!II", head, body)


FRAMES: Frames = [(b"head", b"body"), (b"", b""), (b"x", b""), (b"", b"y" * 300), (b"z" * 300, b"end")]


def test_a_frame_begins_with_both_sizes_big_endian() -> None:
    assert prefix(b"head", 258) == b"\x00\x00\x00\x04\x00\x00\x01\x02head"


def test_frames_in_one_piece() -> None:
    assert fed([sent(FRAMES)]) == FRAMES


def test_frames_byte_by_byte() -> None:
    data = sent(FRAMES)
    assert fed([data[at : at + 1] for at in range(len(data))]) == FRAMES


def test_frames_cut_in_two_anywhere() -> None:
    data = sent(FRAMES)
    for at in range(len(data) + 1):
        assert fed([data[:at], data[at:]]) == FRAMES


def test_a_frame_comes_out_with_its_last_byte_and_not_before() -> None:
    reader, data = FrameReader(), sent([(b"head", b"body")])
    assert [len(reader.feed(data[at : at + 1])) for at in range(len(data))] == [0] * (len(data) - 1) + [1]


def test_frames_need_not_come_as_bytes() -> None:
    assert FrameReader().feed(memoryview(sent(FRAMES))) == FRAMES


def test_what_came_out_stays_as_it_is_when_more_comes_in() -> None:
    reader = FrameReader()
    [frame] = reader.feed(sent([(b"head", b"body")]))
    reader.feed(b"\xff" * 7)
    assert frame == (b"head", b"body")
    assert all(isinstance(part, bytes) for part in frame)


@given(
    frames=st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=40)), max_size=8),
    cuts=st.lists(st.integers(0, 700), max_size=12),
)
def test_cutting_makes_no_difference(frames: Frames, cuts: list[int]) -> None:
    data = sent(frames)
    ends = [*sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    assert fed(pieces) == frames


def test_the_largest_frame_passes() -> None:
    frames = [(b"h" * HEAD_BYTES_MAX, b"b" * CHUNK_BYTES)]
    assert fed([sent(frames)]) == frames


@pytest.mark.parametrize(
    ("head", "body"), [(HEAD_BYTES_MAX + 1, 0), (0, CHUNK_BYTES + 1), (2**32 - 1, 0), (0, 2**32 - 1)]
)
def test_a_frame_beyond_bounds_is_refused_before_it_comes(head: int, body: int) -> None:
    with pytest.raises(ProtocolError, match=rf"announces {head} \+ {body} bytes"):
        FrameReader().feed(sizes(head, body))


def test_a_frame_beyond_bounds_is_refused_after_good_ones_too() -> None:
    reader = FrameReader()
    assert len(reader.feed(sent(FRAMES) + sizes(HEAD_BYTES_MAX + 1, 0)[:7])) == len(FRAMES)
    with pytest.raises(ProtocolError):
        reader.feed(sizes(HEAD_BYTES_MAX + 1, 0)[7:])


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01", b"SSH-2.0-OpenSSH\r\n"]
)
def test_other_protocols_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="the peer speaks something else"):
        FrameReader().feed(data)


def test_the_first_of_several_frames_is_found_when_it_is_complete() -> None:
    data = sent([(b"head", b"body"), (b"another", b"")])
    size = len(sent([(b"head", b"body")]))
    assert all(framing.first(data[:end]) is None for end in range(size))
    assert all(framing.first(data[:end]) == (b"head", size) for end in range(size, len(data) + 1))
    with pytest.raises(ProtocolError, match="the peer speaks something else"):
        framing.first(sizes(HEAD_BYTES_MAX + 1, 0))


# Parts of a body


@pytest.mark.parametrize("piece", [1, 3, 8, 9, 1000, 10**6])
def test_parts_of_any_size_come_back_however_the_body_is_cut(piece: int) -> None:
    parts = [b"", b"one", b"", b"x" * 5000, b"last"]
    body = b"".join(map(framing.part, parts))
    reader = framing.PartReader()
    found = [p for at in range(0, len(body), piece) for p in reader.feed(body[at : at + piece])]
    assert found == parts


def test_a_part_comes_when_its_last_byte_does() -> None:
    reader, body = framing.PartReader(), framing.part(b"abc")
    assert reader.feed(body[:-1]) == []
    assert reader.feed(body[-1:]) == [b"abc"]
    assert reader.feed(b"") == []
