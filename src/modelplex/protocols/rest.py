"""The Open Inference Protocol (V2) over HTTP, with the binary tensor data and the model repository extensions.

https://github.com/kserve/open-inference-protocol, and for the extensions the pages that `bodies` and `PAGES` name.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from modelplex import context, errors
from modelplex.errors import InvalidRequestError
from modelplex.protocols import bodies
from modelplex.protocols.inference import Inference, server_metadata
from modelplex.runtime.answers import Headers
from modelplex.runtime.doors import JSON, Answered, DoorRequest, as_json
from modelplex.runtime.model_hosts import ModelHosts
from modelplex.runtime.naming import segments, v2_page
from modelplex.runtime.servable import Servable

# Of bodies that are smaller, the event loop can make arrays itself.
THREAD_BYTES_MIN = 256 * 2**10
COMPRESSION = 1_032  # how much larger deflate's can become

# By page (`naming.v2_page`), the method that it takes. GET takes HEAD, too. The last four are of
# https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md
PAGES = {
    "": "GET",
    "health/live": "GET",
    "health/ready": "GET",
    "openapi.json": "GET",
    "metadata": "GET",
    "ready": "GET",
    "infer": "POST",
    "index": "POST",
    "load": "POST",
    "unload": "POST",
}

# Pages that are about one model.
OF_MODELS = {"metadata", "ready", "infer", "load", "unload"}


class _IndexBody(msgspec.Struct):
    ready: bool = False


class _RepositoryBody(msgspec.Struct):
    parameters: dict[str, Any] = {}


def error(status: int, text: str, headers: Headers | None = None) -> Answered:
    """What clients of V2 are told of failures."""
    return status, [*JSON, *(headers or [])], msgspec.json.encode({"error": text})


def wrong_method(request: DoorRequest, *allowed: str) -> Answered | None:
    """The answer to another method than these."""
    methods = [*allowed, "HEAD"] if "GET" in allowed else [*allowed]
    if request.head.method in methods:
        return None
    text = f"{request.head.method} is not a method of this path: {', '.join(methods)}."
    return error(405, text, [(b"allow", ", ".join(methods).encode())])


async def infer(inference: Inference, servable: Servable, request: DoorRequest, json_bytes: str | None) -> Answered:
    """Have a model answer what a body asks.

    Args:
        json_bytes: how much of the body is JSON, as text; all unless given.
    """
    body = await request.read()

    async def off_loop(size: int, call: Callable[[], Any]) -> Any:
        return await servable.in_thread(call) if size >= THREAD_BYTES_MIN else call()

    encoding = request.header(b"content-encoding") or ""
    asked = await off_loop(
        len(body) * COMPRESSION if encoding else len(body),
        lambda: bodies.read(bodies.decompressed(body, encoding), json_bytes),
    )
    outputs = await inference.infer(request.model_id, asked.inputs, parameters=asked.parameters, outputs=asked.outputs)

    def write() -> Answered:
        answer, json_size = bodies.write(asked, request.model_id, outputs)
        headers = JSON
        if json_size is not None:
            said = (b"inference-header-content-length", b"%d" % json_size)
            headers = [(b"content-type", b"application/octet-stream"), said]
        answer, coding = bodies.compressed(answer, request.header(b"accept-encoding") or "")
        return 200, [*headers, *([(b"content-encoding", coding.encode())] if coding else [])], answer

    answered: Answered = await off_loop(sum(array.nbytes for array in outputs.values()), write)
    return answered


class Rest:
    """Answers for one replica."""

    def __init__(self, servable: Servable, models: ModelHosts, replica: context.ReplicaContext) -> None:
        self._servable = servable
        self._inference = Inference(servable, models, replica)
        self._pages: dict[str, Callable[[DoorRequest], Awaitable[Answered]]] = {
            "": self._server,
            "health/live": self._live,
            "health/ready": self._server_ready,
            "openapi.json": self._openapi,
            "metadata": self._metadata,
            "ready": self._ready,
            "infer": self._infer,
            "index": self._index,
            "load": self._load,
            "unload": self._unload,
        }

    async def answer(self, request: DoorRequest) -> Answered:
        page, model_id = v2_page(segments(request.head.raw_path, request.head.root_path))
        if page not in PAGES:
            raise errors.RouteNotFoundError("There is nothing under this path: /v2/openapi.json says what there is.")
        if (refused := wrong_method(request, PAGES[page])) is not None:
            return refused
        if page in OF_MODELS and model_id != request.model_id:
            raise InvalidRequestError("Paths do not name models here: 'v2' is not in http_options.model_id_from.")
        return await self._pages[page](request)

    async def _server(self, request: DoorRequest) -> Answered:
        return as_json(server_metadata())

    async def _live(self, request: DoorRequest) -> Answered:
        return as_json({"live": True})

    async def _server_ready(self, request: DoorRequest) -> Answered:
        return as_json({"ready": True})

    async def _openapi(self, request: DoorRequest) -> Answered:
        from modelplex.protocols.openapi import description

        return as_json(description(request.head.root_path))

    async def _metadata(self, request: DoorRequest) -> Answered:
        return as_json(await self._inference.metadata(request.model_id))

    async def _ready(self, request: DoorRequest) -> Answered:
        if await self._inference.ready(request.model_id):
            return as_json({"name": request.model_id, "ready": True})
        return error(404, f"Model '{request.model_id}' is not ready: it is not loaded, nor known to exist and to load.")

    async def _infer(self, request: DoorRequest) -> Answered:
        size = request.header(b"inference-header-content-length")
        return await infer(self._inference, self._servable, request, size)

    async def _index(self, request: DoorRequest) -> Answered:
        asked: _IndexBody = await self._body(request, _IndexBody)
        entries = await self._inference.index(ready=asked.ready)
        return as_json([{"name": e.name, "version": e.version, "state": e.state, "reason": e.reason} for e in entries])

    async def _load(self, request: DoorRequest) -> Answered:
        asked: _RepositoryBody = await self._body(request, _RepositoryBody)
        if unknown := [key for key in asked.parameters if key == "config" or key.startswith("file:")]:
            raise InvalidRequestError(f"A model is loaded as its deployment says: {unknown[0][:64]!r} is not taken.")
        await self._inference.load(request.model_id)
        return as_json({"name": request.model_id, "load": True})

    async def _unload(self, request: DoorRequest) -> Answered:
        await self._body(request, _RepositoryBody)
        await self._inference.unload(request.model_id)
        return as_json({"name": request.model_id, "unload": True})

    async def _body(self, request: DoorRequest, kind: Any) -> Any:
        data, encoding = await request.read(), request.header(b"content-encoding") or ""

        def read() -> Any:
            body = bodies.decompressed(data, encoding)
            return bodies.json_of(body, kind) if body else kind()

        return await self._servable.in_thread(read) if encoding or len(data) >= THREAD_BYTES_MIN else read()
