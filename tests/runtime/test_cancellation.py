"""A call may be cancelled at any moment of its way. Whatever the moment, nothing of it is left."""

import asyncio
from collections.abc import Callable

import pytest
from inline_app import app_of, replicas_of, serving
from raw_router import leases_held
from virtual_time import in_virtual_time, turns

from modelplex import serve
from modelplex.serve import Application, DeploymentHandle, DeploymentResponse
from modelplex.testing import InlineCluster

# More turns of the event loop than any call here takes, which a test of its own holds.
TURNS_MAX = 48


class Below:
    """Each call needs the one slot, and the one place for a model."""

    @serve.multiplexed(max_num_models_per_replica=1)
    async def get_model(self, model_id: str) -> str:
        await turns(2)
        return model_id

    async def __call__(self, model_id: str) -> str:
        await turns(1)
        model: str = await self.get_model(model_id)
        await turns(1)
        return model


class Above:
    def __init__(self, below: DeploymentHandle) -> None:
        self.below = below

    async def __call__(self, model_id: str) -> str:
        answer: str = await self.below.remote(model_id)
        return answer


def one_deployment() -> Application:
    return app_of(Below, max_ongoing_requests=1)


def two_deployments() -> Application:
    return app_of(Above, app_of(Below, max_ongoing_requests=1), max_ongoing_requests=1)


async def nothing_is_left(cluster: InlineCluster, handle: DeploymentHandle) -> None:
    """Slots and places are free for the next, and for a model that is not there yet."""
    await asyncio.sleep(10)
    assert [(replica.ongoing, leases_held(replica)) for replica in replicas_of(cluster)] in ([(0, 0)], [(0, 0)] * 2)
    async with asyncio.timeout(10):
        assert await handle.remote("other") == "other"


async def awaited(response: DeploymentResponse) -> str:
    answer: str = await response
    return answer


async def begin(handle: DeploymentHandle, state: str) -> "asyncio.Task[str]":
    """A call to be cancelled, of a model that is there or not; the first call of all opens the links, too."""
    if state != "first":
        await handle.remote("warm")
    return asyncio.create_task(awaited(handle.remote("warm" if state == "warm" else "cold")))


every_way = pytest.mark.parametrize(
    ("application", "state"),
    [(application, state) for application in (one_deployment, two_deployments) for state in ("first", "cold", "warm")],
)


@every_way
@pytest.mark.parametrize("count", range(TURNS_MAX))
@in_virtual_time
async def test_a_call_that_is_cancelled_after_any_number_of_turns_leaves_nothing(
    count: int, application: Callable[[], Application], state: str
) -> None:
    async with serving(application()) as (cluster, handle):
        calling = await begin(handle, state)
        await turns(count)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        await nothing_is_left(cluster, handle)


@every_way
@in_virtual_time
async def test_these_turns_are_the_whole_way_of_a_call(application: Callable[[], Application], state: str) -> None:
    async with serving(application()) as (_, handle):
        calling = await begin(handle, state)
        await turns(TURNS_MAX - 1)
        assert calling.done()


@pytest.mark.parametrize("count", range(TURNS_MAX))
@in_virtual_time
async def test_a_call_that_waits_for_a_slot_may_be_cancelled_at_any_turn(count: int) -> None:
    """Before it gets the slot, as it gets it, and after that."""
    async with serving(two_deployments()) as (cluster, handle):
        await handle.remote("warm")
        running, waiting = (asyncio.create_task(awaited(handle.remote("cold"))) for _ in range(2))
        await turns(count)
        waiting.cancel()
        assert await running == "cold"
        await asyncio.gather(waiting, return_exceptions=True)
        await nothing_is_left(cluster, handle)


@pytest.mark.parametrize("count", range(TURNS_MAX))
@in_virtual_time
async def test_a_call_whose_load_another_shares_may_be_cancelled_at_any_turn(count: int) -> None:
    async with serving(app_of(Below, max_ongoing_requests=2)) as (cluster, handle):
        leaving, staying = (asyncio.create_task(awaited(handle.remote("cold"))) for _ in range(2))
        await turns(count)
        leaving.cancel()
        assert await staying == "cold"
        await asyncio.gather(leaving, return_exceptions=True)
        await nothing_is_left(cluster, handle)


@pytest.mark.parametrize("count", range(TURNS_MAX))
@in_virtual_time
async def test_a_replica_may_die_at_any_turn_of_a_call(count: int) -> None:
    """Another takes its place, and the call is answered by it, or has been answered already."""
    async with serving(app_of(Below, max_ongoing_requests=1)) as (cluster, handle):
        calling = await begin(handle, "first")
        await turns(count)
        next(iter(cluster.engine._processes.values())).kill()
        assert await calling == "cold"
        assert await handle.remote("other") == "other"
