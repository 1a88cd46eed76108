"""What a replica says of its models."""

import asyncio
from typing import Any

from inline_app import app_of, serving

from modelplex import serve
from modelplex.testing import run_virtual


class Shops:
    @serve.multiplexed(max_num_models_per_replica=9, max_bytes_per_replica=1000, size_of=lambda model: 10)
    async def get_model(self, model_id: str) -> str:
        await asyncio.sleep(2 if model_id != "slow" else 8)
        return model_id

    async def __call__(self) -> None:
        async with serve.lease(self.get_model, serve.get_multiplexed_model_id()):
            await asyncio.sleep(5)


def test_each_model_is_told_with_its_state_and_its_uses() -> None:
    async def run() -> None:
        async with serving(app_of(Shops)) as (cluster, handle):
            await handle.options(multiplexed_model_id="a").remote()
            await asyncio.sleep(3)
            users = [asyncio.ensure_future(handle.options(multiplexed_model_id=m).remote()) for m in ("b", "slow")]
            await asyncio.sleep(4)
            [(name, answer)] = (await cluster.controller.survey.ask("models")).items()
            assert (answer["replica"], answer["application"], answer["deployment"]) == (name, "default", "Shops")
            assert (answer["ongoing"], answer["max_ongoing"], answer["retiring"]) == (2, 5, False)
            [loader] = answer["loaders"]
            assert (loader["name"], loader["models_max"], loader["bytes_max"], loader["total"]) == (
                "get_model",
                9,
                1000,
                3,
            )
            assert loader["size_bytes"] == sum(model["size_bytes"] for model in loader["models"])
            a, b, slow = loader["models"]
            assert [(m["id"], m["state"]) for m in (a, b, slow)] == [
                ("a", "resident"),
                ("b", "resident"),
                ("slow", "loading"),
            ]
            assert (a["uses"], a["leases"], a["age_s"], a["idle_s"], a["load_s"]) == (1, 0, 12, 7, 2)
            assert (b["uses"], b["leases"], b["age_s"], b["idle_s"]) == (1, 1, 2, None)
            assert (slow["waiters"], slow["age_s"], slow["idle_s"], slow["leases"]) == (1, 4, None, 0)
            await asyncio.gather(*users)

    run_virtual(run())


def test_only_those_are_told_that_are_asked_for() -> None:
    async def run() -> None:
        async with serving(app_of(Shops)) as (cluster, handle):
            await asyncio.gather(*(handle.options(multiplexed_model_id=f"m{n}").remote() for n in range(5)))

            async def ask(**asked: Any) -> Any:
                [answer] = (await cluster.controller.survey.ask("models", asked)).values()
                if answer is None:
                    return None
                [loader] = answer["loaders"]
                return [model["id"] for model in loader["models"]], loader["total"]

            assert await ask(limit=2) == (["m0", "m1"], 5)
            assert await ask(limit=2, after="m1") == (["m2", "m3"], 3)
            assert await ask(limit=0) == ([], 5)
            assert await ask(model="m3") == (["m3"], 1)
            assert await ask(model="*2") == (["m2"], 1)
            assert await ask(model="3") == ([], 0)
            assert await ask(application="other") is None
            assert await ask(deployment="other") is None

    run_virtual(run())
