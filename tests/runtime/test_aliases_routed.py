"""Aliases with replicas and routers: what routers hear, where requests go, what the controller is told."""

import asyncio
from collections import Counter
from typing import Any
from weakref import WeakSet

import pytest
from inline_app import app_of, replicas_of, serving
from raw_router import RawRouter, replica_of
from virtual_time import in_virtual_time, turns

from modelplex import errors
from modelplex.multiplex import Loader, multiplexed
from modelplex.runtime.directory import Directory
from modelplex.runtime.replica_reports import ReplicaReports
from modelplex.serve import DeploymentHandle, get_multiplexed_model_id, get_replica_context
from modelplex.wire.messages import ModelGone, ModelLoaded, ModelLoading, Refuse, Welcome

STORE: dict[str, str] = {}
LOADS: list[str] = []
BROKEN: set[str] = set()
AWAY: list[Exception] = []


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loader, "standalone", WeakSet())
    STORE.clear()
    STORE.update({"shop@stable": "shop@3", "shop@latest": "shop@3"})
    for record in (LOADS, BROKEN, AWAY):
        record.clear()


async def resolve(model_id: str) -> str:
    await asyncio.sleep(0.01)
    if AWAY:
        raise AWAY[0]
    if model_id not in STORE and not model_id[-1].isdigit():
        raise FileNotFoundError(model_id)
    return STORE.get(model_id, model_id)


class Shops:
    @multiplexed(max_num_models_per_replica=2, resolve=resolve)
    async def get_model(self, model_id: str) -> str:
        LOADS.append(model_id)
        await asyncio.sleep(3)
        if model_id in BROKEN:
            raise ValueError("broken")
        return model_id

    async def __call__(self, use_s: float = 0.0) -> tuple[str, str, str]:
        model = await self.get_model(get_multiplexed_model_id())
        await asyncio.sleep(use_s)
        return model, get_multiplexed_model_id(), get_replica_context().replica_id


def ask(handle: DeploymentHandle, model_id: str, *args: Any) -> Any:
    return handle.options(multiplexed_model_id=model_id).remote(*args)


@in_virtual_time
async def test_a_router_hears_of_aliases_as_of_models() -> None:
    async with replica_of(Shops) as replica:
        router = RawRouter(replica)
        await router.reply(router.call(model_id="shop@stable", fits=True))
        assert [m.model_id for m in router.all_of(ModelLoading)] == ["shop@3", "shop@stable"]
        assert [m.model_id for m in router.all_of(ModelLoaded)] == ["shop@3", "shop@stable"]
        assert {m.room for m in router.all_of(ModelLoaded)} == {1}
        await router.reply(router.call(model_id="shop@latest", fits=True))  # it is here already
        assert [m.model_id for m in router.all_of(ModelLoaded)][2:] == ["shop@latest"]
        second = RawRouter(replica)
        welcome = await second.first_of(Welcome)
        assert (sorted(welcome.loaded), welcome.loading, welcome.room) == (
            ["shop@3", "shop@latest", "shop@stable"],
            [],
            1,
        )
        assert (replica.models.holds("shop@stable"), replica.models.measured("shop@stable")) == (
            True,
            replica.models.measured("shop@3"),
        )


@in_virtual_time
async def test_an_answer_says_that_the_alias_is_held_and_a_move_is_no_news() -> None:
    async with replica_of(Shops) as replica:
        router = RawRouter(replica)
        reply = await router.reply(router.call(model_id="shop@stable"))
        assert reply.head.holds
        STORE["shop@stable"] = "shop@4"
        await asyncio.sleep(20)
        told = [m for m, _ in router.heard if isinstance(m, ModelLoaded | ModelGone) and m.model_id == "shop@stable"]
        assert len(told) == 1
        assert [m.model_id for m in router.all_of(ModelGone)] == ["shop@3"]
        assert (await router.reply(router.call(model_id="shop@stable"))).value[0] == "shop@4"


@in_virtual_time
async def test_room_is_counted_in_models_whatever_they_are_called() -> None:
    """Two of two places: the third model is refused to whom expects room, an alias of one of the two is not."""
    async with replica_of(Shops) as replica:
        router = RawRouter(replica)
        await router.reply(router.call(model_id="shop@stable", fits=True))
        await router.reply(router.call(model_id="shop@latest", fits=True))
        await router.reply(router.call(model_id="shop@2", fits=True))
        assert replica.load().models_max == 2
        stream = router.call(model_id="shop@1", fits=True)
        await turns(5)
        assert [r.stream for r in router.all_of(Refuse)] == [stream]
        assert (await router.reply(router.call(model_id="shop@latest", fits=True))).value[0] == "shop@3"


@in_virtual_time
async def test_the_controller_hears_of_models_not_of_their_aliases() -> None:
    async with replica_of(Shops) as replica:
        router = RawRouter(replica)
        for model_id in ("shop@stable", "shop@latest", "shop@3", "shop@2"):
            await router.reply(router.call(model_id=model_id))
        load = replica.load()
        assert load.uses == {"shop@3": 3, "shop@2": 1}
        assert sorted(model_id for model_id, _ in load.loads) == ["shop@2", "shop@3"]


@in_virtual_time
async def test_who_takes_over_knows_the_aliases_that_were_in_use() -> None:
    async with replica_of(Shops) as replica:
        router = RawRouter(replica)
        for model_id in ("shop@stable", "shop@latest", "shop@2"):
            await router.reply(router.call(model_id=model_id))
        reports = ReplicaReports()
        reports.follow(["old"], 0.0)
        reports.loaded("old", replica.load(), 0.0)
        models = reports.models("old")
    assert models == {"": ["shop@3", "shop@2", "shop@stable", "shop@latest"]}
    LOADS.clear()
    AWAY.clear()
    async with replica_of(Shops) as replica:
        await replica.models.warm(models, 60)
        assert sorted(LOADS) == ["shop@2", "shop@3"]
        welcome = await RawRouter(replica).first_of(Welcome)
        assert sorted(welcome.loaded) == ["shop@2", "shop@3", "shop@latest", "shop@stable"]
        STORE["shop@stable"] = STORE["shop@latest"] = "shop@4"
        await asyncio.sleep(20)
        assert not replica.models.holds("shop@3")  # that it was taken over is no use of its name


@in_virtual_time
async def test_what_a_request_was_told_wrongly_is_told_when_it_ends() -> None:
    """No phantom is left of an alias that does not exist, or whose version cannot be loaded."""
    async with replica_of(Shops) as replica:
        router = RawRouter(replica)
        BROKEN.add("shop@3")
        for model_id in ("shop@none", "shop@stable"):
            await router.failure(router.call(model_id=model_id, fits=True))
        loading, gone = router.all_of(ModelLoading), router.all_of(ModelGone)
        assert {m.model_id for m in loading} == {m.model_id for m in gone} == {"shop@3", "shop@stable"}
        welcome = await RawRouter(replica).first_of(Welcome)
        assert (welcome.loaded, welcome.loading, welcome.room) == ([], [], 2)


@in_virtual_time
async def test_an_alias_moves_on_several_replicas_for_several_routers() -> None:
    async with serving(app_of(Shops, num_replicas=3, max_ongoing_requests=4)) as (cluster, _):
        others = [Directory(cluster.engine.connect) for _ in range(2)]
        loop = asyncio.get_running_loop()
        handles = [DeploymentHandle("default", "Shops")]
        got: Counter[str] = Counter()
        names: Counter[str] = Counter()
        slow: list[float] = []
        moved_at: list[float] = []

        async def client(handle: DeploymentHandle, model_id: str) -> None:
            for n in range(150):
                began = loop.time()
                model, name, _ = await ask(handle, model_id, 0.2)
                assert name == model_id
                got[model] += 1
                names[name] += 1
                if n and loop.time() - began > 1 and model_id != "shop@1":  # that may be what makes room
                    slow.append(loop.time())
                await asyncio.sleep(0.1)

        model_ids = ["shop@stable", "shop@latest", "shop@1"]
        clients = [asyncio.create_task(client(handles[n % len(handles)], m)) for n, m in enumerate(model_ids * 2)]
        await asyncio.sleep(15)
        moved_at.append(loop.time())
        STORE["shop@stable"] = STORE["shop@latest"] = "shop@4"
        await asyncio.gather(*clients)
        assert got["shop@3"] > 50
        assert got["shop@4"] > 50
        assert [at for at in slow if at > moved_at[0]] == []
        replicas = replicas_of(cluster)
        assert not any(replica.models.holds("shop@3") for replica in replicas)
        holders = [replica for replica in replicas if replica.models.holds("shop@4")]
        assert holders
        assert LOADS.count("shop@4") <= len(holders)
        for other in others:
            await other.close()


@in_virtual_time
async def test_requests_for_an_alias_go_where_its_version_is() -> None:
    async with serving(app_of(Shops, num_replicas=4, max_ongoing_requests=10)) as (_, handle):
        homes = {(await ask(handle, "shop@stable"))[2] for _ in range(20)}
        assert (len(homes), LOADS) == (1, ["shop@3"])
        STORE["shop@stable"] = "shop@4"
        for _ in range(30):
            homes.add((await ask(handle, "shop@stable"))[2])
            await asyncio.sleep(1)
        assert (len(homes), LOADS) == (1, ["shop@3", "shop@4"])


@in_virtual_time
async def test_callers_are_told_what_is_wrong() -> None:
    async with serving(app_of(Shops)) as (_, handle):
        with pytest.raises(errors.ModelNotFoundError, match="shop@none"):
            await ask(handle, "shop@none")
        AWAY.append(ConnectionError("no route"))
        with pytest.raises(errors.ModelUnavailableError, match="shop@stable"):
            await ask(handle, "shop@stable")


@in_virtual_time
async def test_the_interval_can_be_set_by_the_deployment() -> None:
    app = app_of(Shops, multiplexing_config={"resolve_interval_s": 100.0})
    async with serving(app) as (_, handle):
        await ask(handle, "shop@stable")
        STORE["shop@stable"] = "shop@4"
        await asyncio.sleep(90)
        assert LOADS == ["shop@3"]
        await asyncio.sleep(20)
        assert LOADS == ["shop@3", "shop@4"]
