"""What a generator yields to a handle: parts, errors, cancellation, and who waits for whom."""

import asyncio
import gc
import pickle
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from virtual_time import in_virtual_time, turns

from modelplex import serve
from modelplex.errors import RequestCancelledError
from modelplex.testing import InlineCluster


@serve.deployment
class Streams:
    """Notes what it makes, and how its streams end."""

    def __init__(self) -> None:
        self.made = 0
        self.ends: list[str] = []

    @serve.multiplexed(max_num_models_per_replica=1)
    async def get_model(self, model_id: str) -> str:
        return model_id

    async def count(self, limit: int, pause_s: float = 0.0, size_bytes: int = 0) -> AsyncIterator[tuple[int, bytes]]:
        try:
            for number in range(limit):
                self.made += 1
                yield number, b"x" * size_bytes
                await asyncio.sleep(pause_s)
            self.ends.append("whole")
        except BaseException as error:
            self.ends.append(type(error).__name__)
            raise

    def plain(self, limit: int) -> Iterator[int]:
        """Runs in threads, for which a virtual clock does not wait."""
        yield from range(limit)

    async def numbers(self, limit: int) -> AsyncIterator[int]:
        for number in range(limit):
            yield number

    async def fails(self, after: int) -> AsyncIterator[int]:
        for number in range(after):
            yield number
        raise KeyError("it broke")

    async def named(self, parts: int) -> AsyncIterator[str]:
        model = await self.get_model(serve.get_multiplexed_model_id())
        for _ in range(parts):
            await asyncio.sleep(1.0)
            yield model

    async def one(self) -> int:
        return 1

    async def seen(self) -> tuple[int, list[str]]:
        return self.made, self.ends


async def collected(stream: Any) -> list[Any]:
    return [part async for part in stream]


@in_virtual_time
async def test_parts_come_one_by_one_as_they_are_made() -> None:
    async with InlineCluster() as cluster:
        handle = (await cluster.run(Streams.bind())).options(stream=True)  # type: ignore[attr-defined]
        began, at = asyncio.get_running_loop().time(), []
        async for number, _ in handle.count.remote(3, pause_s=1.0):
            at.append((number, round(asyncio.get_running_loop().time() - began)))
        assert at == [(0, 0), (1, 1), (2, 2)]
        assert await collected(handle.count.remote(0)) == []


@in_virtual_time
async def test_parts_may_be_larger_than_what_goes_at_once() -> None:
    async with InlineCluster() as cluster:
        handle = (await cluster.run(Streams.bind())).options(stream=True)  # type: ignore[attr-defined]
        parts = await collected(handle.count.remote(5, size_bytes=300_000))
        assert [(number, len(data)) for number, data in parts] == [(n, 300_000) for n in range(5)]


@in_virtual_time
async def test_a_response_may_be_an_argument_of_a_stream() -> None:
    async with InlineCluster() as cluster:
        handle = await cluster.run(Streams.bind())  # type: ignore[attr-defined]
        assert await collected(handle.numbers.options(stream=True).remote(handle.one.remote())) == [0]


@pytest.mark.parametrize("after", [0, 2])
@in_virtual_time
async def test_an_error_comes_after_the_parts_before_it_with_its_own_type(after: int) -> None:
    async with InlineCluster() as cluster:
        handle = (await cluster.run(Streams.bind())).options(stream=True)  # type: ignore[attr-defined]
        stream = handle.fails.remote(after)
        assert [await anext(stream) for _ in range(after)] == list(range(after))
        with pytest.raises(KeyError, match="it broke"):
            await anext(stream)
        assert await collected(stream) == []


@in_virtual_time
async def test_what_is_no_generator_is_not_streamed_nor_the_other_way_round() -> None:
    async with InlineCluster() as cluster:
        handle = await cluster.run(Streams.bind())  # type: ignore[attr-defined]
        with pytest.raises(TypeError, match="one is no generator: call it without stream=True"):
            await collected(handle.options(stream=True).one.remote())
        with pytest.raises(TypeError, match=r"count is a generator: call it by handle.options\(stream=True\)"):
            await handle.count.remote(1)
        stream = handle.options(stream=True).count.remote(1)
        with pytest.raises(TypeError, match="iterate over it"):
            await stream
        with pytest.raises(TypeError, match="iterate over it"):
            stream.result()
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(stream)
        with pytest.raises(RuntimeError, match="async for"):
            next(stream)


@in_virtual_time
async def test_a_handle_that_streams_does_so_after_it_was_pickled() -> None:
    async with InlineCluster() as cluster:
        handle = await cluster.run(Streams.bind())  # type: ignore[attr-defined]
        copy = pickle.loads(pickle.dumps(handle.options(stream=True)))
        assert await collected(copy.numbers.remote(2)) == [0, 1]
        assert await copy.options(stream=False).one.remote() == 1


# Who waits, and who leaves


@in_virtual_time
async def test_a_stream_that_nobody_reads_waits() -> None:
    async with InlineCluster() as cluster:
        handle = await cluster.run(Streams.bind())  # type: ignore[attr-defined]
        stream = handle.options(stream=True).count.remote(1_000, size_bytes=10_000)
        await asyncio.sleep(10.0)
        made, _ = await handle.seen.remote()
        assert made < 100
        assert len(await collected(stream)) == 1_000


@pytest.mark.parametrize("how", ["cancel", "break", "the reader is cancelled", "dropped"])
@in_virtual_time
async def test_a_stream_that_is_given_up_ends_where_it_runs(how: str) -> None:
    async with InlineCluster() as cluster:
        handle = await cluster.run(Streams.bind())  # type: ignore[attr-defined]
        stream = handle.options(stream=True).count.remote(100, pause_s=1.0)
        if how == "the reader is cancelled":
            reader = asyncio.ensure_future(collected(stream))
            await asyncio.sleep(1.5)
            reader.cancel()
            await asyncio.wait([reader])
        elif how == "dropped":
            await asyncio.sleep(1.5)
        else:
            assert (await anext(stream))[0] == 0
        if how == "cancel":
            waiting = asyncio.ensure_future(anext(stream))
            await turns(3)
            stream.cancel()
            for ended in (waiting, stream):
                with pytest.raises(RequestCancelledError, match=stream.request_id):
                    await (ended if ended is waiting else anext(stream))
        gc.disable()  # nothing of it may need the garbage collector
        try:
            del stream
            await asyncio.sleep(1.0)
            assert (await handle.seen.remote())[1] == ["CancelledError"]
        finally:
            gc.enable()


@in_virtual_time
async def test_a_model_is_kept_for_as_long_as_it_streams() -> None:
    async with InlineCluster() as cluster:
        handle = await cluster.run(Streams.bind())  # type: ignore[attr-defined]
        began = asyncio.get_running_loop().time()
        streams = [handle.options(stream=True, multiplexed_model_id=m).named.remote(3) for m in "ab"]
        assert await asyncio.gather(*map(collected, streams)) == [["a"] * 3, ["b"] * 3]
        assert asyncio.get_running_loop().time() - began >= 6.0  # one after the other: there is one place


# From threads


def test_a_program_iterates_without_an_event_loop() -> None:
    handle = serve.run(Streams.bind(), _local_testing_mode=True)  # type: ignore[attr-defined]
    try:
        stream = handle.options(stream=True)
        assert list(stream.plain.remote(3)) == [0, 1, 2]
        with pytest.raises(KeyError, match="it broke"):
            list(stream.fails.remote(1))
        assert asyncio.run(collected(stream.plain.remote(2))) == [0, 1]  # another loop than the one that carries calls
        for _ in range(20):
            hasty = stream.count.remote(10**6, pause_s=0.01)
            hasty.cancel()  # perhaps before it has begun
            with pytest.raises(RequestCancelledError):
                next(hasty)
        time.sleep(0.2)  # for cancellations to arrive
        made, _ = stream.options(stream=False).seen.remote().result()
        time.sleep(0.2)
        assert stream.options(stream=False).seen.remote().result()[0] == made  # none of them goes on
        endless = stream.count.remote(10**6)
        assert next(endless)[0] == 0
        endless.cancel()
        with pytest.raises(RequestCancelledError):
            list(endless)
    finally:
        serve.shutdown()
