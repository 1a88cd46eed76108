"""What Amazon SageMaker asks of the containers that it runs, of those with many models, too.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html and mms-container-apis.html.
Invocations have the bodies of V2; with raw bytes, the content type of Triton's container says how much of them is JSON.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from modelplex import context, errors
from modelplex.errors import InvalidRequestError
from modelplex.protocols import bodies
from modelplex.protocols.inference import Inference
from modelplex.protocols.rest import error, infer, wrong_method
from modelplex.runtime.doors import Answered, DoorRequest, as_json
from modelplex.runtime.model_hosts import ModelHosts
from modelplex.runtime.naming import sagemaker_page, segments
from modelplex.runtime.servable import Servable

BINARY = "application/vnd.sagemaker-triton.binary+json;json-header-size="

PAGES = {
    "ping": ["GET"],
    "invocations": ["POST"],
    "models": ["GET", "POST"],
    "model": ["GET", "DELETE"],
    "invoke": ["POST"],
}


class _LoadBody(msgspec.Struct):
    """`url` is where the platform has put the model's files: the deployment knows itself where its models are."""

    model_name: str
    url: str = ""


class SageMaker:
    """Answers for one replica."""

    def __init__(self, servable: Servable, models: ModelHosts, replica: context.ReplicaContext) -> None:
        self._servable = servable
        self._inference = Inference(servable, models, replica)
        self._pages: dict[str, Callable[[DoorRequest], Awaitable[Answered]]] = {
            "ping": self._ping,
            "invocations": self._invoke,
            "invoke": self._invoke,
            "models": self._models,
            "model": self._model,
        }

    async def answer(self, request: DoorRequest) -> Answered:
        page, _ = sagemaker_page(segments(request.head.raw_path, request.head.root_path))
        if page not in PAGES:
            raise errors.RouteNotFoundError("There is nothing under this path.")
        return wrong_method(request, *PAGES[page]) or await self._pages[page](request)

    async def _ping(self, request: DoorRequest) -> Answered:
        return as_json({})

    async def _invoke(self, request: DoorRequest) -> Answered:
        if not request.model_id:
            raise InvalidRequestError("The request names no model: X-Amzn-SageMaker-Target-Model does.")
        content_type = (request.header(b"content-type") or "").replace(" ", "")
        size = content_type.removeprefix(BINARY) if content_type.startswith(BINARY) else None
        status, headers, body = await infer(self._inference, self._servable, request, size)
        said = dict(headers)
        if (size_of_json := said.pop(b"inference-header-content-length", None)) is not None:
            said[b"content-type"] = BINARY.encode() + size_of_json
        return status, list(said.items()), body

    async def _models(self, request: DoorRequest) -> Answered:
        if request.head.method == "POST":
            return await self._load(request)
        entries = await self._inference.index(ready=True)
        return as_json({"models": [_said(entry.model_id) for entry in entries]})

    async def _load(self, request: DoorRequest) -> Answered:
        bodies.json_of(await request.read(), _LoadBody)  # the proxy has read the name; here it is to be there
        if await self._is_loaded(request.model_id):
            return error(409, f"Model '{request.model_id}' is loaded already.")
        await self._inference.load(request.model_id)
        return as_json(_said(request.model_id))

    async def _model(self, request: DoorRequest) -> Answered:
        if request.head.method == "DELETE":
            if not await self._inference.unload(request.model_id):
                raise errors.ModelNotFoundError(f"Model '{request.model_id}' is not loaded.")
        elif not await self._is_loaded(request.model_id):
            raise errors.ModelNotFoundError(f"Model '{request.model_id}' is not loaded.")
        return as_json(_said(request.model_id))

    async def _is_loaded(self, model_id: str) -> bool:
        return any(entry.model_id == model_id for entry in await self._inference.index(ready=True))


def _said(model_id: str) -> dict[str, Any]:
    return {"modelName": model_id, "modelUrl": ""}
