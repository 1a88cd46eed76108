"""The handshake: who gets in, who does not, and what the listening side says before it knows."""

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelplex.errors import ProtocolError
from modelplex.wire import handshake
from modelplex.wire.handshake import ANSWER_BYTES, HELLO_BYTES, MAGIC, PROOF_BYTES, Client, Server

SECRET, OTHER_SECRET = bytes(range(32)), bytes(range(1, 33))
NONCE, OTHER_NONCE, THIRD_NONCE = b"c" * 32, b"s" * 32, b"t" * 32


@dataclass
class Recording:
    """A good handshake, as it went over the wire."""

    hello: bytes
    answer: bytes
    proof: bytes


def recorded() -> Recording:
    client, server = Client(SECRET, NONCE), Server(SECRET, OTHER_NONCE)
    answer = server.feed(client.hello)
    return Recording(client.hello, answer, client.feed(answer))


@dataclass
class Told:
    """What a server answered to a stream in pieces, and whether the stream was let in."""

    answered: bytes = b""
    rest: bytes | None = None
    refused_after: int | None = field(default=None)


def tell(server: Server, pieces: list[bytes]) -> Told:
    told, count = Told(), 0
    for at, piece in enumerate(pieces):
        count += len(piece)
        try:
            told.answered += server.feed(piece)
        except ProtocolError:
            told.refused_after = count
            return told
        if server.rest is not None:
            told.rest = server.rest + b"".join(pieces[at + 1 :])
            return told
    return told


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(at)]


def test_both_sides_are_sure_of_each_other() -> None:
    client, server = Client(SECRET, NONCE), Server(SECRET, OTHER_NONCE)
    answer = server.feed(client.hello)
    assert (client.rest, server.rest) == (None, None)
    proof = client.feed(answer + b"after")
    assert server.feed(proof + b"wards") == b""
    assert (client.rest, server.rest) == (b"after", b"wards")
    assert (len(client.hello), len(answer), len(proof)) == (HELLO_BYTES, ANSWER_BYTES, PROOF_BYTES)


@given(st.lists(st.integers(0, 10_000), max_size=12), st.lists(st.integers(0, 10_000), max_size=12))
def test_bytes_may_come_in_any_pieces(hello_cuts: list[int], proof_cuts: list[int]) -> None:
    good = recorded()
    server = Server(SECRET, OTHER_NONCE)
    assert tell(server, split(good.hello, hello_cuts)) == Told(good.answer)
    assert tell(server, split(good.proof + b"frames", proof_cuts)) == Told(rest=b"frames")

    client, said = Client(SECRET, NONCE), b""
    pieces = split(good.answer, proof_cuts)
    for piece in pieces:
        assert client.rest is None or not piece
        if client.rest is None:
            said += client.feed(piece)
    assert said == good.proof


@pytest.mark.parametrize("at", range(HELLO_BYTES))
@pytest.mark.parametrize("bit", [0, 7])
def test_a_hello_with_any_bit_changed_gets_no_answer(at: int, bit: int) -> None:
    hello = bytearray(recorded().hello)
    hello[at] ^= 1 << bit
    told = tell(Server(SECRET, OTHER_NONCE), [bytes([byte]) for byte in hello])
    # A wrong magic is refused at its first wrong byte, all else at the end of the hello.
    assert told == Told(b"", refused_after=at + 1 if at < len(MAGIC) else HELLO_BYTES)


@pytest.mark.parametrize("at", range(PROOF_BYTES))
def test_a_proof_with_any_byte_changed_is_refused(at: int) -> None:
    good = recorded()
    proof = bytearray(good.proof)
    proof[at] ^= 0xFF
    told = tell(Server(SECRET, OTHER_NONCE), [good.hello, bytes(proof)])
    assert told == Told(good.answer, refused_after=HELLO_BYTES + PROOF_BYTES)


@pytest.mark.parametrize("at", range(ANSWER_BYTES))
def test_an_answer_with_any_byte_changed_is_refused(at: int) -> None:
    answer = bytearray(recorded().answer)
    answer[at] ^= 0x80
    client = Client(SECRET, NONCE)
    with pytest.raises(ProtocolError, match="does not know this cluster's secret"):
        client.feed(bytes(answer))
    assert client.rest is None


def test_a_recorded_handshake_gets_no_further_than_the_answer() -> None:
    good = recorded()
    told = tell(Server(SECRET, THIRD_NONCE), [good.hello, good.proof, b"frames"])
    assert len(told.answered) == ANSWER_BYTES
    assert told.answered != good.answer
    assert told.refused_after == HELLO_BYTES + PROOF_BYTES


@pytest.mark.parametrize("reflected", ["hello", "answer", "the answer's MAC", "the hello's MAC"])
def test_nothing_that_was_said_proves_anything_when_it_is_sent_back(reflected: str) -> None:
    good = recorded()
    proof = {"hello": good.hello, "answer": good.answer, "the answer's MAC": good.answer[32:]}
    data = proof.get(reflected, good.hello[-32:])
    told = tell(Server(SECRET, OTHER_NONCE), [good.hello, data])
    assert (told.answered, told.rest) == (good.answer, None)
    assert told.refused_after is not None


def test_an_answer_is_worth_nothing_to_another_client() -> None:
    with pytest.raises(ProtocolError):
        Client(SECRET, THIRD_NONCE).feed(recorded().answer)


def test_who_has_another_secret_is_refused_by_either_side() -> None:
    assert tell(Server(SECRET, OTHER_NONCE), [Client(OTHER_SECRET, NONCE).hello]) == Told(refused_after=HELLO_BYTES)
    client, server = Client(SECRET, NONCE), Server(OTHER_SECRET, OTHER_NONCE)
    server_that_skips = Server(SECRET, OTHER_NONCE).feed(client.hello)[:32] + bytes(32)
    with pytest.raises(ProtocolError):
        client.feed(server_that_skips)
    assert server.rest is None


@pytest.mark.parametrize("tail", [b"x", b"frames", bytes(1_000_000)])
def test_whoever_does_not_wait_for_the_answer_gets_none(tail: bytes) -> None:
    assert tell(Server(SECRET, OTHER_NONCE), [recorded().hello + tail]).answered == b""


@given(st.binary(min_size=1, max_size=300), st.lists(st.integers(0, 300), max_size=8))
@settings(max_examples=300)
def test_a_stranger_hears_nothing(data: bytes, cuts: list[int]) -> None:
    told = tell(Server(SECRET, OTHER_NONCE), split(data, cuts))
    assert (told.answered, told.rest) == (b"", None)
    if not MAGIC.startswith(data[: len(MAGIC)]):
        assert told.refused_after is not None


@given(st.integers(0, HELLO_BYTES - 1))
def test_part_of_a_hello_gets_no_answer(length: int) -> None:
    assert tell(Server(SECRET, OTHER_NONCE), [recorded().hello[:length]]) == Told()


@given(st.binary(max_size=400), st.integers(1, 60))
def test_a_server_keeps_no_more_than_a_hello(data: bytes, step: int) -> None:
    """Whatever comes, in whatever pieces: of the bytes that are neither refused nor answered there are few."""
    server = Server(SECRET, OTHER_NONCE)
    taken = 0
    try:
        for piece in [MAGIC, *(data[at : at + step] for at in range(0, len(data), step))]:
            server.feed(piece)
            taken += len(piece)
    except ProtocolError:
        pass
    assert taken <= HELLO_BYTES


def test_the_secret_is_in_nothing_that_is_sent() -> None:
    good = recorded()
    assert all(SECRET[at : at + 4] not in good.hello + good.answer + good.proof for at in range(28))
    assert len(SECRET) == handshake.SECRET_BYTES
