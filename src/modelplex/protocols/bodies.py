"""Bodies of the Open Inference Protocol (V2) over HTTP: JSON, with tensors in it or as raw bytes after it.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from modelplex import errors
from modelplex.errors import InvalidRequestError
from modelplex.protocols import tensors
from modelplex.protocols.inference import split
from modelplex.protocols.tensors import Array

# A compressed body may become so large: as large as `HTTPOptions.max_body_bytes` lets others be, unless told otherwise.
DECOMPRESSED_BYTES_MAX = 100 * 2**20

# Smaller answers are not worth compressing.
COMPRESSED_BYTES_MIN = 1024

# By what the header says, how zlib reads and writes it. Deflate is in the form of zlib, RFC 9110 says.
_WINDOW_BITS = {"gzip": 31, "deflate": 15}

# Ways to say where tensors are, or what is to be made of them, that would be misunderstood if they were passed over.
_UNKNOWN = ("shared_memory_region", "classification")


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: Any = msgspec.UNSET
    parameters: dict[str, Any] = {}


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[_Input]
    outputs: list[_Output] = []
    parameters: dict[str, Any] = {}
    id: str = ""


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a client asks.

    Attributes:
        inputs: arrays by name.
        outputs: the names that are asked for; all unless there are any.
        parameters: of the request, without those of this protocol.
        id: the client's, to be said again in the answer.
        binary: by the name of an output, whether it is to be raw bytes; by an empty name, those that none is said of.
    """

    inputs: dict[str, Array]
    outputs: list[str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    id: str = ""
    binary: dict[str, bool] = field(default_factory=dict)


def decompressed(body: bytes, encoding: str) -> bytes:
    """A body without its content-encoding. Raises `InvalidRequestError`, and `BodyTooLargeError`."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in _WINDOW_BITS:
        raise InvalidRequestError(f"A content-encoding can be gzip or deflate, got {encoding[:64]!r}.")
    reader = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        data = reader.decompress(body, DECOMPRESSED_BYTES_MAX + 1)
    except zlib.error as error:
        raise InvalidRequestError(f"The request's body is not what its content-encoding says: {error}.") from error
    if len(data) > DECOMPRESSED_BYTES_MAX:
        raise errors.BodyTooLargeError(f"The body may have at most {DECOMPRESSED_BYTES_MAX} bytes, uncompressed.")
    if not reader.eof or reader.unused_data:
        raise InvalidRequestError("The request's body does not end where its content-encoding says.")
    return data


def compressed(body: bytes, accepted: str) -> tuple[bytes, str]:
    """An answer's body, and its content-encoding: gzip or deflate for a client that accepts nothing else."""
    accepted = accepted.strip().lower()
    if accepted not in _WINDOW_BITS or len(body) < COMPRESSED_BYTES_MIN:
        return body, ""
    writer = zlib.compressobj(1, wbits=_WINDOW_BITS[accepted])
    return writer.compress(body) + writer.flush(), accepted


def json_of(body: bytes | memoryview, kind: Any) -> Any:
    """What JSON says, as a type. Raises `InvalidRequestError`."""
    try:
        return msgspec.json.decode(body, type=kind)
    except RecursionError as error:
        raise InvalidRequestError("The request's JSON is nested too deeply.") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        nan = " NaN is null there, and infinite values need binary data." if _may_have_nan(body) else ""
        raise InvalidRequestError(f"The request's JSON cannot be read: {error}.{nan}") from error


def _may_have_nan(body: bytes | memoryview) -> bool:
    data = bytes(body[:DECOMPRESSED_BYTES_MAX])
    return b"NaN" in data or b"Infinity" in data


def read(body: bytes, json_bytes: str | None) -> InferRequest:
    """What a body asks for.

    Args:
        json_bytes: what `Inference-Header-Content-Length` says: how much of it is JSON; all of it unless given.

    Raises `InvalidRequestError` and `InvalidTensorError`.
    """
    size = len(body) if json_bytes is None else _size("Inference-Header-Content-Length", json_bytes)
    if size > len(body):
        raise InvalidRequestError(f"Inference-Header-Content-Length is {size}, and the body has {len(body)} bytes.")
    view = memoryview(body)
    said: _Request = json_of(view[:size], _Request)
    raw, inputs = view[size:], {}
    for tensor in said.inputs:
        if tensor.name in inputs:
            raise InvalidRequestError(f"There are two inputs {tensor.name[:64]!r}.")
        inputs[tensor.name], raw = _input(tensor, raw)
    if len(raw):
        raise InvalidRequestError(f"The body goes on for {len(raw)} bytes after its last input.")
    binary = {"": _flag(said.parameters, "binary_data_output", default=False)}
    for output in said.outputs:
        _check_parameters(output.name, output.parameters)
        binary[output.name] = _flag(output.parameters, "binary_data", default=binary[""])
    parameters = {key: value for key, value in said.parameters.items() if key != "binary_data_output"}
    return InferRequest(inputs, [output.name for output in said.outputs], parameters, said.id, binary)


def _input(tensor: _Input, raw: memoryview) -> tuple[Array, memoryview]:
    """The array, and what is left of the raw bytes."""
    _check_parameters(tensor.name, tensor.parameters)
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if tensor.data is msgspec.UNSET:
            raise InvalidRequestError(f"Input {tensor.name[:64]!r} has neither data nor a binary_data_size.")
        return tensors.to_array(tensor.name, tensor.datatype, tensor.shape, tensor.data), raw
    if tensor.data is not msgspec.UNSET:
        raise InvalidRequestError(f"Input {tensor.name[:64]!r} has both data and a binary_data_size.")
    if type(size) is not int or not 0 <= size <= len(raw):
        text = f"binary_data_size of input {tensor.name[:64]!r}"
        raise InvalidRequestError(f"The {text} is a number of bytes; {len(raw)} are left, got {str(size)[:64]}.")
    return tensors.from_raw(tensor.name, tensor.datatype, tensor.shape, raw[:size]), raw[size:]


def _check_parameters(name: str, parameters: Mapping[str, Any]) -> None:
    if unknown := [key for key in _UNKNOWN if key in parameters]:
        raise InvalidRequestError(f"{unknown[0]} of tensor {name[:64]!r} is nothing that this server can do.")


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequestError(f"{name} is true or false.")
    return value


def _size(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise InvalidRequestError(f"{name} is a number of bytes, got {text[:64]!r}.")
    return int(text)


def write(request: InferRequest, model_id: str, outputs: Mapping[str, Array]) -> tuple[bytes, int | None]:
    """The body of an answer, and how much of it is JSON if it has raw bytes.

    Raises `InvalidTensorError` for what JSON cannot hold, and TypeError for elements that cannot be sent at all.
    """
    name, version = split(model_id)
    said: dict[str, Any] = {"model_name": name, **({"model_version": version} if version else {})}
    if request.id:
        said["id"] = request.id
    raws, listed = [], []
    for key, array in outputs.items():
        one: dict[str, Any] = {"name": key, "datatype": tensors.datatype_of(array), "shape": list(array.shape)}
        if request.binary.get(key, request.binary.get("", False)):
            raws.append(tensors.to_raw(array))
            one["parameters"] = {"binary_data_size": len(raws[-1])}
        else:
            one["data"] = tensors.to_list(key, array)
        listed.append(one)
    head = msgspec.json.encode({**said, "outputs": listed})
    return b"".join([head, *raws]), len(head) if raws else None
