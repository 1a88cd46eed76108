"""What becomes of requests when the network is cut between their router and a replica that lives."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from cut_network import CutNetwork
from router_alone import body_of, soon
from scripted_replica import ScriptedReplica
from virtual_time import in_virtual_time

from modelplex.core.admission import UNLIMITED
from modelplex.runtime.router import DeploymentRouter, Exchange
from modelplex.runtime.streams import Upload
from modelplex.wire.messages import Begin, DeploymentInfo


@contextlib.asynccontextmanager
async def router_in(network: CutNetwork) -> AsyncIterator[DeploymentRouter]:
    before = asyncio.all_tasks()
    info = DeploymentInfo("app", "D", UNLIMITED, network.infos)
    router = DeploymentRouter(info, network.connect, "here")
    router.follow(info)
    await soon()
    yield router
    await router.close()
    assert asyncio.all_tasks() <= before


def ask(router: DeploymentRouter, model_id: str) -> Exchange:
    return router.begin(Begin(0, "r", "app", "/", "__call__", model_id, False), Upload(b"body", more=False))


@in_virtual_time
async def test_a_replica_behind_a_cut_keeps_its_models_and_its_requests_and_nobody_else_loads_them() -> None:
    models = tuple(f"m{number}" for number in range(20))
    one, two = ScriptedReplica("one", slots=50, loaded=models), ScriptedReplica("two", slots=50)
    network = CutNetwork(one, two)
    async with router_in(network) as router:
        exchanges = [ask(router, model_id) for model_id in models]
        await soon()
        assert len(one.streams) == 20
        network.cut_links("one")
        await soon()
        exchanges += [ask(router, model_id) for model_id in models]
        await soon()
        assert network.relayed == [("two", "one")]
        assert two.heard == []
        for exchange in exchanges:
            one.answer(exchange.begin.stream, b"from one", holds=True)
        assert [await body_of(exchange) for exchange in exchanges] == [b"from one"] * 40


@in_virtual_time
async def test_requests_wait_for_another_way_and_go_elsewhere_when_there_is_none() -> None:
    one, two = ScriptedReplica("one", loaded=("m",)), ScriptedReplica("two")
    network = CutNetwork(one, two)
    network.relays_break = {"two"}
    async with router_in(network) as router:
        exchange = ask(router, "m")
        await soon()
        network.cut_links("one")
        await soon()
        assert two.streams == []
        await asyncio.sleep(3)
        assert two.streams == [exchange.begin.stream]
        two.answer(exchange.begin.stream, b"from two")
        assert await body_of(exchange) == b"from two"
