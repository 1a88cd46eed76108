"""Aliases of models at the shell: what requests for them get while they move; in virtual time, without links."""

import asyncio
import logging
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from virtual_time import in_virtual_time

from modelplex import config, context, errors
from modelplex.config import CacheOptions
from modelplex.context import RequestContext
from modelplex.core.aliases import ALIASES_MAX
from modelplex.multiplex import Loader
from modelplex.runtime.models import ModelHost

INTERVAL_S = 10.0
LOAD_S = 5.0


class Published:
    """What a replica would tell routers: what they believe of each id."""

    def __init__(self) -> None:
        self.now: dict[str, str] = {}
        self.said: list[str] = []

    def loading(self, model_id: str) -> None:
        self.now[model_id] = "loading"
        self.said.append(f"loading {model_id}")

    def loaded(self, model_id: str, load_s: float, fetch_s: float | None) -> None:
        self.now[model_id] = "loaded"
        self.said.append(f"loaded {model_id}")

    def gone(self, model_id: str) -> None:
        del self.now[model_id]
        self.said.append(f"gone {model_id}")

    async def flushed(self) -> None:
        await asyncio.sleep(0)


class World:
    """A host whose loads take five seconds, and a store of aliases that may be away."""

    def __init__(self, store: dict[str, str], models_max: int = 4, **options: Any) -> None:
        self.store = store
        self.away: Exception | None = None
        self.broken: set[str] = set()
        self.resolves: Counter[str] = Counter()
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.in_use: Counter[str] = Counter()
        self.resolve_s = 0.0
        self.said = Published()

        async def load(model_id: str) -> str:
            self.loads.append(model_id)
            await asyncio.sleep(LOAD_S)
            if model_id in self.broken:
                raise ValueError("its file is broken")
            return model_id

        async def note(model_id: str, model: str) -> None:
            assert not self.in_use[model_id], "it is unloaded while a request uses it"
            self.unloads.append(model_id)

        options = {"models_max": models_max, "resolve_interval_s": INTERVAL_S, "on_unload": note, **options}
        options.setdefault("resolve", self.resolve)
        loader = Loader(load, CacheOptions(**options))
        self.host = ModelHost(loader, None, ThreadPoolExecutor(16), self.said)

    async def resolve(self, model_id: str) -> str:
        self.resolves[model_id] += 1
        await asyncio.sleep(self.resolve_s)
        if self.away is not None:
            raise self.away
        if model_id in self.store:
            return self.store[model_id]
        if "@" in model_id and model_id.split("@")[1].isdigit():
            return model_id
        raise FileNotFoundError(model_id)

    async def get(self, model_id: str, use_s: float = 0.0) -> str:
        """What one request gets, which uses it for so long."""
        request = RequestContext("r", "app", "/", "__call__", model_id)
        try:
            model: str = await self.host.get(model_id, request)
            self.in_use[model] += 1
            try:
                await asyncio.sleep(use_s)
            finally:
                self.in_use[model] -= 1
            return model
        finally:
            request.end()

    def agrees(self) -> None:
        """Routers believe what is so."""
        loaded = {model_id for model_id, state in self.said.now.items() if state == "loaded"}
        assert (sorted(self.host.loaded), sorted(self.host.loading)) == (
            sorted(loaded),
            sorted(self.said.now.keys() - loaded),
        )
        for model_id in loaded:
            assert self.host.view.holds(model_id)
            assert self.host.view.measured(model_id) is not None

    async def close(self) -> None:
        await self.host.close()
        assert self.said.now == {} or not self.host.cache.resident
        assert sorted(self.unloads) == sorted(m for m in self.loads if m not in self.broken)


async def until(world: World, model_id: str, version: str, *, within_s: float) -> None:
    """Time goes on, with a request every second, until the alias leads there."""
    for _ in range(int(within_s)):
        if await world.get(model_id) == version:
            return
        await asyncio.sleep(1)
    raise AssertionError(f"{model_id} does not lead to {version} within {within_s} s")


async def when(true: Callable[[], bool]) -> None:
    """Return as soon as it is so."""
    for _ in range(10_000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to be so")


@in_virtual_time
async def test_an_alias_moves_under_load_and_no_request_fails_or_waits_for_the_new_load() -> None:
    world = World({"shop@stable": "shop@3"})
    loop = asyncio.get_running_loop()
    assert await world.get("shop@stable") == "shop@3"
    got: list[str] = []

    async def client(pause_s: float) -> None:
        for _ in range(100):
            began = loop.time()
            got.append(await world.get("shop@stable", use_s=0.7))
            assert loop.time() - began == pytest.approx(0.7)
            await asyncio.sleep(pause_s)

    clients = [asyncio.create_task(client(0.1 * n)) for n in range(5)]
    await asyncio.sleep(3)
    world.store["shop@stable"] = "shop@4"
    await asyncio.gather(*clients)
    moved = got.index("shop@4")
    assert (set(got[:moved]), set(got[moved + 5 :])) == ({"shop@3"}, {"shop@4"})
    assert (world.loads, world.unloads) == (["shop@3", "shop@4"], ["shop@3"])
    world.agrees()
    await world.close()


@in_virtual_time
async def test_the_old_version_stays_for_those_who_use_it() -> None:
    world = World({"shop@stable": "shop@3"})
    await world.get("shop@stable")
    long = asyncio.create_task(world.get("shop@stable", use_s=60))
    await asyncio.sleep(1)
    world.store["shop@stable"] = "shop@4"
    await until(world, "shop@stable", "shop@4", within_s=20)
    assert world.unloads == []
    assert await long == "shop@3"
    await asyncio.sleep(0.1)
    assert world.unloads == ["shop@3"]
    await world.close()


@in_virtual_time
async def test_simultaneous_first_requests_share_one_resolve_and_one_load() -> None:
    world = World({"shop@stable": "shop@3"})
    world.resolve_s = 1.0
    assert await asyncio.gather(*(world.get("shop@stable") for _ in range(20))) == ["shop@3"] * 20
    assert (world.resolves["shop@stable"], world.loads) == (1, ["shop@3"])
    await world.close()


@in_virtual_time
async def test_an_explicit_version_and_its_aliases_share_one_copy() -> None:
    world = World({"shop@stable": "shop@3", "shop@latest": "shop@3"})
    got = await asyncio.gather(*(world.get(name) for name in ("shop@3", "shop@stable", "shop@latest")))
    assert (got, world.loads, world.host.cache.resident) == (["shop@3"] * 3, ["shop@3"], ["shop@3"])
    assert sorted(world.host.loaded) == ["shop@3", "shop@latest", "shop@stable"]
    world.agrees()
    await world.close()


@in_virtual_time
async def test_a_version_that_another_alias_stands_for_stays() -> None:
    world = World({"shop@stable": "shop@3", "shop@latest": "shop@3"})
    await asyncio.gather(world.get("shop@stable"), world.get("shop@latest"))
    world.store["shop@latest"] = "shop@4"
    for _ in range(30):
        await world.get("shop@stable")
        await world.get("shop@latest")
        await asyncio.sleep(1)
    assert await world.get("shop@latest") == "shop@4"
    assert (world.unloads, await world.get("shop@stable")) == ([], "shop@3")
    world.store["shop@stable"] = "shop@4"
    await until(world, "shop@stable", "shop@4", within_s=20)
    await asyncio.sleep(0.1)
    assert (world.unloads, world.loads) == (["shop@3"], ["shop@3", "shop@4"])
    world.agrees()
    await world.close()


@in_virtual_time
async def test_a_version_that_was_asked_for_by_its_own_name_stays() -> None:
    world = World({"shop@stable": "shop@3"})
    await world.get("shop@stable")
    await world.get("shop@3")
    world.store["shop@stable"] = "shop@4"
    await until(world, "shop@stable", "shop@4", within_s=20)
    await asyncio.sleep(1)
    assert sorted(world.host.cache.resident) == ["shop@3", "shop@4"]
    await world.close()


@in_virtual_time
async def test_a_version_that_fails_leaves_the_old_one_and_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world = World({"shop@stable": "shop@3"})
    world.broken.add("shop@4")
    await world.get("shop@stable")
    world.store["shop@stable"] = "shop@4"
    for _ in range(120):
        assert await world.get("shop@stable") == "shop@3"
        await asyncio.sleep(1)
    tries = world.loads.count("shop@4")
    assert 4 <= tries <= 10
    told = [r.getMessage() for r in caplog.records if "serves on" in r.getMessage()]
    assert len(told) == tries
    assert "'shop@stable' stands for 'shop@4' now, which cannot be loaded: 'shop@3' serves on." in told[0]
    assert "ValueError" in told[0]
    world.broken.clear()
    await until(world, "shop@stable", "shop@4", within_s=70)
    assert any("'shop@stable' has moved from 'shop@3' to 'shop@4'" in r.getMessage() for r in caplog.records)
    world.broken.add("shop@4")  # for the counts of `close`
    world.loads = ["shop@3", "shop@3"]
    world.unloads = ["shop@3"]
    world.agrees()
    await world.host.close()


@in_virtual_time
async def test_a_broken_version_that_points_back_is_left_alone() -> None:
    world = World({"shop@stable": "shop@3"})
    world.broken.add("shop@4")
    await world.get("shop@stable")
    world.store["shop@stable"] = "shop@4"
    for _ in range(15):
        await world.get("shop@stable")
        await asyncio.sleep(1)
    world.store["shop@stable"] = "shop@3"
    for _ in range(12):
        await world.get("shop@stable")
        await asyncio.sleep(1)
    tries = len(world.loads)
    await asyncio.sleep(80)
    assert (len(world.loads), world.host.cache.resident) == (tries, ["shop@3"])
    await world.close()


@in_virtual_time
async def test_a_request_that_meets_a_broken_version_in_a_cold_cache_gets_the_one_before() -> None:
    world = World({"shop@stable": "shop@3"}, idle_ttl_s=5.0)
    world.broken.add("shop@4")
    await world.get("shop@stable")
    await asyncio.sleep(8)
    assert world.host.cache.resident == []
    world.store["shop@stable"] = "shop@4"
    await asyncio.sleep(INTERVAL_S)
    assert world.loads == ["shop@3"]  # nobody asks for it: nothing is loaded
    assert await world.get("shop@stable") == "shop@3"
    assert world.loads[:3] == ["shop@3", "shop@4", "shop@3"]
    await asyncio.sleep(LOAD_S)
    world.agrees()
    await world.close()


@in_virtual_time
async def test_the_first_version_that_fails_is_told() -> None:
    world = World({"shop@stable": "shop@3"})
    world.broken.add("shop@3")
    with pytest.raises(errors.ModelLoadError, match="shop@3"):
        await world.get("shop@stable")
    world.store["shop@stable"] = "shop@4"
    await asyncio.sleep(INTERVAL_S)
    assert await world.get("shop@stable") == "shop@4"
    await world.close()


@in_virtual_time
async def test_a_store_that_is_away_changes_nothing_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World({"shop@stable": "shop@3"})
    await world.get("shop@stable")
    world.away = ConnectionError("no route")
    world.store["shop@stable"] = "shop@4"
    for _ in range(50):
        assert await world.get("shop@stable") == "shop@3"
        await asyncio.sleep(1)
    assert world.resolves["shop@stable"] >= 5
    assert sum("cannot be found out: 'shop@3' serves on" in r.getMessage() for r in caplog.records) == 1
    with pytest.raises(errors.ModelUnavailableError, match="ConnectionError") as caught:
        await world.get("shop@latest")
    assert (caught.value.status, caught.value.retry_after_s) == (503, 1.0)
    world.away = None
    await until(world, "shop@stable", "shop@4", within_s=20)
    await world.close()


@in_virtual_time
async def test_an_alias_that_nobody_uses_is_not_looked_at_until_it_is_asked_for_again() -> None:
    world = World({"shop@stable": "shop@3"})
    await world.get("shop@stable")
    await asyncio.sleep(20 * INTERVAL_S)
    seen = world.resolves["shop@stable"]
    assert seen <= 11
    await asyncio.sleep(100 * INTERVAL_S)
    assert world.resolves["shop@stable"] == seen
    world.away = ConnectionError()
    assert await world.get("shop@stable") == "shop@3"
    await asyncio.sleep(20 * INTERVAL_S)
    world.away = None
    del world.store["shop@stable"]
    with pytest.raises(errors.ModelNotFoundError):
        await world.get("shop@stable")
    world.agrees()
    await world.close()


@pytest.mark.parametrize("missing", [FileNotFoundError("x"), errors.ModelNotFoundError("x"), LookupError("x")])
def test_what_means_that_there_is_no_such_alias_is_a_404(missing: Exception) -> None:
    @in_virtual_time
    async def main() -> None:
        world = World({}, not_found=(LookupError,))
        world.away = missing
        for _ in range(2):
            with pytest.raises(errors.ModelNotFoundError, match="shop@next") as caught:
                await world.get("shop@next")
            assert caught.value.status == 404
        assert world.resolves["shop@next"] == 2  # one that has been uploaded since is found at once
        await world.close()

    main()


@pytest.mark.parametrize("answer", [None, 3, "", "../shop", "a b"])
def test_what_is_no_model_id_is_no_version(answer: Any) -> None:
    @in_virtual_time
    async def main() -> None:
        world = World({"shop@stable": answer})
        with pytest.raises(errors.ModelUnavailableError):
            await world.get("shop@stable")
        assert world.loads == []
        await world.close()

    main()


@in_virtual_time
async def test_a_resolve_that_takes_too_long_is_given_up() -> None:
    world = World({"shop@stable": "shop@3"})
    world.resolve_s = 1000.0
    with pytest.raises(errors.ModelUnavailableError, match="TimeoutError"):
        await world.get("shop@stable")
    world.resolve_s = 0.0
    assert await world.get("shop@stable") == "shop@3"
    await world.close()


@in_virtual_time
async def test_one_who_leaves_disturbs_nobody_and_the_last_ends_the_resolve() -> None:
    world = World({"shop@stable": "shop@3"})
    world.resolve_s = 1.0
    first, second = (asyncio.create_task(world.get("shop@stable")) for _ in range(2))
    await asyncio.sleep(0.5)
    first.cancel()
    assert await second == "shop@3"
    third = asyncio.create_task(world.get("shop@next"))
    await asyncio.sleep(0)
    third.cancel()
    world.store["shop@next"] = "shop@3"
    fourth = asyncio.create_task(world.get("shop@next"))  # in the same moment
    assert await fourth == "shop@3"
    with pytest.raises(asyncio.CancelledError):
        await third
    fifth = asyncio.create_task(world.get("shop@other"))
    await asyncio.sleep(0.5)
    fifth.cancel()
    await asyncio.sleep(0)
    tasks = asyncio.all_tasks()
    await asyncio.sleep(0.1)
    assert len(asyncio.all_tasks()) <= len(tasks)
    assert sum(not task.done() for task in asyncio.all_tasks()) == 1
    await world.close()


@in_virtual_time
async def test_only_so_many_are_resolved_at_a_time_and_known() -> None:
    world = World({f"s{n}@x": "s@1" for n in range(ALIASES_MAX + 50)}, models_max=2)
    running = peak = 0
    inner = world.resolve

    async def resolve(model_id: str) -> str:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.01)
        running -= 1
        return await inner(model_id)

    world.host = ModelHost(
        Loader(world.host.cached._loader.func, CacheOptions(resolve=resolve)), None, ThreadPoolExecutor(1), world.said
    )
    await asyncio.gather(*(world.get(name) for name in world.store))
    assert peak == config.RESOLVES_MAX
    assert len(world.host.aliases) == ALIASES_MAX
    world.agrees()
    await world.host.close()


@in_virtual_time
async def test_a_pinned_alias_keeps_its_version_and_moves_on() -> None:
    world = World({"shop@stable": "shop@3"}, models_max=2, pinned=["shop@stable"])
    await world.host.start()
    for n in range(1, 5):
        await world.get(f"other@{n}")
    assert "shop@3" in world.host.cache.resident
    world.store["shop@stable"] = "shop@4"
    await asyncio.sleep(20 * INTERVAL_S)  # nobody asks for it
    assert world.host.cache.resident == ["shop@4"]
    for n in range(5, 9):
        await world.get(f"other@{n}")
    assert await world.get("shop@stable") == "shop@4"
    assert (world.loads.count("shop@3"), world.loads.count("shop@4")) == (1, 1)
    assert world.unloads.index("shop@3") > 0
    await world.close()


@in_virtual_time
async def test_a_pinned_alias_whose_new_version_fails_keeps_the_old_one_pinned() -> None:
    world = World({"shop@stable": "shop@3"}, models_max=2, pinned=["shop@stable"])
    world.broken.add("shop@4")
    await world.host.start()
    world.store["shop@stable"] = "shop@4"
    await asyncio.sleep(3 * INTERVAL_S)
    for n in range(1, 5):
        await world.get(f"other@{n}")
    assert await world.get("shop@stable") == "shop@3"
    assert world.loads.count("shop@3") == 1
    await world.close()


@in_virtual_time
async def test_a_new_version_evicts_what_is_idle_and_never_what_is_in_use() -> None:
    world = World({"shop@stable": "shop@3"}, models_max=2)
    await world.get("shop@stable")
    busy = asyncio.create_task(world.get("busy@1", use_s=100))
    users = [asyncio.create_task(world.get("shop@stable", use_s=100)) for _ in range(3)]
    await asyncio.sleep(6)
    world.store["shop@stable"] = "shop@4"
    await asyncio.sleep(50)
    assert (world.loads, world.unloads) == (["shop@3", "busy@1"], [])  # it waits for room
    await asyncio.gather(busy, *users)
    await until(world, "shop@stable", "shop@4", within_s=20)
    await world.close()


@in_virtual_time
async def test_a_new_version_does_not_evict_the_one_that_serves() -> None:
    world = World({"shop@stable": "shop@3"}, models_max=2)
    loop = asyncio.get_running_loop()
    await world.get("shop@stable")
    await world.get("other@1")  # the alias is the least recently used now
    world.store["shop@stable"] = "shop@4"
    await asyncio.sleep(INTERVAL_S - LOAD_S)
    await when(lambda: world.host.cache.loading == ["shop@4"])
    assert world.unloads == ["other@1"]
    began = loop.time()
    assert (await world.get("shop@stable"), loop.time()) == ("shop@3", began)
    await until(world, "shop@stable", "shop@4", within_s=20)
    await world.close()


@pytest.mark.parametrize("models_max", [1, 2])
def test_where_there_is_no_room_beside_the_one_that_serves_it_is_replaced_all_the_same(models_max: int) -> None:
    @in_virtual_time
    async def main() -> None:
        world = World({"shop@stable": "shop@3"}, models_max=models_max, pinned=["base@1"] * (models_max - 1))
        await world.host.start()
        await world.get("shop@stable")
        world.store["shop@stable"] = "shop@4"
        clients = [asyncio.create_task(until(world, "shop@stable", "shop@4", within_s=200)) for _ in range(3)]
        await asyncio.gather(*clients)
        await asyncio.sleep(1)
        assert world.host.cache.resident == ["base@1", "shop@4"][2 - models_max :]
        assert world.loads.count("shop@4") == 1
        await world.close()

    main()


@in_virtual_time
async def test_an_alias_that_moves_again_while_its_version_loads_goes_straight_to_the_last() -> None:
    world = World({"shop@stable": "shop@3"})
    await world.get("shop@stable")
    used = asyncio.create_task(world.get("shop@stable", use_s=INTERVAL_S + 1))
    await asyncio.sleep(0)
    world.store["shop@stable"] = "shop@4"
    world.resolve_s = 0.0
    loop = asyncio.get_running_loop()
    await when(lambda: "shop@4" in world.loads)
    began = loop.time()
    world.store["shop@stable"] = "shop@5"
    await used
    await until(world, "shop@stable", "shop@5", within_s=40)
    assert loop.time() - began < 2 * INTERVAL_S + LOAD_S
    await asyncio.sleep(0.1)
    assert world.host.cache.resident == ["shop@5"]
    world.agrees()
    await world.close()


@in_virtual_time
async def test_a_host_that_ends_takes_its_watch_along() -> None:
    world = World({"shop@stable": "shop@3"})
    await world.get("shop@stable")
    world.store["shop@stable"] = "shop@4"
    await asyncio.sleep(INTERVAL_S - LOAD_S + 1)
    assert world.host.cache.loading == ["shop@4"]
    world.resolve_s = 100.0
    waiting = asyncio.create_task(world.get("shop@next"))
    await asyncio.sleep(0)
    await world.close()
    with pytest.raises(errors.DeploymentUnavailableError):
        await waiting
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("raised", [SystemExit(1), asyncio.CancelledError(), KeyError("x"), BaseException("x")])
def test_whatever_resolve_raises_is_told(raised: BaseException) -> None:
    @in_virtual_time
    async def main() -> None:
        async def resolve(model_id: str) -> str:
            await asyncio.sleep(0.1)
            raise raised

        world = World({}, resolve=resolve)
        with pytest.raises(errors.ModelUnavailableError):
            await world.get("shop@stable")
        await world.close()

    main()


@in_virtual_time
async def test_a_tiny_interval_does_no_harm() -> None:
    world = World({"shop@stable": "shop@3"}, resolve_interval_s=1e-9)
    assert await world.get("shop@1") == "shop@1"
    assert world.resolves["shop@1"] == 1
    await world.close()


@in_virtual_time
async def test_a_resolve_belongs_to_no_request() -> None:
    seen: list[object] = []

    async def resolve(model_id: str) -> str:
        seen.append(context.request())
        return "shop@3"

    world = World({}, resolve=resolve)
    context.set_request(RequestContext("r", "app", "/", "__call__", "shop@stable"))
    assert await world.get("shop@stable") == "shop@3"
    assert seen == [None]
    await world.close()


@in_virtual_time
async def test_a_prefetch_by_a_routers_word_loads_what_the_alias_stands_for() -> None:
    world = World({"shop@stable": "shop@3"})
    world.host.prefetch("shop@stable")
    world.host.prefetch("shop@stable")
    world.host.prefetch("shop@none")
    await asyncio.sleep(LOAD_S + 1)
    assert (world.loads, sorted(world.host.loaded)) == (["shop@3"], ["shop@3", "shop@stable"])
    await world.close()


def test_a_plain_function_that_hangs_takes_no_more_than_its_share_of_threads() -> None:
    go_on = threading.Event()
    calls: list[str] = []

    def resolve(model_id: str) -> str:
        calls.append(model_id)
        if model_id.startswith("slow"):
            go_on.wait(30)
        return "shop@3"

    async def main(check: Callable[[World], Awaitable[None]]) -> None:
        world = World({}, resolve=resolve)
        await check(world)
        await world.host.close()

    async def check(world: World) -> None:
        slow = [asyncio.create_task(world.host.get(f"slow{n}", None)) for n in range(20)]
        await when(lambda: len(calls) == config.RESOLVES_MAX)
        await asyncio.sleep(0.05)
        assert len(calls) == config.RESOLVES_MAX
        for task in slow:
            task.cancel()
        await asyncio.sleep(0.05)
        assert len(calls) == config.RESOLVES_MAX
        go_on.set()
        world.loads.append("shop@3")
        assert await asyncio.wait_for(_resolved(world), 10) == "shop@3"

    async def _resolved(world: World) -> str:
        assert world.host._watch is not None
        await world.host._watch.find("fast")
        return world.host._watch.choose("fast") or ""

    asyncio.run(main(check))


@pytest.mark.parametrize("seed", range(40))
def test_random_traffic(seed: int) -> None:
    """Aliases move, versions break, the store goes away, callers leave, room is short: what routers hear is so, models
    in use stay, and a request for an alias fails only if none of its versions has ever been loaded."""
    rng = random.Random(seed)
    names, versions = ["a@x", "b@x", "c@x"], ["a@1", "a@2", "a@3", "a@4"]

    @in_virtual_time
    async def main() -> None:
        pinned = rng.choice([(), ("a@x",)])
        world = World(
            {name: rng.choice(versions[:2]) for name in names},
            models_max=rng.choice([1 + len(pinned), 2, 3, -1]),
            idle_ttl_s=rng.choice([None, 20.0]),
            pinned=pinned,
            eviction=rng.choice(["lru", "gdsf"]),
        )
        await world.host.start()
        seen: set[str] = set()
        failed: list[str] = []

        async def request() -> None:
            name = rng.choice([*names, *versions])
            try:
                seen.add(f"{name} {await world.get(name, use_s=rng.choice([0.0, 0.5, 8.0]))}")
            except errors.ModelLoadError as error:
                if name in names and any(one.startswith(f"{name} ") for one in seen):
                    failed.append(f"{name}: {error!r}")

        requests: list[asyncio.Task[None]] = []
        for _ in range(150):
            requests.append(asyncio.create_task(request()))
            await asyncio.sleep(rng.choice([0.0, 0.1, 1.0, 3.0]))
            match rng.randrange(20):
                case 0 | 1:
                    world.store[rng.choice(names)] = rng.choice(versions)
                case 2:
                    world.broken = {rng.choice(versions)} - {one.split()[1] for one in seen}
                case 3:
                    world.away = rng.choice([None, ConnectionError()])
                case 4:
                    rng.choice(requests).cancel()
                case 5:
                    world.resolve_s = rng.choice([0.0, 0.0, 2.0])
            world.agrees()
        world.away = None
        await asyncio.gather(*requests, return_exceptions=True)
        await asyncio.sleep(100)
        world.agrees()
        assert failed == []
        await world.host.close()
        assert world.host.cache.resident == world.host.cache.loading == []
        loaded = Counter(one.removeprefix("loaded ") for one in world.said.said if one.startswith("loaded "))
        for version in versions:
            assert world.unloads.count(version) == loaded[version]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    main()
