"""A shop's search: one deployment asks others, which run side by side, each with its own replicas.

modelplex run composition:entry --app-dir examples
curl "http://127.0.0.1:8000/?customer=ada&words=red+shoes"
curl -H "x-request-timeout-seconds: 1" "http://127.0.0.1:8000/?customer=bob&words=red+shoes"
"""

import asyncio
from typing import Any

from starlette.requests import Request

from modelplex import serve
from modelplex.errors import RequestTimeoutError
from modelplex.serve import DeploymentHandle


@serve.deployment
class Index:
    """Finds things by their words."""

    def __init__(self, things: list[str]) -> None:
        self.things = things

    async def __call__(self, words: str) -> list[str]:
        return [thing for thing in self.things if set(words.split()) & set(thing.split())]


@serve.deployment(num_replicas=2, max_ongoing_requests=20)
class Taste:
    """One model for each customer."""

    @serve.multiplexed(max_num_models_per_replica=100)
    async def get_model(self, customer: str) -> str:
        await asyncio.sleep(5.0 if customer == "slow" else 0.1)  # where a model would be loaded
        return customer

    async def __call__(self, things: list[str]) -> list[str]:
        model = await self.get_model(serve.get_multiplexed_model_id())
        return sorted(things, key=lambda thing: (-len(set(thing) & set(model)), thing))


@serve.deployment
class Search:
    def __init__(self, indexes: list[DeploymentHandle], taste: DeploymentHandle) -> None:
        self.indexes = indexes
        self.taste = taste

    async def __call__(self, request: Request) -> dict[str, Any]:
        customer, words = request.query_params["customer"], request.query_params["words"]
        parts = await asyncio.gather(*(index.remote(words) for index in self.indexes))
        found = [thing for part in parts for thing in part]
        try:
            # A request may say that it has less time than that; then it is the shorter one that counts.
            sort = self.taste.options(multiplexed_model_id=customer, timeout_s=0.5)
            return {"things": await sort.remote(found), "sorted": True}
        except RequestTimeoutError:
            return {"things": found, "sorted": False}


shoes = Index.options(name="Shoes").bind(["red shoes", "blue shoes"])  # type: ignore[attr-defined] # mypy takes no notice
hats = Index.options(name="Hats").bind(["red hat", "green hat"])  # type: ignore[attr-defined] # of what class decorators
entry = Search.bind([shoes, hats], Taste.bind())  # type: ignore[attr-defined] # return
