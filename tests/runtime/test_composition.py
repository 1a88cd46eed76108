"""Deployments that call others: what calls inherit and what they do not; arguments; cancellation all the way down."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from inline_app import app_of, replicas_of, serving
from proxy_client import client_of
from starlette.requests import Request
from virtual_time import in_virtual_time

from modelplex import context, errors, serve
from modelplex.serve import DeploymentHandle
from modelplex.testing import InlineCluster


class Failing:
    async def odd(self) -> None:
        raise LookupError("too odd")


class Below:
    async def __call__(self) -> tuple[str, str, str]:
        request = context.request()
        assert request is not None
        return request.model_id, request.request_id, request.route


class Above:
    """Has its handles wherever they were bound."""

    def __init__(self, one: DeploymentHandle, others: dict[str, list[DeploymentHandle]] | None = None) -> None:
        self.one = one
        self.others = others or {}

    async def model_ids(self, model_id: str) -> tuple[str, str, str]:
        """Its own before and after, and that of the call in between."""
        before = serve.get_multiplexed_model_id()
        below = await self.one.options(multiplexed_model_id=model_id).remote()
        return before, below[0], serve.get_multiplexed_model_id()

    async def plain(self) -> Any:
        return await self.one.remote()

    async def request_ids(self) -> list[str]:
        request = context.request()
        assert request is not None
        below = await asyncio.gather(*(self.one.remote() for _ in range(3)))
        return [request.request_id, *(request_id for _, request_id, _ in below)]

    async def nested(self) -> list[str]:
        handles = [handle for group in self.others.values() for handle in group]
        return [await handle.who.remote() for handle in handles]

    async def failing(self) -> None:
        await self.one.odd.remote()


class Named:
    def __init__(self, name: str) -> None:
        self.name = name

    async def who(self) -> str:
        return self.name


@in_virtual_time
async def test_a_call_names_its_own_model_and_leaves_its_callers_alone() -> None:
    async with serving(app_of(Above, app_of(Below))) as (_, handle):
        above = handle.options(multiplexed_model_id="foo")
        assert await above.model_ids.remote("bar") == ("foo", "bar", "foo")


@in_virtual_time
async def test_calls_do_not_inherit_their_callers_model() -> None:
    async with serving(app_of(Above, app_of(Below))) as (_, handle):
        model_id, _, _ = await handle.options(multiplexed_model_id="foo").plain.remote()
        assert model_id == ""


@in_virtual_time
async def test_calls_inherit_their_callers_request_id() -> None:
    async with serving(app_of(Above, app_of(Below))) as (_, handle):
        response = handle.request_ids.remote()
        assert await response == [response.request_id] * 4


@in_virtual_time
async def test_requests_at_the_same_time_keep_their_models_apart() -> None:
    application = app_of(Above, app_of(Below, max_ongoing_requests=3), max_ongoing_requests=20)
    async with serving(application) as (_, handle):
        names = [f"m{n}" for n in range(20)]
        calls = (handle.options(multiplexed_model_id=n).model_ids.remote(f"{n}-below") for n in names)
        assert await asyncio.gather(*calls) == [(n, f"{n}-below", n) for n in names]


@in_virtual_time
async def test_handles_arrive_inside_of_lists_and_dicts() -> None:
    one, two, three = (app_of(Named, name, name=name) for name in ("one", "two", "three"))
    async with serving(app_of(Above, one, {"a": [one, two], "b": [three]})) as (_, handle):
        assert await handle.nested.remote() == ["one", "two", "three"]


@in_virtual_time
async def test_an_exception_travels_through_every_caller() -> None:
    async with serving(app_of(Above, app_of(Failing))) as (_, handle):
        with pytest.raises(LookupError, match="too odd"):
            await handle.failing.remote()


# Cancellation


class Cancellable:
    """Notes the calls that were cancelled."""

    def __init__(self) -> None:
        self.cancelled = 0

    async def wait(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def count(self) -> int:
        return self.cancelled


class Waits:
    def __init__(self, below: DeploymentHandle) -> None:
        self.below = below

    async def wait(self) -> None:
        await self.below.wait.remote()

    async def count(self) -> Any:
        return await self.below.count.remote()


@in_virtual_time
async def test_who_stops_waiting_for_a_call_cancels_the_users_code() -> None:
    async with serving(app_of(Cancellable)) as (_, handle):
        waiting = asyncio.create_task(wait_for(handle))
        await asyncio.sleep(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await handle.count.remote() == 1


async def wait_for(handle: DeploymentHandle) -> None:
    await handle.wait.remote()


@in_virtual_time
async def test_a_timeout_round_a_call_cancels_the_users_code() -> None:
    async with serving(app_of(Cancellable)) as (_, handle):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wait_for(handle), 1)
        assert await handle.count.remote() == 1


@pytest.mark.parametrize("after_s", [0, 1])
@in_virtual_time
async def test_a_response_that_is_cancelled_says_so_to_whoever_waits_for_it(after_s: float) -> None:
    async with serving(app_of(Cancellable)) as (_, handle):
        response = handle.wait.remote()
        waiting = [asyncio.ensure_future(response), asyncio.ensure_future(response)]
        if after_s:
            await asyncio.sleep(after_s)
        response.cancel()
        for each in waiting:
            with pytest.raises(errors.RequestCancelledError, match=response.request_id):
                await each
        assert await handle.count.remote() == (1 if after_s else 0)


@in_virtual_time
async def test_a_cancellation_reaches_the_deployments_below() -> None:
    async with serving(app_of(Waits, app_of(Cancellable))) as (_, handle):
        response = handle.wait.remote()
        await asyncio.sleep(1)
        response.cancel()
        with pytest.raises(errors.RequestCancelledError):
            await response
        await asyncio.sleep(1)
        assert await handle.count.remote() == 1


# Responses as arguments, streams, full queues


class Arithmetic:
    def __init__(self, adder: DeploymentHandle, doubler: DeploymentHandle) -> None:
        self.adder = adder
        self.doubler = doubler

    async def __call__(self, x: int) -> Any:
        added = self.adder.remote(x, y=1)
        doubled = self.doubler.remote(added)  # nobody has waited for anything yet
        return await self.adder.remote(doubled, y=added)

    async def nested(self, x: int) -> Any:
        return await self.adder.remote([self.doubler.remote(x)], y=1)

    async def stream(self, x: int) -> Any:
        return await self.adder.remote(self.doubler.options(stream=True).parts.remote(x), y=1)

    async def fails(self, x: int) -> Any:
        return await self.adder.remote(self.doubler.fails.remote(x), y=1)

    async def blocks(self, x: int) -> Any:
        return self.adder.remote(x, y=1).result()


class Adder:
    async def __call__(self, x: int, y: int) -> int:
        await asyncio.sleep(1)
        return x + y


class Doubler:
    def __init__(self) -> None:
        self.closed = 0

    async def __call__(self, x: int) -> int:
        await asyncio.sleep(1)
        return 2 * x

    async def parts(self, x: int) -> AsyncIterator[int]:
        try:
            for n in range(x):
                yield n
                await asyncio.sleep(1)
        finally:
            self.closed += 1

    async def fails(self, x: int) -> None:
        raise LookupError(f"no {x}")

    async def how_many_closed(self) -> int:
        return self.closed


class Relay:
    """Passes on what the generator below yields."""

    def __init__(self, below: DeploymentHandle) -> None:
        self.below = below

    async def parts(self, x: int) -> AsyncIterator[int]:
        async for part in self.below.options(stream=True).parts.remote(x):
            yield part * 10

    async def how_many_closed(self) -> Any:
        return await self.below.how_many_closed.remote()


@in_virtual_time
async def test_responses_are_arguments_of_further_calls_without_being_waited_for() -> None:
    async with serving(app_of(Arithmetic, app_of(Adder), app_of(Doubler))) as (_, handle):
        assert await handle.remote(handle.remote(1)) == 21  # 2 * (1 + 1) + (1 + 1) = 6, and so on


@pytest.mark.parametrize("method", ["nested", "stream"])
@in_virtual_time
async def test_a_response_inside_of_a_list_and_a_stream_are_no_arguments_and_that_is_told(method: str) -> None:
    async with serving(app_of(Arithmetic, app_of(Adder), app_of(Doubler))) as (_, handle):
        with pytest.raises(TypeError, match="cannot be pickled"):
            await handle.options(method_name=method).remote(1)


@in_virtual_time
async def test_an_argument_that_fails_fails_the_call_with_its_own_exception() -> None:
    async with serving(app_of(Arithmetic, app_of(Adder), app_of(Doubler))) as (_, handle):
        with pytest.raises(LookupError, match="no 3"):
            await handle.fails.remote(3)


@in_virtual_time
async def test_a_replica_cannot_block_its_event_loop_with_a_result() -> None:
    async with serving(app_of(Arithmetic, app_of(Adder), app_of(Doubler))) as (_, handle):
        with pytest.raises(RuntimeError, match="await the response instead"):
            await handle.blocks.remote(1)


@in_virtual_time
async def test_a_stream_goes_through_several_deployments_and_ends_with_its_reader() -> None:
    async with serving(app_of(Relay, app_of(Doubler))) as (_, handle):
        stream = handle.options(stream=True)
        assert [part async for part in stream.parts.remote(3)] == [0, 10, 20]
        assert await handle.how_many_closed.remote() == 1
        endless = stream.parts.remote(10**6)
        assert [await anext(endless) for _ in range(3)] == [0, 10, 20]
        endless.cancel()
        await asyncio.sleep(1)
        assert await handle.how_many_closed.remote() == 2


class Hurried:
    def __init__(self, below: DeploymentHandle) -> None:
        self.below = below

    async def __call__(self, _: Request) -> Any:
        return await asyncio.gather(*(self.below.remote(n, y=0) for n in range(2)))


@pytest.mark.parametrize(("status", "error"), [(503, errors.BackPressureError), (429, errors.TooManyRequestsError)])
@in_virtual_time
async def test_a_full_queue_is_told_to_handles_and_by_them_to_clients(
    status: int, error: type[errors.ModelplexError]
) -> None:
    options: dict[str, Any] = {"max_ongoing_requests": 1, "max_queued_requests": 0}
    options["backpressure_config"] = {"status_code": status, "retry_after_s": 6.5}
    async with serving(app_of(Hurried, app_of(Adder, **options))) as (cluster, _):
        adder = DeploymentHandle("default", "Adder")
        running, refused = adder.remote(1, y=2), adder.remote(1, y=2)
        with pytest.raises(errors.BackPressureError) as caught:
            await refused
        assert (type(caught.value), caught.value.status, caught.value.retry_after_s) == (error, status, 6.5)
        assert await running == 3
        async with client_of(cluster.directory) as client:
            answer = await client.get("/")
            assert (answer.status_code, answer.headers["retry-after"]) == (status, "7")


@pytest.mark.parametrize(("retried", "status"), [(True, 200), (False, 502)])
@in_virtual_time
async def test_a_request_whose_replica_dies_is_sent_again_or_not_as_the_deployment_says(
    retried: bool, status: int
) -> None:
    async def slow() -> str:
        await asyncio.sleep(10)
        return "done"

    async with InlineCluster() as cluster:
        await cluster.run(app_of(slow, num_replicas=2, retry_lost_requests=retried))
        async with client_of(cluster.directory) as client:
            asking = asyncio.create_task(client.get("/"))
            await asyncio.sleep(1)
            busy = next(r for r in replicas_of(cluster) if r.ongoing)
            cluster.engine._processes[busy.context.replica_id].kill()
            assert (await asking).status_code == status
            for task in busy._tasks.values():  # of a process that is gone nothing would run on
                task.cancel()
