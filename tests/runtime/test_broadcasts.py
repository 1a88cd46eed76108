"""Calls of a method on every replica at once."""

import asyncio
from typing import Any

import pytest
from inline_app import app_of, replicas_of, serving
from router_alone import soon
from scripted_replica import Network, ScriptedReplica
from virtual_time import in_virtual_time

from modelplex import errors, serve
from modelplex.context import Call
from modelplex.runtime.directory import Directory
from modelplex.serve import DeploymentHandle
from modelplex.wire.messages import AppInfo, Begin, Cancel, DeploymentInfo, Table

made = iter(range(10**6))


class Cache:
    """Replicas of which each has a number."""

    def __init__(self) -> None:
        self.number = next(made)
        self.cleared = 0

    async def clear(self, more: int = 0) -> int:
        self.cleared += 1 + more
        return self.number

    def plain(self) -> int:
        return self.number

    async def sleep(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return self.number

    async def fail_on(self, number: int) -> int:
        if self.number == number:
            raise LookupError(f"on {number}")
        await asyncio.sleep(1)
        self.cleared += 100
        return self.number

    async def seen(self) -> tuple[int, int]:
        return self.number, self.cleared

    async def length(self, numbers: list[int]) -> int:
        return len(numbers)


class Above:
    def __init__(self, below: DeploymentHandle) -> None:
        self.below = below

    async def sleep(self, seconds: float) -> Any:
        return await self.below.broadcast("sleep", seconds)


def numbers_of(cluster: Any) -> set[int]:
    return {replica.servable.instance.number for replica in replicas_of(cluster)}


@in_virtual_time
async def test_each_replica_is_called_once_and_answers() -> None:
    async with serving(app_of(Cache, num_replicas=3)) as (cluster, handle):
        results = await handle.broadcast("clear", more=1)
        assert (len(results), set(results)) == (3, numbers_of(cluster))
        assert [replica.servable.instance.cleared for replica in replicas_of(cluster)] == [2, 2, 2]
        assert await handle.length.remote(handle.broadcast("clear")) == 3  # its response is a response


@in_virtual_time
async def test_busy_replicas_are_called_too_and_their_slots_stay_theirs() -> None:
    async with serving(app_of(Cache, num_replicas=2, max_ongoing_requests=1)) as (cluster, handle):
        loop = asyncio.get_running_loop()
        began = loop.time()
        running = [handle.sleep.remote(10) for _ in range(3)]  # one of them waits
        await soon()
        assert set(await handle.broadcast("clear")) == numbers_of(cluster)
        assert loop.time() - began < 1
        long = handle.broadcast("sleep", 100)
        await asyncio.gather(*running)
        assert loop.time() - began == pytest.approx(20)
        await asyncio.gather(*(handle.sleep.remote(1) for _ in range(2)))
        assert loop.time() - began == pytest.approx(21)
        await long


@in_virtual_time
async def test_an_exception_of_one_is_raised_as_it_was_when_all_have_answered() -> None:
    async with serving(app_of(Cache, num_replicas=3)) as (cluster, handle):
        with pytest.raises(LookupError, match="on") as caught:
            await handle.broadcast("fail_on", min(numbers_of(cluster)))
        assert "RemoteTraceback" in type(caught.value.__cause__).__name__
        assert sorted(replica.servable.instance.cleared for replica in replicas_of(cluster)) == [0, 100, 100]
        with pytest.raises(AttributeError, match="no method 'nothing'"):
            await handle.broadcast("nothing")


@in_virtual_time
async def test_a_replica_that_dies_meanwhile_is_left_out() -> None:
    async with serving(app_of(Cache, num_replicas=2)) as (cluster, handle):
        response = handle.broadcast("sleep", 5)
        await asyncio.sleep(1)
        victim, other = replicas_of(cluster)
        process = cluster.engine._processes[victim.context.replica_id]
        number = other.servable.instance.number
        process.kill()
        assert await response == [number]
        await asyncio.sleep(10)
        for task in victim._tasks.values():  # of a process that is gone nothing would run on
            task.cancel()


@in_virtual_time
async def test_a_broadcast_can_be_cancelled_and_has_a_time() -> None:
    async with serving(app_of(Above, app_of(Cache, num_replicas=2))) as (cluster, handle):
        below = DeploymentHandle("default", "Cache")
        for begin in (lambda: below.broadcast("sleep", 100), lambda: handle.sleep.remote(100)):
            response = begin()
            await asyncio.sleep(1)
            response.cancel()
            with pytest.raises(errors.RequestCancelledError):
                await response
            await soon()
            assert not any(replica._tasks for replica in replicas_of(cluster))
        hasty, hasty_below = handle.options(timeout_s=2), below.options(timeout_s=2)
        for begin in (lambda: hasty_below.broadcast("sleep", 100), lambda: hasty.sleep.remote(100)):
            with pytest.raises(errors.RequestTimeoutError):
                await begin()
            await soon()
            assert not any(replica._tasks for replica in replicas_of(cluster))


@in_virtual_time
async def test_a_generator_cannot_be_broadcast() -> None:
    async with serving(app_of(Cache)) as (_, handle):
        with pytest.raises(TypeError, match="cannot be broadcast"):
            handle.options(stream=True).broadcast("clear")


@in_virtual_time
async def test_a_replica_that_stops_is_left_out_and_large_arguments_arrive_in_parts() -> None:
    stopping, running = ScriptedReplica("stopping"), ScriptedReplica("running")
    network = Network(stopping, running)
    directory = Directory(network.connect)
    directory.update(Table([AppInfo("app", "/", "D")], [DeploymentInfo("app", "D", -1, network.infos())]))
    call = Call("app", "D", "clear", "", None, "r", "/", (b"x" * 200_000,), {})
    calling = asyncio.create_task(directory.broadcast(call))
    await soon()
    for replica in (stopping, running):
        [begin] = replica.all_of(Begin)
        assert (begin.slotless, begin.more, begin.method_name) == (True, True, "clear")
    assert len(running.body(running.streams[0])) > 200_000
    stopping.refuse(stopping.streams[0], 0)
    running.answer(running.streams[0], b"\x80\x05K\x07.")
    assert await calling == [7]
    assert running.all_of(Cancel) == stopping.all_of(Cancel) == []
    await directory.close()


@in_virtual_time
async def test_where_no_replica_runs_there_are_no_results() -> None:
    directory = Directory(Network().connect)
    directory.update(Table([], [DeploymentInfo("app", "D", -1, [])]))
    assert await directory.broadcast(Call("app", "D", "clear", "", None, "r", "/", (), {})) == []
    with pytest.raises(errors.DeploymentUnavailableError):
        await directory.broadcast(Call("app", "E", "clear", "", None, "r", "/", (), {}))
    await directory.close()


@in_virtual_time
async def test_a_broadcast_to_a_deployment_that_is_removed_meanwhile_is_told_so() -> None:
    slow = ScriptedReplica(welcomes=False)
    network = Network(slow)
    directory = Directory(network.connect)
    directory.update(Table([], [DeploymentInfo("app", "D", -1, network.infos())]))
    calling = asyncio.create_task(directory.broadcast(Call("app", "D", "clear", "", None, "r", "/", (), {})))
    await soon()
    directory.update(Table([], []))
    with pytest.raises(errors.DeploymentUnavailableError, match="no longer served"):
        await calling
    await directory.close()


def test_plain_functions_are_broadcast_though_all_threads_are_taken() -> None:
    import threading

    release = threading.Event()

    @serve.deployment(max_ongoing_requests=1)
    class Threads:
        def wait(self) -> bool:
            return release.wait(10)

        def clear(self) -> str:
            return "cleared"

    handle = serve.run(Threads.bind(), _local_testing_mode=True)  # type: ignore[attr-defined]
    try:
        waiting = handle.wait.remote()
        assert handle.broadcast("clear").result(timeout_s=5) == ["cleared"]
        release.set()
        assert waiting.result(timeout_s=5)
    finally:
        release.set()
        serve.shutdown()
