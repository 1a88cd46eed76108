"""The options of `serve.multiplexed`, at the shell that performs what the cache decides; under virtual time."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from modelplex import errors
from modelplex.config import CacheOptions
from modelplex.multiplex import Loader
from modelplex.runtime.models import ModelHost
from modelplex.testing import run_virtual


class Silent:
    """Tells no router anything."""

    def loading(self, model_id: str) -> None: ...

    def loaded(self, model_id: str, load_s: float, fetch_s: float | None) -> None: ...

    def gone(self, model_id: str) -> None: ...

    async def flushed(self) -> None: ...


class Models:
    """A loader of one-entry lists that counts its loads."""

    def __init__(self, load_s: float = 1.0) -> None:
        self.loads: list[str] = []
        self.failure: Exception | None = None
        self.load_s = load_s

    async def load(self, model_id: str) -> list[str]:
        self.loads.append(model_id)
        await asyncio.sleep(self.load_s)
        if self.failure is not None:
            raise self.failure
        return [model_id]


Check = Callable[[ModelHost, Models], Awaitable[None]]


def with_options(check: Check, **options: Any) -> None:
    """Run a check with a host of these options."""

    async def main() -> None:
        models = Models()
        host = ModelHost(Loader(models.load, CacheOptions(**options)), None, ThreadPoolExecutor(2), Silent())
        await host.start()
        await check(host, models)
        await host.close()
        assert host.cache.resident == []

    run_virtual(main())


def test_a_budget_in_bytes_is_kept_by_what_size_of_says() -> None:
    async def check(host: ModelHost, models: Models) -> None:
        for model_id in ("a", "b", "cc"):
            await host.get(model_id, None)
        await asyncio.sleep(1)
        assert host.cache.resident == ["b", "cc"]

    with_options(check, models_max=-1, bytes_max=3, size_of=lambda model: len(model[0]))


def test_a_model_that_can_never_fit_is_refused_with_its_size_and_not_loaded_again() -> None:
    async def check(host: ModelHost, models: Models) -> None:
        await host.get("a", None)
        for _ in range(2):
            with pytest.raises(errors.ModelTooLargeError, match="9 bytes"):
                await host.get("nine long", None)
        assert (models.loads, host.cache.resident) == (["a", "nine long"], ["a"])

    with_options(check, models_max=-1, bytes_max=3, size_of=lambda model: len(model[0]))


def test_a_limit_on_loads_at_a_time_makes_others_wait() -> None:
    async def check(host: ModelHost, models: Models) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.gather(*(host.get(model_id, None) for model_id in "abcd"))
        assert loop.time() - began == pytest.approx(2.0)

    with_options(check, models_max=4, loads_max=2)


def test_a_load_that_takes_too_long_has_failed() -> None:
    async def check(host: ModelHost, models: Models) -> None:
        with pytest.raises(errors.ModelLoadTimeoutError, match=r"load_timeout_s=0\.5") as caught:
            await host.get("a", None)
        assert (caught.value.status, host.cache.loading) == (504, [])
        models.load_s = 0.1
        await asyncio.sleep(caught.value.retry_after_s or 0)
        assert await host.get("a", None) == ["a"]

    with_options(check, load_timeout_s=0.5)


def test_a_plain_loader_past_its_time_keeps_its_room_until_it_ends() -> None:
    async def main() -> None:
        go_on = threading.Event()

        def load(model_id: str) -> str:
            if model_id == "slow":
                go_on.wait(10)
            return model_id

        with ThreadPoolExecutor(2) as threads:
            options = CacheOptions(models_max=1, load_timeout_s=0.05)
            host = ModelHost(Loader(load, options), None, threads, Silent())
            with pytest.raises(errors.ModelLoadTimeoutError):
                await host.get("slow", None)
            with pytest.raises(errors.ModelLoadTimeoutError):
                await host.get("slow", None)
            other = asyncio.create_task(host.get("other", None))
            await asyncio.sleep(0.05)
            assert (host.cache.loading, other.done()) == (["slow"], False)
            go_on.set()
            assert await other == "other"
            await host.close()

    asyncio.run(main())


@pytest.mark.parametrize("failure", [FileNotFoundError("a"), errors.ModelNotFoundError("a"), LookupError("a")])
def test_what_means_that_there_is_no_such_model_is_a_404(failure: Exception) -> None:
    async def check(host: ModelHost, models: Models) -> None:
        models.failure = failure
        for _ in range(2):
            with pytest.raises(errors.ModelNotFoundError, match="'a'") as caught:
                await host.get("a", None)
            assert caught.value.status == 404
        assert models.loads == ["a"]

    with_options(check, not_found=(FileNotFoundError, LookupError))


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_model_that_does_not_exist_costs_no_other_model(asynchronous: bool) -> None:
    async def exists(model_id: str) -> bool:
        return model_id != "invented"

    async def check(host: ModelHost, models: Models) -> None:
        await host.get("a", None)
        with pytest.raises(errors.ModelNotFoundError):
            await host.get("invented", None)
        assert (models.loads, host.cache.resident) == (["a"], ["a"])

    hook = exists if asynchronous else lambda model_id: model_id != "invented"
    with_options(check, models_max=1, model_exists=hook)


def test_pinned_models_are_loaded_at_start_and_never_evicted() -> None:
    async def check(host: ModelHost, models: Models) -> None:
        assert sorted(models.loads) == ["early", "pinned"]
        for model_id in "abc":
            await host.get(model_id, None)
        assert "pinned" in host.cache.resident
        assert "early" not in host.cache.resident

    with_options(check, models_max=2, pinned=("pinned",), preload=("early", "pinned"))


@pytest.mark.parametrize("models_max", [3, -1])
def test_a_function_may_say_what_is_preloaded_as_far_as_there_is_room(models_max: int) -> None:
    async def check(host: ModelHost, models: Models) -> None:
        assert models.loads == (["pinned", "a", "b"] if models_max == 3 else ["pinned", "a", "b", "c"])
        assert sorted(host.cache.resident) == sorted(models.loads)

    async def list_models() -> list[str]:
        return ["pinned", "a", "b", "c"]

    with_options(check, models_max=models_max, pinned=("pinned",), preload=list_models)


def test_a_function_that_cannot_say_what_is_preloaded_is_no_obstacle(caplog: pytest.LogCaptureFixture) -> None:
    async def check(host: ModelHost, models: Models) -> None:
        assert await host.get("a", None) == ["a"]

    async def list_models() -> list[str]:
        raise errors.StoreError("the store does not answer")

    with_options(check, preload=list_models)
    assert "What is to be preloaded cannot be found out: StoreError('the store does not answer')" in caplog.text


def test_what_cannot_be_preloaded_is_told_and_no_obstacle(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        models = Models()
        models.failure = ValueError("no")
        host = ModelHost(Loader(models.load, CacheOptions(pinned=("a",))), None, ThreadPoolExecutor(1), Silent())
        await host.start()
        await host.close()

    run_virtual(main())
    assert "'a' could not be loaded ahead of demand" in caplog.text


def test_a_model_that_nobody_uses_is_unloaded_after_its_time() -> None:
    async def check(host: ModelHost, models: Models) -> None:
        await host.get("a", None)
        async with host.lease("held", None):
            await asyncio.sleep(58)
            assert sorted(host.cache.resident) == ["a", "held"]
            await asyncio.sleep(2)
            assert host.cache.resident == ["held"]
            await asyncio.sleep(1000)
            assert host.cache.resident == ["held"]
        await asyncio.sleep(61)
        assert host.cache.resident == []

    with_options(check, models_max=3, idle_ttl_s=60.0)


def test_a_young_model_is_not_evicted() -> None:
    async def check(host: ModelHost, models: Models) -> None:
        loop = asyncio.get_running_loop()
        await host.get("a", None)
        began = loop.time()
        await host.get("b", None)
        assert loop.time() - began == pytest.approx(11.0)  # ten seconds of residency, and its own load

    with_options(check, models_max=1, min_residency_s=10.0)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_on_unload_is_called_once_with_the_id_and_the_model(asynchronous: bool) -> None:
    calls: list[tuple[str, list[str]]] = []

    async def on_unload(model_id: str, model: list[str]) -> None:
        calls.append((model_id, model))

    async def check(host: ModelHost, models: Models) -> None:
        for model_id in "ab":
            await host.get(model_id, None)
        await asyncio.sleep(1)

    hook: Callable[[str, list[str]], Any] = on_unload if asynchronous else lambda i, model: calls.append((i, model))
    with_options(check, models_max=1, on_unload=hook)
    assert calls == [("a", ["a"]), ("b", ["b"])]


def test_gdsf_keeps_what_is_used_often_and_a_class_of_the_users_decides_itself() -> None:
    class LastInFirstOut:
        def __init__(self) -> None:
            self.idle: list[str] = []

        def add(self, model: Any) -> None:
            self.idle.append(model.model_id)

        def remove(self, model_id: str) -> None:
            self.idle.remove(model_id)

        def victim(self) -> str | None:
            return self.idle[-1] if self.idle else None

    async def used_often(host: ModelHost, models: Models) -> None:
        for model_id in ("often", "often", "often", "seldom", "new"):
            await host.get(model_id, None)
        assert sorted(host.cache.resident) == ["new", "often"]

    async def last_first(host: ModelHost, models: Models) -> None:
        for model_id in ("1", "2", "3"):
            await host.get(model_id, None)
        assert sorted(host.cache.resident) == ["1", "3"]

    with_options(used_often, models_max=2, eviction="gdsf", size_of=lambda model: 1)
    with_options(last_first, models_max=2, eviction=LastInFirstOut)
