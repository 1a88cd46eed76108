"""A caller says how long it waits for a cold model. Past that it is told when to come back, and the load goes on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, ClassVar
from weakref import WeakSet

import httpx
import pytest
from inline_app import app_of, replicas_of, serving
from proxy_client import client_of
from raw_router import RawRouter, leases_held, replica_of
from router_alone import Requests, router_to, soon
from scripted_replica import ScriptedReplica
from virtual_time import in_virtual_time, turns

from modelplex import errors, serve
from modelplex.multiplex import Loader, multiplexed
from modelplex.runtime.models import COLD_RETRY_MIN_S
from modelplex.runtime.proxy import MAX_COLD_WAIT_HEADER
from modelplex.serve import DeploymentHandle
from modelplex.testing import InlineCluster
from modelplex.wire import messages
from modelplex.wire.messages import Begin, Prefetch

LOAD_S = 10.0
HEADER = MAX_COLD_WAIT_HEADER.decode()


class Models:
    """Loads take 10 s. Room is for two models."""

    loads: ClassVar[list[str]] = []

    @multiplexed(max_num_models_per_replica=2)
    async def get_model(self, model_id: str) -> str:
        Models.loads.append(model_id)
        await asyncio.sleep(LOAD_S)
        if model_id == "broken":
            raise ValueError("no such file")
        return model_id

    async def __call__(self, seconds: float = 0.0) -> str:
        model: str = await self.get_model(serve.get_multiplexed_model_id())
        await asyncio.sleep(seconds)
        return model

    async def or_else(self, other_id: str) -> str:
        try:
            return await self()
        except errors.ModelColdError:
            model: str = await self.get_model(other_id)
            return f"instead {model}"

    async def busy(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@contextlib.asynccontextmanager
async def models(**options: Any) -> AsyncIterator[tuple[InlineCluster, DeploymentHandle]]:
    async with serving(app_of(Models, **options)) as (cluster, handle):
        yield cluster, handle


@pytest.fixture(autouse=True)
def nothing_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica counts every standalone loader of its process."""
    monkeypatch.setattr(Loader, "standalone", WeakSet())
    Models.loads.clear()
    Known.asked.clear()


def now() -> float:
    return asyncio.get_running_loop().time()


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What asyncio says of errors that nobody has taken."""
    return [record.getMessage() for record in caplog.records if record.name == "asyncio"]


async def told_cold(handle: DeploymentHandle, model_id: str, wait_s: float) -> float:
    """Ask for a model that is not loaded in time; answers after how many seconds it is worth trying again."""
    began = now()
    with pytest.raises(errors.ModelColdError, match=f"'{model_id}'") as caught:
        await handle.options(multiplexed_model_id=model_id, max_cold_wait_s=wait_s).remote()
    assert now() - began == pytest.approx(wait_s, abs=0.01)
    assert caught.value.retry_after_s is not None
    return caught.value.retry_after_s


async def is_warm(handle: DeploymentHandle, model_id: str) -> bool:
    """Whether a request that would not wait at all gets the model."""
    answer = await handle.options(multiplexed_model_id=model_id, max_cold_wait_s=0).remote()
    return bool(answer == model_id)


# While the model loads


@pytest.mark.parametrize("wait_s", [0, 3.0, LOAD_S - 0.1])
@in_virtual_time
async def test_past_its_time_a_request_is_told_and_the_load_goes_on(wait_s: float) -> None:
    async with models() as (_, handle):
        await told_cold(handle, "a", wait_s)
        await asyncio.sleep(LOAD_S - wait_s + 0.1)
        assert await is_warm(handle, "a")
        assert Models.loads == ["a"]


@in_virtual_time
async def test_a_model_that_comes_in_time_is_granted() -> None:
    async with models() as (_, handle):
        assert await handle.options(multiplexed_model_id="a", max_cold_wait_s=LOAD_S + 0.1).remote() == "a"


@in_virtual_time
async def test_each_request_waits_as_long_as_it_says_for_the_same_load() -> None:
    async with models() as (_, handle):
        patient = handle.options(multiplexed_model_id="a").remote()
        await asyncio.gather(told_cold(handle, "a", 1.0), told_cold(handle, "a", 4.0))
        assert await patient == "a"
        assert Models.loads == ["a"]


@in_virtual_time
async def test_retry_after_is_what_was_learned_from_the_last_load() -> None:
    async with models() as (_, handle):
        assert await told_cold(handle, "a", 0) == COLD_RETRY_MIN_S  # nothing is known, but nobody is to come at once
        for model_id in ("a", "b", "c"):
            await handle.options(multiplexed_model_id=model_id).remote()
        assert await told_cold(handle, "a", 2.0) == pytest.approx(LOAD_S - 2.0)


@in_virtual_time
async def test_who_comes_back_when_it_was_told_to_finds_the_model() -> None:
    async with models() as (_, handle):
        for model_id in ("a", "b", "c"):
            await handle.options(multiplexed_model_id=model_id).remote()
        await asyncio.sleep(await told_cold(handle, "a", 1.0) + 0.01)
        assert await is_warm(handle, "a")


@in_virtual_time
async def test_a_loaded_model_is_not_subject_to_it_however_long_the_request_takes() -> None:
    async with models() as (_, handle):
        warm = handle.options(multiplexed_model_id="a")
        await warm.remote()
        assert await warm.options(max_cold_wait_s=0).remote(1000.0) == "a"


@in_virtual_time
async def test_without_a_limit_a_request_waits_for_any_time() -> None:
    async with models() as (_, handle):
        assert await handle.options(multiplexed_model_id="a").remote() == "a"


# While it waits for room in the cache


@in_virtual_time
async def test_a_request_whose_model_waits_for_room_is_told_and_the_model_is_loaded_when_there_is_some() -> None:
    async with models() as (_, handle):
        holding = [handle.options(multiplexed_model_id=model_id).remote(50.0) for model_id in ("a", "b")]
        await asyncio.sleep(LOAD_S + 1)
        await told_cold(handle, "c", 3.0)
        assert Models.loads == ["a", "b"]
        await asyncio.gather(*holding)
        await asyncio.sleep(LOAD_S + 1)
        assert await is_warm(handle, "c")


@in_virtual_time
async def test_a_model_that_was_evicted_since_is_loaded_anew_for_those_who_gave_up_again() -> None:
    async with models() as (_, handle):
        for _ in range(2):
            holding = [handle.options(multiplexed_model_id=model_id).remote(50.0) for model_id in ("a", "b")]
            await asyncio.sleep(2 * LOAD_S + 1)
            await told_cold(handle, "c", 3.0)
            await asyncio.gather(*holding)
            await asyncio.sleep(LOAD_S + 1)
            assert await is_warm(handle, "c")


@in_virtual_time
async def test_retry_after_of_a_model_that_waits_for_room_is_that_of_its_whole_load() -> None:
    async with models() as (_, handle):
        holding = [handle.options(multiplexed_model_id=model_id).remote(50.0) for model_id in ("a", "b")]
        await asyncio.sleep(LOAD_S + 1)
        assert await told_cold(handle, "c", 3.0) == pytest.approx(LOAD_S)
        await asyncio.gather(*holding)


# In the router's line


@in_virtual_time
async def test_a_request_that_waits_for_a_slot_is_told_and_its_model_is_loaded_meanwhile() -> None:
    async with models(max_ongoing_requests=1) as (_, handle):
        busy = handle.busy.remote(50.0)
        await asyncio.sleep(1)
        await told_cold(handle, "a", 3.0)
        await asyncio.sleep(LOAD_S + 1)
        assert Models.loads == ["a"]
        await busy
        assert await is_warm(handle, "a")


@in_virtual_time
async def test_a_loaded_model_that_waits_for_a_slot_is_not_subject_to_it() -> None:
    async with models(max_ongoing_requests=1) as (_, handle):
        await handle.options(multiplexed_model_id="a").remote()
        busy = handle.busy.remote(50.0)
        await asyncio.sleep(1)
        assert await is_warm(handle, "a")
        await busy


@contextlib.asynccontextmanager
async def router_to_full(**says: Any) -> AsyncIterator[tuple[Requests, ScriptedReplica]]:
    replica = ScriptedReplica(slots=1, ongoing=1, **says)
    async with router_to(replica) as requests:
        yield requests, replica


@in_virtual_time
async def test_a_full_replica_is_told_to_load_the_model_when_a_request_gives_up() -> None:
    async with router_to_full() as (requests, replica):
        exchange = requests.send("a", max_cold_wait_s=3.0)
        await asyncio.sleep(2.9)
        assert replica.heard == []
        with pytest.raises(errors.ModelColdError):
            await exchange.answer
        await soon()
        assert [message for message, _ in replica.heard] == [Prefetch("a")]


@in_virtual_time
async def test_a_full_replica_that_loads_the_model_already_is_told_nothing_and_retry_after_is_the_rest() -> None:
    async with router_to_full() as (requests, replica):
        replica.say(messages.ModelLoaded("a", None, 8.0))
        replica.say(messages.ModelGone("a", None))
        await soon()
        replica.say(messages.ModelLoading("a", None))
        await soon()
        with pytest.raises(errors.ModelColdError) as caught:
            await requests.send("a", max_cold_wait_s=2.0).answer
        assert caught.value.retry_after_s == pytest.approx(6.0, abs=0.1)
        assert replica.heard == []


@in_virtual_time
async def test_retry_after_is_learned_from_what_replicas_say_of_loads() -> None:
    async with router_to_full() as (requests, replica):
        replica.say(messages.ModelLoaded("a", None, 8.0))
        replica.say(messages.ModelGone("a", None))
        await soon()
        with pytest.raises(errors.ModelColdError) as caught:
            await requests.send("a", max_cold_wait_s=0).answer
        assert caught.value.retry_after_s == pytest.approx(8.0)


@in_virtual_time
async def test_a_model_that_is_loaded_when_the_time_is_over_is_waited_for() -> None:
    async with router_to_full(loaded=("a",)) as (requests, replica):
        exchange = requests.send("a", max_cold_wait_s=1.0)
        await asyncio.sleep(100)
        assert not exchange.answer.done()
        replica.say(messages.Ongoing(0))
        await soon()
        assert replica.streams == [exchange.begin.stream]


@in_virtual_time
async def test_a_request_that_names_no_model_waits_for_its_turn() -> None:
    """Its code may ask for a model by itself: what is left of the time goes with it."""
    async with router_to_full() as (requests, replica):
        exchange = requests.send(max_cold_wait_s=5.0)
        await asyncio.sleep(3.0)
        replica.say(messages.Ongoing(0))
        await soon()
        assert [begin.max_cold_wait_s for begin in replica.all_of(Begin)] == [pytest.approx(2.0, abs=0.1)]
        requests.router.cancel(exchange)


@in_virtual_time
async def test_a_request_that_names_no_model_waits_past_its_time() -> None:
    async with router_to_full() as (requests, _):
        exchange = requests.send(max_cold_wait_s=0)
        await asyncio.sleep(100)
        assert not exchange.answer.done()


@in_virtual_time
async def test_what_is_left_of_the_time_goes_with_the_request() -> None:
    async with router_to_full(loaded=("a",)) as (requests, replica):
        for wait_s in (None, 5.0, 1.0):
            requests.send("a", max_cold_wait_s=wait_s)
        await asyncio.sleep(3.0)
        for stream in (1, 2, 3):
            replica.say(messages.Ongoing(0))
            await soon()
            replica.answer(stream)
            await soon()
        left_s = [begin.max_cold_wait_s for begin in replica.all_of(Begin)]
        assert left_s == [None, pytest.approx(2.0, abs=0.1), 0.0]


# A replica that is told to load


async def exists(model_id: str) -> bool:
    Known.asked.append(model_id)
    await asyncio.sleep(1)
    if model_id == "unreachable":
        raise OSError("the store is down")
    return model_id != "invented"


class Known:
    """Is told after a second whether there is a model. Room is for one."""

    asked: ClassVar[list[str]] = []

    @multiplexed(max_num_models_per_replica=1, model_exists=exists)
    async def get_model(self, model_id: str) -> str:
        if model_id == "broken":
            raise ValueError("no such file")
        return model_id

    async def __call__(self) -> str:
        model: str = await self.get_model("a")
        return model


@pytest.mark.parametrize("model_id", ["invented", "unreachable"])
@in_virtual_time
async def test_an_invented_model_is_not_loaded_ahead_and_evicts_nothing(
    model_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with replica_of(Known) as replica:
        router = RawRouter(replica)
        await router.reply(router.call())
        router.say(Prefetch(model_id))
        await asyncio.sleep(2)
        assert Known.asked == ["a", model_id]
        assert router.all_of(messages.ModelGone) == []
    assert complaints(caplog) == []


@in_virtual_time
async def test_a_replica_that_is_told_to_load_does_so_once_for_all_who_say_so() -> None:
    async with replica_of(Known) as replica:
        routers = [RawRouter(replica) for _ in range(3)]
        for router in routers:
            router.say(Prefetch("a"))
        await asyncio.sleep(2)
        assert set(Known.asked) == {"a"}
        [loading] = routers[0].all_of(messages.ModelLoading)
        assert (loading.model_id, leases_held(replica)) == ("a", 0)


@in_virtual_time
async def test_a_load_ahead_that_fails_is_no_complaint_of_asyncio(caplog: pytest.LogCaptureFixture) -> None:
    async with replica_of(Known) as replica:
        router = RawRouter(replica)
        router.say(Prefetch("broken"))
        await asyncio.sleep(2)
        assert len(router.all_of(messages.ModelGone)) == 1
    assert complaints(caplog) == []


@in_virtual_time
async def test_a_replica_that_stops_loads_nothing_ahead() -> None:
    async with replica_of(Known) as replica:
        router = RawRouter(replica)
        router.say(Prefetch("a"))
        await asyncio.sleep(0.5)
        await replica.stop(0.0)
        assert router.all_of(messages.ModelLoading) == []


@in_virtual_time
async def test_a_replica_that_lets_its_last_requests_end_loads_nothing_ahead() -> None:
    async with replica_of(Models) as replica:
        router = RawRouter(replica)
        stream = router.call("busy", 50.0)
        await asyncio.sleep(1)
        stopping = asyncio.create_task(replica.stop(100.0))
        await asyncio.sleep(1)
        router.say(Prefetch("a"))
        await router.reply(stream)
        await stopping
        assert Models.loads == []


@in_virtual_time
async def test_of_two_loaders_only_the_request_could_say_which_one_loads() -> None:
    class Two:
        @multiplexed
        async def one(self, model_id: str) -> str:
            return model_id

        @multiplexed
        async def other(self, model_id: str) -> str:
            return model_id

    async with replica_of(Two) as replica:
        router = RawRouter(replica)
        router.say(Prefetch("a"))
        await asyncio.sleep(1)
        assert router.all_of(messages.ModelLoading) == []


# Ahead of demand


@in_virtual_time
async def test_a_model_that_is_worth_it_is_loaded_ahead() -> None:
    async with replica_of(Known) as replica:
        router = RawRouter(replica)
        router.say(Prefetch("a", 1.0, 0.5))
        await asyncio.sleep(2)
        assert [m.model_id for m in router.all_of(messages.ModelLoaded)] == ["a"]
        router.say(Prefetch("a", 1.0, 0.5))
        await asyncio.sleep(2)
        assert router.all_of(messages.ModelGone) == []


@in_virtual_time
@pytest.mark.parametrize("model_id", ["invented", "broken"])
async def test_what_will_not_be_loaded_ahead_is_said_to_be_gone(model_id: str) -> None:
    async with replica_of(Known) as replica:
        router = RawRouter(replica)
        router.say(Prefetch(model_id, 1.0))
        await asyncio.sleep(2)
        assert {m.model_id for m in router.all_of(messages.ModelGone)} == {model_id}
        assert leases_held(replica) == 0


@in_virtual_time
async def test_nothing_is_evicted_for_what_is_worth_less() -> None:
    class One:
        @multiplexed(max_num_models_per_replica=1)
        async def get(self, model_id: str) -> str:
            await asyncio.sleep(1)
            return model_id

        async def __call__(self) -> None:
            await self.get("first")

    async with replica_of(One) as replica:
        router = RawRouter(replica)
        await router.reply(router.call(model_id="first"))
        router.say(Prefetch("cheap", replica.models.harm_s))
        await asyncio.sleep(2)
        assert [m.model_id for m in router.all_of(messages.ModelGone)] == ["cheap"]
        router.say(Prefetch("dear", replica.models.harm_s + 0.1))
        await asyncio.sleep(2)
        assert [m.model_id for m in router.all_of(messages.ModelGone)] == ["cheap", "first"]
        assert [m.model_id for m in router.all_of(messages.ModelLoaded)] == ["first", "dear"]


@in_virtual_time
async def test_of_two_loaders_none_loads_ahead_and_that_is_said() -> None:
    class Two:
        @multiplexed
        async def one(self, model_id: str) -> str:
            return model_id

        @multiplexed
        async def other(self, model_id: str) -> str:
            return model_id

    async with replica_of(Two) as replica:
        router = RawRouter(replica)
        router.say(Prefetch("a", 1.0))
        await asyncio.sleep(1)
        assert [m.model_id for m in router.all_of(messages.ModelGone)] == ["a"]


# User code


@in_virtual_time
async def test_code_that_catches_the_error_may_answer_with_what_is_loaded() -> None:
    async with models() as (_, handle):
        await handle.options(multiplexed_model_id="spare").remote()
        hasty = handle.options(multiplexed_model_id="a", max_cold_wait_s=2.0)
        began = now()
        assert await hasty.or_else.remote("spare") == "instead spare"
        assert now() - began == pytest.approx(2.0)
        await asyncio.sleep(LOAD_S)
        assert await hasty.or_else.remote("spare") == "a"


@in_virtual_time
async def test_an_answer_without_the_model_says_how_long_it_was_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the wait would be taken for the time that requests of this deployment run."""
    async with replica_of(Models) as replica:
        monkeypatch.setattr("time.perf_counter", asyncio.get_running_loop().time)
        router = RawRouter(replica)
        await router.reply(router.call(model_id="spare"))
        head = (await router.reply(router.call("or_else", "spare", model_id="a", max_cold_wait_s=2.0))).head
        assert head.load_s == pytest.approx(2.0)
        assert head.run_s == pytest.approx(0.0)
        assert (head.start, head.holds) == ("warm", False)


@in_virtual_time
async def test_the_time_is_that_of_the_request_and_not_of_each_model_that_it_asks_for() -> None:
    async with models() as (_, handle):
        began = now()
        with pytest.raises(errors.ModelColdError, match="'spare'"):
            await handle.options(multiplexed_model_id="a", max_cold_wait_s=2.0).or_else.remote("spare")
        assert now() - began == pytest.approx(2.0)
        await asyncio.sleep(LOAD_S)
        assert await is_warm(handle, "a")
        assert await is_warm(handle, "spare")


@in_virtual_time
async def test_code_that_asks_without_end_loads_once_and_leaves_nothing() -> None:
    class Stubborn(Models):
        async def __call__(self, seconds: float = 0.0) -> str:
            for _ in range(100):
                with contextlib.suppress(errors.ModelColdError):
                    return await super().__call__()
                await asyncio.sleep(seconds)
            return "never"

    async with serving(app_of(Stubborn)) as (cluster, handle):
        answer = handle.options(multiplexed_model_id="a", max_cold_wait_s=0).remote(0.01)
        assert await answer == "never"
        [replica] = replicas_of(cluster)
        assert leases_held(replica) == 1  # of nobody's, for all who gave up
        await asyncio.sleep(LOAD_S)
        assert (Models.loads, leases_held(replica)) == (["a"], 0)


@in_virtual_time
async def test_a_call_of_another_deployment_waits_as_long_as_its_own_handle_says() -> None:
    class Front:
        def __init__(self, inner: DeploymentHandle) -> None:
            self.inner = inner

        async def __call__(self) -> str:
            answer: str = await self.inner.options(multiplexed_model_id="a").remote()
            return answer

    async with serving(app_of(Front, app_of(Models))) as (_, handle):
        assert await handle.options(max_cold_wait_s=0).remote() == "a"


# What goes wrong meanwhile


@in_virtual_time
async def test_a_load_that_fails_in_time_is_told_as_what_it_is() -> None:
    async with models() as (_, handle):
        with pytest.raises(errors.ModelLoadError, match="ValueError"):
            await handle.options(multiplexed_model_id="broken", max_cold_wait_s=LOAD_S + 1).remote()


@in_virtual_time
async def test_a_load_that_fails_later_is_told_to_the_next_who_asks(caplog: pytest.LogCaptureFixture) -> None:
    async with models() as (_, handle):
        await told_cold(handle, "broken", 2.0)
        await asyncio.sleep(LOAD_S - 2.0 + 0.1)
        with pytest.raises(errors.ModelUnavailableError) as caught:
            await handle.options(multiplexed_model_id="broken", max_cold_wait_s=0).remote()
        assert caught.value.retry_after_s
    assert complaints(caplog) == []


@in_virtual_time
async def test_a_replica_that_dies_meanwhile_costs_the_time_that_it_had() -> None:
    async with models(num_replicas=2) as (cluster, handle):
        asking = asyncio.create_task(told_cold(handle, "a", 5.0))
        await asyncio.sleep(2.0)
        [victim] = [p for p in cluster.engine._processes.values() if p.replica.ongoing]
        victim.kill()
        await asking
        assert Models.loads == ["a", "a"]
        await asyncio.sleep(LOAD_S)
        assert await is_warm(handle, "a")


@pytest.mark.parametrize("full", [False, True])
@in_virtual_time
async def test_a_client_may_leave_at_any_moment(full: bool) -> None:
    """Wherever it waits: for replicas to be met, in the router's line, for its model, and as its time is over."""
    for count in range(30):
        async with models(max_ongoing_requests=1) as (cluster, handle):
            [replica] = replicas_of(cluster)
            if full:
                busy = handle.busy.remote(50.0)
                await turns(20)
            asking = handle.options(multiplexed_model_id="a", max_cold_wait_s=0).remote()
            await turns(count)
            asking.cancel()
            with pytest.raises((errors.RequestCancelledError, errors.ModelColdError)):
                await asking
            await asyncio.sleep(2 * LOAD_S)
            assert leases_held(replica) == 0
            if full:
                await busy
            assert await handle.options(multiplexed_model_id="a").remote() == "a"


@pytest.mark.parametrize("waits_for", ["load", "room"])
@in_virtual_time
async def test_a_client_that_leaves_before_its_time_is_over_leaves_nothing(waits_for: str) -> None:
    async with models() as (cluster, handle):
        held_s = 50.0 if waits_for == "room" else 0.0
        holding = [handle.options(multiplexed_model_id=model_id).remote(held_s) for model_id in ("a", "b")]
        await asyncio.sleep(LOAD_S + 1)
        asking = handle.options(multiplexed_model_id="c", max_cold_wait_s=5.0).remote()
        await asyncio.sleep(1)
        asking.cancel()
        await asyncio.gather(*holding)
        await asyncio.sleep(2 * LOAD_S)
        [replica] = replicas_of(cluster)
        assert (replica.ongoing, leases_held(replica)) == (0, 0)
        assert ("c" in Models.loads) == (waits_for == "load")  # what nobody wants any more is not begun


# HTTP


@contextlib.asynccontextmanager
async def client() -> AsyncIterator[httpx.AsyncClient]:
    class Web(Models):
        async def __call__(self, seconds: float = 0.0) -> str:
            return await super().__call__()

    async with serving(app_of(Web)) as (cluster, _), client_of(cluster.directory) as client:
        yield client


@in_virtual_time
async def test_a_header_says_it_and_the_answer_is_a_503_that_says_when_to_come_back() -> None:
    async with client() as http:
        headers = {"serve_multiplexed_model_id": "a", HEADER: "2.5"}
        cold = await http.get("/", headers=headers)
        assert (cold.status_code, cold.headers["retry-after"]) == (503, "3")
        assert "'a' is cold" in cold.text
        assert cold.headers["x-modelplex-replica"]
        await asyncio.sleep(LOAD_S)
        assert (await http.get("/", headers={**headers, HEADER: "0"})).headers["x-modelplex-model"] == "warm"


@in_virtual_time
async def test_retry_after_is_a_whole_number_of_at_least_a_second() -> None:
    async with client() as http:
        cold = await http.get("/", headers={"serve_multiplexed_model_id": "a", HEADER: "0"})
        assert cold.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    "value", ["", "soon", "-1", "-0.001", "nan", "inf", "1e999", "0x10", "1,5", "5s", "ü", "9" * 999]
)
@in_virtual_time
async def test_a_header_that_is_no_number_of_seconds_is_a_400_that_names_it(value: str) -> None:
    async with client() as http:
        answer = await http.get("/", headers=[(HEADER.encode(), value.encode())])
        assert (answer.status_code, HEADER in answer.text) == (400, True)
        assert len(answer.text) < 200
        assert Models.loads == []


@pytest.mark.parametrize("value", ["20", "20.5", "2e1", "1e300"])
@in_virtual_time
async def test_a_header_may_be_any_number(value: str) -> None:
    async with client() as http:
        answer = await http.get("/", headers={"serve_multiplexed_model_id": "a", HEADER: value})
        assert answer.text == "a"
