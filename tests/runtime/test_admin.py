"""The admin interface, over its protocol, in virtual time: no sockets, and no processes that build applications."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from inline_app import app_of
from proxy_client import Wire

from modelplex import errors
from modelplex.applications import apply_overrides
from modelplex.config import HTTPOptions
from modelplex.deployment import flatten
from modelplex.runtime import admin, config_deployer
from modelplex.runtime.admin import Admin
from modelplex.runtime.app_builder import read_config
from modelplex.runtime.app_spec import AppSpec
from modelplex.serve import DeploymentHandle
from modelplex.testing import InlineCluster, run_virtual

# What a build takes in this world.
BUILD_S = 1.0


class Good:
    async def __call__(self) -> str:
        return "good"


class Bad:
    def __init__(self) -> None:
        raise RuntimeError("no weights")


async def build(config: Mapping[str, Any], name: str, app_dir: str) -> AppSpec:
    """In place of the one that starts a process."""
    system = read_config(config, app_dir)
    app = next(a for a in system.applications if a.name == name)
    await asyncio.sleep(float(app.args.get("build_s", BUILD_S)))
    if app.import_path == "code:broken":
        raise errors.DeploymentFailedError("it cannot be built")
    if app.import_path == "code:fault":
        raise LookupError("a fault of ours")
    kind = {"code:good": Good, "code:bad": Bad}[app.import_path]
    nodes = apply_overrides(flatten(app_of(kind, max_constructor_retry_count=1), name), app.deployments)
    source = next(a for a in config["applications"] if a.get("name", "default") == name)
    return AppSpec.of(name, nodes, app.route_prefix, source=source)


class Asked:
    """A running system, and how to ask it."""

    def __init__(self, cluster: InlineCluster) -> None:
        self.cluster = cluster
        self.shutdowns = 0
        self.admin = Admin(cluster.controller, cluster.status, {"port": 1234}, self._shut_down)

    def _shut_down(self) -> None:
        self.shutdowns += 1

    def wire(self) -> Wire:
        wire = Wire(self.cluster.directory, HTTPOptions())
        wire.connection._application = self.admin  # in place of a proxy
        return wire

    async def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        wire = self.wire()
        data = body or b""
        wire.say(f"{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
        answer = await wire.read()
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert b"content-type: application/json" in head
        wire.leave()
        return int(head.split()[1]), json.loads(rest)

    async def deploy(self, *applications: dict[str, Any], query: str = "") -> tuple[int, Any]:
        return await self.ask("PUT", f"/v1/config{query}", config(*applications))

    async def names(self) -> list[str]:
        status, answer = await self.ask("GET", "/v1/status")
        assert status == 200
        return list(answer["applications"])


def config(*applications: dict[str, Any]) -> bytes:
    return json.dumps({"config": {"applications": applications}, "app_dir": "/"}).encode()


def app(name: str, code: str = "good", **more: Any) -> dict[str, Any]:
    return {"name": name, "import_path": f"code:{code}", "route_prefix": f"/{name.replace(' ', '')}", **more}


@asynccontextmanager
async def asked() -> AsyncIterator[Asked]:
    before = asyncio.all_tasks()
    async with InlineCluster() as cluster:
        world = Asked(cluster)
        yield world
        await world.admin.close()
    assert asyncio.all_tasks() <= before


def in_world(check: Callable[[Asked], Coroutine[Any, Any, None]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_deployer, "build", build)

    async def main() -> None:
        async with asked() as world, asyncio.timeout(1000):
            await check(world)

    run_virtual(main())


def test_what_is_deployed_runs_and_is_told_and_what_is_not_there_any_more_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Asked) -> None:
        await world.cluster.run(app_of(Good), "of a program", "/program")
        status, answer = await world.deploy(app("a"), app("b"))
        assert status == 200
        assert {name: a["status"] for name, a in answer["applications"].items()} == dict.fromkeys(
            ("of a program", "a", "b"), "RUNNING"
        )
        assert await world.ask("GET", "/v1/config") == (
            200,
            {"http_options": {"port": 1234}, "applications": [app("a"), app("b")]},
        )
        await world.deploy(app("b"))
        assert await world.names() == ["of a program", "b"]
        assert (await world.deploy())[0] == 200
        assert await world.names() == ["of a program"]

    in_world(check, monkeypatch)


def test_an_application_is_deleted_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Asked) -> None:
        await world.deploy(app("a"), app("b c"))
        assert await world.ask("DELETE", "/v1/applications/b%20c") == (200, {})
        assert await world.names() == ["a"]
        status, answer = await world.ask("DELETE", "/v1/applications/b%20c")
        assert (status, answer) == (404, {"error": "There is no application 'b c'."})

    in_world(check, monkeypatch)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/v2/status"), ("POST", "/v1/status"), ("GET", "/v1/shutdown"), ("DELETE", "/v1/config")],
)
def test_there_are_no_other_pages(method: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Asked) -> None:
        status, answer = await world.ask(method, path)
        assert (status, answer) == (404, {"error": f"There is no {method} {path} in the admin interface."})
        assert world.shutdowns == 0

    in_world(check, monkeypatch)


def test_the_end_is_begun_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Asked) -> None:
        assert await world.ask("POST", "/v1/shutdown") == (202, {})
        assert world.shutdowns == 1

    in_world(check, monkeypatch)


@pytest.mark.parametrize(
    "body", [b"", b"x", b"\xff", b"[]", b"{}", b'{"config": 1, "app_dir": ""}', b"[" * 100_000, b'{"config": {}}']
)
def test_a_body_that_is_no_request_is_a_mistake_of_the_client(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Asked) -> None:
        status, answer = await world.ask("PUT", "/v1/config", body)
        assert status == 400
        assert "The body must be an object with config and app_dir" in answer["error"]

    in_world(check, monkeypatch)


def test_all_that_is_wrong_with_a_configuration_is_told_and_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Asked) -> None:
        await world.deploy(app("a"))
        status, answer = await world.deploy(app("b", route_prefix="b"), app("c", nonsense=1))
        assert status == 400
        assert [problem["path"] for problem in answer["problems"]] == [
            "applications[0].route_prefix",
            "applications[1].nonsense",
        ]
        assert await world.names() == ["a"]

    in_world(check, monkeypatch)


def test_a_body_may_have_so_many_bytes_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Asked) -> None:
        body = config(app("a"))
        monkeypatch.setattr(admin, "BODY_BYTES_MAX", len(body))
        assert (await world.ask("PUT", "/v1/config", body))[0] == 200
        wire = world.wire()
        wire.say(b"PUT /v1/config HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n")
        wire.say(body)
        await asyncio.sleep(1)
        wire.say(b" ")
        assert (await wire.read()).startswith(b"HTTP/1.1 413 ")
        wire.leave()

    in_world(check, monkeypatch)


def test_what_fails_is_told_and_what_does_not_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Asked) -> None:
        status, answer = await world.deploy(app("a"), app("b", "bad"), app("c", "broken"))
        assert status == 500
        assert "no weights" in answer["error"]
        assert "it cannot be built" in answer["error"]
        _, answer = await world.ask("GET", "/v1/status")
        assert {name: a["status"] for name, a in answer["applications"].items()} == {
            "a": "RUNNING",
            "b": "DEPLOY_FAILED",
            "c": "DEPLOY_FAILED",
        }
        assert answer["applications"]["c"]["message"] == "it cannot be built"
        # What runs goes on when it cannot be built anew.
        await world.deploy(app("a", "broken"))
        assert await world.names() == ["a"]
        assert await DeploymentHandle("a", "Good").remote() == "good"

    in_world(check, monkeypatch)


def test_a_fault_of_ours_is_told_and_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async def check(world: Asked) -> None:
        status, answer = await world.deploy(app("a", "fault"))
        assert (status, answer) == (500, {"error": "LookupError('a fault of ours')"})
        assert "An admin request could not be answered." in caplog.text
        caplog.clear()
        assert await world.deploy(app("a", "fault"), query="?wait=false") == (202, {})
        await asyncio.sleep(BUILD_S + 1)
        assert "A configuration could not be deployed." in caplog.text

    in_world(check, monkeypatch)


def test_who_does_not_wait_is_answered_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def check(world: Asked) -> None:
        now = asyncio.get_running_loop().time
        began = now()
        assert await world.deploy(app("a"), app("c", "broken"), query="?wait=false") == (202, {})
        assert (now() - began, await world.names()) == (0, [])
        await asyncio.sleep(BUILD_S + 1)
        assert sorted(await world.names()) == ["a", "c"]
        assert "it cannot be built" in caplog.text
        began = now()
        assert (await world.deploy(app("a"), query="?wait=true"))[0] == 200
        assert now() - began >= BUILD_S
        assert (await world.deploy(app("a", nonsense=1), query="?wait=false"))[0] == 400

    in_world(check, monkeypatch)


def test_a_client_that_leaves_does_not_call_off_what_it_has_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Asked) -> None:
        wire = world.wire()
        body = config(app("a"))
        wire.say(b"PUT /v1/config HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await asyncio.sleep(BUILD_S / 2)
        wire.leave()
        await asyncio.sleep(BUILD_S)
        assert await world.names() == ["a"]

    in_world(check, monkeypatch)


def test_a_client_that_leaves_in_the_middle_of_its_body_has_asked_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Asked) -> None:
        wire = world.wire()
        wire.say(b"PUT /v1/config HTTP/1.1\r\ncontent-length: 1000\r\n\r\n" + config(app("a")))
        await asyncio.sleep(1)
        wire.leave()
        await asyncio.sleep(BUILD_S + 1)
        assert await world.names() == []

    in_world(check, monkeypatch)


def test_the_newest_configuration_counts_however_long_each_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Asked) -> None:
        older = asyncio.create_task(world.deploy(app("a", args={"build_s": 5}), app("old")))
        await asyncio.sleep(1)
        assert (await world.deploy(app("a"), app("new")))[0] == 200
        status, answer = await older
        assert status == 500
        assert "another configuration has been deployed since" in answer["error"]
        assert await world.names() == ["a", "new"]
        assert (await world.ask("GET", "/v1/config"))[1]["applications"] == [app("a"), app("new")]

    in_world(check, monkeypatch)


def test_a_mistake_calls_off_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Asked) -> None:
        right = asyncio.create_task(world.deploy(app("a")))
        await asyncio.sleep(BUILD_S / 2)
        assert (await world.deploy(app("b", nonsense=1)))[0] == 400
        assert (await right)[0] == 200
        assert await world.names() == ["a"]

    in_world(check, monkeypatch)


def test_what_is_under_way_ends_with_the_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Asked) -> None:
        asking = asyncio.create_task(world.deploy(app("a")))
        await asyncio.sleep(BUILD_S / 2)
        await world.admin.close()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.sleep(BUILD_S + 1)
        assert await world.names() == []

    in_world(check, monkeypatch)
