"""Names out of the bytes of messages, held to what protocol buffers themselves read."""

import contextlib
from typing import Any

import pytest
from google.protobuf import struct_pb2, type_pb2
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from modelplex.errors import InvalidRequestError
from modelplex.wire import protobuf

# Field 1 is text, 2 a list of messages, 3 a list of texts, 6 a number.
Type: Any = type_pb2.Type


def test_texts_are_found_whatever_is_round_them() -> None:
    message = Type(name="the name", oneofs=["one", "last"], syntax=1)
    message.fields.add(name="inner", number=2**31 - 1)
    assert protobuf.texts(message.SerializeToString(), (1, 3, 9)) == ["the name", "last", ""]
    assert protobuf.texts(b"", (1,)) == [""]
    assert protobuf.texts(struct_pb2.Value(number_value=1.5).SerializeToString(), (1,)) == [""]


def test_of_several_the_last_counts_as_for_everybody() -> None:
    data = protobuf.field(1, b"first") + protobuf.field(1, "läst".encode())
    assert protobuf.texts(data, (1,)) == [Type.FromString(data).name] == ["läst"]


@given(st.text(max_size=300), st.lists(st.text(max_size=20), max_size=20), st.integers(0, 2**31 - 1))
def test_what_is_written_is_read(name: str, others: list[str], number: int) -> None:
    message = Type(name=name, oneofs=others, syntax=1)
    message.fields.add(number=number)
    assert protobuf.texts(message.SerializeToString(), (1,)) == [name]
    assert Type.FromString(protobuf.field(1, name.encode())).name == name


@given(st.binary(max_size=60))
def test_random_bytes_are_read_as_protocol_buffers_read_them_or_refused(data: bytes) -> None:
    try:
        found = protobuf.texts(data, (1,))
    except InvalidRequestError:
        return
    with contextlib.suppress(DecodeError):  # what is inside of the other fields is not looked at
        assert found == [Type.FromString(data).name]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x0a", "inside of a number"),
        (b"\x0a\x05abc", "inside of a field"),
        (b"\x0d\x01", "inside of a field"),
        (b"\xff" * 11, "more than ten bytes"),
        (b"\x0b", "kind 3"),
        (b"\x0a\x02\xff\xfe", "no UTF-8"),
        (b"\x08\x01" * (protobuf.FIELDS_MAX + 1), "more than 4096 fields"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        protobuf.texts(data, (1,))
