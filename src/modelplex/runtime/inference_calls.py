"""Calls of `inference.GRPCInferenceService` in a proxy: which model a message names, and what a stream of them is.

Tensors stay bytes here; replicas read them (`modelplex.protocols.grpc_inference`).
"""

from typing import TYPE_CHECKING

from modelplex import errors
from modelplex.runtime.grpc_status import status_of
from modelplex.wire import grpc_body, protobuf
from modelplex.wire.grpc_body import Status

if TYPE_CHECKING:
    from modelplex.runtime.grpc_calls import Call
    from modelplex.wire.messages import AppInfo

SERVICE = "/inference.GRPCInferenceService/"

# By method, the fields of its message that name a model and its version, if any do.
METHODS: dict[str, tuple[int, ...]] = {
    "ServerReady": (),
    "ServerMetadata": (),
    "ModelReady": (1, 2),
    "ModelMetadata": (1, 2),
    "ModelInfer": (1, 2),
    "RepositoryIndex": (),
    # Triton has a repository's name before the model's, kserve has not.
    "RepositoryModelLoad": (2, 1),
    "RepositoryModelUnload": (2, 1),
}
_REPOSITORY = ("RepositoryModelLoad", "RepositoryModelUnload")

_LIVE = b"\x08\x01"  # ServerLiveResponse(live=true)


async def serve(call: "Call", method: str) -> Status:
    """Answer a call of one of the service's methods. Raises `ModelplexError`."""
    apps = call.inference_apps
    if not apps:
        return Status(grpc_body.UNIMPLEMENTED, "No application here speaks the Open Inference Protocol.")
    if method == "ServerLive":
        await call.client.write(_LIVE)
        return Status()
    if method == "ModelStreamInfer":
        return await _stream(call, call.application(apps))
    if method not in METHODS:
        return Status(grpc_body.UNIMPLEMENTED, "There is no such method here.")
    app = call.application(apps)
    message = await call.client.read()
    if message is None:
        raise errors.InvalidRequestError("There is no message.")
    answer, about = await call.ask(app, SERVICE + method, _model_id(call, method, message), message)
    await call.client.write(answer)
    return Status(metadata=about)


async def _stream(call: "Call", app: "AppInfo") -> Status:
    """Each message is a request of its own, of any model. They are answered one after the other, errors included."""
    while (message := await call.client.read()) is not None:
        try:
            model_id = _model_id(call, "ModelInfer", message)
            answer, _ = await call.ask(app, SERVICE + "ModelInfer", model_id, message)
        except errors.RequestTimeoutError:
            raise
        except errors.ModelplexError as error:
            await call.client.write(protobuf.field(1, status_of(error).details.encode()))
        else:
            await call.client.write(protobuf.field(2, answer))
    return Status()


def _model_id(call: "Call", method: str, message: bytes) -> str:
    """The model that is asked for, checked; empty for a method that asks for none."""
    if not (fields := METHODS[method]):
        return call.model_id()
    name, version = protobuf.texts(message, fields)
    if method in _REPOSITORY:
        name, version = name or version, ""
    if not name:
        raise errors.InvalidModelIdError("The message names no model.")
    return call.model_id(f"{name}@{version}" if version else name)
