"""HTTP in, as bytes: no server, no socket, replicas on the same loop."""

import asyncio
import gc
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import pydantic
import pytest
from proxy_client import Wire, client_of
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse

from modelplex import serve
from modelplex.config import HTTPOptions
from modelplex.testing import InlineCluster, run_virtual

GET = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n"


class Point(pydantic.BaseModel):
    x: int


async def one_part() -> AsyncIterator[str]:
    yield "all"


@serve.deployment
class Everything:
    """Answers by its path."""

    @serve.multiplexed
    async def get_model(self, model_id: str) -> str:
        await asyncio.sleep(2)
        return model_id.upper()

    async def __call__(self, request: Request) -> Any:
        answer: Any = None
        match request.url.path.rpartition("/")[2]:
            case "model":
                answer = await self.get_model(serve.get_multiplexed_model_id())
            case "echo":
                answer = await request.body()
            case "where":
                answer = [request.scope["root_path"], request.url.path, request.url.query, request.headers["x-mine"]]
            case "response":
                answer = JSONResponse({"teapot": True}, status_code=418, headers={"x-kind": "short"})
            case "stream":
                answer = StreamingResponse(iter(["one ", "two"]), media_type="text/x-count")
            case "one-part":
                answer = one_part()
            case "fail":
                raise KeyError("secret")
            case "sleep":
                await asyncio.sleep(3600)
            case name:
                answer = {
                    "text": "text",
                    "bytes": b"\x00\x01",
                    "number": 1.5,
                    "dict": {"a": [1, None]},
                    "none": None,
                    "array": np.arange(3),
                    "scalar": np.float32(0.5),
                    "pydantic": Point(x=1),
                    "strange": object(),
                }[name]
        return answer


def with_client(check: Callable[[httpx.AsyncClient], Awaitable[None]], prefix: str = "/", **options: Any) -> None:
    """Run a check with a client of a proxy before `Everything`."""

    async def main() -> None:
        async with InlineCluster() as cluster:
            await cluster.run(Everything.bind(), route_prefix=prefix)  # type: ignore[attr-defined]
            async with client_of(cluster.directory, **options) as client:
                await check(client)

    run_virtual(main())


@pytest.mark.parametrize(
    ("path", "content_type", "body"),
    [
        ("text", "text/plain; charset=utf-8", b"text"),
        ("bytes", "text/plain", b"\x00\x01"),
        ("number", "application/json", b"1.5"),
        ("dict", "application/json", b'{"a":[1,null]}'),
        ("none", "text/plain", b""),
        ("array", "application/json", b"[0,1,2]"),
        ("scalar", "application/json", b"0.5"),
        ("pydantic", "application/json", b'{"x":1}'),
    ],
)
def test_what_a_deployment_returns_becomes_an_answer(path: str, content_type: str, body: bytes) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.get(f"/{path}")
        assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, content_type, body)

    with_client(check)


def test_a_request_that_names_two_models_is_refused() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        names = [("serve_multiplexed_model_id", "a"), ("serve-multiplexed-model-id", "b")]
        two = await client.get("/model", headers=names)
        assert (two.status_code, two.text) == (400, "The request names two models, 'a' and 'b'.")
        same = await client.get("/model", headers=[(name, "a") for name, _ in names])
        assert same.text == "A"

    with_client(check)


def test_a_starlette_response_is_sent_as_it_is() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.get("/response")
        assert (answer.status_code, answer.json(), answer.headers["x-kind"]) == (418, {"teapot": True}, "short")
        streamed = await client.get("/stream")
        assert (streamed.text, streamed.headers["content-type"]) == ("one two", "text/x-count; charset=utf-8")

    with_client(check)


def test_a_stream_of_one_part_ends_and_the_connection_can_be_used_again() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        for _ in range(2):
            async with asyncio.timeout(1000):
                assert (await client.get("/one-part")).text == "all"

    with_client(check)


@pytest.mark.parametrize(("prefix", "root_path"), [("/", ""), ("/pre", ""), ("/", "/out"), ("/pre", "/out/ö")])
def test_user_code_sees_the_path_that_its_client_sees(prefix: str, root_path: str) -> None:
    inside = "" if prefix == "/" else prefix

    async def check(client: httpx.AsyncClient) -> None:
        where = (await client.get(f"{inside}/where", headers={"x-mine": "a"})).json()
        assert where[:2] == [root_path + inside, f"{root_path}{inside}/where"]

    with_client(check, prefix=prefix, root_path=root_path)


@pytest.mark.parametrize("path", ["fail", "strange"])
def test_an_exception_of_user_code_is_a_500_that_tells_nothing(path: str) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.get(f"/{path}")
        assert (answer.status_code, answer.text) == (500, "Internal Server Error")
        assert answer.headers["x-request-id"]

    with_client(check)


def test_an_answer_says_which_replica_gave_it_and_how_the_model_was_met() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        headers = {"serve_multiplexed_model_id": "a"}
        cold, warm = await client.get("/model", headers=headers), await client.get("/model", headers=headers)
        assert (cold.text, warm.text) == ("A", "A")
        assert (cold.headers["x-modelplex-model"], warm.headers["x-modelplex-model"]) == ("cold", "warm")
        assert re.fullmatch(r"default_Everything#\w{6}", warm.headers["x-modelplex-replica"])
        assert re.fullmatch(r"queue;dur=[\d.]+, load;dur=[\d.]+, run;dur=[\d.]+", warm.headers["server-timing"])
        assert "x-modelplex-model" not in (await client.get("/text")).headers

    with_client(check)


@pytest.mark.parametrize(
    "name", ["serve_multiplexed_model_id", "Serve-Multiplexed-Model-Id", "SERVE_MULTIPLEXED_MODEL_ID"]
)
def test_the_header_of_the_model_may_be_spelled_in_any_way(name: str) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        assert (await client.get("/model", headers={name: "b"})).text == "B"

    with_client(check)


@pytest.mark.parametrize("model_id", ["", "a b", "../etc/passwd", "a//b", "x" * 257, "ä"])
def test_a_malformed_model_id_is_a_400(model_id: str) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.get("/model", headers=[(b"serve_multiplexed_model_id", model_id.encode())])
        assert (answer.status_code, "model ID" in answer.text) == (400, True)

    with_client(check)


def test_no_model_id_where_one_is_needed_is_a_400_and_elsewhere_nothing() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        assert (await client.get("/model")).status_code == 400
        assert (await client.get("/text")).status_code == 200

    with_client(check)


def test_a_path_without_application_is_a_404_that_names_the_routes() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.get("/modelsx")
        assert (answer.status_code, "/models" in answer.text) == (404, True)
        assert (await client.get("/models")).status_code == 500  # the application is asked
        where = await client.get("/models/where?a=1", headers={"x-mine": "yes"})
        assert where.json() == ["/models", "/models/where", "a=1", "yes"]

    with_client(check, prefix="/models")


def test_a_request_id_is_kept_if_it_is_harmless_and_made_otherwise() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        assert (await client.get("/text", headers={"x-request-id": "mine-1"})).headers["x-request-id"] == "mine-1"
        for bad in ("with space", "x" * 129, ""):
            made = (await client.get("/text", headers={"x-request-id": bad})).headers["x-request-id"]
            assert made not in ("", bad)

    with_client(check)


def test_bodies_arrive_whole_and_too_large_ones_are_a_413() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        assert (await client.post("/echo", content=b"x" * 1000)).content == b"x" * 1000

        async def chunks() -> Any:
            for _ in range(10):
                yield b"y" * 100

        assert (await client.post("/echo", content=chunks())).content == b"y" * 1000
        assert (await client.post("/echo", content=b"x" * 1001)).status_code == 413

        async def endless() -> Any:
            while True:
                yield b"z" * 100

        assert (await client.post("/echo", content=endless())).status_code == 413
        assert (await client.get("/text")).status_code == 200

    with_client(check, max_body_bytes=1000)


def test_a_large_body_goes_through_in_both_directions() -> None:
    data = bytes(range(256)) * 8192  # 2 MiB, several windows of flow control

    async def check(client: httpx.AsyncClient) -> None:
        assert (await client.post("/echo", content=data)).content == data

    with_client(check)


def test_a_request_that_takes_too_long_is_a_504() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        assert (await client.get("/sleep")).status_code == 504

    with_client(check, request_timeout_s=30.0)


def test_pages_of_its_own() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        assert (await client.get("/-/healthz")).text == "success"
        assert (await client.get("/-/routes")).json() == {"/app": "default"}
        assert (await client.get("/-/nothing")).status_code == 404

    with_client(check, prefix="/app")


def test_a_full_queue_is_a_503_that_says_when_to_come_back() -> None:
    @serve.deployment(max_ongoing_requests=1, max_queued_requests=1)
    async def slow(request: Request) -> str:
        await asyncio.sleep(10)
        return "done"

    async def main() -> None:
        async with InlineCluster() as cluster:
            await cluster.run(slow.bind())
            async with client_of(cluster.directory) as client:
                answers = await asyncio.gather(*(client.get("/") for _ in range(3)))
                assert sorted(a.status_code for a in answers) == [200, 200, 503]
                assert all(int(a.headers["retry-after"]) >= 1 for a in answers if a.status_code == 503)

    run_virtual(main())


def test_a_client_that_leaves_ends_its_request() -> None:
    ended: list[str] = []

    @serve.deployment
    async def endless(request: Request) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("yes")

    async def main() -> None:
        async with InlineCluster() as cluster:
            await cluster.run(endless.bind())
            wire = Wire(cluster.directory, HTTPOptions())
            wire.say(GET)
            await asyncio.sleep(1)
            assert ended == []
            wire.leave()
            await asyncio.sleep(1)
            assert (ended, await wire.read()) == (["yes"], b"")

    run_virtual(main())


def test_an_answer_that_breaks_off_breaks_off_for_the_client_too() -> None:
    @serve.deployment
    async def breaks(request: Request) -> Any:
        async def parts() -> Any:
            yield "first"
            raise ValueError("in the middle")

        return StreamingResponse(parts())

    async def main() -> None:
        async with InlineCluster() as cluster:
            await cluster.run(breaks.bind())
            wire = Wire(cluster.directory, HTTPOptions())
            wire.say(GET)
            sent = b""
            while part := await wire.read():
                sent += part
            assert sent.endswith(b"\r\n\r\n5\r\nfirst\r\n")

    run_virtual(main())


def test_a_request_leaves_no_work_to_the_garbage_collector() -> None:
    """Which under load took a tenth of all time, and made others wait."""

    async def main() -> None:
        async with InlineCluster() as cluster:
            await cluster.run(Everything.bind())  # type: ignore[attr-defined]
            wire = Wire(cluster.directory, HTTPOptions())
            for path in (b"model", b"number"):
                request = b"GET /%b HTTP/1.1\r\nserve_multiplexed_model_id: a\r\n\r\n" % path
                wire.say(request)
                await wire.read()
                gc.collect()
                gc.disable()
                try:
                    for _ in range(10):
                        wire.say(request)
                        assert (await wire.read()).startswith(b"HTTP/1.1 200 ")
                    assert gc.collect() < 10
                finally:
                    gc.enable()

    run_virtual(main())


@pytest.mark.parametrize("step", ["_answer", "_pass_on"])
def test_a_fault_of_the_proxy_breaks_the_connection_off_rather_than_let_the_client_wait(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fault(*_: object) -> None:
        raise KeyError("a fault")

    async def fault_of_a_task(*_: object) -> None:
        raise KeyError("a fault")

    what = fault if step == "_answer" else fault_of_a_task
    monkeypatch.setattr(f"modelplex.runtime.proxy._Request.{step}", what)

    async def main() -> None:
        async with InlineCluster() as cluster:
            await cluster.run(Everything.bind())  # type: ignore[attr-defined]
            wire = Wire(cluster.directory, HTTPOptions())
            wire.say(b"GET /stream HTTP/1.1\r\nhost: test\r\n\r\n")
            while await wire.read():
                pass
            assert wire.is_closed

    run_virtual(main())
