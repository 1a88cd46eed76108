"""Messages of a WebSocket inside of a body: each is a part of it (`framing.part`), whose first byte says what it is."""

import struct

TEXT, BINARY, CLOSE = b"t", b"b", b"c"

NORMAL, GOING_AWAY, NO_STATUS, ABNORMAL, INVALID_TEXT, INTERNAL_ERROR, RESTART = (
    1000,
    1001,
    1005,
    1006,
    1007,
    1011,
    1012,
)

_CODE = struct.Struct("!H")


def close(code: int, reason: str = "") -> bytes:
    """The last message of either side. Raises ValueError for a code that is none."""
    if not 1000 <= code < 5000:
        raise ValueError(f"{code} is not a close code of a WebSocket: those are 1000 to 4999.")
    return CLOSE + _CODE.pack(code) + reason.encode()


def close_of(message: bytes) -> tuple[int, str]:
    """Code and reason of such a message."""
    return _CODE.unpack_from(message, 1)[0], message[1 + _CODE.size :].decode()
