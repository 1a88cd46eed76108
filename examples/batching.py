"""Calls that come at about the same time, run together, those of each model apart.

    modelplex run batching:entry --app-dir examples
    curl -H "serve-multiplexed-model-id: 3" "http://127.0.0.1:8000/?number=5"

or, to see how large batches become under load: python examples/batching.py
"""

import asyncio
from collections import Counter

from starlette.requests import Request

from modelplex import serve


@serve.deployment(max_ongoing_requests=64)  # more than a batch holds, or none would ever be whole
class Scaler:
    def __init__(self) -> None:
        self.batches: Counter[tuple[str, int]] = Counter()

    @serve.multiplexed(max_num_models_per_replica=8)
    async def get_model(self, model_id: str) -> int:
        await asyncio.sleep(0.05)  # where a model would be loaded
        return int(model_id)

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.5)
    async def scale(self, numbers: list[int]) -> list[int]:
        """All numbers are for one model, which stays loaded until the batch has ended."""
        model_id = serve.get_multiplexed_model_id()
        factor = await self.get_model(model_id)
        self.batches[model_id, len(numbers)] += 1
        return [factor * number for number in numbers]

    async def call(self, number: int) -> int:
        scaled: int = await self.scale(number)
        return scaled

    async def __call__(self, request: Request) -> int:
        return await self.call(int(request.query_params["number"]))

    async def seen(self) -> list[str]:
        return [f"{times} of {size} for {model}" for (model, size), times in sorted(self.batches.items())]


entry = Scaler.bind()  # type: ignore[attr-defined] # mypy takes no notice of what class decorators return


def main() -> None:
    serve.start(http_options={"port": 0})  # any port, since only a handle calls
    handle = serve.run(entry, route_prefix=None)
    calls = [
        handle.options(multiplexed_model_id=model_id).call.remote(number)
        for number in range(16)
        for model_id in ("2", "3")
    ]
    results = [call.result() for call in calls]
    print("right:", results == [number * factor for number in range(16) for factor in (2, 3)])
    print("batches:", "; ".join(handle.seen.remote().result()))
    serve.shutdown()


if __name__ == "__main__":
    main()
