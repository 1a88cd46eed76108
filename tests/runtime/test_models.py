"""The shell round the model cache: loaders run, destructors run, cancellations disturb nobody."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from modelplex import context, errors
from modelplex.config import CacheOptions, DeploymentConfig
from modelplex.context import RequestContext
from modelplex.multiplex import Loader
from modelplex.runtime.app_spec import Definition
from modelplex.runtime.models import ModelHost
from modelplex.runtime.replica import Replica
from modelplex.runtime.replica_spec import ReplicaSpec
from modelplex.testing import run_virtual


class Published:
    """Keeps what a replica would tell routers, in order."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def loading(self, model_id: str) -> None:
        self.said.append(f"loading {model_id}")

    def loaded(self, model_id: str, load_s: float, fetch_s: float | None) -> None:
        self.said.append(f"loaded {model_id}")

    def gone(self, model_id: str) -> None:
        self.said.append(f"gone {model_id}")

    async def flushed(self) -> None:
        self.said.append("flushed")
        await asyncio.sleep(0)


def request(request_id: str = "r") -> RequestContext:
    return RequestContext(request_id, "app", "/", "__call__")


def end(of: RequestContext) -> None:
    of.ended = True
    for release in of.leases:
        release()


class Host:
    """A ModelHost whose loader sleeps, counts and may fail."""

    def __init__(self, models_max: int = 2, load_s: float = 1.0) -> None:
        self.loads: list[str] = []
        self.said = Published()
        self.load_s = load_s
        self.failure: BaseException | None = None

        async def load(model_id: str) -> Any:
            self.said.said.append(f"loader {model_id}")
            self.loads.append(model_id)
            await asyncio.sleep(self.load_s)
            if self.failure is not None:
                raise self.failure
            return [model_id]

        self.host = ModelHost(Loader(load, CacheOptions(models_max=models_max)), None, ThreadPoolExecutor(1), self.said)


def on_host(check: Callable[[Host], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        host = Host(**options)
        async with asyncio.timeout(1000):
            await check(host)
            await host.host.close()

    run_virtual(main())


def test_the_load_is_announced_and_on_its_way_before_the_loader_starts() -> None:
    async def check(host: Host) -> None:
        await host.host.get("a", request())
        assert host.said.said == ["loading a", "flushed", "loader a", "loaded a"]

    async def main() -> None:
        host = Host()
        await check(host)

    run_virtual(main())


def test_all_who_want_a_model_get_the_same_object_from_one_load() -> None:
    async def check(host: Host) -> None:
        requests = [request(str(n)) for n in range(20)]
        models = await asyncio.gather(*(host.host.get("a", r) for r in requests))
        assert host.loads == ["a"]
        assert all(model is models[0] for model in models)
        assert [r.start for r in requests] == ["cold"] + ["joined"] * 19
        for r in requests:
            end(r)

    on_host(check)


def test_loads_of_different_models_overlap() -> None:
    async def check(host: Host) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        requests = [request("1"), request("2")]
        await asyncio.gather(*(host.host.get(m, r) for m, r in zip("ab", requests, strict=True)))
        assert loop.time() - began == pytest.approx(1.0)
        for r in requests:
            end(r)

    on_host(check)


def test_a_lease_ends_with_its_request_and_not_before() -> None:
    async def check(host: Host) -> None:
        one, two = request("1"), request("2")
        await host.host.get("a", one)
        waiting = asyncio.create_task(host.host.get("b", two))
        await asyncio.sleep(100)
        assert not waiting.done()
        end(one)
        assert await waiting == ["b"]
        assert host.said.said[-4:] == ["loading b", "flushed", "loader b", "loaded b"]
        end(two)

    on_host(check, models_max=1)


def test_cancelling_the_one_who_began_the_load_does_not_end_it() -> None:
    async def check(host: Host) -> None:
        first = asyncio.create_task(host.host.get("a", request("1")))
        await asyncio.sleep(0.5)
        second_request = request("2")
        second = asyncio.create_task(host.host.get("a", second_request))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second == ["a"]
        assert (host.loads, second_request.start) == (["a"], "joined")
        end(second_request)

    on_host(check)


@pytest.mark.parametrize("turns", range(8))
def test_a_cancellation_at_any_turn_of_the_loop_leaves_no_lease(turns: int) -> None:
    async def check(host: Host) -> None:
        one = request("1")
        getting = asyncio.create_task(host.host.get("a", one))
        for _ in range(turns):
            await asyncio.sleep(0)
        getting.cancel()
        await asyncio.gather(getting, return_exceptions=True)
        end(one)
        await asyncio.sleep(10)
        # The room is free, or held by an idle model: another one can be loaded.
        other = request("2")
        assert await host.host.get("b", other) == ["b"]
        end(other)

    on_host(check, models_max=1, load_s=0.0)


def test_a_failed_load_reaches_each_waiter_as_an_error_that_names_the_model() -> None:
    async def check(host: Host) -> None:
        host.failure = ValueError("boom")
        results = await asyncio.gather(*(host.host.get("a", request()) for _ in range(3)), return_exceptions=True)
        assert all(
            type(r) is errors.ModelLoadError and "'a'" in str(r) and r.__cause__ is host.failure for r in results
        )
        with pytest.raises(errors.ModelUnavailableError) as caught:
            await host.host.get("a", request())
        assert caught.value.retry_after_s
        assert host.loads == ["a"]
        await asyncio.sleep(caught.value.retry_after_s)
        host.failure = None
        again = request()
        assert await host.host.get("a", again) == ["a"]
        end(again)

    on_host(check)


def test_a_loader_that_cancels_itself_is_a_failed_load() -> None:
    async def check(host: Host) -> None:
        host.failure = asyncio.CancelledError()
        with pytest.raises(errors.ModelLoadError):
            await host.host.get("a", request())

    on_host(check)


def test_without_a_request_a_model_is_looked_up_and_not_kept() -> None:
    async def check(host: Host) -> None:
        assert await host.host.get("a", None) == ["a"]
        ended = request()
        ended.ended = True
        assert await host.host.get("b", ended) == ["b"]

    on_host(check, models_max=1)


def test_a_request_that_wants_more_than_the_budget_is_told_so() -> None:
    async def check(host: Host) -> None:
        greedy = request()
        await host.host.get("a", greedy)
        with pytest.raises(errors.OvercommittedError, match="max_num_models_per_replica"):
            await host.host.get("b", greedy)
        end(greedy)

    on_host(check, models_max=1)


def test_a_plain_loader_runs_in_a_thread_and_does_not_stop_the_loop() -> None:
    async def main() -> None:
        def load(model_id: str) -> str:
            time.sleep(0.05)
            return model_id

        with ThreadPoolExecutor(1) as threads:
            host = ModelHost(Loader(load, CacheOptions(models_max=1)), None, threads, Published())
            getting = asyncio.create_task(host.get("a", None))
            turns = 0
            while not getting.done():
                turns += 1
                await asyncio.sleep(0.001)
            assert await getting == "a"
            assert turns > 1
            await host.close()

    asyncio.run(main())


def test_closing_unloads_each_model_once_and_refuses_more() -> None:
    ends: list[str] = []

    class Model:
        def __init__(self, model_id: str) -> None:
            self.model_id = model_id

        async def __del__(self) -> None:
            ends.append(self.model_id)

    async def main() -> None:
        async def load(model_id: str) -> Model:
            return Model(model_id)

        host = ModelHost(Loader(load, CacheOptions(models_max=3)), None, ThreadPoolExecutor(1), Published())
        held = request()
        await host.get("a", held)
        await host.get("b", None)
        await host.close()
        assert ends == ["b"]
        end(held)
        await host.close()
        assert ends == ["b", "a"]
        with pytest.raises(errors.DeploymentUnavailableError):
            await host.get("c", None)

    run_virtual(main())


def test_a_destructor_that_raises_costs_nobody_a_request(caplog: pytest.LogCaptureFixture) -> None:
    class Model:
        async def __del__(self) -> None:
            raise ValueError("will not go")

    async def main() -> None:
        async def load(model_id: str) -> Model:
            return Model()

        host = ModelHost(Loader(load, CacheOptions(models_max=1)), None, ThreadPoolExecutor(1), Published())
        await host.get("a", None)
        await host.get("b", None)
        await host.close()

    run_virtual(main())
    assert "Failed to unload model 'a'" in caplog.text


def test_one_object_for_several_ids_ends_with_the_last_of_them() -> None:
    ends: list[str] = []

    class Model:
        async def __del__(self) -> None:
            ends.append("ended")

    async def main() -> None:
        default = Model()

        async def load(model_id: str) -> Model:
            return default

        host = ModelHost(Loader(load, CacheOptions(models_max=2)), None, ThreadPoolExecutor(1), Published())
        held = request()
        await host.get("a", None)
        assert await host.get("b", held) is default
        await host.get("c", None)  # a makes room
        await asyncio.sleep(1)
        assert ends == []
        end(held)
        await host.close()
        assert ends == ["ended"]

    run_virtual(main())


def test_a_plain_loader_that_returns_a_coroutine_has_it_awaited() -> None:
    async def main() -> None:
        async def inner(model_id: str) -> str:
            return model_id.upper()

        host = ModelHost(
            Loader(lambda model_id: inner(model_id), CacheOptions(models_max=1)),
            None,
            ThreadPoolExecutor(1),
            Published(),
        )
        assert await host.get("a", None) == "A"
        await host.close()

    asyncio.run(main())


def test_a_load_that_a_timer_begins_works_for_the_replica_and_for_no_request() -> None:
    seen: list[tuple[bool, RequestContext | None]] = []

    async def load(model_id: str) -> str:
        seen.append((context.in_replica(), context.request()))
        return model_id

    async def main() -> None:
        context.set_replica(Replica(ReplicaSpec("app", "tag", DeploymentConfig(name="D"), Definition(load))))
        options = CacheOptions(models_max=1, min_residency_s=10.0)
        host = ModelHost(Loader(load, options), None, ThreadPoolExecutor(1), Published())
        own = request()
        context.set_request(own)
        await host.get("a", None)
        await host.get("b", None)  # has to wait until a may go
        assert seen == [(True, own), (True, None)]
        await host.close()

    run_virtual(main())


def test_a_model_that_a_request_leases_for_a_block_is_told_of_like_any_other() -> None:
    async def check(host: Host) -> None:
        first, second = request("first"), request("second")
        for one in (first, second):
            async with host.host.lease("m", one):
                pass
        assert [first.start, second.start] == ["cold", "warm"]
        assert first.load_s > second.load_s >= 0.0

    on_host(check)
