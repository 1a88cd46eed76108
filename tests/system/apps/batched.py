"""Answers in batches: each request gets its model, the batch's size, and the models of all that were in it."""

import asyncio

from modelplex import serve


@serve.deployment(num_replicas=1, max_ongoing_requests=100)
class Batched:
    @serve.multiplexed(max_num_models_per_replica=3)
    async def get_model(self, model_id: str) -> str:
        return model_id

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.02)
    async def predict(self, named: list[str]) -> list[dict[str, object]]:
        model = await self.get_model(serve.get_multiplexed_model_id())
        await asyncio.sleep(0.01)
        return [{"model": model, "size": len(named), "named": sorted(set(named))}] * len(named)

    async def __call__(self) -> object:
        return await self.predict(serve.get_multiplexed_model_id())


app = Batched.bind()  # type: ignore[attr-defined]
