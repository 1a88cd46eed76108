"""`modelplex why` against a system of processes: a story that two of them know the parts of."""

import http.client
import json
from pathlib import Path
from typing import Any

import pytest
from served import wait_until
from started import Started, home_in

pytestmark = [pytest.mark.system, pytest.mark.doors]

SHOP = """
import asyncio
from modelplex import serve

@serve.deployment
class Shop:
    @serve.multiplexed(max_num_models_per_replica=1)
    async def get_model(self, model_id):
        await asyncio.sleep(0.05)
        return model_id

    async def __call__(self, request):
        return await self.get_model(serve.get_multiplexed_model_id())

app = Shop.bind()
"""


def ask(port: int, model_id: str, request_id: str = "") -> str:
    """The request's id."""
    headers = {"serve_multiplexed_model_id": model_id} | ({"x-request-id": request_id} if request_id else {})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/", headers=headers)
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, model_id.encode())
    connection.close()
    return response.headers["x-request-id"]


def decisions_of(system: Started, request_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = system.admin.get("/v1/decisions", request_id=request_id)["decisions"]
    return found


def test_the_story_of_a_request_and_of_a_model(tmp_path: Path) -> None:
    with home_in(tmp_path) as system:
        system.write("shop.py", SHOP)
        system.start(system.config({"name": "shop", "import_path": "shop:app"}))
        port = system.port
        first, second = ask(port, "shop-3"), ask(port, "shop-17", "-mine")
        wait_until(lambda: any(e["kind"] == "end" for e in decisions_of(system, second)), "its end is noted")
        found = json.loads(system.command("why", second, "--json").stdout)
        assert [each["kind"] for each in found] == ["route", "evict", "load", "loaded", "end"]
        assert {each["request_id"] for each in found} == {"-mine"}
        processes = [each["process"] for each in found]
        assert processes[0].startswith("proxy#")
        assert set(processes[1:]) == {found[0]["replica"]}
        told = system.command("why", second).stdout
        assert told.startswith("request -mine for model shop-17, ")
        assert "to make room for shop-17" in told
        assert "evicted shop-3" in system.command("why", "model", "shop-3").stdout
        assert f"loaded for request {first}" in system.command("why", "model", "shop-3").stdout
        assert "Nothing is known of request none" in system.command("why", "none", code=1).stderr
