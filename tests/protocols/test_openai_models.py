"""OpenAI's list of models, and its requests, whose bodies name their model."""

import asyncio
import json
from typing import Any

import fastapi
import httpx
import pytest
from proxy_client import Wire
from starlette.requests import Request
from v2_app import with_v2

from modelplex import serve
from modelplex.config import HTTPOptions
from modelplex.testing import InlineCluster, run_virtual

OPENAI = ["header", "openai"]

app = fastapi.FastAPI()
lists = fastapi.FastAPI()


class Chats:
    @serve.multiplexed(max_num_models_per_replica=3)
    async def get_model(self, model_id: str) -> str:
        if model_id == "unknown":
            raise FileNotFoundError
        return model_id.upper()


@serve.deployment
class Called(Chats):
    async def __call__(self, request: Request) -> dict[str, Any]:
        model = await self.get_model(serve.get_multiplexed_model_id())
        return {"model": model, "n": len(await request.body())}


@serve.deployment
@serve.ingress(app)
class Routed(Chats):
    @app.post("/v1/chat/completions")
    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"model": await self.get_model(serve.get_multiplexed_model_id()), "said": body["messages"]}

    async def list_models(self) -> list[str]:
        return ["listed", "shop"]


@serve.deployment
@serve.ingress(lists)
class Own(Chats):
    @lists.get("/v1/models")
    async def models(self) -> str:
        return "its own"


@pytest.mark.parametrize("deployment", [Called, Routed])
def test_the_body_names_the_model(deployment: Any) -> None:
    async def check(client: httpx.AsyncClient) -> None:
        said = {"messages": ["m" * 500_000], "model": "shop"}
        answer = await client.post("/v1/chat/completions", json=said)
        assert answer.json()["model"] == "SHOP"
        assert answer.headers["x-modelplex-model"] == "cold"
        assert (await client.post("/v1/chat/completions", json={**said, "model": "unknown"})).status_code == 404
        found = (await client.get("/v1/models")).json()
        ids = [model["id"] for model in found["data"]]
        assert (found["object"], ids) == ("list", ["listed", "shop"] if deployment is Routed else ["shop"])
        assert (await client.get("/v1/models/shop")).json()["object"] == "model"
        missing = await client.get("/v1/models/unknown")
        assert (missing.status_code, list(missing.json()["error"])) == (404, ["message"])

    with_v2(check, deployment.bind(), model_id_from=OPENAI)


def test_an_app_that_lists_its_models_itself_goes_on_to() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        assert (await client.get("/v1/models")).json() == "its own"
        assert (await client.get("/v1/models/shop")).status_code == 404

    with_v2(check, Own.bind(), model_id_from=OPENAI)  # type: ignore[attr-defined]


def test_what_names_no_model_well_is_refused() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        path = "/v1/chat/completions"
        for content in (b"no", b"[]", b'{"model": ["a"]}', b'{"model": "a b"}', b'{"model": "a"', b'{"model": "../b"}'):
            assert (await client.post(path, content=content)).status_code == 400, content
        header = {"serve_multiplexed_model_id": "other"}
        two = await client.post(path, json={"model": "shop"}, headers=header)
        said = {"error": {"message": "The request names two models, 'other' and 'shop'."}}
        assert (two.status_code, two.json()) == (400, said)
        large = await client.post(path, json={"model": "shop", "m": "m" * 1000})
        assert large.status_code == 413
        one = await client.post(path, json={"model": "other"}, headers=header)
        assert one.json()["model"] == "OTHER"

    with_v2(check, Called.bind(), model_id_from=OPENAI, max_body_bytes=900)  # type: ignore[attr-defined]


def test_bodies_are_not_read_unless_that_is_wanted() -> None:
    async def check(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/chat/completions", content=b"no", headers={"serve_multiplexed_model_id": "a"})
        assert answer.json() == {"model": "A", "n": 2}
        assert (await client.get("/v1/models", headers={"serve_multiplexed_model_id": "a"})).json()["model"] == "A"

    with_v2(check, Called.bind())  # type: ignore[attr-defined]


def test_a_client_that_is_too_slow_with_its_body_or_leaves() -> None:
    """Its request is nobody's yet: no replica hears of it."""
    body = json.dumps({"model": "shop"}).encode()
    head = b"POST /v1/x HTTP/1.1\r\nhost: test\r\ncontent-length: %d\r\n" % len(body)

    async def main() -> None:
        async with InlineCluster() as cluster:
            await cluster.run(Called.bind())  # type: ignore[attr-defined]
            options = HTTPOptions(model_id_from=["openai"])
            slow = Wire(cluster.directory, options)
            slow.say(head + b"x-request-timeout-seconds: 3\r\n\r\n" + body[:-1])
            assert (await slow.read()).startswith(b"HTTP/1.1 408 ")
            leaving = Wire(cluster.directory, options)
            leaving.say(head + b"\r\n" + body[:-1])
            leaving.leave()
            patient = Wire(cluster.directory, options)
            patient.say(head + b"\r\n")
            half = len(body) // 2
            for part in (body[:half], body[half:]):
                await asyncio.sleep(25)
                patient.say(part)
            answer = await patient.read()
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b'{"model":"SHOP","n":17}')

    run_virtual(main())
