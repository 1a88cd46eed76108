"""What becomes of what a loader of files knows of a model: its size counts, and its end runs, once and last."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from modelplex import loaded
from modelplex.config import CacheOptions
from modelplex.loaded import Loaded
from modelplex.multiplex import Loader
from modelplex.runtime.load_runner import LoadRunner


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2, thread_name_prefix="unloading") as threads:
        yield threads


class Model:
    """A model of some steps that its end takes, which say so."""

    def __init__(self, steps: list[str], size_bytes: int = 100) -> None:
        self.steps = steps
        self.weights = np.zeros(10)
        loaded.remember(Loaded(self, size_bytes, lambda: steps.append(f"unload in {threading.current_thread().name}")))


def runner(threads: ThreadPoolExecutor, load: Any = None, **options: Any) -> LoadRunner:
    return LoadRunner(Loader(load or (lambda model_id: None), CacheOptions(**options)), None, threads)


async def size_of(threads: ThreadPoolExecutor, model: Any, **options: Any) -> int:
    async def load(model_id: str) -> Any:
        return model

    return (await runner(threads, load, **options).run("m", lambda model_id, error: None))[1]


async def test_the_size_that_a_loader_of_files_knows_counts(threads: ThreadPoolExecutor) -> None:
    assert await size_of(threads, Model([]), bytes_max=1000) == 100
    assert await size_of(threads, {"tokenizer": np.zeros(1), "model": Model([])}, bytes_max=1000) == 108
    assert await size_of(threads, Model([], 0), bytes_max=1000) == 80  # of its array


async def test_size_of_has_the_first_word_and_nobody_asks_where_nobody_needs_it(threads: ThreadPoolExecutor) -> None:
    assert await size_of(threads, Model([]), bytes_max=1000, size_of=lambda model: 7) == 7
    assert await size_of(threads, Model([])) == 0


async def test_unload_comes_after_the_hook_and_the_destructor_in_a_thread(threads: ThreadPoolExecutor) -> None:
    steps: list[str] = []

    class Destroyed(Model):
        def __del__(self) -> None:
            self.steps.append("destructor")

    models: dict[str, Any] = {"m": Destroyed(steps)}
    await runner(threads, on_unload=lambda model_id, model: steps.append("hook")).unload("m", models)
    assert [step.rstrip("01_") for step in steps] == ["hook", "destructor", "unload in unloading"]
    assert models == {}


async def test_unload_runs_whatever_the_hook_and_the_destructor_raise(threads: ThreadPoolExecutor) -> None:
    steps: list[str] = []

    class Failing(Model):
        def __del__(self) -> None:
            raise RuntimeError("destructor")

    def hook(model_id: str, model: Any) -> None:
        raise RuntimeError("hook")

    with pytest.raises(RuntimeError, match="destructor"):
        await runner(threads, on_unload=hook).unload("m", {"m": Failing(steps)})
    assert len(steps) == 1


async def test_unload_runs_once_with_the_last_of_several_ids(threads: ThreadPoolExecutor) -> None:
    steps: list[str] = []
    model = Model(steps)
    models: dict[str, Any] = {"a": model, "b": model, "c": model}
    ending = runner(threads)
    await ending.unload("a", models)
    assert steps == []
    await asyncio.gather(ending.unload("b", models), ending.unload("c", models))
    assert len(steps) == 1


async def test_a_cancelled_unload_is_waited_for(threads: ThreadPoolExecutor) -> None:
    began, go_on = threading.Event(), threading.Event()
    steps: list[str] = []

    def unload() -> None:
        began.set()
        go_on.wait(30)
        steps.append("unload")

    model = type("Plain", (), {})()
    loaded.remember(Loaded(model, 1, unload))
    task = asyncio.create_task(runner(threads).unload("m", {"m": model}))
    await asyncio.to_thread(began.wait, 30)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert steps == ["unload"]


async def test_nothing_is_known_of_an_unloaded_model_and_no_thread_is_used_for_nothing() -> None:
    class NoThreads(ThreadPoolExecutor):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("a thread")

    model = type("Plain", (), {})()
    loaded.remember(Loaded(model, 1))
    await runner(NoThreads()).unload("m", {"m": model})
    assert loaded.size_bytes(model) is None
