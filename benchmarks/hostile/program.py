"""What is attacked: two replicas with ten models, whose ids are known."""

from typing import Any

from starlette.requests import Request

from modelplex import serve

MODELS = [f"model-{number}" for number in range(10)]


def exists(model_id: str) -> bool:
    return model_id in MODELS


class Shop:
    """Answers with its model's id, in capitals."""

    @serve.multiplexed(max_num_models_per_replica=10, model_exists=exists)
    async def get_model(self, model_id: str) -> str:
        return model_id.upper()

    async def __call__(self, request: Request) -> Any:
        await request.body()
        return await self.get_model(serve.get_multiplexed_model_id())


app = serve.deployment(num_replicas=2)(Shop).bind()
