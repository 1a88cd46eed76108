"""The admin interface of a real system: its commands, its TCP door, and requests that nobody would think of."""

import contextlib
import http.client
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.core.result import Ok
from served import run_script
from started import Started, as_json, home_in

pytestmark = [pytest.mark.system, pytest.mark.doors]

SHOP = """
from modelplex import errors, serve

@serve.deployment(num_replicas=2)
class Shop:
    @serve.multiplexed(max_num_models_per_replica=3)
    async def get_model(self, model_id):
        if not model_id.startswith("shop-"):
            raise errors.ModelNotFoundError(f"There is no model {model_id!r}.")
        return model_id

    async def __call__(self, request):
        return await self.get_model(serve.get_multiplexed_model_id())

app = Shop.bind()
"""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    with home_in(tmp_path) as started:
        started.write("shop.py", SHOP)
        yield started


def shop(started: Started, **more: Any) -> str:
    return started.config({"import_path": "shop:app"}, **more)


def over_tcp(
    address: str, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    host, _, port = address.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    data = None
    if body is not None:
        data, given["content-type"] = json.dumps(body).encode(), "application/json"
    connection.request(method, path, data, given)
    response = connection.getresponse()
    found = response.status, dict(response.getheaders()), response.read()
    connection.close()
    return found


def test_models_and_replicas_are_steered_by_commands(started: Started) -> None:
    started.start(shop(started))
    assert started.command("models").stdout == "no models\n"
    assert started.command("load", "shop-1").stdout == "Loaded: shop-1\n"
    assert started.command("pin", "shop-2", "--deployment", "Shop").stdout == "Pinned: shop-2 (on 1 replica)\n"
    assert "pinned on 1 replicas" in started.command("unload", "shop-2", code=1).stderr
    assert "There is no model 'none'" in started.command("load", "none", code=1).stderr
    found = as_json(started.command("models", "--json"))
    assert [(model["id"], model["pinned"]) for model in found] == [("shop-1", False), ("shop-2", True)]
    rows = started.command("models").stdout.splitlines()
    assert [row.split()[0] for row in rows] == ["MODEL", "shop-1", "shop-2"]
    assert rows[2].endswith("pinned")
    assert started.command("unpin", "shop-2").stdout == "Unpinned: shop-2 (on 1 replica)\n"
    assert started.command("unload", "shop-2").stdout == "Unloaded: shop-2 (on 1 replica)\n"
    before = {replica["replica"] for replica in as_json(started.command("replicas", "--json"))}
    assert len(before) == 2
    drained = sorted(before)[0]
    started.command("drain", drained)
    for _ in range(200):
        after = {replica["replica"] for replica in as_json(started.command("replicas", "--json"))}
        if drained not in after and len(after) == 2:
            break
    assert drained not in after
    assert len(after & before) == 1
    assert "There is no replica" in started.command("drain", drained, code=1).stderr
    picture = started.command("top", "--once", COLUMNS="80", LINES="24").stdout.splitlines()
    assert len(picture) <= 24
    assert max(map(len, picture)) <= 80
    assert sum("Shop#" in line for line in picture) >= 2
    assert "is not open over TCP" in started.command("dashboard", "--admin-token-file", "x", code=1).stderr


def test_over_tcp_there_is_an_interface_for_who_has_the_token(started: Started) -> None:
    done = started.start(shop(started), "--admin-token-file", "token", "--admin-port", "0")
    file = started.folder / "token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = file.read_text().strip()
    address = started.status["admin_address"]
    assert address.startswith("http://127.0.0.1:")
    assert f"Admin interface at {address}" in done.stdout
    bearer = {"authorization": f"Bearer {token}"}
    status, headers, _ = over_tcp(address, "GET", "/v1/status")
    assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="modelplex admin"')
    assert over_tcp(address, "GET", "/v1/status", authorization="Bearer wrong")[0] == 401
    status, _, body = over_tcp(address, "GET", "/v1/status", **bearer)
    assert (status, json.loads(body)["applications"]["default"]["status"]) == (200, "RUNNING")
    assert over_tcp(address, "GET", "/v1/status", host="evil.example", **bearer)[0] == 403
    url = started.command("dashboard", "--admin-token-file", "token").stdout.strip()
    assert url == f"{address}/?token={quote(token)}"
    status, headers, _ = over_tcp(address, "GET", url.removeprefix(address))
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"].partition(";")[0]
    assert over_tcp(address, "POST", "/v1/models/shop-1/load", {}, cookie=cookie)[0] == 403
    assert over_tcp(address, "POST", "/v1/models/shop-1/load", {}, cookie=cookie, x_modelplex_admin="1")[0] == 200
    # The token is in no log, nor in what the processes were started with.
    for path in started.home.folder.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes(), path
    for pid in started.processes():
        assert token.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert token.encode() not in Path(f"/proc/{pid}/environ").read_bytes()


def test_a_token_that_others_can_read_opens_nothing(started: Started) -> None:
    (started.folder / "token").write_text("x" * 40)
    os.chmod(started.folder / "token", 0o644)
    done = started.start("--admin-token-file", "token", code=1)
    assert "chmod 600" in done.stderr
    assert "x" * 40 not in done.stderr


def test_a_file_may_say_it_too(started: Started) -> None:
    token = started.folder / "token"
    started.start(shop(started, admin_options={"token_file": str(token), "port": 0}))
    address = started.status["admin_address"]
    bearer = f"Bearer {token.read_text().strip()}"
    assert over_tcp(address, "GET", "/v1/models", authorization=bearer)[0] == 200
    done = started.command("deploy", "serve.yaml")
    assert "admin_options are those that the system was started with" in done.stderr


def test_a_program_opens_it_by_its_options(tmp_path: Path) -> None:
    text = """
import os, urllib.request
from modelplex import serve

if __name__ == "__main__":
    file = os.environ["TOKEN_FILE"]
    serve.start({"port": 0}, admin_options={"token_file": file, "port": 0})
    address, token = serve.status().admin_address, open(file).read().strip()
    asked = urllib.request.Request(address + "/v1/status", headers={"authorization": "Bearer " + token})
    print(urllib.request.urlopen(asked).status)
    serve.shutdown()
"""
    assert run_script(tmp_path, text, TOKEN_FILE=str(tmp_path / "token")).splitlines()[-1] == "200"


def test_events_come_over_tcp_and_end_with_the_system(started: Started) -> None:
    started.start(shop(started), "--admin-token-file", "token", "--admin-port", "0")
    address = started.status["admin_address"]
    host, _, port = address.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    bearer = {"authorization": f"Bearer {(started.folder / 'token').read_text().strip()}"}
    connection.request("GET", "/v1/events", headers=bearer)
    response = connection.getresponse()
    assert response.getheader("content-type") == "text/event-stream"
    for _ in range(2):
        assert response.readline() == b"event: state\n"
        state = json.loads(response.readline().removeprefix(b"data: "))
        assert len(state["replicas"]) == 2
        assert response.readline() == b"\n"
    started.command("shutdown", "--yes")
    connection.close()


def test_schemathesis_finds_nothing(started: Started) -> None:
    """Requests made of the description, right ones and wrong ones: each answer is one that the description has."""
    started.start(shop(started), "--admin-token-file", "token", "--admin-port", "0")
    address = started.status["admin_address"]
    bearer = {"authorization": f"Bearer {(started.folder / 'token').read_text().strip()}"}
    description = json.loads(over_tcp(address, "GET", "/openapi.json", **bearer)[2])
    for path in ("/v1/events", "/v1/shutdown"):  # which never end, or end it all
        del description["paths"][path]
    del description["paths"]["/v1/config"]["put"]
    schema = schemathesis.openapi.from_dict(description)
    schema.config.update(base_url=address)
    checked = 0
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()

        @seed(20_261_123)
        @settings(
            max_examples=8,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case: Any) -> None:
            nonlocal checked
            case.call_and_validate(headers=bearer, timeout=30, excluded_checks=EXCLUDED)
            checked += 1

        for mode in schemathesis.GenerationMode:
            generated = operation.as_strategy(generation_mode=mode)
            with contextlib.suppress(Unsatisfiable):  # of what takes nothing, nothing can be wrong
                given(case=generated)(check)()
    assert checked > 100
    assert started.status["applications"]["default"]["status"] in ("RUNNING", "DEPLOYING")


EXCLUDED: list[Any] = []
