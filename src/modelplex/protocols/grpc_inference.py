"""`inference.GRPCInferenceService` in a replica: messages to arrays, `Inference`, and arrays to messages."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from modelplex import errors
from modelplex.protocols import inference_messages as messages
from modelplex.protocols import tensors
from modelplex.protocols.inference import Inference, server_metadata, split
from modelplex.protocols.tensors import Array
from modelplex.runtime.servable import Servable

# Of messages that are smaller, the event loop can make arrays itself.
THREAD_BYTES_MIN = 256 * 2**10

# By datatype, where elements are that are not raw bytes. FP16 and BF16 are always raw.
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

# What is asked of inputs and outputs by parameters that is not there: to pass over it would be to answer wrongly.
_NOT_THERE = {"shared_memory_region": "shared memory", "classification": "classification"}


async def answer(inference: Inference, servable: Servable, method: str, model_id: str, message: bytes) -> bytes:
    """What a method of the service answers. Raises what `Inference` does, and `InvalidRequestError`.

    Args:
        inference: the replica's.
        servable: its object, in whose threads large messages are read and written.
        method: its name, one of `runtime.inference_calls.METHODS`.
        model_id: that the message names, checked.
        message: of the client.
    """
    made: Any
    match method:
        case "ModelInfer":
            return await _infer(inference, servable, model_id, message)
        case "ServerReady":
            made = messages.Ready(ready=True)
        case "ModelReady":
            made = messages.Ready(ready=await inference.ready(model_id))
        case "ServerMetadata":
            made = messages.ServerMetadataResponse(**server_metadata())
        case "ModelMetadata":
            made = messages.ModelMetadataResponse(**await inference.metadata(model_id))
        case "RepositoryIndex":
            asked = _parsed(messages.RepositoryIndexRequest, message)
            entries = await inference.index(ready=asked.ready)
            models = [{"name": e.name, "version": e.version, "state": e.state, "reason": e.reason} for e in entries]
            made = messages.RepositoryIndexResponse(models=models)
        case "RepositoryModelLoad":
            _check_parameters(_parsed(messages.RepositoryModelLoadRequest, message))
            await inference.load(model_id)
            made = messages.RepositoryModelResponse(model_name=model_id, is_done=True)
        case "RepositoryModelUnload":
            await inference.unload(model_id)
            made = messages.RepositoryModelResponse(model_name=model_id, is_done=True)
        case _:
            raise errors.InvalidRequestError(f"There is no method {method}.")
    data: bytes = made.SerializeToString()
    return data


async def _infer(inference: Inference, servable: Servable, model_id: str, message: bytes) -> bytes:
    async def off_loop(size: int, call: Callable[[], Any]) -> Any:
        return await servable.in_thread(call) if size >= THREAD_BYTES_MIN else call()

    asked: _Asked = await off_loop(len(message), lambda: _asked(message))
    found = await inference.infer(model_id, asked.inputs, parameters=asked.parameters, outputs=asked.outputs)
    size = sum(array.nbytes for array in found.values())
    answer: bytes = await off_loop(size, lambda: _response(model_id, asked.id, found))
    return answer


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request to infer: its arrays and parameters by name, and the outputs that it asks for; all if that is none."""

    id: str
    inputs: dict[str, Array]
    parameters: dict[str, Any]
    outputs: list[str]


def _asked(message: bytes) -> _Asked:
    request = _parsed(messages.ModelInferRequest, message)
    for tensor in (*request.inputs, *request.outputs):
        for name, what in _NOT_THERE.items():
            if name in tensor.parameters:
                text = f"{tensor.name[:64]!r} has the parameter {name!r}: there is no {what}"
                raise errors.InvalidRequestError(f"{text}.")
    return _Asked(request.id, _inputs(request), _parameters(request), [output.name for output in request.outputs])


def _response(model_id: str, request_id: str, found: dict[str, Array]) -> bytes:
    name, version = split(model_id)
    response = messages.ModelInferResponse(model_name=name, model_version=version, id=request_id)
    for output, array in found.items():
        response.outputs.add(name=output, datatype=tensors.datatype_of(array), shape=array.shape)
        response.raw_output_contents.append(tensors.to_raw(array))
    data: bytes = response.SerializeToString()
    return data


def _inputs(request: Any) -> dict[str, Array]:
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        text = f"raw_input_contents has {len(raws)} entries, and there are {len(request.inputs)} inputs"
        raise errors.InvalidRequestError(f"{text}: each of them has one, or none has.")
    found: dict[str, Array] = {}
    for at, tensor in enumerate(request.inputs):
        if tensor.name in found:
            raise errors.InvalidRequestError(f"There are two inputs {tensor.name[:64]!r}.")
        if raws:
            if tensor.HasField("contents") and tensor.contents.ListFields():
                raise errors.InvalidTensorError(f"Tensor {tensor.name!r} has contents, and raw_input_contents as well.")
            found[tensor.name] = tensors.from_raw(tensor.name, tensor.datatype, [*tensor.shape], raws[at])
        else:
            found[tensor.name] = _typed(tensor)
    return found


def _typed(tensor: Any) -> Array:
    field = _CONTENTS.get(tensor.datatype)
    given = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if field is None and tensor.datatype in tensors.DTYPES:
        raise errors.InvalidTensorError(f"Tensor {tensor.name!r} of {tensor.datatype} has to be in raw_input_contents.")
    if field is not None and given not in ([], [field]):
        text = f"Tensor {tensor.name!r} of {tensor.datatype} has its elements in contents.{field}"
        raise errors.InvalidTensorError(f"{text}; got {', '.join(given)}.")
    elements = [] if field is None else list(getattr(tensor.contents, field))
    return tensors.to_array(tensor.name, tensor.datatype, [*tensor.shape], elements)


def _check_parameters(request: Any) -> None:
    """Of a request to load: a model is loaded as its deployment says, and no other way."""
    if unknown := [key for key in request.parameters if key == "config" or key.startswith("file:")]:
        raise errors.InvalidRequestError(f"A model is loaded as its deployment says: {unknown[0][:64]!r} is not taken.")


def _parameters(request: Any) -> dict[str, Any]:
    return {name: _value(parameter) for name, parameter in request.parameters.items()}


def _value(parameter: Any) -> Any:
    choice = parameter.WhichOneof("choice")
    return None if choice is None else getattr(parameter, choice)


def _parsed(kind: Any, message: bytes) -> Any:
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise errors.InvalidRequestError(f"The message is no {kind.DESCRIPTOR.name}.") from error
