"""Deployments that call others: what calls inherit and what they do not; cancellation all the way down."""

import asyncio
from typing import Any

import pytest
from inline_app import app_of, serving
from virtual_time import in_virtual_time

from modelplex import context, errors, serve
from modelplex.serve import DeploymentHandle


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
