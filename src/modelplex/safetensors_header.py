"""The header of a safetensors file, checked as strictly as the format is written down."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelplex.errors import InvalidModelFileError

HEADER_BYTES_MAX = 100_000_000  # as the format's own library

BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: bytes from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file has: its tensors by name, and its metadata."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """The header of a file. Raises `InvalidModelFileError` unless tensors fill the rest, each its own bytes."""
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if file_bytes < 10 or not 2 <= length <= min(HEADER_BYTES_MAX, file_bytes - 8):
            raise InvalidModelFileError(
                f"'{path.name}' is not a safetensors file, or cut off: it has {file_bytes} bytes, and its header would "
                f"have {length}."
            )
        text = file.read(length)
    try:
        return _parsed(text, 8 + length, file_bytes)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidModelFileError(f"'{path.name}' is not a safetensors file: in its header, {error}") from error


def _parsed(text: bytes, data_begin: int, file_bytes: int) -> Header:
    entries = json.loads(text.decode(), object_pairs_hook=_without_doubles)
    if not isinstance(entries, dict):
        raise ValueError("it must be an object.")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("__metadata__ must be text by name.")
    tensors = {name: _tensor(name, entry, data_begin) for name, entry in entries.items()}
    at = data_begin
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != at:
            raise ValueError(f"tensor {name!r} begins at byte {tensor.begin}, the one before ends at {at}.")
        at = tensor.end
    if at != file_bytes:
        raise ValueError(f"its tensors end at byte {at}, and the file at {file_bytes}.")
    return Header(tensors, metadata)


def _tensor(name: str, entry: Any, data_begin: int) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} must have dtype, shape and data_offsets.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if dtype not in BITS:
        raise ValueError(f"tensor {name!r} has the unknown dtype {dtype!r}.")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"the shape and both data_offsets of tensor {name!r} must be integers from 0.")
    begin, end = offsets
    if (end - begin) * 8 != math.prod(shape) * BITS[dtype]:
        raise ValueError(f"tensor {name!r} has {end - begin} bytes, which are not those of {dtype} {shape}.")
    return TensorInfo(dtype, tuple(shape), data_begin + begin, data_begin + end)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("it has a name twice.")
    return found
