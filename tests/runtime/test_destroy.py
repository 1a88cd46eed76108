"""A model's `__del__` runs exactly once, whatever kind of class it has and however often Python gets to free it."""

import asyncio
import gc
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from modelplex.runtime import payload
from modelplex.runtime.destroy import destroy


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2, thread_name_prefix="destroying") as threads:
        yield threads


@pytest.fixture
def ended() -> list[str]:
    """What the destructors of a test say."""
    return []


def free() -> None:
    """Have Python free what nobody refers to."""
    gc.collect()


# The classes are made anew in each test, since destroying a model changes its class.


def plain(ended: list[str]) -> type[Any]:
    class Model:
        def __init__(self, name: str) -> None:
            self.name = name

        def __del__(self) -> None:
            ended.append(self.name)

    return Model


async def test_a_plain_destructor_runs_at_once_and_only_once(ended: list[str], threads: ThreadPoolExecutor) -> None:
    model = plain(ended)("m")
    await destroy(model, threads)
    assert ended == ["m"]
    del model
    free()
    assert ended == ["m"]


async def test_a_plain_destructor_runs_in_a_thread_of_the_pool(threads: ThreadPoolExecutor) -> None:
    ran_in: list[str] = []

    class Model:
        def __del__(self) -> None:
            ran_in.append(threading.current_thread().name)

    await destroy(Model(), threads)
    free()
    assert len(ran_in) == 1
    assert ran_in[0].startswith("destroying")


async def test_an_async_destructor_is_awaited_on_the_loop_and_only_once(
    ended: list[str], threads: ThreadPoolExecutor
) -> None:
    class Model:
        async def __del__(self) -> None:
            await asyncio.sleep(0)
            assert asyncio.get_running_loop()
            ended.append("m")

    model = Model()
    await destroy(model, threads)
    assert ended == ["m"]
    del model
    free()  # a coroutine that nobody awaits would be reported here
    assert ended == ["m"]


async def test_each_model_with_an_async_destructor_is_awaited(ended: list[str], threads: ThreadPoolExecutor) -> None:
    class Model:
        async def __del__(self) -> None:
            ended.append("m")

    first, second = Model(), Model()
    await destroy(first, threads)
    await destroy(second, threads)
    assert ended == ["m", "m"]
    del first, second
    free()
    assert ended == ["m", "m"]


async def test_a_model_is_freed_with_its_last_reference(ended: list[str], threads: ThreadPoolExecutor) -> None:
    """What remembers that it was destroyed does not keep it."""

    class Weights:
        def __del__(self) -> None:
            ended.append("weights")

    model = plain(ended)("m")
    model.weights = Weights()
    await destroy(model, threads)
    del model
    free()
    assert ended == ["m", "weights"]


async def test_a_model_without_a_destructor_is_left_to_python(ended: list[str], threads: ThreadPoolExecutor) -> None:
    class Weights:
        def __del__(self) -> None:
            ended.append("weights")

    class Model:
        def __init__(self) -> None:
            self.weights = Weights()

    model = Model()
    await destroy(model, threads)
    free()
    assert ended == []
    del model
    free()
    assert ended == ["weights"]


@pytest.mark.parametrize("model", [None, 5, "text", b"", [1], {"a": 1}, object(), lambda: None, len])
async def test_anything_can_be_a_model(model: object, threads: ThreadPoolExecutor) -> None:
    await destroy(model, threads)
    await destroy(model, threads)


async def test_each_model_of_a_class_is_destroyed_for_itself(ended: list[str], threads: ThreadPoolExecutor) -> None:
    cls = plain(ended)
    first, second = cls("first"), cls("second")
    await destroy(first, threads)
    assert ended == ["first"]
    await destroy(second, threads)
    assert ended == ["first", "second"]
    del first, second
    free()
    assert ended == ["first", "second"]


async def test_a_model_that_was_never_destroyed_keeps_its_destructor(
    ended: list[str], threads: ThreadPoolExecutor
) -> None:
    """Also one that was made before another of its class was destroyed."""
    cls = plain(ended)
    before = cls("before")
    destroyed = cls("destroyed")
    await destroy(destroyed, threads)
    after = cls("after")
    del after
    free()
    assert ended == ["destroyed", "after"]
    del before
    free()
    assert ended == ["destroyed", "after", "before"]


async def test_a_new_model_in_the_place_of_a_destroyed_one_has_a_destructor_of_its_own(
    ended: list[str], threads: ThreadPoolExecutor
) -> None:
    cls = plain(ended)
    for number in range(50):
        model = cls(f"{number}")
        await destroy(model, threads)
        del model  # its memory, and so its id, is free for the next one
    assert ended == [f"{number}" for number in range(50)]
    unused = cls("unused")
    del unused
    free()
    assert ended[50:] == ["unused"]


async def test_a_model_with_slots(ended: list[str], threads: ThreadPoolExecutor) -> None:
    class Model:
        __slots__ = ("name",)

        def __init__(self, name: str) -> None:
            self.name = name

        def __del__(self) -> None:
            ended.append(self.name)

    model, other = Model("m"), Model("other")
    await destroy(model, threads)
    del model
    free()
    assert ended == ["m"]
    del other
    free()
    assert ended == ["m", "other"]


async def test_a_model_that_cannot_be_hashed_and_equals_others(ended: list[str], threads: ThreadPoolExecutor) -> None:
    class Model:
        def __eq__(self, other: object) -> bool:
            return True

        def __del__(self) -> None:
            ended.append("m")

    first, second = Model(), Model()
    await destroy(first, threads)
    await destroy(second, threads)
    del first, second
    free()
    assert ended == ["m", "m"]


# Subclasses


def derived(base: type[Any], ended: list[str]) -> type[Any]:
    class Derived(base):  # type: ignore[misc]
        def __del__(self) -> None:
            ended.append(f"derived {self.name}")
            super().__del__()

    return Derived


@pytest.mark.parametrize("base_first", [False, True], ids=["derived first", "base first"])
async def test_a_subclass_that_calls_its_bases_destructor(
    base_first: bool, ended: list[str], threads: ThreadPoolExecutor
) -> None:
    base = plain(ended)
    b, d = base("b"), derived(base, ended)("d")
    for model in (b, d) if base_first else (d, b):
        await destroy(model, threads)
    expected = ["b", "derived d", "d"] if base_first else ["derived d", "d", "b"]
    assert ended == expected
    del b, d, model
    free()
    assert ended == expected


async def test_a_subclass_that_calls_its_bases_destructor_and_is_only_freed(
    ended: list[str], threads: ThreadPoolExecutor
) -> None:
    base = plain(ended)
    cls = derived(base, ended)
    await destroy(base("b"), threads)
    await destroy(cls("d"), threads)
    free()
    ended.clear()
    model = cls("freed")
    del model
    free()
    assert ended == ["derived freed", "freed"]


@pytest.mark.parametrize("base_first", [False, True], ids=["derived first", "base first"])
async def test_a_subclass_that_inherits_its_destructor(
    base_first: bool, ended: list[str], threads: ThreadPoolExecutor
) -> None:
    base = plain(ended)
    cls = type("Derived", (base,), {})
    for model in (base("b"), cls("d")) if base_first else (cls("d"), base("b")):
        await destroy(model, threads)
    del model
    unused = cls("unused")
    del unused
    free()
    assert ended == [*(["b", "d"] if base_first else ["d", "b"]), "unused"]


async def test_an_async_destructor_may_await_its_bases(ended: list[str], threads: ThreadPoolExecutor) -> None:
    class Base:
        async def __del__(self) -> None:
            ended.append("base")

    class Derived(Base):
        async def __del__(self) -> None:
            ended.append("derived")
            await super().__del__()

    await destroy(Base(), threads)
    await destroy(Derived(), threads)
    free()
    assert ended == ["base", "derived", "base"]


# Destructors that go wrong


async def test_what_a_destructor_raises_is_raised_and_it_does_not_run_again(
    ended: list[str], threads: ThreadPoolExecutor
) -> None:
    class Model:
        def __del__(self) -> None:
            ended.append("m")
            raise OSError("the device is gone")

    model = Model()
    with pytest.raises(OSError, match="the device is gone"):
        await destroy(model, threads)
    del model
    free()  # a second run would be reported here
    assert ended == ["m"]


async def test_what_an_async_destructor_raises_is_raised_and_it_does_not_run_again(
    ended: list[str], threads: ThreadPoolExecutor
) -> None:
    class Model:
        async def __del__(self) -> None:
            ended.append("m")
            raise OSError("the device is gone")

    model = Model()
    with pytest.raises(OSError, match="the device is gone"):
        await destroy(model, threads)
    del model
    free()
    assert ended == ["m"]


async def test_an_async_destructor_that_is_cancelled_does_not_run_again(
    ended: list[str], threads: ThreadPoolExecutor
) -> None:
    class Model:
        async def __del__(self) -> None:
            ended.append("m")
            await asyncio.Event().wait()

    model = Model()
    task = asyncio.create_task(destroy(model, threads))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    del model, task
    free()
    assert ended == ["m"]


# One model for several ids, as a loader with a default gives it


async def test_a_model_that_is_destroyed_twice_is_destroyed_once(ended: list[str], threads: ThreadPoolExecutor) -> None:
    model = plain(ended)("m")
    await destroy(model, threads)
    await destroy(model, threads)
    del model
    free()
    assert ended == ["m"]


async def test_a_model_that_is_destroyed_twice_at_a_time_is_destroyed_once(
    ended: list[str], threads: ThreadPoolExecutor
) -> None:
    class Model:
        async def __del__(self) -> None:
            await asyncio.sleep(0)
            ended.append("m")

    model = Model()
    await asyncio.gather(destroy(model, threads), destroy(model, threads))
    del model
    free()
    assert ended == ["m"]


# A class that is pickled by value, as that of a notebook is for each replica inside of it


async def test_a_class_that_was_pickled_by_value_meanwhile(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    # Reached by name, since what is pickled by value gets a copy of the list.
    monkeypatch.setattr(sys, "ended_models", ended, raising=False)

    class Model:
        def __del__(self) -> None:
            import sys

            sys.ended_models.append("m")  # type: ignore[attr-defined]

    Model.__module__ = "__main__"
    await destroy(Model(), threads)
    free()
    assert ended == ["m"]
    model = payload.loads(payload.dumps(Model))()
    await destroy(model, threads)
    del model
    free()
    assert ended == ["m", "m"]
