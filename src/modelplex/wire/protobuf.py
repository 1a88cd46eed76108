"""Protocol buffers, as much of their bytes as it takes to read a name without the rest.

https://protobuf.dev/programming-guides/encoding/
"""

from modelplex.errors import InvalidRequestError

# More fields than any message of a client has; to look at each of millions would hold up everybody else.
FIELDS_MAX = 4_096

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}


def texts(message: bytes, fields: tuple[int, ...]) -> list[str]:
    """The texts of some fields of a message, which are empty if they are not there; of several, the last counts.

    What is inside of other fields is not looked at. Raises `InvalidRequestError` if this is no message.
    """
    found = dict.fromkeys(fields, "")
    at, end = 0, len(message)
    for _ in range(FIELDS_MAX):
        if at == end:
            return list(found.values())
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == _BYTES:
            size, at = _varint(message, at)
            if number in found and at + size <= end:
                found[number] = _text(message[at : at + size])
            at += size
        elif kind == _VARINT:
            _, at = _varint(message, at)
        elif kind in _WIDTHS:
            at += _WIDTHS[kind]
        else:
            raise InvalidRequestError(f"The message has a field of kind {kind}, which protocol buffers do not have.")
        if at > end:
            raise InvalidRequestError("The message ends inside of a field.")
    raise InvalidRequestError(f"The message has more than {FIELDS_MAX} fields.")


def varint(number: int) -> bytes:
    """A number that is not negative."""
    data = bytearray()
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    return bytes([*data, number])


def field(number: int, data: bytes) -> bytes:
    """A field of text, bytes, or a message."""
    return varint(number << 3 | _BYTES) + varint(len(data)) + data


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise InvalidRequestError("The message ends inside of a number, or has one of more than ten bytes.")


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError("The message has text that is no UTF-8.") from error
