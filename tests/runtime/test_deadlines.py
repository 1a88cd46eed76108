"""The time that a request has: who says it, how it travels from call to call, and what is left when it is over."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from inline_app import app_of, replicas_of, serving
from proxy_client import Wire, client_of
from router_alone import soon
from starlette.requests import Request
from virtual_time import in_virtual_time

from modelplex import context, errors, serve
from modelplex.config import HTTPOptions
from modelplex.handle import SLACK_S
from modelplex.serve import DeploymentHandle

TIMEOUT = "x-request-timeout-seconds"


def rest_s() -> float | None:
    """What the current request has left of its time."""
    request = context.request()
    assert request is not None
    return None if request.deadline is None else request.deadline - asyncio.get_running_loop().time()


class Below:
    """Notes how its calls end."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    @serve.multiplexed
    async def get_model(self, model_id: str) -> str:
        return model_id

    async def rest(self) -> tuple[float | None, str]:
        request = context.request()
        assert request is not None
        return rest_s(), request.request_id

    async def sleep(self, seconds: float) -> float:
        await self.get_model("a")
        try:
            await asyncio.sleep(seconds)
            self.ends.append("slept")
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            raise
        return seconds

    async def count(self, pause_s: float) -> AsyncIterator[int]:
        try:
            for number in range(100):
                yield number
                await asyncio.sleep(pause_s)
        finally:
            self.ends.append("stream closed")

    async def seen(self) -> list[str]:
        return self.ends


class Above:
    def __init__(self, below: DeploymentHandle) -> None:
        self.below = below
        self.later: asyncio.Task[Any] | None = None

    async def __call__(self, request: Request) -> Any:
        match request.url.path:
            case "/sleep":
                return await self.below.sleep.remote(float(request.query_params["s"]))
            case "/stream":
                return self.passed_on()
            case "/body":
                return len(await request.body())
            case "/seen":
                return await self.below.seen.remote()
        await asyncio.sleep(1)
        return [rest_s(), *await self.below.rest.remote()]

    async def passed_on(self) -> AsyncIterator[str]:
        async for number in self.below.options(stream=True).count.remote(1):
            yield str(number)

    async def rests(self) -> list[float | None]:
        below = [self.below.options(timeout_s=s).rest.remote() for s in (2, 100)]
        return [rest_s(), *[(await response)[0] for response in below]]

    async def one_after_another(self) -> str:
        await asyncio.sleep(2)
        try:
            await self.below.options(timeout_s=0.5).sleep.remote(1)
        except errors.RequestTimeoutError as error:
            return str(error)
        return "in time"

    async def call_past_the_deadline(self) -> Any:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return await self.below.sleep.remote(0)

    async def go_on_afterwards(self) -> None:
        async def call() -> Any:
            await asyncio.sleep(10)
            return await self.below.sleep.remote(1)

        self.later = asyncio.create_task(call())

    async def what_went_on(self) -> Any:
        assert self.later is not None
        return await self.later


def two_levels(**options: Any) -> Any:
    return app_of(Above, app_of(Below, **options))


async def collect(stream: AsyncIterator[Any], parts: list[Any]) -> None:
    """Keep what comes, also before an error."""
    async for part in stream:
        parts.append(part)  # noqa: PERF401 - see above


# Over HTTP


@in_virtual_time
async def test_a_request_says_how_long_it_has_in_place_of_the_server() -> None:
    async with serving(two_levels()) as (cluster, _), client_of(cluster.directory, request_timeout_s=5.0) as client:
        for headers, seconds, status in (
            ({}, 4, 200),
            ({}, 6, 504),
            ({TIMEOUT: "1.5"}, 1, 200),
            ({TIMEOUT: "1.5"}, 2, 504),
            ({"X-Request-Timeout-Seconds": "60"}, 50, 200),
        ):
            answer = await client.get(f"/sleep?s={seconds}", headers=headers)
            assert answer.status_code == status, (headers, seconds, answer.text)
        assert (await client.get("/seen")).json() == ["slept", "cancelled", "slept", "cancelled", "slept"]


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", "1e999", ""])
@in_virtual_time
async def test_a_time_that_is_none_is_a_400_that_says_what_would_be_right(value: str) -> None:
    async with serving(two_levels()) as (cluster, _), client_of(cluster.directory) as client:
        answer = await client.get("/seen", headers={TIMEOUT: value})
        assert answer.status_code == 400
        assert answer.text == f"{TIMEOUT} takes a number of seconds above 0, got {value!r}."


@in_virtual_time
async def test_a_time_that_is_longer_than_anything_is_no_fault() -> None:
    async with serving(two_levels()) as (cluster, _), client_of(cluster.directory) as client:
        assert (await client.get("/seen", headers={TIMEOUT: "1e300"})).status_code == 200


@in_virtual_time
async def test_the_rest_of_the_time_and_the_request_id_go_on_to_the_second_level() -> None:
    async with serving(two_levels()) as (cluster, _), client_of(cluster.directory) as client:
        answer = await client.get("/", headers={TIMEOUT: "10", "x-request-id": "mine-1"})
        own, below, request_id = answer.json()
        assert (own, below) == (pytest.approx(9, abs=0.1), pytest.approx(9, abs=0.1))
        assert request_id == answer.headers["x-request-id"] == "mine-1"
        assert (await client.get("/")).json()[:2] == [None, None]


@in_virtual_time
async def test_a_stream_is_over_with_its_time_on_both_levels() -> None:
    async with serving(two_levels()) as (cluster, _), client_of(cluster.directory) as client:
        parts: list[str] = []
        async with client.stream("GET", "/stream", headers={TIMEOUT: "3.5"}) as answer:
            with pytest.raises(httpx.RemoteProtocolError):
                await collect(answer.aiter_text(), parts)
        assert (answer.status_code, parts) == (200, ["0", "1", "2", "3"])
        assert (await client.get("/seen")).json() == ["stream closed"]


@pytest.mark.parametrize("path", ["/body", "/sleep?s=100"])
@in_virtual_time
async def test_a_client_that_is_too_slow_with_its_body_is_a_408_whose_connection_closes(path: str) -> None:
    async with serving(two_levels()) as (cluster, _):
        wire = Wire(cluster.directory, HTTPOptions(request_timeout_s=5.0, keep_alive_timeout_s=100))
        wire.say(b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n12" % path.encode())
        await asyncio.sleep(4)
        wire.say(b"34")
        answer = await wire.read()
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b"connection: close\r\n" in answer
        assert answer.endswith(b"The request's body did not come within the request's time.")
        wire.leave()
        await soon()


@in_virtual_time
async def test_a_client_whose_body_is_not_taken_is_not_the_slow_one() -> None:
    """It has sent more than is kept for a request that waits."""
    async with serving(two_levels()) as (cluster, _):
        wire = Wire(cluster.directory, HTTPOptions(request_timeout_s=5.0))
        wire.say(b"POST /sleep?s=100 HTTP/1.1\r\nhost: a\r\ncontent-length: 10000000\r\n\r\n")
        for _ in range(40):
            wire.say(b"x" * 65536)
            await soon()
        assert (await wire.read()).startswith(b"HTTP/1.1 504 ")
        wire.leave()
        await soon()


# Of handles


@in_virtual_time
async def test_a_call_that_takes_too_long_is_cancelled_where_it_runs_and_nothing_of_it_is_left() -> None:
    async with serving(app_of(Below)) as (cluster, handle):
        [replica] = replicas_of(cluster)
        began = cluster.directory.loop.time()
        response = handle.options(timeout_s=2).sleep.remote(100)
        with pytest.raises(errors.RequestTimeoutError, match="default_Below did not answer within the request's time"):
            await response
        assert cluster.directory.loop.time() - began == pytest.approx(2)
        await soon()
        assert await handle.seen.remote() == ["cancelled"]
        assert replica.ongoing == 0
        assert await handle.options(timeout_s=2).sleep.remote(1) == 1


@in_virtual_time
async def test_waiting_for_a_slot_takes_of_the_time() -> None:
    async with serving(app_of(Below, max_ongoing_requests=1)) as (_, handle):
        first = handle.sleep.remote(3)
        late, later = (handle.options(timeout_s=s).sleep.remote(2) for s in (2, 4))
        assert await first == 3
        for response in (late, later):
            with pytest.raises(errors.RequestTimeoutError):
                await response
        await soon()
        assert await handle.seen.remote() == ["slept", "cancelled"]  # one of them never began


@in_virtual_time
async def test_a_stream_of_a_handle_is_over_with_its_time() -> None:
    async with serving(app_of(Below)) as (_, handle):
        parts: list[int] = []
        with pytest.raises(errors.RequestTimeoutError):
            await collect(handle.options(stream=True, timeout_s=2.5).count.remote(1), parts)
        assert parts == [0, 1, 2]
        await soon()
        assert await handle.seen.remote() == ["stream closed"]


@in_virtual_time
async def test_of_its_own_time_and_its_callers_the_shorter_one_counts() -> None:
    async with serving(two_levels()) as (_, handle):
        assert await handle.rests.remote() == [None, pytest.approx(2), pytest.approx(100)]
        limited = handle.options(timeout_s=10)
        assert await limited.rests.remote() == [10, pytest.approx(2), pytest.approx(10 + SLACK_S)]
        assert await limited.options(timeout_s=float("inf")).rests.remote() == [
            float("inf"),
            pytest.approx(2),
            pytest.approx(100),
        ]


@in_virtual_time
async def test_who_has_no_more_time_than_its_callers_is_cancelled_rather_than_told_of_a_call_that_came_too_late() -> (
    None
):
    class Persistent:
        def __init__(self, below: DeploymentHandle) -> None:
            self.below = below

        async def __call__(self, request: Request) -> str:
            try:
                await self.below.sleep.remote(100)
            except errors.RequestTimeoutError:
                return "by chance"
            return "slept"

    async with serving(app_of(Persistent, app_of(Below))) as (cluster, _), client_of(cluster.directory) as client:
        for _ in range(3):
            assert (await client.get("/", headers={TIMEOUT: "2"})).status_code == 504


@in_virtual_time
async def test_user_code_may_catch_the_timeout_of_a_call_and_go_on() -> None:
    async with serving(two_levels()) as (_, handle):
        text = await handle.options(timeout_s=10).one_after_another.remote()
        assert text == "default_Below did not answer within the request's time."


@in_virtual_time
async def test_a_call_past_the_deadline_is_refused_and_never_sent() -> None:
    async with serving(two_levels()) as (cluster, handle):
        with pytest.raises(errors.RequestTimeoutError):
            await handle.options(timeout_s=1).call_past_the_deadline.remote()
        await soon()
        below = DeploymentHandle("default", "Below")
        assert await below.seen.remote() == []
        assert all(replica.ongoing == 0 for replica in replicas_of(cluster))


@in_virtual_time
async def test_what_goes_on_after_its_request_has_no_deadline_of_that() -> None:
    async with serving(two_levels()) as (_, handle):
        await handle.options(timeout_s=5).go_on_afterwards.remote()
        assert await handle.what_went_on.remote() == 1


@in_virtual_time
async def test_waiting_for_arguments_takes_of_the_time() -> None:
    async with serving(app_of(Below)) as (cluster, handle):
        began = cluster.directory.loop.time()
        slow = handle.sleep.remote(100)
        with pytest.raises(errors.RequestTimeoutError, match="before its arguments were there"):
            await handle.options(timeout_s=2).sleep.remote(slow)
        assert cluster.directory.loop.time() - began == pytest.approx(2)
        failing = handle.options(timeout_s=1).sleep.remote(100)
        with pytest.raises(errors.RequestTimeoutError, match="did not answer"):
            await handle.options(timeout_s=2).sleep.remote(failing)


@in_virtual_time
async def test_a_batch_has_as_much_time_as_the_most_patient_of_its_calls() -> None:
    class Batched:
        @serve.batch(max_batch_size=3, batch_wait_timeout_s=1)
        async def __call__(self, numbers: list[int]) -> list[float | None]:
            return [rest_s() for _ in numbers]

    async with serving(app_of(Batched)) as (_, handle):
        for times, expected in (((5, 9), pytest.approx(8)), ((5, None), None)):
            calls = [handle.options(timeout_s=s).remote(1) for s in times]
            assert await asyncio.gather(*calls) == [expected] * 2
