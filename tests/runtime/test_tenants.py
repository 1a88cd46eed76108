"""Tenants from a handle to a replica's models, under virtual time."""

import asyncio

import pytest

from modelplex import context, errors, serve
from modelplex.testing import InlineCluster, run_virtual

TENANTS = {
    "shop": {"reserved_models": 2},
    "*": {"load_share": 0.5, "request_share": 0.5, "max_queued_requests": 20},
}
loads: list[str] = []


class Models:
    @serve.multiplexed(max_num_models_per_replica=3, max_concurrent_loads=2)
    async def get_model(self, model_id: str) -> str:
        await asyncio.sleep(1.0)
        loads.append(model_id)
        return model_id

    async def __call__(self, model_id: str) -> str:
        return str(await self.get_model(model_id))

    async def tenant(self) -> str:
        current = context.request()
        return "" if current is None else current.tenant


models = serve.deployment(max_ongoing_requests=4, tenants=TENANTS)(Models)


class Front:
    def __init__(self, models: serve.DeploymentHandle) -> None:
        self.models = models

    async def __call__(self) -> str:
        return str(await self.models.tenant.remote())


@pytest.fixture(autouse=True)
def _no_loads() -> None:
    loads.clear()


def test_a_sweep_costs_another_no_load_and_no_time() -> None:
    async def main() -> None:
        async with InlineCluster() as cluster:
            handle = await cluster.run(models.bind())
            loop = asyncio.get_running_loop()

            async def ask(model_id: str, tenant: str) -> object:
                try:
                    return await handle.options(tenant=tenant, multiplexed_model_id=model_id).remote(model_id)
                except errors.BackPressureError as error:
                    return error

            for model_id in ("x", "y"):
                await ask(model_id, "shop")
            sweep = [asyncio.ensure_future(ask(f"swept-{n}", "crawler")) for n in range(60)]
            await asyncio.sleep(0.5)
            for model_id in ("x", "y") * 10:
                began = loop.time()
                assert await ask(model_id, "shop") == model_id
                assert loop.time() - began < 0.5, "it waits for no load of the other's"
                await asyncio.sleep(1.0)
            answers = await asyncio.gather(*sweep)
            refused = [answer for answer in answers if isinstance(answer, errors.BackPressureError)]
            assert len(refused) == 60 - 20 - 2, "those that neither ran nor could wait"
            assert "requests of tenant 'crawler' waiting" in str(refused[0])
            assert loads.count("x") == loads.count("y") == 1
            assert len(set(loads)) == 2 + 22, "the other gets on"

    run_virtual(main())


def test_calls_that_a_request_makes_are_on_its_tenants_behalf() -> None:
    async def main() -> None:
        async with InlineCluster() as cluster:
            handle = await cluster.run(serve.deployment(Front).bind(models.bind()))
            assert await handle.options(tenant="shop").remote() == "shop"
            assert await handle.remote() == ""

    run_virtual(main())


def test_what_is_loaded_after_its_request_has_given_up_is_its_tenants() -> None:
    async def main() -> None:
        async with InlineCluster() as cluster:
            handle = await cluster.run(models.bind())
            shop = handle.options(tenant="shop", max_cold_wait_s=0.1)
            for model_id in ("x", "y"):
                with pytest.raises(errors.ModelColdError):
                    await shop.options(multiplexed_model_id=model_id).remote(model_id)
            await asyncio.sleep(2.0)
            for n in range(10):
                await handle.remote(f"swept-{n}")
            loads.clear()
            assert await shop.options(multiplexed_model_id="x").remote("x") == "x"
            assert await shop.options(multiplexed_model_id="y").remote("y") == "y"
            assert loads == []

    run_virtual(main())


def test_what_is_reserved_must_be_there() -> None:
    with pytest.raises(ValueError, match="reserved_models are 4 together, more than max_num_models_per_replica=3"):
        models.options(tenants={"a": {"reserved_models": 2}, "b": {"reserved_models": 2}})


def test_a_replica_whose_loader_is_a_function_says_so_when_it_starts() -> None:
    @serve.multiplexed(max_num_models_per_replica=1)
    async def get_model(model_id: str) -> str:
        return model_id

    @serve.deployment(tenants={"a": {"reserved_models": 2}}, max_constructor_retry_count=0)
    async def ask() -> object:
        return await get_model("x")

    async def main() -> None:
        async with InlineCluster() as cluster:
            with pytest.raises(errors.DeploymentFailedError, match="reserved_models"):
                await cluster.run(ask.bind())

    run_virtual(main())
