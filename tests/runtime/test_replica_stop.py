"""The end of a replica, and its start when that fails."""

import asyncio
import gc
import threading
from typing import ClassVar

import pytest
from held_call import THREAD_S, HeldCall
from raw_router import RawRouter, leases_held, replica_of
from virtual_time import in_virtual_time, turns

from modelplex import errors
from modelplex.multiplex import multiplexed
from modelplex.runtime.replica import Replica, failure
from modelplex.wire.messages import Refuse, Retiring, Welcome


class Sleeper:
    """Answers after as many seconds as it is asked to."""

    async def __call__(self, seconds: float = 0.0) -> float:
        await asyncio.sleep(seconds)
        return seconds


def threads_of_replicas() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("modelplex-")}


async def test_a_stopped_replica_leaves_no_thread() -> None:
    @multiplexed
    def get_model(model_id: str) -> str:
        return model_id

    class Plain:
        def __call__(self) -> None: ...

        async def model(self) -> None:
            await get_model("a")

    before = threads_of_replicas()
    async with replica_of(Plain) as replica:
        router = RawRouter(replica)
        await router.reply(router.call())
        await router.reply(router.call("model"))
        begun = threads_of_replicas() - before
        assert {thread.name.rsplit("_")[0] for thread in begun} == {"modelplex-call", "modelplex-model"}
    for thread in begun:
        thread.join(THREAD_S)
        assert not thread.is_alive()


async def stopped(replica: Replica, timeout_s: float) -> float:
    """Stop a replica; answers how long it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await replica.stop(timeout_s)
    return loop.time() - began


class Journal:
    """An application with a model that write down when they end. Loads take no time."""

    ends: ClassVar[list[str]] = []

    class Model:
        def __init__(self, model_id: str) -> None:
            self.model_id = model_id

        async def __del__(self) -> None:
            Journal.ends.append(self.model_id)

    @multiplexed(max_num_models_per_replica=3)
    async def get_model(self, model_id: str) -> "Journal.Model":
        return Journal.Model(model_id)

    async def __call__(self, model_id: str, seconds: float = 0.0) -> str:
        await self.get_model(model_id)
        try:
            await asyncio.sleep(seconds)
        finally:
            Journal.ends.append(f"request for {model_id}")
        return model_id

    async def __del__(self) -> None:
        Journal.ends.append("application")


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(Journal, "ends", [])
    return Journal.ends


@in_virtual_time
async def test_stopping_says_so_and_takes_no_more_requests() -> None:
    async with replica_of(Sleeper) as replica:
        router, other = RawRouter(replica), RawRouter(replica)
        router.call("__call__", 10)
        await turns(5)
        stopping = asyncio.create_task(replica.stop(100))
        await turns(5)
        late = router.call()
        assert await router.first_of(Refuse) == Refuse(late, 1)
        assert router.all_of(Retiring) == other.all_of(Retiring) == [Retiring()]
        await stopping


@in_virtual_time
async def test_a_replica_that_stops_welcomes_nobody() -> None:
    """Its welcome would be an invitation to send it requests, which would be lost."""
    async with replica_of(Sleeper) as replica:
        router = RawRouter(replica)
        router.call("__call__", 10)
        await turns(5)
        stopping = asyncio.create_task(replica.stop(100))
        await turns(5)
        late = RawRouter(replica)
        await late.until_lost()
        assert late.heard == []
        await stopping


@in_virtual_time
async def test_what_runs_may_end_before_the_replica_does() -> None:
    async with replica_of(Sleeper) as replica:
        router = RawRouter(replica)
        stream = router.call("__call__", 10)
        await turns(5)
        assert await stopped(replica, timeout_s=100) == pytest.approx(10)
        assert (await router.reply(stream)).value == 10
        await router.until_lost()


@in_virtual_time
async def test_what_runs_too_long_is_cancelled_without_an_answer() -> None:
    """The router sends it to another replica when the link is gone."""
    async with replica_of(Sleeper) as replica:
        router = RawRouter(replica)
        stream = router.call("__call__", 1000)
        await turns(5)
        assert await stopped(replica, timeout_s=100) == pytest.approx(100)
        await router.until_lost()
        assert not [m for m, _ in router.heard if getattr(m, "stream", None) == stream]


@in_virtual_time
async def test_code_that_passes_over_a_cancellation_is_cancelled_again() -> None:
    class Stubborn:
        async def __call__(self) -> None:
            for _ in range(3):
                try:
                    await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    continue

    async with replica_of(Stubborn) as replica:
        router = RawRouter(replica)
        router.call()
        await turns(5)
        assert await stopped(replica, timeout_s=1) < 10


async def test_stopping_waits_for_a_thread_that_cannot_be_cancelled() -> None:
    call = HeldCall()

    class Blocking:
        def __call__(self) -> str:
            return call()

        def __del__(self) -> None:
            assert call.ended

    async with replica_of(Blocking) as replica:
        router = RawRouter(replica)
        router.call()
        await call.until_begun()
        stopping = asyncio.create_task(replica.stop(0))
        await turns(20)
        assert not stopping.done()
        call.end()
        await stopping


@in_virtual_time
async def test_requests_end_first_then_the_application_and_then_its_models(ends: list[str]) -> None:
    async with replica_of(Journal) as replica:
        router = RawRouter(replica)
        await router.reply(router.call("__call__", "a"))
        router.call("__call__", "b", 1000)
        await asyncio.sleep(1)
        await replica.stop(10)
        assert ends == ["request for a", "request for b", "application", "a", "b"]


@in_virtual_time
async def test_nothing_is_destroyed_a_second_time_when_python_frees_it(ends: list[str]) -> None:
    async with replica_of(Journal) as replica:
        router = RawRouter(replica)
        await router.reply(router.call("__call__", "a"))
        await replica.stop(10)
    del replica, router
    gc.collect()
    assert sorted(ends) == ["a", "application", "request for a"]


@in_virtual_time
async def test_a_load_that_runs_is_waited_for_and_its_model_unloaded(ends: list[str]) -> None:
    class Slow:
        @multiplexed
        async def get_model(self, model_id: str) -> Journal.Model:
            await asyncio.sleep(10)
            return Journal.Model(model_id)

        async def __call__(self) -> None:
            await self.get_model("a")

    async with replica_of(Slow) as replica:
        router = RawRouter(replica)
        router.call()
        await asyncio.sleep(1)
        assert await stopped(replica, timeout_s=0) == pytest.approx(9)
        assert ends == ["a"]


@in_virtual_time
async def test_a_destructor_of_the_application_that_raises_does_not_keep_its_models(
    ends: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Journal):
        async def __del__(self) -> None:
            raise ValueError("will not go")

    async with replica_of(Broken) as replica:
        router = RawRouter(replica)
        await router.reply(router.call("__call__", "a"))
        await replica.stop(10)
        assert ends == ["request for a", "a"]
    assert "app_D#tag failed to end: ValueError('will not go')" in caplog.text


@in_virtual_time
async def test_a_constructor_that_raises_is_the_replicas_failure_to_start() -> None:
    class Broken:
        async def __init__(self) -> None:  # type: ignore[misc]
            raise errors.ModelplexError("no weights")

    with pytest.raises(errors.ModelplexError, match="no weights"):
        async with replica_of(Broken):
            pass


def test_a_failure_to_start_has_the_traceback_of_the_users_code() -> None:
    def constructor() -> None:
        raise ValueError("no weights")

    with pytest.raises(ValueError, match="no weights") as caught:
        constructor()
    error = failure(caught.value)
    assert isinstance(error, errors.DeploymentFailedError)
    assert "in constructor" in str(error)
    assert str(error).endswith("ValueError: no weights")


@in_virtual_time
async def test_models_that_the_constructor_loads_are_in_the_welcome() -> None:
    class Warm:
        async def __init__(self) -> None:  # type: ignore[misc]
            await self.get_model("a")

        @multiplexed(max_num_models_per_replica=2)
        async def get_model(self, model_id: str) -> str:
            return model_id

    async with replica_of(Warm) as replica:
        welcome = await RawRouter(replica).first_of(Welcome)
        assert (welcome.loaded, welcome.room) == (["a"], 1)
        assert leases_held(replica) == 0
