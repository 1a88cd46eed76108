"""Tensors of the Open Inference Protocol (V2) as arrays of numpy, and back: the datatypes, as values and as raw bytes.

https://github.com/kserve/open-inference-protocol: "Tensor Data Types" and the binary tensor data extension.
"""

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from modelplex.errors import InvalidTensorError

Array = np.ndarray[Any, np.dtype[Any]]

BOOL, BYTES, BF16 = "BOOL", "BYTES", "BF16"

# By datatype, what its elements are in an array: in raw bytes all are little-endian. BF16 and BYTES have no dtype of
# numpy's: they come as float32, which holds each BF16 exactly, and as objects of `bytes`.
DTYPES: dict[str, np.dtype[Any]] = {
    BOOL: np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    BF16: np.dtype("<f4"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    BYTES: np.dtype(object),
}

_OF_DTYPE = {(dtype.kind, dtype.itemsize): name for name, dtype in DTYPES.items() if name not in (BF16, BYTES)}

# What JSON or a typed list may have for an element. None is a NaN, which JSON does not have.
_TYPES: dict[str, set[type]] = {
    "b": {bool},
    "i": {int},
    "u": {int},
    "f": {int, float, type(None)},
    "O": {str, bytes},
}
_SAID = {"b": "true and false", "i": "integers", "u": "integers", "f": "numbers, or null for NaN", "O": "text"}

DIMENSIONS_MAX = 64  # of numpy 2; numpy 1 has 32, and says so itself

_LENGTH = struct.Struct("<I")  # before each element of BYTES


def datatype_of(array: Array) -> str:
    """The datatype that an array is sent as: FP32 for float32, BYTES for objects and text, BF16 for `ml_dtypes`' type.

    Raises TypeError for one that cannot be sent.
    """
    if array.dtype.kind in "OSU":
        return BYTES
    if array.dtype.name == "bfloat16":
        return BF16
    if (found := _OF_DTYPE.get((array.dtype.kind, array.dtype.itemsize))) is None:
        raise TypeError(f"An array of {array.dtype} has no datatype of V2: those are {', '.join(DTYPES)}.")
    return found


def to_array(name: str, datatype: str, shape: Sequence[int], data: Any) -> Array:
    """A tensor of listed values, flat or nested as its shape; elements of BYTES are str (of UTF-8) or bytes.

    The array is one's own to write to. Raises `InvalidTensorError`, which names the tensor.
    """
    dtype, size = _checked(name, datatype, shape)
    try:
        listed = np.array(data, dtype=object)
        types = set(map(type, listed.flat))
    except (ValueError, MemoryError) as error:
        raise InvalidTensorError(f"The data of tensor {name!r} is no list of its elements: {error}.") from error
    if not isinstance(data, list | tuple) or not types <= _TYPES[dtype.kind]:
        nested = "flat, or nested as its shape"
        raise InvalidTensorError(
            f"The data of tensor {name!r} of {datatype} is a list of {_SAID[dtype.kind]}, {nested}."
        )
    if listed.size != size or (listed.ndim != 1 and listed.shape != tuple(shape) and size):
        has = list(listed.shape)
        raise InvalidTensorError(f"Tensor {name!r} has shape {list(shape)} and data of shape {has}, which do not fit.")
    return _shaped(name, _cast(name, datatype, dtype, listed), shape)


def from_raw(name: str, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Array:
    """A tensor of raw bytes: little-endian, by rows; elements of BYTES have their length before them.

    The array is one's own to write to. Raises `InvalidTensorError`, which names the tensor.
    """
    dtype, size = _checked(name, datatype, shape)
    if datatype == BYTES:
        return _shaped(name, _bytes_elements(name, raw, size), shape)
    element_bytes = 2 if datatype == BF16 else dtype.itemsize
    if len(raw) != size * element_bytes:
        wanted = f"with shape {list(shape)} takes {size * element_bytes} bytes"
        raise InvalidTensorError(f"Tensor {name!r} of {datatype} {wanted}; it has {len(raw)}.")
    if datatype == BF16:  # the upper half of a float32
        wide = np.frombuffer(raw, "<u2").astype("<u4") << 16
        return _shaped(name, wide.view("<f4"), shape)
    if datatype == BOOL:
        return _shaped(name, np.frombuffer(raw, "u1") != 0, shape)
    return _shaped(name, np.frombuffer(bytearray(raw), dtype), shape)


def to_raw(array: Array) -> bytes:
    """The raw bytes of an array, as `from_raw` reads them. Raises TypeError for elements that cannot be sent."""
    datatype = datatype_of(array)
    if datatype == BYTES:
        parts = [_element(value) for value in array.ravel().tolist()]
        return b"".join(piece for part in parts for piece in (_LENGTH.pack(len(part)), part))
    if datatype == BF16:
        return array.tobytes()
    return array.astype(DTYPES[datatype], copy=False).tobytes()


def to_list(name: str, array: Array) -> list[Any]:
    """The elements of an array by rows, as JSON has them: text for BYTES, None for NaN.

    Raises `InvalidTensorError` for what JSON cannot hold: a client can have it in raw bytes. TypeError as `to_raw`.
    """
    datatype = datatype_of(array)
    if datatype == BYTES:
        try:
            return [_element(value).decode() for value in array.ravel().tolist()]
        except UnicodeDecodeError as error:
            text = f"Output {name!r} has bytes that are no UTF-8: ask for it as binary data."
            raise InvalidTensorError(text) from error
    if datatype == BF16:
        array = array.astype("<f4")
    if array.dtype.kind != "f":
        return list(array.ravel().tolist())
    if np.isinf(array).any():
        raise InvalidTensorError(f"Output {name!r} has infinite values, which JSON has not: ask for it as binary data.")
    values: list[Any] = array.ravel().tolist()
    return [None if value != value else value for value in values] if np.isnan(array).any() else values


def _checked(name: str, datatype: str, shape: Sequence[int]) -> tuple[np.dtype[Any], int]:
    """The dtype, and how many elements there are."""
    dtype = DTYPES.get(datatype)
    if dtype is None:
        raise InvalidTensorError(f"Tensor {name!r} has datatype {datatype!r}; there are {', '.join(DTYPES)}.")
    if len(shape) > DIMENSIONS_MAX or not all(type(length) is int and 0 <= length < 2**63 for length in shape):
        text = f"has at most {DIMENSIONS_MAX} lengths, integers of at least 0 of 64 bits"
        raise InvalidTensorError(f"The shape of tensor {name!r} {text}; got {list(shape)[:DIMENSIONS_MAX]}.")
    return dtype, math.prod(shape)


def _cast(name: str, datatype: str, dtype: np.dtype[Any], listed: Array) -> Array:
    if datatype == BYTES:
        elements = np.empty(listed.size, dtype=object)
        try:
            elements[:] = [_element(value) for value in listed.ravel().tolist()]
        except UnicodeEncodeError as error:
            raise InvalidTensorError(f"Tensor {name!r} has text that is no Unicode: {error}.") from error
        return elements
    try:
        with np.errstate(over="ignore"):
            wide = listed.astype(np.float64) if dtype.kind == "f" else listed
            array: Array = wide.astype(dtype)
    except OverflowError as error:
        raise InvalidTensorError(f"Tensor {name!r} has a value that {datatype} cannot hold.") from error
    if dtype.kind == "f" and np.isinf(array).any() and not np.isinf(wide).any():
        raise InvalidTensorError(f"Tensor {name!r} has a value that {datatype} cannot hold.")
    return array


def _bytes_elements(name: str, raw: bytes | memoryview, size: int) -> Array:
    view, at = memoryview(raw), 0
    elements: list[bytes] = []
    while at < len(view) and len(elements) < size:
        end = at + _LENGTH.size
        if end <= len(view):
            length = _LENGTH.unpack_from(view, at)[0]
            at, end = end, end + length
        if end > len(view):
            raise InvalidTensorError(f"Tensor {name!r} of BYTES has an element that ends after its data does.")
        elements.append(view[at:end].tobytes())
        at = end
    if at != len(view) or len(elements) != size:
        raise InvalidTensorError(f"Tensor {name!r} of BYTES has not the {size} elements of its shape.")
    array = np.empty(size, dtype=object)
    array[:] = elements
    return array


def _shaped(name: str, array: Array, shape: Sequence[int]) -> Array:
    try:
        return array.reshape(tuple(shape))
    except (ValueError, OverflowError) as error:  # more dimensions than numpy has, or longer ones
        raise InvalidTensorError(f"Tensor {name!r} has a shape that is too large.") from error


def _element(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise TypeError(f"An array of objects is sent as BYTES, so it has str and bytes; got {type(value).__name__}.")
