"""Models and replicas over the admin interface, in virtual time."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote
from weakref import WeakSet

import pytest
from asked_admin import Asked, asked
from inline_app import app_of, replicas_of

from modelplex import errors, serve
from modelplex.multiplex import Loader
from modelplex.runtime import model_report
from modelplex.testing import run_virtual


@pytest.fixture(autouse=True)
def no_loaders_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions that other modules of tests decorate are in this process, too."""
    monkeypatch.setattr(Loader, "standalone", WeakSet())


class Shops:
    @serve.multiplexed(max_num_models_per_replica=4)
    async def get_model(self, model_id: str) -> str:
        if model_id == "none":
            raise errors.ModelNotFoundError("There is no model 'none'.")
        await asyncio.sleep(10)
        return model_id

    async def __call__(self) -> str:
        return str(await self.get_model(serve.get_multiplexed_model_id()))


class Front:
    def __init__(self, *handles: serve.DeploymentHandle) -> None: ...

    async def __call__(self) -> str:
        return "front"


def in_world(check: Callable[[Asked], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asked() as world, asyncio.timeout(1000):
            await check(world)

    run_virtual(main())


async def resident(world: Asked, query: str = "") -> list[str]:
    status, answer = await world.ask("GET", f"/v1/models{query}")
    assert status == 200, answer
    return [model["id"] for model in answer["models"]]


def test_models_are_loaded_pinned_and_unloaded() -> None:
    async def check(world: Asked) -> None:
        await world.cluster.run(app_of(Shops))
        target = {"application": "default", "deployment": "Shops"}
        assert await world.post("/v1/models/a/load", **target) == (200, {})
        assert await world.post("/v1/models/a/pin", **target) == (200, {"replicas": 1})
        status, answer = await world.ask("GET", "/v1/models")
        [model] = answer["models"]
        assert (status, answer["total"], answer["next"]) == (200, 1, None)
        assert (model["id"], model["application"], model["deployment"], model["loader"], model["pinned"]) == (
            "a",
            "default",
            "Shops",
            "get_model",
            True,
        )
        [there] = model["replicas"]
        assert (there["state"], there["load_s"], there["leases"]) == ("resident", 10, 0)
        status, answer = await world.post("/v1/models/a/unload", **target)
        assert (status, answer) == (409, {"error": "Model 'a' is pinned on 1 replicas: unpin it first."})
        assert await world.post("/v1/models/a/unpin", **target) == (200, {"replicas": 1})
        assert await world.post("/v1/models/a/unload", **target) == (200, {"replicas": 1})
        assert await world.post("/v1/models/a/unload", **target) == (200, {"replicas": 0})
        assert await resident(world) == []

    in_world(check)


def test_a_prefetch_is_answered_at_once() -> None:
    async def check(world: Asked) -> None:
        await world.cluster.run(app_of(Shops))
        began = asyncio.get_running_loop().time()
        assert await world.post("/v1/models/a/prefetch") == (202, {})
        assert asyncio.get_running_loop().time() - began < 1
        _, answer = await world.ask("GET", "/v1/models")
        assert answer["models"][0]["replicas"][0]["state"] == "loading"
        await asyncio.sleep(11)

    in_world(check)


def test_an_id_may_have_slashes_and_one_that_is_none_is_refused() -> None:
    async def check(world: Asked) -> None:
        await world.cluster.run(app_of(Shops))
        assert await world.post(f"/v1/models/{quote('eu/shop@1', safe='')}/load") == (200, {})
        assert await resident(world) == ["eu/shop@1"]
        for wrong in ("..", "%2e%2e", "a%20b", "%ff", "a%2f%2fb", "%00", "x" * 257):
            assert (await world.post(f"/v1/models/{wrong}/load"))[0] == 400, wrong
        status, answer = await world.post("/v1/models/none/load")
        assert (status, answer["error"]) == (404, "There is no model 'none'.")

    in_world(check)


def test_which_deployment_is_meant_need_not_be_said_if_it_is_clear() -> None:
    async def check(world: Asked) -> None:
        status, answer = await world.post("/v1/models/a/load")
        assert (status, answer["error"]) == (404, "There is no application ''; say which is meant, of: none.")
        await world.cluster.run(app_of(Front, app_of(Shops)))
        assert await world.post("/v1/models/a/load") == (200, {})
        status, answer = await world.post("/v1/models/a/load", deployment="Nope")
        assert (status, answer["error"]) == (
            404,
            "There is no deployment 'Nope'; say which is meant, of: Front, Shops.",
        )
        status, answer = await world.post("/v1/models/a/load", deployment="Front")
        assert (status, answer["error"]) == (404, "There is not one loader '' that is meant; there are: none.")
        await world.cluster.run(app_of(Shops), "other", "/other")
        status, answer = await world.post("/v1/models/a/load")
        assert (status, answer["error"]) == (404, "There is no application ''; say which is meant, of: default, other.")
        assert await world.post("/v1/models/a/load", application="other") == (200, {})
        assert await resident(world, "?application=other") == ["a"]
        status, answer = await world.post("/v1/models/a/load", application="other", more=1)
        assert (status, "unknown field `more`" in answer["error"]) == (400, True)

    in_world(check)


def test_models_are_listed_by_pages_and_filters() -> None:
    async def check(world: Asked) -> None:
        await world.cluster.run(app_of(Shops, num_replicas=2))
        for replica in replicas_of(world.cluster):
            host = replica.models.named()
            await asyncio.gather(*(host.pins.load(f"m{n}") for n in range(3)))
        await replicas_of(world.cluster)[0].models.named().pins.load("x")
        pages, after = [], ""
        while True:
            _, answer = await world.ask("GET", f"/v1/models?limit=2&after={after}")
            pages.append(([model["id"] for model in answer["models"]], answer["total"]))
            if (after := answer["next"]) is None:
                break
        assert pages == [(["m0", "m1"], 7), (["m2", "x"], 3)]
        _, answer = await world.ask("GET", "/v1/models?model=m1")
        [model] = answer["models"]
        assert len({each["replica"] for each in model["replicas"]}) == 2
        assert await resident(world, "?model=m*") == ["m0", "m1", "m2"]
        assert await resident(world, "?model=*x") == ["x"]
        assert await resident(world, "?deployment=Other") == []
        for wrong in ("limit=0", "limit=1001", "limit=x", "limit=", "other=1", f"model={'x' * 257}"):
            assert (await world.ask("GET", f"/v1/models?{wrong}"))[0] == 400, wrong

    in_world(check)


def test_a_hundred_thousand_models_are_listed_by_pages_and_none_is_sent_that_is_not_on_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = 0

    def counted(*args: Any) -> Any:
        nonlocal told
        told += 1
        return original(*args)

    original = model_report._model
    monkeypatch.setattr(model_report, "_model", counted)

    async def check(world: Asked) -> None:
        await world.cluster.run(app_of(Shops))
        [replica] = replicas_of(world.cluster)
        cache = replica.models.named().cache
        cache._shelf.room.models_max = -1
        for n in range(100_000):
            cache.acquire(n - 10**9, f"m{n:06}", None, 0.0)
        _, answer = await world.ask("GET", "/v1/models?limit=10&after=m050000")
        assert [model["id"] for model in answer["models"]] == [f"m{n:06}" for n in range(50_001, 50_011)]
        assert (answer["total"], told) == (49_999, 11)
        for n in range(100_000):
            cache._shelf.entries.pop(f"m{n:06}")

    in_world(check)


def test_replicas_are_listed_with_their_models_as_far_as_is_wanted() -> None:
    async def check(world: Asked) -> None:
        await world.cluster.run(app_of(Front, app_of(Shops, num_replicas=2)))
        await world.post("/v1/models/a/load")
        _, answer = await world.ask("GET", "/v1/replicas?deployment=Shops")
        assert [replica["deployment"] for replica in answer["replicas"]] == ["Shops", "Shops"]
        held = [loader["models"] for replica in answer["replicas"] for loader in replica["loaders"]]
        assert sorted(len(models) for models in held) == [0, 1]
        _, answer = await world.ask("GET", "/v1/replicas?limit=0")
        assert len(answer["replicas"]) == 3
        assert sum(loader["total"] for replica in answer["replicas"] for loader in replica["loaders"]) == 1
        assert not any(loader["models"] for replica in answer["replicas"] for loader in replica["loaders"])

    in_world(check)


def test_a_drained_replica_goes_when_another_has_taken_its_place_and_its_models() -> None:
    async def check(world: Asked) -> None:
        handle = await world.cluster.run(app_of(Shops))
        await world.post("/v1/models/a/load")
        _, answer = await world.ask("GET", "/v1/replicas")
        [before] = [replica["replica"] for replica in answer["replicas"]]
        await asyncio.sleep(11)
        path = f"/v1/replicas/{quote(before, safe='')}/drain"
        assert await world.ask("POST", path) == (202, {"replica": before})
        assert await world.ask("POST", path) == (202, {"replica": before})  # which changes nothing
        for _ in range(40):
            assert await handle.options(multiplexed_model_id="a").remote() == "a"
            await asyncio.sleep(1)
        _, answer = await world.ask("GET", "/v1/replicas")
        [after] = [replica["replica"] for replica in answer["replicas"]]
        assert after != before
        assert await resident(world) == ["a"]
        for name in (path, "/v1/replicas/unknown/drain", "/v1/replicas/proxy%23c/drain"):
            assert (await world.ask("POST", name))[0] == 404

    in_world(check)


def test_an_alias_is_set_where_the_deployment_looks_for_it() -> None:
    class Store:
        def __init__(self) -> None:
            self.versions = {"shop@stable": "shop@1"}

        async def resolve(self, model_id: str) -> str:
            return self.versions.get(model_id, model_id)

        async def set_alias(self, alias: str, version: str) -> None:
            self.versions[alias] = version

    class Versioned:
        @serve.multiplexed(max_num_models_per_replica=3, resolve=Store().resolve)
        async def get_model(self, model_id: str) -> str:
            return model_id

        async def __call__(self) -> str:
            return str(await self.get_model(serve.get_multiplexed_model_id()))

    async def check(world: Asked) -> None:
        handle = await world.cluster.run(app_of(Versioned))
        body = json.dumps({"version": "shop@2"}).encode()
        assert await world.ask("PUT", "/v1/models/shop@stable/alias", body) == (200, {})
        assert await handle.options(multiplexed_model_id="shop@stable").remote() == "shop@2"
        for wrong in ({}, {"version": ""}, {"version": "a b"}, {"version": 3}):
            assert (await world.ask("PUT", "/v1/models/shop@stable/alias", json.dumps(wrong).encode()))[0] == 400

    in_world(check)


def test_decisions_and_metrics_of_all_processes_are_put_together() -> None:
    async def check(world: Asked) -> None:
        own = world.cluster.controller.survey.own_topics
        assert await world.ask("GET", "/v1/decisions") == (200, {"decisions": []})
        asked: list[Any] = []

        def decide(argument: Any) -> Any:
            asked.append(argument)
            return [{"at": at, "process": "p", "kind": "route", "text": f"at {at}"} for at in (1.0, 3.0, 2.0)]

        own["decisions"] = decide
        own["metrics"] = lambda _: [
            {"name": "m_total", "kind": "counter", "description": "d", "series": [{"tags": {"a": "b"}, "value": 3.0}]}
        ]
        _, answer = await world.ask("GET", "/v1/decisions?model_id=a&limit=2")
        assert [each["text"] for each in answer["decisions"]] == ["at 3.0", "at 2.0"]
        assert asked == [{"model_id": "a", "limit": 2}]
        status, head, page = await world.send("GET", "/metrics")
        assert status == 200
        assert b"content-type: text/plain; version=0.0.4; charset=utf-8" in head
        assert b'm_total{a="b"} 3' in page

    in_world(check)
