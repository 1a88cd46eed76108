"""What Modelplex and Ray Serve both serve, word for word. BENCH_SERVE names whose `serve` it is.

GET / answers the model's id; GET /where that and, on a cluster, the node of the replica.
"""

import asyncio
import importlib
import json
import os
from typing import Any

from starlette.requests import Request

serve: Any = importlib.import_module(os.environ["BENCH_SERVE"])

LOAD_S = float(os.environ["BENCH_LOAD_S"])


@serve.deployment(**json.loads(os.environ["BENCH_OPTIONS"]))
class Model:
    def __init__(self) -> None:
        self.node = node()

    @serve.multiplexed(max_num_models_per_replica=int(os.environ["BENCH_MODELS"]))  # type: ignore[untyped-decorator]
    async def get_model(self, model_id: str) -> str:
        await asyncio.sleep(LOAD_S)
        note_load()
        return model_id

    async def __call__(self, request: Request) -> str:
        model: str = await self.get_model(serve.get_multiplexed_model_id())
        return f"{model} {self.node}" if request.scope["path"] == "/where" else model


def node() -> str:
    """The id of the cluster's node that this process is on; empty on no cluster."""
    if not os.environ["BENCH_ADDRESS"]:
        return ""
    import ray

    name: str = ray.get_runtime_context().get_node_id()
    return name


def note_load() -> None:
    """One byte for each load, whichever process makes it."""
    with open(os.environ["BENCH_LOADS_FILE"], "a") as file:
        file.write("x")


app = Model.bind()  # type: ignore[attr-defined]
