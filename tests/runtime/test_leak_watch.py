"""What becomes of unloaded models, under virtual time: those that are held are found, and nothing else is."""

import asyncio
import contextvars
import gc
import itertools
import logging
import re
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import pytest
import uvloop
from inline_app import app_of, replicas_of, serving
from virtual_time import in_virtual_time

from modelplex import errors, serve
from modelplex.config import CacheOptions
from modelplex.core.memory_growth import MemoryGrowth
from modelplex.multiplex import Loader
from modelplex.runtime import leak_watch, load_runner
from modelplex.runtime.give_back import GiveBack
from modelplex.runtime.leak_watch import GRACE_S, MEASURED_MAX, SOON_S, LeakWatch
from modelplex.runtime.models import ModelHost
from modelplex.testing import run_virtual
from modelplex.wire.messages import Leaks

MIB = 2**20


class Silent:
    """Tells no router anything."""

    def loading(self, model_id: str) -> None: ...

    def loaded(self, model_id: str, load_s: float, fetch_s: float | None) -> None: ...

    def gone(self, model_id: str) -> None: ...

    async def flushed(self) -> None: ...


class World:
    """A cache of one model, so that the next one unloads it, whose loader answers with what the test makes.

    Args:
        make: makes a model of an id.
        keeps: whether the loader keeps each one in a list.
        collect_s: how long a collection is said to take.
    """

    def __init__(
        self, make: Callable[[str], Any], *, keeps: bool = False, collect_s: float = 0.0, **options: Any
    ) -> None:
        self.make = make
        self.kept: list[Any] = []
        self.keeps = keeps
        self.collections: list[float] = []
        self.reports: list[Leaks] = []
        self.loop = asyncio.get_running_loop()
        self.watch = LeakWatch(self._collect, lambda: collect_s * len(self.collections))
        self.watch.follow(self.reports.append)
        self.host = self.another_host(**options)

    def another_host(self, **options: Any) -> ModelHost:
        loader = Loader(self._load, CacheOptions(**{"models_max": 1, **options}))
        return ModelHost(loader, None, ThreadPoolExecutor(1), Silent(), self.watch)

    async def _load(self, model_id: str) -> Any:
        model = self.make(model_id)
        if self.keeps:
            self.kept.append(model)
        return model

    def _collect(self) -> None:
        gc.collect()
        self.collections.append(self.loop.time())

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
    world = World(lambda model_id: Cyclic(), keeps=True)
    await world.use("a", "b")
    await asyncio.sleep(SOON_S + GRACE_S - 0.1)
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
    world = World(lambda model_id: Cyclic(), keeps=True)
    await world.use("a", "b")
    await asyncio.sleep(GRACE_S / 2)
    world.kept.clear()
    assert (await world.leaked()).leaked_bytes == 0


@in_virtual_time
async def test_a_leak_that_goes_after_all_is_forgotten() -> None:
    world = World(lambda model_id: np.zeros(MIB, np.uint8), keeps=True)
    await world.use("a", "b", "c")
    assert (await world.leaked()).leaked_bytes == 2 * MIB
    del world.kept[0]
    assert await world.leaked() == Leaks(MIB, [("b", MIB)])
    world.kept.clear()
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
    base = np.zeros(50 * MIB, np.uint8)
    world = World(lambda model_id: Adapter(base), keeps=True)
    await world.use(*"abcd")
    assert await world.leaked() == Leaks(3 * MIB, [("a", MIB), ("b", MIB), ("c", MIB)])


# What the process grew by stands in for what a model cannot say


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The memory of the process, as the test says: its last entry."""
    said = [100 * MIB]
    for module in (leak_watch, load_runner):
        monkeypatch.setattr(module, "process_bytes", lambda: said[-1])
    return said


@in_virtual_time
async def test_a_model_that_cannot_say_its_size_takes_what_the_process_grew_by(process: list[int]) -> None:
    def make(model_id: str) -> Plain:
        process.append(process[-1] + 7 * MIB)
        return Plain()

    world = World(make, keeps=True)
    await world.use("a", "b")
    assert await world.leaked() == Leaks(7 * MIB, [("a", 7 * MIB)])


@in_virtual_time
async def test_a_load_into_memory_that_was_kept_does_not_make_the_model_small(process: list[int]) -> None:
    grows = iter([7 * MIB, 7 * MIB, 0, 7 * MIB])

    def make(model_id: str) -> Plain:
        process.append(process[-1] + next(grows))
        return Plain()

    world = World(make)
    await world.use("a", "b")
    world.keeps = True
    await world.use("a", "c")
    assert await world.leaked() == Leaks(7 * MIB, [("a", 7 * MIB)])


@in_virtual_time
async def test_of_a_model_that_is_known_by_a_part_the_whole_is_not_assumed(process: list[int]) -> None:
    """The dict is freed; what it had of others is not."""
    shared = logging.getLogger("shared")

    def make(model_id: str) -> dict[str, Any]:
        process.append(process[-1] + 7 * MIB)
        return {"words": bytes(10), "log": shared}

    world = World(make)
    await world.use("a", "b")
    assert (await world.leaked()).leaked_bytes == 0


@in_virtual_time
async def test_what_cannot_be_watched_shows_in_the_memory_of_the_process(
    process: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    def make(model_id: str) -> bytes:
        process.append(process[-1] + 10 * MIB)
        return bytes(10)

    world = World(make)
    world.watch.follow(world.reports.append, MemoryGrowth())
    for _ in range(100):
        await world.use("a", "b")
    figures = [report.leaked_bytes for report in world.reports]
    assert figures == sorted(figures)
    assert figures[-1] > 1000 * MIB
    assert {*map(len, (report.models for report in world.reports))} == {0}
    lines = [r.getMessage() for r in caplog.records if "more than its models are known to" in r.getMessage()]
    assert 1 <= len(lines) < 5, "as often as it doubles"
    assert re.search(r"'a' \(\d+\.0 MiB\), 'b' \(\d+\.0 MiB\)", lines[0])


@in_virtual_time
async def test_each_unload_is_told_to_what_gives_memory_back() -> None:
    told: list[str] = []

    class Told(GiveBack):
        def soon(self) -> None:
            told.append("soon")

        def close(self) -> None:
            told.append("close")

    world = World(lambda model_id: bytes(10))
    world.watch.follow(world.reports.append, give_back=Told(None))
    await world.use("a", "b", "c")
    assert told == ["soon", "soon"]
    world.watch.close()
    assert told == ["soon", "soon", "close"]


@in_virtual_time
async def test_the_process_is_not_judged_while_the_size_of_a_model_is_unknown(process: list[int]) -> None:
    told: list[tuple[int, int, int]] = []

    class Told(MemoryGrowth):
        def unloaded(self, process_bytes: int, models_bytes: int, models: int) -> None:
            told.append((process_bytes, models_bytes, models))

    def make(model_id: str) -> bytes:
        process.append(process[-1] + 10 * MIB)
        return bytes(10)

    world = World(make, models_max=2)
    world.watch.follow(world.reports.append, Told())
    world.host.cached._runner._running = 1  # another model loads all the while
    await world.use("a", "b", "c")
    world.host.cached._runner._running = 0
    await world.use("d")  # c is still there
    assert told == []
    await world.use("e")
    assert told == [(140 * MIB, 10 * MIB, 1)]


# Bounds


@in_virtual_time
async def test_collections_take_at_most_a_hundredth_of_the_time() -> None:
    world = World(lambda model_id: Cyclic(), keeps=True, collect_s=0.5)
    began = world.loop.time()
    while world.loop.time() < began + 200:
        await world.use("a", "b")
        await asyncio.sleep(1)
    assert 3 <= len(world.collections) <= 5
    pauses = [b - a for a, b in zip(world.collections, world.collections[1:], strict=False)]
    assert min(pauses) >= 50
    assert world.watch.report.leaked_bytes > 200 * MIB


@in_virtual_time
async def test_of_many_leaks_at_once_some_are_measured_and_the_rest_estimated() -> None:
    sizes = {f"m{n}": (n % MEASURED_MAX + 1) * MIB for n in range(3 * MEASURED_MAX)}
    world = World(lambda model_id: np.zeros(sizes.get(model_id, 0), np.uint8), keeps=True)
    await world.use(*sizes, "last")
    report = await world.leaked()
    assert report.leaked_bytes == pytest.approx(sum(sizes.values()), abs=len(sizes))
    assert report.models[0] == (f"m{MEASURED_MAX - 1}", MEASURED_MAX * MIB)
    assert report.models[1] == (f"m{MEASURED_MAX - 2}", (MEASURED_MAX - 1) * MIB)


@in_virtual_time
async def test_one_collection_serves_all() -> None:
    world = World(lambda model_id: Cyclic(), keeps=True, models_max=10, idle_ttl_s=5.0)
    await world.use(*"abcdefghij")
    assert (await world.leaked()).leaked_bytes == 10 * MIB
    assert len(world.collections) == 2  # soon, and at the end


@in_virtual_time
async def test_only_so_many_leaks_are_looked_at_again_and_the_rest_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leak_watch, "LEAKS_MAX", 3)
    world = World(lambda model_id: np.zeros(MIB, np.uint8), keeps=True)
    await world.use(*"abcdefgh")
    report = await world.leaked()
    assert (report.leaked_bytes, report.models) == (7 * MIB, [("e", MIB), ("f", MIB), ("g", MIB)])


@in_virtual_time
async def test_a_report_names_the_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leak_watch, "MEASURED_MAX", 30)
    sizes = {f"m{n}": n + 1 for n in range(30)}
    world = World(lambda model_id: np.zeros(sizes.get(model_id, 0), np.uint8), keeps=True)
    await world.use(*sizes, "last")
    report = await world.leaked()
    assert report.leaked_bytes == sum(sizes.values())
    assert report.models == [(f"m{n}", n + 1) for n in range(29, 19, -1)]


# The log


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "did not come back" in r.getMessage()]


@in_virtual_time
async def test_each_model_that_leaks_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World(lambda model_id: np.zeros(2 * MIB, np.uint8), keeps=True)
    for _ in range(3):
        await world.use("a", "b", "c")
        await world.leaked()
    first, second = warnings(caplog)
    assert "4.0 MiB did not come back" in first
    assert "'a' (2.0 MiB), 'b' (2.0 MiB)" in first
    assert "'c' (2.0 MiB)" in second
    assert "'a'" not in second
    assert all(record.levelname == "WARNING" for record in caplog.records if record.name == leak_watch.__name__)


@in_virtual_time
async def test_little_is_not_worth_a_line(caplog: pytest.LogCaptureFixture) -> None:
    world = World(lambda model_id: np.zeros(1000, np.uint8), keeps=True)
    await world.use("a", "b")
    assert (await world.leaked()).leaked_bytes == 1000
    assert warnings(caplog) == []


# Nothing of ours holds a model


@in_virtual_time
async def test_hooks_and_destructors_that_raise_hold_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "modelplex")  # pytest keeps records, with their tracebacks
    ends = 0

    class Model(Plain):
        async def __del__(self) -> None:
            nonlocal ends
            ends += 1
            raise ValueError("will not go")

    async def on_unload(model_id: str, model: Any) -> None:
        if model_id == "a":
            raise ValueError("cannot save")

    world = World(lambda model_id: Model(), on_unload=on_unload)
    await world.use("a", "b", "c")
    assert world.watch._timer is None
    await world.host.close()
    assert ends == 3


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
    world = World(lambda model_id: np.zeros(MIB, np.uint8), keeps=True, idle_ttl_s=600)
    await world.use("a")
    await asyncio.sleep(1)

    async def request() -> "weakref.ref[Plain]":
        value = Plain()
        variable.set(value)
        await world.use("b")
        return weakref.ref(value)

    value = await asyncio.create_task(request())
    await asyncio.sleep(0)
    assert world.watch._timer is not None
    assert world.host.cached._timer is not None
    assert value() is None


@in_virtual_time
async def test_a_model_whose_attributes_raise_costs_nothing_but_its_figure() -> None:
    class Odd:
        @property
        def nbytes(self) -> int:
            raise RuntimeError("closed")

    world = World(lambda model_id: Odd(), keeps=True)
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
async def test_what_is_always_there_is_no_sign_of_a_model() -> None:
    class Bare:
        __slots__ = ("function",)

        def __init__(self) -> None:
            self.function = print

    world = World(lambda model_id: Bare())
    await world.use("a", "b")
    assert world.watch._timer is None


def test_what_a_failed_load_had_in_hand_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "modelplex")  # pytest keeps records, with their tracebacks
    half: list[weakref.ref[Plain]] = []

    async def deep() -> None:
        weights = Plain()
        half.append(weakref.ref(weights))
        raise ValueError("no such layer")

    class FrozenError(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    async def load(model_id: str) -> None:
        weights = Plain()
        half.append(weakref.ref(weights))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(deep())
        except* ValueError as error:
            raise FrozenError("bad model") from error

    async def main() -> None:
        host = ModelHost(Loader(load, CacheOptions()), None, ThreadPoolExecutor(1), Silent())
        for expected in (errors.ModelLoadError, errors.ModelUnavailableError):
            with pytest.raises(expected):
                await host.get("a", None)
            await asyncio.sleep(0)
        assert len(half) == 2
        gc.collect()
        assert [ref() for ref in half] == [None, None]
        await host.close()

    run_virtual(main())


@in_virtual_time
async def test_it_ends_when_it_is_closed() -> None:
    world = World(lambda model_id: Cyclic(), keeps=True)
    await world.use("a", "b")
    world.watch.close()
    assert (await world.leaked()).leaked_bytes == 0
    assert world.collections == []


# In a replica


class Leaky:
    """Its models are kept in a list of its own, which ends with it."""

    made: ClassVar[list[str]] = []
    ends: ClassVar[list[str]] = []

    class Model:
        def __init__(self, model_id: str) -> None:
            Leaky.made.append(model_id)
            self.model_id = model_id
            self.weights = np.zeros(MIB, np.uint8)

        async def __del__(self) -> None:
            Leaky.ends.append(self.model_id)

    def __init__(self) -> None:
        self.kept: list[Leaky.Model] = []

    @serve.multiplexed(max_num_models_per_replica=1)
    async def get_model(self, model_id: str) -> "Leaky.Model":
        self.kept.append(model := Leaky.Model(model_id))
        return model

    async def __call__(self, seconds: float) -> str:
        model = await self.get_model(serve.get_multiplexed_model_id())
        await asyncio.sleep(seconds)
        assert Leaky.ends.count(model.model_id) < Leaky.made.count(model.model_id)
        return serve.get_replica_context().replica_id


@in_virtual_time
async def test_a_replica_that_leaks_too_much_is_replaced_while_requests_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Leaky, "made", [])
    monkeypatch.setattr(Leaky, "ends", [])
    # The time between looks follows from the real time that a collection takes, and has no place in virtual time.
    monkeypatch.setattr(leak_watch, "LOOK_SHARE", float("inf"))
    ids = (f"m{n}" for n in itertools.count())

    async with serving(app_of(Leaky, max_leaked_bytes="4MiB", max_queued_requests=0)) as (cluster, handle):

        async def call(seconds: float) -> str:
            replica_id: str = await handle.options(multiplexed_model_id=next(ids)).remote(seconds)
            return replica_id

        answers = [await call(0.2) for _ in range(300)]
        replicas = list(dict.fromkeys(answers))
        assert len(replicas) >= 3
        assert len(replicas_of(cluster)) - len(replicas) in (0, 1)  # the last one may not have been asked yet
        # Beside its successor, each goes on for a while, and no longer.
        for replica, next_but_one in zip(replicas, replicas[2:], strict=False):
            assert replica not in answers[answers.index(next_but_one) :]
    # A successor begins with the models of the one before, which is why some are loaded twice.
    assert sorted(Leaky.ends) == sorted(Leaky.made)
    assert set(Leaky.ends) == {f"m{n}" for n in range(300)}


def test_a_look_that_is_due_at_once_can_be_replaced_on_any_event_loop() -> None:
    """uvloop answers another kind of handle then, which does not know its time."""

    async def main() -> None:
        watch, now = LeakWatch(), asyncio.get_running_loop().time()
        watch._look_at(now)
        watch._look_at(now - 1.0)
        watch.close()

    uvloop.run(main())
