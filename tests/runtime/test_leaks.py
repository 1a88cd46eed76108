"""What becomes of unloaded models, under virtual time: those that are held are found, and nothing else is."""

import asyncio
import contextvars
import gc
import logging
import re
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from virtual_time import in_virtual_time

from modelplex.config import CacheOptions
from modelplex.core.baseline import Baseline
from modelplex.multiplex import Loader
from modelplex.runtime import leaks, load_runner
from modelplex.runtime.leaks import GRACE_S, SOON_S, LeakWatch
from modelplex.runtime.models import ModelHost
from modelplex.wire.messages import Leaks

MIB = 2**20


class Silent:
    """Tells no router anything."""

    def loading(self, model_id: str) -> None: ...

    def loaded(self, model_id: str, load_s: float) -> None: ...

    def gone(self, model_id: str) -> None: ...

    async def flushed(self) -> None: ...


class World:
    """A cache of one model, so that the next one unloads it, whose loader answers with what the test makes.

    Args:
        make: makes a model of an id.
        collect_s: how long a collection is said to take.
    """

    def __init__(self, make: Callable[[str], Any], collect_s: float = 0.0, **options: Any) -> None:
        self.make = make
        self.collections: list[float] = []
        self.reports: list[Leaks] = []
        self.loop = asyncio.get_running_loop()
        self.watch = LeakWatch(self._collect)
        self.watch.follow(self.reports.append)
        self._collect_s = collect_s
        self.host = self.another_host(**options)

    def another_host(self, **options: Any) -> ModelHost:
        loader = Loader(self._load, CacheOptions(**{"models_max": 1, **options}))
        return ModelHost(loader, None, ThreadPoolExecutor(1), Silent(), self.watch)

    async def _load(self, model_id: str) -> Any:
        return self.make(model_id)

    def _collect(self) -> float:
        gc.collect()
        self.collections.append(self.loop.time())
        return self._collect_s

    async def use(self, *model_ids: str) -> None:
        """Load these one after the other; each unloads the one before."""
        for model_id in model_ids:
            await self.host.get(model_id, None)

    async def leaked(self) -> Leaks:
        """What is found when all has been looked at."""
        await asyncio.sleep(2 * GRACE_S)
        return self.watch.report


class Plain:
    """A model of plain Python objects, which cannot say how large it is."""

    def __init__(self, size_bytes: int = MIB) -> None:
        self.words = [bytes(size_bytes)]


class Slotted:
    __slots__ = ("weights",)

    def __init__(self) -> None:
        self.weights = np.zeros(MIB, np.uint8)


class Cyclic:
    def __init__(self) -> None:
        self.weights = np.zeros(MIB, np.uint8)
        self.itself = self


def torch_module() -> Any:
    torch = pytest.importorskip("torch", reason="torch is an optional dependency")
    return torch.nn.Linear(511, 512, dtype=torch.float32)  # with its bias 2**20 bytes


KINDS: dict[str, Callable[[], Any]] = {
    "array": lambda: np.zeros(MIB, np.uint8),
    "module": torch_module,
    "cycle": Cyclic,
    "slots": Slotted,
    "dict": lambda: {"weights": np.zeros(MIB, np.uint8), "name": "a"},
    "nested": lambda: [{"layers": (np.zeros(MIB, np.uint8), "a")}, 5],
}


@pytest.mark.parametrize("kind", KINDS)
@in_virtual_time
async def test_a_model_that_is_freed_is_no_leak(kind: str) -> None:
    world = World(lambda model_id: KINDS[kind]())
    await world.use("a", "b", "c")
    assert await world.leaked() == Leaks(0, [])
    assert world.reports == []


@pytest.mark.parametrize("kind", KINDS)
@in_virtual_time
async def test_a_model_that_is_kept_is_a_leak_of_its_size(kind: str) -> None:
    kept: list[Any] = []

    def make(model_id: str) -> Any:
        model = KINDS[kind]()
        if model_id != "c":
            kept.append(model)
        return model

    world = World(make)
    await world.use("a", "b", "c")
    assert await world.leaked() == Leaks(2 * MIB, [("a", MIB), ("b", MIB)])
    assert world.reports == [world.watch.report]


@in_virtual_time
async def test_most_models_cost_no_collection_and_no_timer() -> None:
    world = World(lambda model_id: np.zeros(10))
    await world.use(*"abcdef")
    assert world.watch._timer is None
    assert world.collections == []


@in_virtual_time
async def test_a_leak_is_believed_only_after_its_time() -> None:
    kept: list[Any] = []
    world = World(lambda model_id: kept.append(model := Cyclic()) or model)
    await world.use("a", "b")
    await asyncio.sleep(GRACE_S - 0.1)
    assert world.watch.report.leaked_bytes == 0
    await asyncio.sleep(0.2)
    assert world.watch.report.leaked_bytes == MIB


@in_virtual_time
async def test_cycles_are_freed_soon() -> None:
    gc.disable()  # or Python might do it first
    try:
        found: list[weakref.ref[Cyclic]] = []

        def make(model_id: str) -> Cyclic:
            model = Cyclic()
            found.append(weakref.ref(model))
            return model

        world = World(make)
        await world.use("a", "b")
        await asyncio.sleep(SOON_S / 2)
        assert found[0]() is not None
        await asyncio.sleep(SOON_S)
        assert found[0]() is None
        await world.leaked()
        assert len(world.collections) == 1
    finally:
        gc.enable()


@in_virtual_time
async def test_one_that_goes_into_a_cycle_late_is_no_leak() -> None:
    """Held for some time after the unload, and garbage by the time of the last look."""
    kept: list[Cyclic] = []
    world = World(lambda model_id: kept.append(model := Cyclic()) or model)
    await world.use("a", "b")
    await asyncio.sleep(GRACE_S / 2)
    kept.clear()
    assert (await world.leaked()).leaked_bytes == 0


@in_virtual_time
async def test_a_leak_that_goes_after_all_is_forgotten() -> None:
    kept: list[Any] = []
    world = World(lambda model_id: kept.append(model := np.zeros(MIB, np.uint8)) or model)
    await world.use("a", "b", "c")
    assert (await world.leaked()).leaked_bytes == 2 * MIB
    del kept[0]
    assert await world.leaked() == Leaks(MIB, [("b", MIB)])
    kept.clear()
    assert await world.leaked() == Leaks(0, [])
    assert [report.leaked_bytes for report in world.reports] == [2 * MIB, MIB, 0]


@in_virtual_time
async def test_a_loader_with_a_cache_of_its_own_leaks_what_is_not_loaded() -> None:
    own: dict[str, Any] = {}
    world = World(lambda model_id: own.setdefault(model_id, np.zeros(MIB, np.uint8)))
    await world.use("a", "b")
    assert await world.leaked() == Leaks(MIB, [("a", MIB)])
    await world.use("a")
    assert await world.leaked() == Leaks(MIB, [("b", MIB)])
    await world.use("b", "a", "b", "a", "b")
    assert await world.leaked() == Leaks(MIB, [("a", MIB)])


@in_virtual_time
async def test_one_object_under_two_ids_counts_once_and_not_while_either_is_loaded() -> None:
    default = np.zeros(MIB, np.uint8)
    world = World(lambda model_id: np.zeros(1) if model_id.startswith("other") else default, models_max=2)
    await world.use("a", "b", "other1")
    assert (await world.leaked()).leaked_bytes == 0
    await world.use("other2")
    assert await world.leaked() == Leaks(MIB, [("b", MIB)])


@in_virtual_time
async def test_two_ids_that_go_at_once_share_one_leak() -> None:
    default = np.zeros(MIB, np.uint8)
    world = World(lambda model_id: default, models_max=2, idle_ttl_s=5.0)
    await world.use("a", "b")
    assert (await world.leaked()).leaked_bytes == MIB


@in_virtual_time
async def test_another_loader_may_hold_the_model() -> None:
    shared = np.zeros(MIB, np.uint8)
    world = World(lambda model_id: shared if model_id == "shared" else np.zeros(1))
    other = world.another_host()
    await other.get("shared", None)
    await world.use("shared", "b")
    assert (await world.leaked()).leaked_bytes == 0
    await other.get("b", None)
    assert (await world.leaked()).leaked_bytes == MIB


class Adapter:
    def __init__(self, base: Any) -> None:
        self.base = base
        self.own = np.zeros(MIB, np.uint8)


@in_virtual_time
async def test_what_a_leak_shares_with_other_models_is_not_its_own() -> None:
    base, kept = np.zeros(50 * MIB, np.uint8), []
    world = World(lambda model_id: kept.append(model := Adapter(base)) or model)
    await world.use(*"abcd")
    assert await world.leaked() == Leaks(3 * MIB, [("a", MIB), ("b", MIB), ("c", MIB)])


# What the process grew by stands in for what a model cannot say


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The memory of the process, as the test says: its last entry."""
    said = [100 * MIB]
    for module in (leaks, load_runner):
        monkeypatch.setattr(module, "process_bytes", lambda: said[-1])
    return said


def test_a_model_that_cannot_say_its_size_takes_what_the_process_grew_by(process: list[int]) -> None:
    kept: list[Any] = []

    def make(model_id: str) -> Plain:
        process.append(process[-1] + 7 * MIB)
        kept.append(model := Plain())
        return model

    @in_virtual_time
    async def check() -> None:
        world = World(make)
        await world.use("a", "b")
        assert await world.leaked() == Leaks(7 * MIB, [("a", 7 * MIB)])

    check()


def test_a_load_into_memory_that_was_kept_does_not_make_the_model_small(process: list[int]) -> None:
    kept: list[Any] = []

    def make(model_id: str) -> Plain:
        if model_id not in "ab" or not kept:
            process.append(process[-1] + 7 * MIB)
        model = Plain()
        if len(kept) < 4:
            kept.append(model)
        return model

    @in_virtual_time
    async def check() -> None:
        world = World(make)
        await world.use("a", "b", "a")  # the second time, it fits into what was freed
        kept[:2] = [None, None]
        await world.use("c")
        assert await world.leaked() == Leaks(7 * MIB, [("a", 7 * MIB)])

    check()


def test_of_a_model_that_is_known_by_a_part_the_whole_is_not_assumed(process: list[int]) -> None:
    """The dict is freed, and what it had of others is not."""
    shared = logging.getLogger("shared")

    def make(model_id: str) -> dict[str, Any]:
        process.append(process[-1] + 7 * MIB)
        return {"words": bytes(10), "log": shared}

    @in_virtual_time
    async def check() -> None:
        world = World(make)
        await world.use("a", "b")
        assert (await world.leaked()).leaked_bytes == 0

    check()


def test_what_cannot_be_watched_shows_in_the_memory_of_the_process(
    process: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    kept = []

    def make(model_id: str) -> bytes:
        process.append(process[-1] + 10 * MIB)
        kept.append(model := bytes(10))
        return model

    @in_virtual_time
    async def check() -> None:
        world = World(make)
        world.watch.follow(world.reports.append, Baseline())
        for _ in range(100):
            await world.use("a", "b")
        # Growth is counted from the second look on, and believed from the fifth.
        assert [r.models for r in world.reports] == [[]] * len(world.reports)
        figures = [r.leaked_bytes for r in world.reports]
        assert figures == sorted(figures)
        assert figures[-1] > 1000 * MIB

    check()
    lines = [r.getMessage() for r in caplog.records if "more than its models are known to" in r.getMessage()]
    assert 1 <= len(lines) < 5, "as often as it doubles"
    assert re.search(r"'a' \(\d+\.0 MiB\), 'b' \(\d+\.0 MiB\)", lines[0])


def test_the_process_is_not_judged_while_a_models_size_is_unknown(
    process: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int, int]] = []

    class Told(Baseline):
        def unloaded(self, process_bytes: int, models_bytes: int, models: int) -> None:
            told.append((process_bytes, models_bytes, models))

    def make(model_id: str) -> Any:
        process.append(process[-1] + 10 * MIB)
        return bytes(10)

    @in_virtual_time
    async def check() -> None:
        world = World(make, models_max=2)
        world.watch.follow(world.reports.append, Told())
        world.host._runner._running = 1  # another model is loading all the while
        await world.use("a", "b", "c")
        assert told == []
        world.host._runner._running = 0
        await world.use("d")
        assert told == []  # c is still there
        await world.use("e")
        assert told == [(140 * MIB, 10 * MIB, 1)]

    check()


# Bounds


@in_virtual_time
async def test_collections_take_at_most_a_hundredth_of_the_time() -> None:
    kept: list[Any] = []
    world = World(lambda model_id: kept.append(model := Cyclic()) or model, collect_s=0.5)
    began = world.loop.time()
    while world.loop.time() < began + 1000:
        await world.use("a", "b")
        await asyncio.sleep(1)
    assert 15 <= len(world.collections) <= 21
    pauses = [b - a for a, b in zip(world.collections, world.collections[1:], strict=False)]
    assert min(pauses) >= 50
    assert world.watch.report.leaked_bytes > 1000 * MIB


@in_virtual_time
async def test_one_collection_serves_all() -> None:
    kept: list[Any] = []
    world = World(lambda model_id: kept.append(model := Cyclic()) or model, models_max=10, idle_ttl_s=5.0)
    await world.use(*"abcdefghij")
    assert (await world.leaked()).leaked_bytes == 10 * MIB
    assert len(world.collections) == 2  # soon, and at the end


@in_virtual_time
async def test_only_so_many_leaks_are_looked_at_again_and_the_rest_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leaks, "LEAKS_MAX", 3)
    kept: list[Any] = []
    world = World(lambda model_id: kept.append(model := np.zeros(MIB, np.uint8)) or model)
    await world.use(*"abcdefgh")
    report = await world.leaked()
    assert (report.leaked_bytes, report.models) == (7 * MIB, [("e", MIB), ("f", MIB), ("g", MIB)])


@in_virtual_time
async def test_a_report_names_the_worst() -> None:
    kept: list[Any] = []
    sizes = {f"m{n}": n + 1 for n in range(30)}
    world = World(lambda model_id: kept.append(model := np.zeros(sizes.get(model_id, 0), np.uint8)) or model)
    await world.use(*sizes, "last")
    report = await world.leaked()
    assert report.leaked_bytes == sum(sizes.values())
    assert report.models == [(f"m{n}", n + 1) for n in range(29, 19, -1)]


# The log


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "did not come back" in r.getMessage()]


@in_virtual_time
async def test_each_model_that_leaks_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    kept: list[Any] = []
    world = World(lambda model_id: kept.append(model := np.zeros(2 * MIB, np.uint8)) or model)
    for _ in range(3):
        await world.use("a", "b", "c")
        await world.leaked()
    first, second = warnings(caplog)
    assert "4.0 MiB did not come back" in first
    assert "'a' (2.0 MiB), 'b' (2.0 MiB)" in first
    assert "'c' (2.0 MiB)" in second
    assert "'a'" not in second
    assert all(record.levelname == "WARNING" for record in caplog.records if record.name == leaks.__name__)


@in_virtual_time
async def test_little_is_not_worth_a_line(caplog: pytest.LogCaptureFixture) -> None:
    kept: list[Any] = []
    world = World(lambda model_id: kept.append(model := np.zeros(1000, np.uint8)) or model)
    await world.use("a", "b")
    assert (await world.leaked()).leaked_bytes == 1000
    assert warnings(caplog) == []


# Nothing of ours holds a model


@in_virtual_time
async def test_hooks_and_destructors_that_raise_hold_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "modelplex")  # pytest keeps records, with their tracebacks
    ends = []

    class Model(Plain):
        async def __del__(self) -> None:
            ends.append(self)
            ends.clear()
            raise ValueError("will not go")

    async def on_unload(model_id: str, model: Any) -> None:
        if model_id == "a":
            raise ValueError("cannot save")

    world = World(lambda model_id: Model(), on_unload=on_unload)
    await world.use("a", "b", "c")
    assert world.watch._timer is None


@in_virtual_time
async def test_the_memory_of_a_hook_that_takes_long_is_not_looked_for_meanwhile() -> None:
    async def on_unload(model_id: str, model: Any) -> None:
        await asyncio.sleep(3 * GRACE_S)

    world = World(lambda model_id: np.zeros(MIB, np.uint8), on_unload=on_unload)
    await world.use("a", "b")
    assert world.collections == []
    assert world.reports == []


@in_virtual_time
async def test_the_variables_of_a_request_are_not_held_by_timers() -> None:
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")
    kept: list[Any] = []
    world = World(lambda model_id: kept.append(model := np.zeros(MIB, np.uint8)) or model, idle_ttl_s=600)
    await world.use("a")

    async def request() -> "weakref.ref[Plain]":
        value = Plain()
        variable.set(value)
        await world.use("b")
        return weakref.ref(value)

    value = await asyncio.create_task(request())
    await asyncio.sleep(0)
    assert world.watch._timer is not None
    assert world.host._timer is not None
    assert value() is None


@in_virtual_time
async def test_a_model_whose_attributes_raise_costs_nothing_but_its_figure() -> None:
    class Odd:
        @property
        def nbytes(self) -> int:
            raise RuntimeError("closed")

    kept: list[Any] = []
    world = World(lambda model_id: kept.append(model := Odd()) or model)
    await world.use("a", "b")
    assert (await world.leaked()).leaked_bytes == 0
    assert len(world.watch._leaks) == 1


@pytest.mark.parametrize("odd", [None, 5, "text", print, int])
@in_virtual_time
async def test_anything_may_be_a_model(odd: Any) -> None:
    world = World(lambda model_id: odd)
    await world.use("a", "b")
    assert (await world.leaked()).leaked_bytes == 0


@in_virtual_time
async def test_it_ends_when_it_is_closed() -> None:
    kept: list[Any] = []
    world = World(lambda model_id: kept.append(model := Cyclic()) or model)
    await world.use("a", "b")
    world.watch.close()
    assert (await world.leaked()).leaked_bytes == 0
    assert world.collections == []
