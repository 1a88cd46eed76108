"""Deployments that clients of other systems ask: of V2, and of OpenAI's interface."""

from typing import Any

import fastapi
import numpy as np

from modelplex import serve

chat = fastapi.FastAPI()


def model_exists(model_id: str) -> bool:
    return not model_id.startswith("unknown")


@serve.deployment(num_replicas=2)
class Factors:
    """A model "m3" multiplies numbers by 3."""

    @serve.multiplexed(max_num_models_per_replica=5, model_exists=model_exists)
    def get_model(self, model_id: str) -> int:
        if model_id == "mbroken":
            raise RuntimeError("its file is damaged")
        name = model_id.partition("@")[0]
        return int(name[1:]) if name[1:].isdigit() and len(name) < 5 else 1

    def infer(self, model: int, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if "raise" in inputs:
            raise KeyError("a secret of the code")
        with np.errstate(over="ignore"):
            outputs = {n: a if a.dtype.kind in "bO" else (a * model).astype(a.dtype) for n, a in inputs.items()}
        return {**outputs, "model": np.array([model])}

    def metadata(self, model_id: str) -> dict[str, Any]:
        return {"platform": "numpy", "outputs": [{"name": "model", "datatype": "INT64", "shape": [1]}]}

    def list_models(self) -> list[str]:
        return ["m1", "m2", "mbroken"]


@serve.deployment
@serve.ingress(chat)
class Chat:
    @serve.multiplexed(max_num_models_per_replica=5)
    async def get_model(self, model_id: str) -> str:
        return model_id

    @chat.post("/v1/chat/completions")
    async def complete(self, body: dict[str, Any]) -> Any:
        model = await self.get_model(serve.get_multiplexed_model_id())
        message = {"role": "assistant", "content": f"{model}: {body['messages'][-1]['content']}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"id": "1", "object": "chat.completion", "created": 0, "model": model, "choices": [choice]}


factors = Factors.bind()  # type: ignore[attr-defined]
chats = Chat.bind()  # type: ignore[attr-defined]
