"""A deployment whose requests go where a class of its own says."""

import os
from typing import Any

from modelplex import serve


@serve.deployment(
    num_replicas=3,
    request_router_config={
        "request_router_class": os.environ.get("ROUTER", "routed_choosers:ByLastDigit"),
        "request_router_kwargs": {"digits": 1},
    },
)
class Routed:
    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, model_id: str) -> str:
        return model_id

    async def __call__(self, request: Any) -> Any:
        return await self.get_model(serve.get_multiplexed_model_id())


app = Routed.bind()  # type: ignore[attr-defined] # of a class decorator
