"""Frames: a message's head and the bytes that travel beside it.

    +-----------------+-----------------+------------+------------+
    | head size (u32) | body size (u32) | head ...   | body ...   |     both sizes big-endian
    +-----------------+-----------------+------------+------------+

The body stands outside of the head so that it is never copied into or out of an encoded message.
"""

import struct

from modelplex.errors import ProtocolError

_SIZES = struct.Struct("!II")
_SIZE = struct.Struct("!Q")

# A head carries at most the list of models of one replica: a million ids of 16 characters.
HEAD_BYTES_MAX = 16 * 2**20

# A body is cut into chunks of this size, so that one large body does not hold up the others on its link.
CHUNK_BYTES = 64 * 2**10


def prefix(head: bytes, body_size: int) -> bytes:
    """What precedes a body of that size on the wire: the sizes and the head."""
    return _SIZES.pack(len(head), body_size) + head


def part(data: bytes) -> bytes:
    """One of several things in a body, of any size, with its length before it."""
    return _SIZE.pack(len(data)) + data


class PartReader:
    """Cuts a body, fed in pieces of any size, into its parts."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._wanted = _SIZE.size  # bytes that are needed to go on

    def feed(self, data: bytes) -> list[bytes]:
        """The parts that are complete with these bytes."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size < self._wanted:
            return []
        body, at = b"".join(self._pieces), 0
        parts: list[bytes] = []
        while True:
            self._wanted = _SIZE.size
            if len(body) - at >= _SIZE.size:
                self._wanted += _SIZE.unpack_from(body, at)[0]
            if len(body) - at < self._wanted:
                break
            parts.append(body[at + _SIZE.size : at + self._wanted])
            at += self._wanted
        self._pieces, self._size = [body[at:]], len(body) - at
        return parts


def first(data: bytes | bytearray) -> tuple[bytes, int] | None:
    """The head of the first frame in these bytes, and the size of the whole frame; None if it is not complete.

    Raises `ProtocolError` on sizes beyond bounds.
    """
    if len(data) < _SIZES.size:
        return None
    head_size, body_size = _sizes(data, 0)
    body_at = _SIZES.size + head_size
    return (bytes(data[_SIZES.size : body_at]), body_at + body_size) if len(data) >= body_at + body_size else None


def _sizes(data: bytes | bytearray | memoryview, at: int) -> tuple[int, int]:
    head_size, body_size = _SIZES.unpack_from(data, at)
    if head_size > HEAD_BYTES_MAX or body_size > CHUNK_BYTES:
        raise ProtocolError(f"a frame announces {head_size} + {body_size} bytes: the peer speaks something else")
    return head_size, body_size


class FrameReader:
    """Cuts a stream of bytes, fed in pieces of any size, into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> list[tuple[bytes, bytes]]:
        """The frames (head, body) that are complete with these bytes. Raises `ProtocolError` on sizes beyond bounds."""
        source: bytes | bytearray | memoryview = data
        if self._buffer:
            source = self._buffer
            source += data
        frames: list[tuple[bytes, bytes]] = []
        at, end = 0, len(source)
        while end - at >= _SIZES.size:
            head_size, body_size = _sizes(source, at)
            body_at = at + _SIZES.size + head_size
            if end < body_at + body_size:
                break
            frames.append((bytes(source[at + _SIZES.size : body_at]), bytes(source[body_at : body_at + body_size])))
            at = body_at + body_size
        if source is self._buffer:
            del self._buffer[:at]
        elif at < end:
            self._buffer += source[at:]
        return frames
