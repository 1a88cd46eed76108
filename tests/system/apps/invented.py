"""Models of which only those whose ids begin with "real" exist: by a hook that says so, or as the loader finds out."""

import os
from typing import Any

from starlette.requests import Request

from modelplex import serve
from modelplex.errors import ModelNotFoundError


def note(line: str) -> None:
    descriptor = os.open(os.environ["EVENTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def is_real(model_id: str) -> bool:
    return model_id.startswith("real")


class Known:
    @serve.multiplexed(max_num_models_per_replica=4, model_exists=is_real)
    async def get_model(self, model_id: str) -> str:
        note(f"load {model_id}")
        return model_id

    async def __call__(self, request: Request) -> Any:
        await request.body()
        return await self.get_model(serve.get_multiplexed_model_id())


class Unknown:
    @serve.multiplexed(max_num_models_per_replica=4)
    async def get_model(self, model_id: str) -> str:
        if not is_real(model_id):
            raise ModelNotFoundError("There is no such model.")
        note(f"load {model_id}")
        return model_id

    async def __call__(self, request: Request) -> Any:
        await request.body()
        return await self.get_model(serve.get_multiplexed_model_id())


known = serve.deployment(Known).options(num_replicas=2).bind()
unknown = serve.deployment(Unknown).options(num_replicas=2).bind()
