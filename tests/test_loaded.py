"""What is remembered of models, for as long as they live and no longer."""

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Callable

import pytest

from modelplex import loaded
from modelplex.loaded import Loaded


class Model:
    """Anything that weak references can point to."""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_size_is_known_until_the_model_goes() -> None:
    model = Model()
    assert loaded.size_bytes(model) is None
    loaded.remember(Loaded(model, 100))
    assert loaded.size_bytes(model) == 100
    identity = id(model)
    del model
    gc.collect()
    assert identity not in loaded._known


def test_an_id_that_is_used_again_is_another_models() -> None:
    for _ in range(1000):
        model = Model()
        assert loaded.size_bytes(model) is None  # its id is most likely that of the one before
        loaded.remember(Loaded(model, 1))
        del model


def test_models_in_a_cycle_are_forgotten_before_their_ids_are_used_again() -> None:
    class Node:
        other: "Node"

    for _ in range(10):
        one, two = Node(), Node()
        one.other, two.other = two, one
        assert loaded.size_bytes(one) is loaded.size_bytes(two) is None
        loaded.remember(Loaded(one, 1))
        loaded.remember(Loaded(two, 2))
        del one, two
        gc.collect()


def test_what_is_said_last_of_a_model_holds() -> None:
    model = Model()
    loaded.remember(Loaded(model, 1))
    loaded.remember(Loaded(model, 2))
    assert loaded.size_bytes(model) == 2


def test_a_size_that_the_loader_does_not_know_is_not_known() -> None:
    model = Model()
    loaded.remember(Loaded(model, 0))
    assert loaded.size_bytes(model) is None


@pytest.mark.parametrize("model", [{"a": 1}, [1], 5, None, "text"])
def test_what_takes_no_weak_references_is_not_remembered(model: object) -> None:
    loaded.remember(Loaded(model, 100))
    assert loaded.size_bytes(model) is None
    loaded.end(model)


def test_end_unloads_once_and_forgets() -> None:
    model, ended = Model(), list[int]()
    loaded.remember(Loaded(model, 100, lambda: ended.append(1)))
    assert loaded.has_unload(model)
    loaded.end(model)
    assert not loaded.has_unload(model)
    loaded.end(model)
    assert ended == [1]
    assert loaded.size_bytes(model) is None
    del model
    gc.collect()
    time.sleep(0.05)  # which the thread of the dropped would need
    assert ended == [1]


def test_end_raises_what_unload_raises_and_does_not_try_again() -> None:
    model = Model()
    loaded.remember(Loaded(model, 1, lambda: [][0]))
    with pytest.raises(IndexError):
        loaded.end(model)
    loaded.end(model)


def test_many_threads_that_end_one_model_unload_it_once() -> None:
    for _ in range(20):
        model, ended = Model(), list[int]()
        loaded.remember(Loaded(model, 1, lambda ended=ended: ended.append(1)))  # type: ignore[misc]
        barrier = threading.Barrier(4)

        def end(model: Model = model, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            loaded.end(model)

        threads = [threading.Thread(target=end) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ended == [1]


def test_a_model_that_is_dropped_without_end_is_unloaded_in_a_thread() -> None:
    model, ended = Model(), list[str]()
    loaded.remember(Loaded(model, 1, lambda: ended.append(threading.current_thread().name)))
    del model
    gc.collect()
    wait_for(lambda: bool(ended))
    assert ended == ["modelplex-unload"]


def test_an_unload_that_fails_there_is_in_the_log_and_keeps_no_other_from_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second, ended = Model(), Model(), list[int]()
    loaded.remember(Loaded(first, 1, lambda: [][0]))
    loaded.remember(Loaded(second, 1, lambda: ended.append(1)))
    with caplog.at_level(logging.ERROR, loaded.__name__):
        del first
        gc.collect()
        del second
        gc.collect()
        wait_for(lambda: bool(ended))
    assert "Failed to unload a model that was dropped: IndexError" in caplog.text


def test_fetches_are_noted_in_the_load_that_runs_in_whatever_thread() -> None:
    loaded.note_fetch(1.0)  # no load runs

    async def main() -> list[float | None]:
        plain, fetching = asyncio.create_task(one()), asyncio.create_task(one(0.0, 1.5))
        return [await plain, await fetching]

    async def one(*fetches_s: float) -> float | None:
        load = loaded.begin_load()
        for fetch_s in fetches_s:
            await asyncio.to_thread(loaded.note_fetch, fetch_s)
        return load.fetch_s

    assert asyncio.run(main()) == [None, 1.5]
