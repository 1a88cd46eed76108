"""HTTP clients without a port: of another thread's event loop, of the client's own, and of one that has ended."""

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from inline_app import app_of
from starlette.requests import Request
from starlette.responses import StreamingResponse
from virtual_time import in_virtual_time

from modelplex import errors, serve, testing
from modelplex.in_process_http import UNREAD_BYTES_MAX
from modelplex.testing import InlineCluster

BIG = bytes(range(256)) * 20_000  # more than any window or buffer on the way
PART = b"x" * 10_000


class Web:
    """Answers by its path."""

    def __init__(self) -> None:
        self.yielded = 0
        self.ended = threading.Event()

    async def __call__(self, request: Request) -> Any:
        match request.url.path:
            case "/echo":
                return await request.body()
            case "/ignore":
                return "early"
            case "/endless":
                return StreamingResponse(self._endless())
            case "/hang":
                try:
                    await asyncio.sleep(3600)
                finally:
                    self.ended.set()
            case _:
                return {"path": request.url.path, "model": serve.get_multiplexed_model_id()}

    async def _endless(self) -> AsyncIterator[bytes]:
        try:
            while True:
                self.yielded += 1
                yield PART
        finally:
            self.ended.set()

    async def state(self) -> tuple[int, bool]:
        return self.yielded, self.ended.is_set()

    def wait_for_the_end(self) -> bool:
        return self.ended.wait(10)


@pytest.fixture
def handle() -> Iterator[serve.DeploymentHandle]:
    yield serve.run(app_of(Web, max_ongoing_requests=100, graceful_shutdown_timeout_s=0), _local_testing_mode=True)
    serve.shutdown()


@pytest.fixture
def client(handle: serve.DeploymentHandle) -> Iterator[httpx.Client]:
    with testing.http_client() as client:
        yield client


# Code that blocks


def test_requests_and_answers_go_through_the_proxy(client: httpx.Client) -> None:
    answer = client.get("/a", headers={"serve-multiplexed-model-id": "m1", "x-request-id": "mine"})
    assert answer.json() == {"path": "/a", "model": "m1"}
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["x-modelplex-replica"].startswith("default_Web#")
    assert client.get("/-/routes").json() == {"/": "default"}
    assert client.get("/-/healthz").text == "success"
    assert client.get("/", headers={"serve_multiplexed_model_id": "no such/../id"}).status_code == 400


def test_large_bodies_come_and_go_whole(client: httpx.Client) -> None:
    assert client.post("/echo", content=BIG).content == BIG
    parts = (BIG[at : at + 50_000] for at in range(0, len(BIG), 50_000))
    assert client.post("/echo", content=parts).content == BIG
    assert client.post("/ignore", content=BIG).text == "early"


def test_http_options_are_those_of_the_client(handle: serve.DeploymentHandle) -> None:
    with testing.http_client({"request_timeout_s": 0.05, "max_body_bytes": 10}) as client:
        assert client.get("/hang").status_code == 504
        assert client.post("/echo", content=b"x" * 11).status_code == 413
    with pytest.raises(TypeError):
        testing.http_client({"no_such_option": 1})


def test_a_client_that_leaves_a_stream_ends_it_and_one_that_does_not_read_holds_it_up(
    client: httpx.Client, handle: serve.DeploymentHandle
) -> None:
    with client.stream("GET", "/endless") as answer:
        parts = answer.iter_raw()
        assert next(parts)
        yielded = [-1]
        while len(yielded) < 100 and yielded[-1] not in yielded[:-1]:  # until it waits for the reader
            yielded.append(handle.state.remote().result(timeout_s=10)[0])
            time.sleep(0.05)
        assert len(yielded) < 100
        assert not handle.state.remote().result(timeout_s=10)[1]
        taken = sum(len(part) for part in itertools.islice(parts, 100))
        assert taken > UNREAD_BYTES_MAX  # it goes on when it is read
    assert handle.wait_for_the_end.remote().result(timeout_s=20)


def test_a_timeout_of_the_client_cancels_the_request(client: httpx.Client, handle: serve.DeploymentHandle) -> None:
    with pytest.raises(httpx.ReadTimeout):
        client.get("/hang", timeout=0.05)
    assert handle.wait_for_the_end.remote().result(timeout_s=20)


def test_threads_may_share_a_client(client: httpx.Client) -> None:
    answers: list[str] = []

    def ask(number: int) -> None:
        answers.extend(client.get(f"/{number}/{i}").json()["path"] for i in range(10))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == sorted(f"/{n}/{i}" for n in range(4) for i in range(10))


def test_what_is_deleted_or_shut_down_is_not_served(client: httpx.Client) -> None:
    assert client.get("/").status_code == 200
    serve.delete("default")
    assert client.get("/").status_code == 404
    serve.shutdown()
    with pytest.raises(httpx.NetworkError):
        client.get("/")
    with pytest.raises(errors.NotInReplicaError, match=r"serve\.run"):
        testing.http_client()


async def test_a_client_that_would_block_its_own_server_says_so() -> None:
    from modelplex.in_process_http import sync_client

    async with InlineCluster() as cluster:
        await cluster.run(app_of(Web))
        with sync_client(cluster.directory) as client, pytest.raises(httpx.ConnectError, match="async one"):
            client.get("/")


# Async code


async def test_an_async_client_works_beside_another_event_loop(handle: serve.DeploymentHandle) -> None:
    async with testing.async_http_client() as client:
        assert (await client.post("/echo", content=BIG)).content == BIG
        answers = await asyncio.gather(*(client.get(f"/{n}") for n in range(20)))
        assert [answer.json()["path"] for answer in answers] == [f"/{n}" for n in range(20)]
        asking = asyncio.create_task(client.get("/hang"))
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/hang", timeout=0.05)
    assert await handle.wait_for_the_end.remote()


@in_virtual_time
async def test_a_cluster_on_this_event_loop_has_a_client_too() -> None:
    async with InlineCluster() as cluster:
        await cluster.run(app_of(Web), route_prefix="/web")
        async with cluster.http_client({"request_timeout_s": 60}, timeout=None) as client:
            assert (await client.get("/web/x")).json()["path"] == "/web/x"
            assert (await client.get("/other")).status_code == 404


@in_virtual_time
async def test_a_request_times_out_in_virtual_time() -> None:
    async with InlineCluster() as cluster:
        await cluster.run(app_of(Web))
        async with cluster.http_client({"request_timeout_s": 60}, timeout=None) as client:
            assert (await client.get("/hang")).status_code == 504
    assert asyncio.get_running_loop().time() >= 60
