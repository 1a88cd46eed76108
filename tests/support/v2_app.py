"""A deployment of the Open Inference Protocol, whose models are factors, and clients of it in the same process."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
from proxy_client import client_of

from modelplex import serve
from modelplex.testing import InlineCluster, run_virtual

LOAD_S = 2.0


async def model_exists(model_id: str) -> bool:
    return model_id[1:].partition("@")[0].isdigit()


@serve.deployment
class Factors:
    """A model "m3" multiplies by 3."""

    @serve.multiplexed(max_num_models_per_replica=3, model_exists=model_exists)
    async def get_model(self, model_id: str) -> int:
        await asyncio.sleep(LOAD_S)
        if model_id == "m666":
            raise RuntimeError("secret of the loader")
        return int(model_id[1:].partition("@")[0])

    async def infer(self, model: int, inputs: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
        match parameters.get("return"):
            case "failure":
                raise KeyError("secret of the code")
            case "list":
                return [1]  # type: ignore[return-value]
            case "complex":
                return {"y": np.zeros(1, complex)}
            case "infinity":
                return {"y": np.array([np.inf])}
            case "all":
                return dict(inputs)
        return {"y": inputs["x"] * model, "parameters": np.array([str(sorted(parameters))])}

    async def list_models(self) -> list[str]:
        return ["m1", "m2"]


Check = Callable[[httpx.AsyncClient], Awaitable[None]]


def with_v2(check: Check, app: Any = None, prefix: str = "/", **options: Any) -> None:
    """Run a check with a client of a proxy before a deployment, `Factors` unless given."""

    async def main() -> None:
        async with InlineCluster() as cluster:
            await cluster.run(Factors.bind() if app is None else app, route_prefix=prefix)  # type: ignore[attr-defined]
            async with client_of(cluster.directory, **options) as client:
                await check(client)

    run_virtual(main())


def ask(*values: float, datatype: str = "INT32", **more: Any) -> dict[str, Any]:
    """The JSON of a request with one input, x."""
    return {"inputs": [{"name": "x", "shape": [len(values)], "datatype": datatype, "data": list(values)}], **more}
