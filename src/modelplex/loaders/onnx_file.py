"""The tensors that an ONNX file has, or that lie beside it: as much of its protobuf as that takes, read in place.

Field numbers are those of `onnx.proto`. ONNX's own library would make objects of all of it, a second copy in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# TensorProto.DataType: bits of an element. Text has none.
BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16}
BITS |= {**dict.fromkeys((17, 18, 19, 20, 24), 8), 21: 4, 22: 4, 23: 4, 25: 2, 26: 2, 27: 6, 28: 6}

# Messages by what they are, and which of their fields have what inside.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
DEPTH_MAX = 100  # as protobuf itself


@dataclass(slots=True)
class OnnxTensors:
    """What is found.

    Attributes:
        size_bytes: the memory of all tensors.
        locations: the files beside the model that some of them lie in, as it names them.
        is_model: whether there is a graph at all.
    """

    size_bytes: int = 0
    locations: set[str] = field(default_factory=set)
    is_model: bool = False


def tensors_of(model: memoryview) -> OnnxTensors:
    """The tensors of a serialized ModelProto. Raises ValueError if it cannot be one."""
    found = OnnxTensors()
    todo: list[tuple[str, memoryview, int]] = [("model", model, 0)]
    while todo:
        kind, message, depth = todo.pop()
        if kind == "tensor":
            _add(message, found)
            continue
        if depth > DEPTH_MAX:
            raise ValueError("it is nested too deeply.")
        found.is_model |= kind == "graph"
        for number, value in _fields(message):
            inner = _INSIDE[kind].get(number)
            if inner is not None:
                todo.append((inner, _as_bytes(value), depth + 1))
    return found


def _add(tensor: memoryview, found: OnnxTensors) -> None:
    elements, data_type, written_bytes, location = 1, 0, 0, None
    for number, value in _fields(tensor):
        if number == 1:  # dims, packed or each for itself
            for size in [value] if isinstance(value, int) else _varints(value):
                elements *= size
        elif number == 2:
            data_type = value if isinstance(value, int) else 0
        elif number in (6, 9):  # string_data, raw_data
            written_bytes += len(_as_bytes(value))
        elif number == 13:  # external_data
            entry = {n: bytes(_as_bytes(v)).decode() for n, v in _fields(_as_bytes(value)) if n in (1, 2)}
            if entry.get(1) == "location":
                location = entry.get(2, "")
    if location is not None:
        found.locations.add(location)
    # Text, and types that are newer than this, count as they are written.
    found.size_bytes += -(-elements * BITS[data_type] // 8) if data_type in BITS else written_bytes


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Each field's number with its value: an int, or its bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire_type == 2:
            length, at = _varint(message, at)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"a field has wire type {wire_type}.")
        if at + length > len(message):
            raise ValueError("it is cut off.")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(message):
            raise ValueError("it is cut off.")
        byte = message[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a number is too long.")


def _varints(message: memoryview) -> Iterator[int]:
    at = 0
    while at < len(message):
        value, at = _varint(message, at)
        yield value


def _as_bytes(value: object) -> memoryview:
    if not isinstance(value, memoryview):
        raise ValueError("a field is a number where there must be a message.")
    return value
