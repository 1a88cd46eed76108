"""Messages as bytes and back, and what is no message."""

import contextlib
import dataclasses
import types
from typing import Any, Union, get_args, get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplex.errors import ProtocolError
from modelplex.wire import messages
from modelplex.wire.messages import Message

HTTP_HEAD = messages.HTTPHead(
    method="POST",
    path="/a b/ü",
    raw_path=b"/a%20b/%c3%bc",
    query_string=b"q=%ff",
    root_path="",
    scheme="http",
    http_version="1.1",
    headers=[(b"host", b"localhost"), (b"x-binary", bytes(range(128, 256)))],
    client=("::1", 54321),
    server=("/run/socket", None),
)

EXAMPLES: list[Message] = [
    messages.Hello(version=1),
    messages.Begin(1, "id", "default", "/", "__call__", "m1", more=True, http=HTTP_HEAD),
    messages.Begin(1, "id", "default", "", "predict", "", more=False),
    messages.Begin(1, "id", "default", "", "predict", "m1", more=False, fits=True, max_cold_wait_s=0.0),
    messages.Cancel(2**63 - 1),
    messages.Prefetch("m1"),
    messages.Relay("10.0.0.7:4711 node1 /run/x.sock"),
    messages.Chunk(3, more=True),
    messages.Credit(4, 131_072),
    messages.Welcome(1, "default_Model#EjYmnQ", 5, 0, 2, ["m1"], ["m2", "m3"]),
    messages.Welcome(1, "default_Model#EjYmnQ", 5, 5, None, [], [], loads_max=2, harm_s=0.5),
    messages.ModelLoading("m1", 1),
    messages.ModelLoaded("m1", None, 0.25),
    messages.ModelGone("m1", 0, harm_s=1.5),
    messages.Ongoing(3),
    messages.Refuse(5, 5),
    messages.Refuse(5, 4, no_room=True, holds=True),
    messages.Retiring(),
    messages.Answer(6, 200, [(b"content-type", b"text/plain")], "warm", 0.0, 0.001, more=False, ongoing=1),
    messages.Answer(6, 200, [], "cold", 0.5, 0.0, more=False, ongoing=0, harm_s=0.25, holds=True),
    messages.Fail(7, "ModelLoadError", "broken: ü", 0.5, ongoing=0),
    messages.Fail(7, "UserCodeError", "", None, ongoing=0),
    messages.Watch(1),
    messages.Watching(1, "default", "Model", "default_Model#EjYmnQ"),
    messages.Records([messages.Record(1.5e9, "m1", "cold", 0.0, 0.5, 0.1, 2**30, True)], lost=3),
    messages.Records([messages.Record(1.5e9, "", "", 0.25, 0.0, 0.0, None, False)], lost=0),
    messages.Taken(),
    messages.Unwatch(),
    messages.Setup(["/app", ""], "/logs", console=True),
    messages.TableChange(
        [messages.AppInfo("app", None, "Front")],
        [messages.DeploymentInfo("app", "Back", 5, [])],
        [("app", "Old")],
        [
            messages.ReplicasChange(
                "app", "Front", [messages.ReplicaInfo("app_Front#b", "/run/b.sock")], ["app_Front#a"]
            )
        ],
    ),
    messages.Table(
        [messages.AppInfo("default", "/", "Model"), messages.AppInfo("inner", None, "Other")],
        [messages.DeploymentInfo("default", "Model", -1, [messages.ReplicaInfo("default_Model#a", "/run/a")])],
    ),
    messages.Stop(20.0),
    messages.Ready("/run/a"),
    messages.Reconfigure(7, b'{"threshold": 0.5}'),
    messages.CheckHealth(8),
    messages.Ask(9, "models", b"null"),
    messages.Leaving(),
    messages.Done(7, "ValueError: too high"),
    messages.Load(1.5, {"shop-17": 3}, [("shop-17", 0.8)], -1),
    messages.Waiting("default", "Model", 4),
    messages.Register("replica", "default_Model#a", "/run/a", "default", "Model", "v1", True, {"0": 0.5}, 99),
    messages.StartFailed("Traceback (most recent call last): …"),
    messages.Leaks(3 * 2**30, [("m1", 2 * 2**30), ("m2", 2**30)]),
]

KINDS: tuple[type[Message], ...] = get_args(Message)

# What one field may be. Floats that are no numbers are equal to nothing, and no message has them.
LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**63), 2**64 - 1),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=20),
    bytes: st.binary(max_size=20),
    bool: st.booleans(),
    type(None): st.none(),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Anything of that type."""
    if kind in LEAVES:
        return LEAVES[kind]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return st.builds(kind, *(values(field.type) for field in msgspec.structs.fields(kind)))
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return st.builds(kind, *(values(field.type) for field in dataclasses.fields(kind)))
    if get_origin(kind) in (Union, types.UnionType):
        return st.one_of(*map(values, get_args(kind)))
    if get_origin(kind) is list:
        return st.lists(values(get_args(kind)[0]), max_size=3)
    if get_origin(kind) is dict:
        return st.dictionaries(*map(values, get_args(kind)), max_size=3)
    assert get_origin(kind) is tuple
    return st.tuples(*map(values, get_args(kind)))


any_message = st.one_of(*map(values, KINDS))


def test_every_kind_of_message_has_an_example() -> None:
    assert {type(message) for message in EXAMPLES} == set(KINDS)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was(message: Message) -> None:
    arrived = messages.decode(messages.encode(message))
    assert arrived == message
    assert type(arrived) is type(message)


@given(any_message)
def test_any_message_arrives_as_it_was(message: Message) -> None:
    arrived = messages.decode(messages.encode(message))
    assert arrived == message
    assert type(arrived) is type(message)


def test_what_every_frame_says_is_small() -> None:
    assert len(messages.encode(messages.Chunk(1_000_000, more=True))) < 10


# What is no message


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xc1",
        b"{}",
        b"GET / HTTP/1.1",
        b"\x00" * 100,
        b"\xdd\xff\xff\xff\xff",  # a list of four thousand million
        b"\x92\x18\xdb\x7f\xff\xff\xff",  # a string of two gigabytes
        b"\x91" * 5000,
        msgspec.msgpack.encode({"type": 3, "stream": 1}),
        msgspec.msgpack.encode([3]),  # too few fields
        msgspec.msgpack.encode([3, "1"]),
        msgspec.msgpack.encode([3, None]),
        msgspec.msgpack.encode([3, 1.5]),
        msgspec.msgpack.encode([99, 1]),  # of an unknown kind
        msgspec.msgpack.encode([-1, 1]),
        msgspec.msgpack.encode(["Cancel", 1]),
        msgspec.msgpack.encode([23, b"/run/a"]),
        msgspec.msgpack.encode([23, msgspec.msgpack.Ext(-1, b"12345678")]),
        b"\x92\x17\xa2\xff\xfe",  # a string that is no UTF-8
        b"\x93\x03\x01" + b"\x91" * 100_000,  # a field that nobody knows, nested without end
        messages.encode(messages.Cancel(1)) + b"\x00",
        messages.encode(messages.Stop(1.0))[:-1],
    ],
    ids=lambda head: repr(head[:12]),
)
def test_what_is_no_message_is_a_protocol_error(head: bytes) -> None:
    with pytest.raises(ProtocolError, match=f"no message of version {messages.VERSION}"):
        messages.decode(head)


@given(st.binary(max_size=60))
def test_garbage_raises_nothing_but_a_protocol_error(head: bytes) -> None:
    decode_or_refuse(head)


@given(any_message, st.data())
def test_a_damaged_message_raises_nothing_but_a_protocol_error(message: Message, data: st.DataObject) -> None:
    head = bytearray(messages.encode(message))
    at = data.draw(st.integers(0, len(head) - 1))
    head[at] = data.draw(st.integers(0, 255))
    decode_or_refuse(bytes(head))


@given(any_message, st.data())
def test_a_message_that_is_cut_off_is_a_protocol_error(message: Message, data: st.DataObject) -> None:
    head = messages.encode(message)
    with pytest.raises(ProtocolError):
        messages.decode(head[: data.draw(st.integers(0, len(head) - 1))])


def decode_or_refuse(head: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert isinstance(messages.decode(head), KINDS)
