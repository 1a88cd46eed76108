"""Models that are loaded and unloaded on behalf of no user."""

import asyncio

import pytest

from modelplex import errors, serve
from modelplex.context import caller
from modelplex.runtime import steering
from modelplex.testing import InlineCluster, run_virtual


class Shop:
    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, model_id: str) -> str:
        if model_id == "none":
            raise errors.ModelNotFoundError("There is no model 'none'.")
        return model_id

    async def __call__(self) -> str:
        return str(await self.get_model(serve.get_multiplexed_model_id()))


SHOP = serve.deployment(num_replicas=3)(Shop)


def test_a_model_is_loaded_where_requests_find_it_and_unloaded_everywhere() -> None:
    async def run() -> None:
        async with InlineCluster() as cluster:
            handle = await cluster.run(SHOP.bind())
            await steering.load(caller(), "default", "Shop", "m1")
            assert await steering.unload(caller(), "default", "Shop", "m1") == 1
            assert await steering.unload(caller(), "default", "Shop", "m1") == 0
            assert await handle.options(multiplexed_model_id="m1").remote() == "m1"

    run_virtual(run())


def test_replicas_say_what_they_hold_and_load() -> None:
    class Slow(Shop):
        @serve.multiplexed
        async def get_slow(self, model_id: str) -> str:
            await asyncio.sleep(3600)
            return model_id

        async def slow(self) -> None:
            await self.get_slow("m2")

    async def run() -> None:
        async with InlineCluster() as cluster:
            handle = await cluster.run(serve.deployment(num_replicas=2)(Slow).bind())
            assert await steering.models(caller(), "default", "Slow") == {}
            for model_id in ("m1", "m3"):
                await handle.options(multiplexed_model_id=model_id).remote()
            call = handle.slow.remote()
            await asyncio.sleep(1)
            assert await steering.models(caller(), "default", "Slow") == {"m1": True, "m2": False, "m3": True}
            assert await steering.models(caller(), "default", "Slow", "get_slow") == {"m2": False}
            call.cancel()

    run_virtual(run())


def test_what_cannot_be_loaded_is_told() -> None:
    async def run() -> None:
        async with InlineCluster() as cluster:
            await cluster.run(SHOP.bind())
            with pytest.raises(errors.ModelNotFoundError, match="none"):
                await steering.load(caller(), "default", "Shop", "none")
            with pytest.raises(errors.ModelNotFoundError, match="there are: get_model"):
                await steering.load(caller(), "default", "Shop", "m1", "other")
            with pytest.raises(errors.InvalidModelIdError):
                await steering.unload(caller(), "default", "Shop", "..")

    run_virtual(run())


PINNING = serve.deployment(num_replicas=2)(Shop)


async def _held(cluster: InlineCluster, **asked: object) -> dict[str, list[tuple[str, bool]]]:
    """By replica, its models and whether they are pinned."""
    answers = await cluster.controller.survey.ask("models", asked)
    return {
        name: [(m["id"], m["pinned"]) for loader in a["loaders"] for m in loader["models"]]
        for name, a in answers.items()
    }


def test_a_pinned_model_stays_while_others_come_and_is_not_unloaded() -> None:
    async def run() -> None:
        async with InlineCluster() as cluster:
            handle = await cluster.run(serve.deployment(Shop).bind())
            assert await steering.pin(caller(), "default", "Shop", "hot") == 1
            assert await steering.pin(caller(), "default", "Shop", "hot") == 1
            for n in range(5):
                await handle.options(multiplexed_model_id=f"m{n}").remote()
            [models] = (await _held(cluster)).values()
            assert models == [("hot", True), ("m4", False)]
            with pytest.raises(errors.ModelPinnedError, match="pinned on 1 replicas: unpin it first"):
                await steering.unload(caller(), "default", "Shop", "hot")
            with pytest.raises(errors.ModelPinnedError, match="leaves no room for others"):
                await steering.pin(caller(), "default", "Shop", "another")
            assert await steering.unpin(caller(), "default", "Shop", "hot") == 1
            assert await steering.unpin(caller(), "default", "Shop", "hot") == 0
            assert await steering.unload(caller(), "default", "Shop", "hot") == 1
            assert await steering.pin(caller(), "default", "Shop", "another") == 1

    run_virtual(run())


def test_a_pin_is_where_the_model_is_and_what_fails_is_pinned_nowhere() -> None:
    async def run() -> None:
        async with InlineCluster() as cluster:
            await cluster.run(PINNING.bind())
            with pytest.raises(errors.ModelNotFoundError):
                await steering.pin(caller(), "default", "Shop", "none")
            replicas = [process.replica for process in cluster.engine._processes.values()]
            for replica in replicas:
                await replica.models.named().pins.load("both")
            assert await steering.pin(caller(), "default", "Shop", "both") == 2
            assert set(map(tuple, (await _held(cluster)).values())) == {(("both", True),)}
            assert await steering.unpin(caller(), "default", "Shop", "both") == 2
            assert await steering.unload(caller(), "default", "Shop", "both") == 2
            assert [replica.models.named().pins.counts for replica in replicas] == [{}, {}]

    run_virtual(run())


def test_what_the_options_pin_only_they_can_unpin() -> None:
    class Keeps:
        @serve.multiplexed(max_num_models_per_replica=3, pinned=["vip"])
        async def get_model(self, model_id: str) -> str:
            return model_id

    async def run() -> None:
        async with InlineCluster() as cluster:
            await cluster.run(serve.deployment(Keeps).bind())
            with pytest.raises(errors.ModelPinnedError, match="options of its loader"):
                await steering.unpin(caller(), "default", "Keeps", "vip")
            with pytest.raises(errors.ModelPinnedError, match="unpin it first"):
                await steering.unload(caller(), "default", "Keeps", "vip")
            assert await steering.pin(caller(), "default", "Keeps", "vip") == 1
            assert await steering.pin(caller(), "default", "Keeps", "second") == 1

    run_virtual(run())


def test_pins_leave_room_in_bytes_for_one_more() -> None:
    class Sized:
        @serve.multiplexed(
            max_num_models_per_replica=-1, max_bytes_per_replica=100, size_of=lambda model: 40 if model == "m" else 10
        )
        async def get_model(self, model_id: str) -> str:
            return model_id[0]

    async def run() -> None:
        async with InlineCluster() as cluster:
            await cluster.run(serve.deployment(Sized).bind())
            assert await steering.pin(caller(), "default", "Sized", "m1") == 1
            with pytest.raises(errors.ModelPinnedError, match="80 bytes would be pinned"):
                await steering.pin(caller(), "default", "Sized", "m2")
            assert await steering.pin(caller(), "default", "Sized", "small") == 1
            [models] = (await _held(cluster)).values()
            assert [name for name, pinned in models if pinned] == ["m1", "small"]

    run_virtual(run())


def test_pins_leave_tenants_what_is_reserved_for_them() -> None:
    async def run() -> None:
        async with InlineCluster() as cluster:
            options = {"max_num_models_per_replica": 4}
            tenants = {"acme": {"reserved_models": 2}}
            await cluster.run(serve.deployment(tenants=tenants, multiplexing_config=options)(Shop).bind())
            assert await steering.pin(caller(), "default", "Shop", "m1") == 1
            assert await steering.pin(caller(), "default", "Shop", "m2") == 1
            with pytest.raises(errors.ModelPinnedError, match="beside 3 that are pinned"):
                await steering.pin(caller(), "default", "Shop", "m3")

    run_virtual(run())


def test_one_who_leaves_during_the_load_has_pinned_nothing_and_one_who_unpins_then_neither() -> None:
    class Slow:
        @serve.multiplexed(max_num_models_per_replica=3)
        async def get_model(self, model_id: str) -> str:
            await asyncio.sleep(10)
            return model_id

    async def run() -> None:
        async with InlineCluster() as cluster:
            await cluster.run(serve.deployment(Slow).bind())
            pinning = asyncio.create_task(steering.pin(caller(), "default", "Slow", "a"))
            await asyncio.sleep(5)
            pinning.cancel()
            await asyncio.sleep(20)
            assert await steering.unpin(caller(), "default", "Slow", "a") == 0
            other = asyncio.create_task(steering.pin(caller(), "default", "Slow", "b"))
            await asyncio.sleep(5)
            assert await steering.unpin(caller(), "default", "Slow", "b") == 1
            await other
            assert ("b", False) in next(iter((await _held(cluster)).values()))

    run_virtual(run())


def test_a_prefetch_returns_before_the_model_is_loaded() -> None:
    class Slow:
        @serve.multiplexed(max_num_models_per_replica=3)
        async def get_model(self, model_id: str) -> str:
            await asyncio.sleep(10)
            return model_id

    async def run() -> None:
        async with InlineCluster() as cluster:
            await cluster.run(serve.deployment(Slow).bind())
            began = asyncio.get_running_loop().time()
            await steering.prefetch(caller(), "default", "Slow", "a")
            assert asyncio.get_running_loop().time() - began < 1
            [answer] = (await cluster.controller.survey.ask("models")).values()
            assert answer["loaders"][0]["models"][0]["state"] == "loading"
            await asyncio.sleep(11)
            [answer] = (await cluster.controller.survey.ask("models")).values()
            [model] = answer["loaders"][0]["models"]
            assert (model["state"], model["load_s"]) == ("resident", pytest.approx(10))

    run_virtual(run())


def test_aliases_are_set_where_they_are_found_out_and_pins_move_with_them() -> None:
    class Store:
        def __init__(self) -> None:
            self.versions = {"shop@stable": "shop@1"}

        async def resolve(self, model_id: str) -> str:
            return self.versions.get(model_id, model_id)

        async def set_alias(self, alias: str, version: str) -> None:
            self.versions[alias] = version

    class Versioned:
        @serve.multiplexed(max_num_models_per_replica=3, resolve=Store().resolve, resolve_interval_s=1)
        async def get_model(self, model_id: str) -> str:
            return model_id

        async def __call__(self) -> str:
            return str(await self.get_model(serve.get_multiplexed_model_id()))

    async def run() -> None:
        async with InlineCluster() as cluster:
            handle = await cluster.run(serve.deployment(Versioned).bind())
            ask = handle.options(multiplexed_model_id="shop@stable")
            assert await ask.remote() == "shop@1"
            assert await steering.pin(caller(), "default", "Versioned", "shop@stable") == 1
            await steering.set_alias(caller(), "default", "Versioned", "shop@stable", "shop@2")
            for _ in range(20):
                await asyncio.sleep(1)
                answered = await ask.remote()
            assert answered == "shop@2"
            [answer] = (await cluster.controller.survey.ask("models")).values()
            models = {m["id"]: m for m in answer["loaders"][0]["models"]}
            assert models["shop@2"]["aliases"] == ["shop@stable"]
            assert [name for name, model in models.items() if model["pinned"]] == ["shop@2"]
            with pytest.raises(errors.ModelPinnedError):
                await steering.unload(caller(), "default", "Versioned", "shop@2")
            assert await steering.unpin(caller(), "default", "Versioned", "shop@stable") == 1
            assert await steering.unload(caller(), "default", "Versioned", "shop@stable") == 1
            await cluster.run(SHOP.bind(), "other", "/other")
            with pytest.raises(errors.AliasNotSetError, match="Aliases cannot be set here"):
                await steering.set_alias(caller(), "other", "Shop", "a@b", "a@1")

    run_virtual(run())
