"""A loader that keeps each model in a list. Loads and ends are written to a file, one line each."""

import os

import numpy as np
from many import note
from starlette.requests import Request

from modelplex import serve

KEPT: list["Model"] = []


class Model:
    def __init__(self, model_id: str) -> None:
        self.model_id = model_id
        self.weights = np.ones(2**20, np.uint8)

    def __del__(self) -> None:
        note(f"end {self.model_id} {os.getpid()} {id(self)}")


class Leaky:
    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, model_id: str) -> Model:
        model = Model(model_id)
        note(f"load {model_id} {os.getpid()} {id(model)}")
        KEPT.append(model)
        return model

    async def __call__(self, request: Request) -> str:
        model = await self.get_model(serve.get_multiplexed_model_id())
        return f"{model.model_id} {os.getpid()}"


Deployed = serve.deployment(Leaky)
tolerated = Deployed.bind()
limited = Deployed.options(num_replicas=2, max_leaked_bytes="8MiB").bind()
