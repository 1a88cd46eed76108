"""Calls of gRPC on their way: their heads, and messages inside of bodies, each of which is a part (`framing.part`).

A request has messages only. In an answer, the first byte of each part says what it is, and the last one is a status.
"""

from collections.abc import Iterable

import msgspec

from modelplex.wire import framing

# As the library and user code have it, and as it travels: names that end so have bytes, all others text.
Metadata = list[tuple[str, str | bytes]]
Packed = list[tuple[bytes, bytes]]
BINARY = b"-bin"

OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = 0, 1, 2, 3, 4, 5
PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, UNAUTHENTICATED = 7, 8, 12, 13, 14, 16

MESSAGE, STATUS = b"m", b"s"


class GRPCHead(msgspec.Struct, array_like=True):
    """The head of a call.

    Attributes:
        path: `/package.Service/Method`.
        metadata: of the client.
        peer: the client's address, as gRPC writes it.
        servicers: the import paths of functions that know methods of a user's own.
    """

    path: str
    metadata: Packed
    peer: str
    servicers: list[str]


class Status(msgspec.Struct, array_like=True):
    """How a call has ended.

    Attributes:
        code: 0 if it is well; see https://grpc.github.io/grpc/core/md_doc_statuscodes.html.
        details: what is wrong, for people.
        metadata: for the client, after the answer.
    """

    code: int = OK
    details: str = ""
    metadata: Packed = []


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Status).decode


def message(data: bytes) -> bytes:
    """A message of an answer."""
    return framing.part(MESSAGE + data)


def status(value: Status) -> bytes:
    """The last part of an answer."""
    return framing.part(STATUS + _encode(value))


def read(part: bytes) -> bytes | Status:
    """What a part of an answer is."""
    return part[1:] if part[:1] == MESSAGE else _decode(memoryview(part)[1:])


def packed(metadata: Iterable[tuple[str, str | bytes]]) -> Packed:
    return [(name.encode(), value.encode() if isinstance(value, str) else bytes(value)) for name, value in metadata]


def unpacked(metadata: Packed) -> Metadata:
    return [(name.decode(), _value(name, value)) for name, value in metadata]


def _value(name: bytes, value: bytes) -> str | bytes:
    return value if name.endswith(BINARY) else value.decode(errors="replace")
