"""What user code returned, as an HTTP answer."""

from collections.abc import Mapping
from typing import Any

import msgspec

Headers = list[tuple[bytes, bytes]]


def encode(value: Any) -> tuple[Headers, bytes]:
    """Headers and body of an answer with status 200.

    None is an empty text, str and bytes are themselves, anything else is JSON: numbers, lists, dicts, dataclasses, and
    whatever has `model_dump` (pydantic models) or `tolist` (arrays and numbers of numpy and torch).
    Raises TypeError, naming the type, for what is none of these.
    """
    if value is None:
        return [(b"content-type", b"text/plain")], b""
    if isinstance(value, str):
        return [(b"content-type", b"text/plain; charset=utf-8")], value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return [(b"content-type", b"text/plain")], bytes(value)
    return [(b"content-type", b"application/json")], _json(value)


def _known(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(
        f"A deployment cannot answer HTTP with {type(value).__module__}.{type(value).__qualname__}: return str, bytes, "
        "numbers, dicts, lists, None, arrays, pydantic models or a Starlette Response."
    )


_json = msgspec.json.Encoder(enc_hook=_known).encode
