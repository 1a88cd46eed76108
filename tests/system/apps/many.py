"""Models whose loads and ends are written to a file, one line each."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

from modelplex import serve

LOAD_S = float(os.environ.get("LOAD_S", "0.02"))


def note(line: str) -> None:
    descriptor = os.open(os.environ["EVENTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


class Model:
    def __init__(self, model_id: str) -> None:
        self.model_id = model_id
        self.ended = False

    def __del__(self) -> None:
        self.ended = True
        note(f"end {self.model_id} {id(self)}")


class AsyncModel:
    def __init__(self, model_id: str) -> None:
        self.model_id = model_id

    async def __del__(self) -> None:
        await asyncio.sleep(0)
        note(f"end {self.model_id} {id(self)}")


class Many:
    """Streams the model's state, or answers with it at once."""

    @serve.multiplexed(max_num_models_per_replica=4)
    async def get_model(self, model_id: str) -> Any:
        note(f"load {model_id} {time.monotonic()}")
        if model_id.startswith("blocking"):
            time.sleep(LOAD_S)  # noqa: ASYNC251 - as torch.load would
        await asyncio.sleep(LOAD_S)
        if model_id.startswith("broken"):
            raise ValueError("the secret of this file")
        note(f"loaded {model_id} {time.monotonic()}")
        return AsyncModel(model_id) if model_id.startswith("async") else Model(model_id)

    async def __call__(self, request: Request) -> Any:
        model = await self.get_model(serve.get_multiplexed_model_id())
        if request.url.path == "/pid":
            return os.getpid()
        if request.url.path == "/stream":
            return StreamingResponse(self._stream(model, int(request.query_params["chunks"])))
        if request.url.path == "/slow":
            await asyncio.sleep(0.2)
        return {"model": model.model_id}

    async def _stream(self, model: Any, chunks: int) -> AsyncIterator[str]:
        for _ in range(chunks):
            yield f"{model.model_id} {'ended' if getattr(model, 'ended', False) else 'alive'}\n"
            await asyncio.sleep(0.05)


Deployed = serve.deployment(Many)
one = Deployed.options(max_ongoing_requests=100).bind()
three = Deployed.options(num_replicas=3).bind()
