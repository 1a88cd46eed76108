"""Calls of deployments by handles: what they return and raise, and the table of what can be called."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from held_call import THREAD_S
from inline_app import app_of, replicas_of, serving
from scripted_replica import Network, ScriptedReplica
from virtual_time import in_virtual_time, turns

from modelplex import errors
from modelplex.context import Call
from modelplex.runtime.directory import Directory
from modelplex.runtime.payload import RemoteTraceback
from modelplex.wire.messages import AppInfo, DeploymentInfo, Table


class Calculator:
    async def add(self, x: int, y: int = 1) -> int:
        return x + y

    async def __call__(self, x: int) -> int:
        return 2 * x

    async def sleep(self, seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds


class Odd(Exception):  # noqa: N818 - users name theirs as they like
    """An exception with more than a message."""

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message)
        self.size = size

    def __reduce__(self) -> Any:
        return _odd, (str(self), self.size)


def _odd(message: str, size: int) -> Odd:
    return Odd(message, size=size)


class Stuck(Exception):  # noqa: N818 - see above
    """An exception that cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("cannot travel")


class Failing:
    async def odd(self) -> None:
        raise Odd("too odd", size=3)

    async def stuck(self) -> None:
        raise Stuck("too heavy")

    async def ours(self) -> None:
        raise errors.ModelUnavailableError("later", retry_after_s=3.0)

    async def cancelled(self) -> None:
        raise asyncio.CancelledError


# What a call returns and raises


@in_virtual_time
async def test_a_call_returns_what_the_method_returns() -> None:
    async with serving(app_of(Calculator)) as (_, handle):
        assert await handle.remote(4) == 8
        assert await handle.add.remote(1) == 2
        assert await handle.add.remote(1, y=5) == 6
        assert await handle.options(method_name="add").remote(1) == 2


@in_virtual_time
async def test_calls_run_side_by_side() -> None:
    loop = asyncio.get_running_loop()
    async with serving(app_of(Calculator)) as (_, handle):
        began = loop.time()
        assert await asyncio.gather(*(handle.sleep.remote(10 - n) for n in range(4))) == [10, 9, 8, 7]
        assert loop.time() - began == pytest.approx(10)


@in_virtual_time
async def test_no_more_calls_run_than_max_ongoing_and_the_others_wait() -> None:
    loop = asyncio.get_running_loop()
    async with serving(app_of(Calculator, max_ongoing_requests=2)) as (_, handle):
        began = loop.time()
        await asyncio.gather(*(handle.sleep.remote(10) for _ in range(5)))
        assert loop.time() - began == pytest.approx(30)


@in_virtual_time
async def test_an_exception_has_its_type_its_attributes_and_the_remote_traceback_as_its_cause() -> None:
    async with serving(app_of(Failing)) as (_, handle):
        with pytest.raises(Odd, match="too odd") as caught:
            await handle.odd.remote()
        assert caught.value.size == 3
        cause = caught.value.__cause__
        assert isinstance(cause, RemoteTraceback)
        assert 'raise Odd("too odd", size=3)' in str(cause)


@in_virtual_time
async def test_an_exception_that_cannot_be_pickled_is_told_in_words() -> None:
    async with serving(app_of(Failing)) as (_, handle):
        with pytest.raises(errors.UserCodeError, match=r"Stuck\('too heavy'\)"):
            await handle.stuck.remote()


@in_virtual_time
async def test_an_error_of_ours_is_raised_as_it_was() -> None:
    async with serving(app_of(Failing)) as (_, handle):
        with pytest.raises(errors.ModelUnavailableError, match="later") as caught:
            await handle.ours.remote()
        assert caught.value.retry_after_s == 3.0


@in_virtual_time
async def test_code_that_cancels_itself_does_not_look_like_a_call_that_was_cancelled() -> None:
    async with serving(app_of(Failing)) as (_, handle):
        with pytest.raises(errors.UserCodeError, match="CancelledError"):
            await handle.cancelled.remote()


@in_virtual_time
async def test_arguments_that_cannot_be_pickled_are_the_callers_mistake() -> None:
    async with serving(app_of(Calculator)) as (cluster, handle):
        with pytest.raises(TypeError, match="cannot travel"):
            await handle.remote(Stuck())
        assert replicas_of(cluster)[0].ongoing == 0
        assert await handle.remote(1) == 2


@in_virtual_time
async def test_a_missing_method_is_an_attribute_error_that_names_the_others() -> None:
    async with serving(app_of(Calculator)) as (_, handle):
        with pytest.raises(AttributeError, match="no method 'multiply'; it has add, sleep"):
            await handle.multiply.remote()


@in_virtual_time
async def test_cancelling_what_has_ended_does_nothing() -> None:
    async with serving(app_of(Calculator)) as (_, handle):
        response = handle.remote(1)
        assert await response == 2
        response.cancel()
        await turns(5)
        assert await response == 2


async def test_a_response_may_be_asked_for_by_a_thread() -> None:
    async with serving(app_of(Calculator)) as (_, handle):

        def blocking() -> Any:
            return handle.remote(2).result(THREAD_S)

        assert await asyncio.to_thread(blocking) == 4


# The table


def table(*names: str, replicas: Network | None = None, queued_max: int = -1) -> Table:
    infos = replicas.infos() if replicas is not None else []
    apps = [AppInfo("app", "/", names[0])] if names else []
    return Table(apps, [DeploymentInfo("app", name, queued_max, infos) for name in names])


def call_of(deployment: str) -> Call:
    return Call("app", deployment, "__call__", "", None, "r", "/", (), {})


@contextlib.asynccontextmanager
async def directory_of(network: Network) -> AsyncIterator[Directory]:
    before = asyncio.all_tasks()
    directory = Directory(network.connect)
    yield directory
    await directory.close()
    assert asyncio.all_tasks() <= before


@in_virtual_time
async def test_the_table_says_what_there_is() -> None:
    async with directory_of(Network()) as directory:
        assert (directory.ingress("app"), directory.has_deployment("app", "D")) == (None, False)
        directory.update(table("D", "E"))
        assert (directory.ingress("app"), directory.has_deployment("app", "E")) == ("D", True)
        assert not directory.has_deployment("other", "E")
        directory.update(table())
        assert (directory.ingress("app"), directory.has_deployment("app", "E")) == (None, False)


@in_virtual_time
async def test_a_deployment_that_there_is_not_cannot_be_called() -> None:
    async with directory_of(Network()) as directory:
        with pytest.raises(errors.DeploymentUnavailableError, match="no deployment D in application app"):
            await directory.call(call_of("D"))


@in_virtual_time
async def test_a_deployment_that_has_been_removed_cannot_be_called() -> None:
    network = Network(ScriptedReplica())
    async with directory_of(network) as directory:
        directory.update(table("D", replicas=network))
        directory.router("app", "D")
        directory.update(table())
        with pytest.raises(errors.DeploymentUnavailableError):
            await directory.call(call_of("D"))


@pytest.mark.parametrize("waited_s", [0.0, 0.1])
@in_virtual_time
async def test_a_call_that_waits_when_its_deployment_is_removed_is_told_so(waited_s: float) -> None:
    """At once, and also if it waits for the first word of the replicas."""
    network = Network(ScriptedReplica(slots=1, ongoing=1))
    async with directory_of(network) as directory:
        directory.update(table("D", replicas=network))
        calling = asyncio.create_task(directory.call(call_of("D")))
        await asyncio.sleep(waited_s)
        directory.update(table())
        with pytest.raises(errors.DeploymentUnavailableError, match="app_D is no longer served"):
            await asyncio.wait_for(calling, 1)


@in_virtual_time
async def test_a_call_that_runs_when_its_deployment_is_removed_may_end() -> None:
    async with serving(app_of(Calculator)) as (cluster, handle):
        response = handle.sleep.remote(10)
        await asyncio.sleep(1)
        await cluster.controller.delete("default")
        assert await response == 10
        await turns(10)
        assert not cluster.directory._draining


@in_virtual_time
async def test_a_replica_that_the_table_adds_is_called() -> None:
    first, second = ScriptedReplica("first", refuses_links=True), ScriptedReplica("second")
    async with directory_of(Network(first, second)) as directory:
        directory.update(table("D", replicas=Network(first)))
        calling = asyncio.create_task(directory.call(call_of("D")))
        await asyncio.sleep(1)
        directory.update(table("D", replicas=Network(first, second)))
        await asyncio.sleep(1)
        assert len(second.streams) == 1
        second.fail(second.streams[0], text="as told")
        with pytest.raises(errors.UserCodeError, match="as told"):
            await calling


@in_virtual_time
async def test_an_exception_that_cannot_be_unpickled_here_is_told_in_words() -> None:
    """Its class may be in a module that only the replica has."""
    replica = ScriptedReplica()
    network = Network(replica)
    async with directory_of(network) as directory:
        directory.update(table("D", replicas=network))
        calling = asyncio.create_task(directory.call(call_of("D")))
        await asyncio.sleep(0.1)
        replica.fail(replica.streams[0], text="NoSuchError()", body=b"cno_such_module\nNoSuchError\n.")
        with pytest.raises(errors.UserCodeError, match="NoSuchError"):
            await calling


@in_virtual_time
async def test_options_in_a_new_table_are_those_of_the_router_that_there_is() -> None:
    replica = ScriptedReplica(slots=1)
    network = Network(replica)
    async with directory_of(network) as directory:
        directory.update(table("D", replicas=network))
        running, waiting = (asyncio.create_task(directory.call(call_of("D"))) for _ in range(2))
        await asyncio.sleep(0.1)
        directory.update(table("D", replicas=network, queued_max=0))
        with pytest.raises(errors.BackPressureError):
            await directory.call(call_of("D"))
        replica.answer(replica.streams[0], b"\x80\x05K\x01.")
        assert await running == 1
        await asyncio.sleep(0.1)
        assert len(replica.streams) == 2
        waiting.cancel()


@in_virtual_time
async def test_a_full_queue_is_told_to_the_caller() -> None:
    replica = ScriptedReplica(slots=1)
    network = Network(replica)
    async with directory_of(network) as directory:
        directory.update(table("D", replicas=network, queued_max=0))
        running = asyncio.create_task(directory.call(call_of("D")))
        await asyncio.sleep(0.1)
        with pytest.raises(errors.BackPressureError):
            await directory.call(call_of("D"))
        running.cancel()
