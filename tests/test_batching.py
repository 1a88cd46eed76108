"""`serve.batch`: as users decorate and call it, alone and in a replica with models."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import cloudpickle
import numpy as np
import pytest
from virtual_time import in_virtual_time, turns

from modelplex import errors, serve
from modelplex.testing import InlineCluster


class Doubler:
    """Notes its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    @serve.batch(max_batch_size=3, batch_wait_timeout_s=1.0)
    async def double(self, numbers: list[int]) -> list[int]:
        self.batches.append(numbers)
        await asyncio.sleep(1.0)
        return [2 * n for n in numbers]


@in_virtual_time
async def test_each_caller_gets_its_own_result() -> None:
    doubler = Doubler()
    assert await asyncio.gather(*(doubler.double(n) for n in range(7))) == [0, 2, 4, 6, 8, 10, 12]
    assert doubler.batches == [[0, 1, 2], [3, 4, 5], [6]]


@in_virtual_time
async def test_a_call_waits_no_longer_for_others_than_it_should() -> None:
    began = asyncio.get_running_loop().time()
    assert await Doubler().double(21) == 42
    assert asyncio.get_running_loop().time() - began == pytest.approx(2.0)


@in_virtual_time
async def test_objects_have_queues_of_their_own_and_are_not_kept_alive() -> None:
    one, two = Doubler(), Doubler()
    await asyncio.gather(one.double(1), two.double(2))
    assert (one.batches, two.batches) == ([[1]], [[2]])
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None


@in_virtual_time
async def test_it_decorates_functions_bare_or_with_options_and_static_methods() -> None:
    @serve.batch
    async def bare(xs: list[int], ys: list[int] | None = None) -> list[Any]:
        assert ys is not None
        return list(zip(xs, ys, strict=True))

    class Holder:
        @staticmethod
        @serve.batch(max_batch_size=2)
        async def inner(xs: list[int]) -> list[int]:
            return [len(xs)] * len(xs)

    assert list(await asyncio.gather(bare(1, ys=2), bare(3), bare(ys=4, xs=5))) == [(1, 2), (3, None), (5, 4)]
    assert list(await asyncio.gather(Holder.inner(0), Holder().inner(1))) == [2, 2]


@in_virtual_time
async def test_a_method_that_a_subclass_overrides_may_be_called_by_it() -> None:
    class Tripler(Doubler):
        @serve.batch(max_batch_size=3)
        async def double(self, numbers: list[int]) -> list[int]:
            doubled = await asyncio.gather(*(super(Tripler, self).double(n) for n in numbers))
            return [d + n for d, n in zip(doubled, numbers, strict=True)]

    tripler = Tripler()
    assert await asyncio.gather(*(tripler.double(n) for n in range(3))) == [0, 3, 6]
    assert tripler.batches == [[0, 1, 2]]


@in_virtual_time
async def test_arrays_are_results_too() -> None:
    @serve.batch(max_batch_size=2)
    async def rows(xs: list[int]) -> Any:
        return np.array([[x, x] for x in xs])

    one, two = await asyncio.gather(rows(1), rows(2))
    assert (one.tolist(), two.tolist()) == ([1, 1], [2, 2])


# Errors


@in_virtual_time
async def test_a_batch_that_fails_fails_for_all_of_its_callers_each_with_an_error_of_its_own() -> None:
    cause = KeyError("why")

    @serve.batch(max_batch_size=2)
    async def fail(xs: list[int]) -> list[int]:
        raise ValueError(f"no {xs}") from cause

    one, two = list[Any](await asyncio.gather(fail(1), fail(2), return_exceptions=True))
    assert [type(one), type(two), str(one), str(two)] == [ValueError, ValueError, "no [1, 2]", "no [1, 2]"]
    assert one is not two
    assert isinstance(one, ValueError)
    assert one.__cause__ is cause


@in_virtual_time
async def test_an_error_among_the_results_is_one_callers_alone() -> None:
    @serve.batch(max_batch_size=3)
    async def half(xs: list[int]) -> list[Any]:
        return [ValueError("odd") if x % 2 else x // 2 for x in xs]

    results = await asyncio.gather(half(0), half(1), half(2), return_exceptions=True)
    assert [results[0], str(results[1]), results[2]] == [0, "odd", 1]


@pytest.mark.parametrize(
    ("returned", "words"),
    [([1], "a list of 1"), (None, "a NoneType"), ("ab", "a str"), (iter([1, 2]), "a list_iterator")],
)
@in_virtual_time
async def test_what_is_no_list_of_as_many_results_is_said_so(returned: Any, words: str) -> None:
    @serve.batch(max_batch_size=2)
    async def wrong(xs: list[int]) -> Any:
        return returned

    for error in await asyncio.gather(wrong(1), wrong(2), return_exceptions=True):
        assert isinstance(error, TypeError)
        assert str(error) == f"wrong must answer 2 calls with a list of as many, not {words}."


@in_virtual_time
async def test_a_call_that_does_not_fit_the_signature_is_told_so_alone() -> None:
    doubler = Doubler()
    good = asyncio.ensure_future(doubler.double(1))
    with pytest.raises(TypeError, match="too many positional"):
        await doubler.double(1, 2)
    assert await good == 2


def plain(xs: list[int]) -> list[int]:
    return xs


async def variadic(*xs: int) -> list[int]:
    return list(xs)


@pytest.mark.parametrize(
    ("func", "words"), [(plain, "decorates an async def"), (variadic, "variadic does not"), (7, "got 7")]
)
def test_what_cannot_be_batched_is_said_so(func: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        serve.batch(func)


@pytest.mark.parametrize(
    "options",
    [
        {"max_batch_size": 0},
        {"max_batch_size": "8"},
        {"batch_wait_timeout_s": -1},
        {"batch_wait_timeout_s": None},
        {"max_concurrent_batches": 0},
        {"batch_size_fn": 3},
    ],
)
def test_options_are_checked_and_named(options: dict[str, Any]) -> None:
    [name] = options
    with pytest.raises(ValueError, match=name):
        serve.batch(**options)


# Limits


@in_virtual_time
async def test_so_many_batches_run_at_a_time() -> None:
    running = most = 0

    @serve.batch(max_batch_size=2, max_concurrent_batches=2)
    async def work(xs: list[int]) -> list[int]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1.0)
        running -= 1
        return xs

    assert await asyncio.gather(*(work(n) for n in range(10))) == list(range(10))
    assert most == 2


@in_virtual_time
async def test_sizes_may_be_the_users_own() -> None:
    batches: list[list[str]] = []

    @serve.batch(max_batch_size=10, batch_size_fn=lambda texts: sum(map(len, texts)))
    async def lengths(texts: list[str]) -> list[int]:
        batches.append(texts)
        return [len(text) for text in texts]

    assert await asyncio.gather(*(lengths("x" * n) for n in (4, 5, 3, 10))) == [4, 5, 3, 10]
    assert [list(map(len, batch)) for batch in batches] == [[4, 5], [3], [10]]
    with pytest.raises(ValueError, match=r"lengths fits into no batch: it has size 11"):
        await lengths("x" * 11)


@in_virtual_time
async def test_limits_can_be_changed_while_it_is_in_use() -> None:
    doubler = Doubler()
    doubler.double.set_max_batch_size(2)
    doubler.double.set_batch_wait_timeout_s(100.0)
    try:
        calls = [asyncio.ensure_future(doubler.double(n)) for n in range(3)]
        await asyncio.sleep(50.0)
        assert doubler.batches == [[0, 1]]
        doubler.double.set_max_batch_size(1)
        assert await asyncio.gather(*calls) == [0, 2, 4]
        assert doubler.batches == [[0, 1], [2]]
        with pytest.raises(ValueError, match="max_batch_size"):
            doubler.double.set_max_batch_size(0)
    finally:
        doubler.double.set_max_batch_size(3)
        doubler.double.set_batch_wait_timeout_s(1.0)


# Callers who leave


@in_virtual_time
async def test_a_caller_who_leaves_before_its_batch_is_in_none() -> None:
    doubler = Doubler()
    leaver = asyncio.ensure_future(doubler.double(1))
    stayer = asyncio.ensure_future(doubler.double(2))
    await turns(3)
    leaver.cancel()
    assert await stayer == 4
    assert doubler.batches == [[2]]


@in_virtual_time
async def test_a_batch_goes_on_for_those_who_stay_and_ends_when_nobody_does() -> None:
    doubler, ended = Doubler(), []

    @serve.batch(max_batch_size=2)
    async def work(xs: list[int]) -> list[int]:
        try:
            await asyncio.sleep(10.0)
        finally:
            ended.append(asyncio.get_running_loop().time())
        return xs

    for leaving, seconds in ((1, 10.0), (2, 5.0)):
        began = asyncio.get_running_loop().time()
        calls = [asyncio.ensure_future(work(n)) for n in range(2)]
        await asyncio.sleep(5.0)
        for call in calls[:leaving]:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        await turns(3)
        assert ended.pop() - began == pytest.approx(seconds)
        assert [r for r in results if isinstance(r, int)] == [1][: 2 - leaving]
    assert await doubler.double(1) == 2


@in_virtual_time
async def test_a_function_that_cancels_something_of_its_own_cancels_no_caller() -> None:
    @serve.batch
    async def work(xs: list[int]) -> list[int]:
        raise asyncio.CancelledError

    task = asyncio.ensure_future(work(1))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not task.cancelling()


# Streams


@serve.batch(max_batch_size=3)
async def count(limits: list[int]) -> AsyncIterator[list[Any]]:
    for number in range(max(limits)):
        yield [number if number < limit else StopIteration for limit in limits]
        await asyncio.sleep(1.0)


async def collected(stream: AsyncIterator[Any]) -> list[Any]:
    return [part async for part in stream]


@in_virtual_time
async def test_a_generator_streams_to_each_of_its_callers() -> None:
    assert await asyncio.gather(*(collected(count(n)) for n in (1, 3, 2))) == [[0], [0, 1, 2], [0, 1]]


@in_virtual_time
async def test_a_generator_that_fails_ends_the_streams_with_its_error() -> None:
    @serve.batch(max_batch_size=2)
    async def fail(xs: list[int]) -> AsyncIterator[list[Any]]:
        yield xs
        yield [ValueError("mine"), xs[1]]
        raise KeyError("ours")

    async def parts(x: int) -> tuple[list[Any], str]:
        got: list[Any] = []
        try:
            async for part in fail(x):
                got.append(part)  # noqa: PERF401 - what came before the error counts
        except (ValueError, KeyError) as error:
            return got, repr(error)
        return got, ""

    assert list(await asyncio.gather(parts(1), parts(2))) == [([1], "ValueError('mine')"), ([2, 2], "KeyError('ours')")]


@in_virtual_time
async def test_a_stream_waits_for_a_slow_reader_and_not_for_one_who_has_left() -> None:
    made = 0

    @serve.batch(max_batch_size=2)
    async def endless(xs: list[int]) -> AsyncIterator[list[int]]:
        nonlocal made
        while True:
            made += 1
            yield xs

    one, two = endless(1), endless(2)
    first = asyncio.ensure_future(anext(one))
    assert await anext(two) == 2
    assert await first == 1
    await asyncio.sleep(100.0)
    assert made < 30
    await one.aclose()
    for _ in range(100):
        assert await anext(two) == 2
    await two.aclose()
    await turns(5)
    stopped = made
    await asyncio.sleep(1.0)
    assert made == stopped


# With models


@serve.deployment(max_ongoing_requests=64)
class Models:
    """Answers with what it was asked in one batch, and the batch's model."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, int]] = []

    @serve.multiplexed(max_num_models_per_replica=1)
    async def get_model(self, model_id: str) -> str:
        await asyncio.sleep(1.0)
        if model_id == "broken":
            raise ValueError("no such file")
        return model_id

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.05)
    async def predict(self, numbers: list[int]) -> list[str]:
        model = await self.get_model(serve.get_multiplexed_model_id())
        self.batches.append((model, len(numbers)))
        await asyncio.sleep(0.1)
        assert serve.get_multiplexed_model_id() == model
        return [f"{model} {n}" for n in numbers]

    async def __call__(self, number: int) -> str:
        result: str = await self.predict(number)
        return result

    async def sizes(self) -> list[tuple[str, int]]:
        return self.batches


@in_virtual_time
async def test_batches_of_interleaved_models_are_whole_and_of_one_model() -> None:
    async with InlineCluster() as cluster:
        handle = await cluster.run(Models.options(max_ongoing_requests=200).bind())  # type: ignore[attr-defined]
        by_model = [handle.options(multiplexed_model_id=m) for m in "abc"]
        answers = await asyncio.gather(*(by_model[n % 3].remote(n) for n in range(96)))
        assert answers == [f"{'abc'[n % 3]} {n}" for n in range(96)]
        batches = await handle.sizes.remote()
        assert sum(size for _, size in batches) / len(batches) == 8


@in_virtual_time
async def test_a_model_is_kept_until_the_batch_ends_though_the_first_caller_leaves() -> None:
    async with InlineCluster() as cluster:
        handle = await cluster.run(Models.bind())  # type: ignore[attr-defined]
        await handle.options(multiplexed_model_id="a").remote(0)
        first, second = (handle.options(multiplexed_model_id="a").remote(n) for n in (1, 2))
        await asyncio.sleep(0.1)
        other = handle.options(multiplexed_model_id="b").remote(3)
        first.cancel()
        assert await second == "a 2"
        assert await other == "b 3"


@in_virtual_time
async def test_a_model_that_cannot_be_loaded_fails_its_own_batches_alone() -> None:
    async with InlineCluster() as cluster:
        handle = await cluster.run(Models.bind())  # type: ignore[attr-defined]
        calls = [handle.options(multiplexed_model_id=m).remote(n) for n, m in enumerate(["a", "broken"] * 3)]
        answers = await asyncio.gather(*(_settled(call) for call in calls))
        assert answers[::2] == ["a 0", "a 2", "a 4"]
        assert all(isinstance(error, Exception) and "failed to load" in str(error) for error in answers[1::2])


async def _settled(call: Any) -> Any:
    with contextlib.suppress(asyncio.CancelledError):
        try:
            return await call
        except Exception as error:  # noqa: BLE001 - it is what the test looks at
            return error


@serve.deployment
class AsksTwice:
    """Holds a model of its own while its batch asks for one."""

    @serve.multiplexed(max_num_models_per_replica=1)
    async def get_model(self, model_id: str) -> str:
        await asyncio.sleep(1.0)
        return model_id

    @serve.batch(max_batch_size=2, batch_wait_timeout_s=0.5)
    async def predict(self, wanted: list[str]) -> list[str]:
        return [await self.get_model(wanted[0])] * len(wanted)

    async def __call__(self, wanted: str) -> str:
        await self.get_model(serve.get_multiplexed_model_id())
        result: str = await self.predict(wanted)
        return result


@in_virtual_time
async def test_a_batch_gets_a_model_that_its_caller_holds_though_another_waits_for_its_room() -> None:
    async with InlineCluster() as cluster:
        handle = await cluster.run(AsksTwice.bind())  # type: ignore[attr-defined]
        one = handle.options(multiplexed_model_id="a").remote("a")
        await asyncio.sleep(1.1)
        other = handle.options(multiplexed_model_id="b").remote("b")
        assert await one == "a"
        assert await other == "b"


@in_virtual_time
async def test_a_batch_that_wants_room_which_only_its_caller_holds_is_told_so() -> None:
    async with InlineCluster() as cluster:
        handle = await cluster.run(AsksTwice.bind())  # type: ignore[attr-defined]
        with pytest.raises(errors.OvercommittedError):
            await handle.options(multiplexed_model_id="a").remote("b")


def test_a_decorated_class_travels_by_value() -> None:
    class Local:
        array = np.zeros(2)

        @serve.batch(max_batch_size=2)
        async def double(self, xs: list[int]) -> list[int]:
            return [2 * x for x in xs]

    async def use() -> list[int]:
        copy = cloudpickle.loads(cloudpickle.dumps(Local))()
        return list(await asyncio.gather(copy.double(1), copy.double(2)))

    assert asyncio.run(use()) == [2, 4]


@in_virtual_time
async def test_the_method_that_answers_requests_may_be_batched_itself() -> None:
    @serve.deployment(max_ongoing_requests=10)
    class Counter:
        @serve.batch(max_batch_size=3)
        async def __call__(self, numbers: list[int]) -> list[int]:
            return [len(numbers)] * len(numbers)

    async with InlineCluster() as cluster:
        handle = await cluster.run(Counter.bind())  # type: ignore[attr-defined]
        assert list(await asyncio.gather(*(handle.remote(n) for n in range(3)))) == [3, 3, 3]
