"""The admin interface, over its protocol, in virtual time: no sockets, and no processes that build applications."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import pytest
from asked_admin import Asked, asked_as
from inline_app import app_of

from modelplex import errors
from modelplex.applications import apply_overrides
from modelplex.deployment import flatten
from modelplex.runtime import admin_routes, config_deployer
from modelplex.runtime.app_builder import read_config
from modelplex.runtime.app_spec import AppSpec
from modelplex.serve import DeploymentHandle
from modelplex.testing import run_virtual

PUT = b"PUT /v1/config HTTP/1.1\r\ncontent-type: application/json\r\n"

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


class Deployed(Asked):
    """A system to which configurations are deployed."""

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


def in_world(check: Callable[[Deployed], Coroutine[Any, Any, None]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_deployer, "build", build)

    async def main() -> None:
        async with asked_as(Deployed) as world, asyncio.timeout(1000):
            await check(world)

    run_virtual(main())


def test_what_is_deployed_runs_and_is_told_and_what_is_not_there_any_more_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Deployed) -> None:
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
    async def check(world: Deployed) -> None:
        await world.deploy(app("a"), app("b c"))
        assert await world.ask("DELETE", "/v1/applications/b%20c") == (200, {})
        assert await world.names() == ["a"]
        status, answer = await world.ask("DELETE", "/v1/applications/b%20c")
        assert (status, answer) == (404, {"error": "There is no application 'b c'."})

    in_world(check, monkeypatch)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/status"),
        ("GET", "/v1/status/"),
        ("GET", "//v1/status"),
        ("POST", "/v1/models//load"),
        ("POST", "/v1/models/a/b/load"),
        ("GET", "/v1"),
        ("PUT", "/"),
    ],
)
def test_there_are_no_other_pages(method: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Deployed) -> None:
        status, answer = await world.ask(method, path)
        assert (status, answer) == (404, {"error": f"There is no {method} {path} in the admin interface."})

    in_world(check, monkeypatch)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/status", "GET"),
        ("GET", "/v1/shutdown", "POST"),
        ("DELETE", "/v1/config", "GET, PUT"),
        ("GET", "/v1/models/m/load", "POST"),
    ],
)
def test_what_cannot_be_done_to_a_page_is_said_with_what_can(
    method: str, path: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(world: Deployed) -> None:
        wire = world.wire()
        wire.say(f"{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n".encode())
        answer = await wire.read()
        assert answer.startswith(b"HTTP/1.1 405 ")
        assert f"allow: {allowed}\r\n".encode() in answer
        assert f"there is {allowed}.".encode() in answer
        wire.leave()
        assert world.shutdowns == 0

    in_world(check, monkeypatch)


def test_the_end_is_begun_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Deployed) -> None:
        assert await world.ask("POST", "/v1/shutdown") == (202, {})
        assert world.shutdowns == 1

    in_world(check, monkeypatch)


@pytest.mark.parametrize(
    "body", [b"", b"x", b"\xff", b"[]", b"{}", b'{"config": 1, "app_dir": ""}', b"[" * 100_000, b'{"config": {}}']
)
def test_a_body_that_is_no_request_is_a_mistake_of_the_client(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Deployed) -> None:
        status, answer = await world.ask("PUT", "/v1/config", body)
        assert status == 400
        assert "The body must be an object with config and app_dir" in answer["error"]

    in_world(check, monkeypatch)


def test_all_that_is_wrong_with_a_configuration_is_told_and_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Deployed) -> None:
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
    async def check(world: Deployed) -> None:
        most = next(route for route in admin_routes.TABLE.routes if route.path.endswith("/load")).body_bytes_max
        wire = world.wire()
        head = b"POST /v1/models/m/load HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        wire.say(head + b"content-length: 1000000\r\n\r\n{")
        for _ in range(most // 1024):
            wire.say(b" " * 1024)
        assert (await wire.read()).startswith(b"HTTP/1.1 413 ")
        wire.leave()
        # What just fits is read, and found to be no body.
        assert (await world.ask("POST", "/v1/models/m/load", b" " * most))[0] == 400

    in_world(check, monkeypatch)


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
def test_a_body_has_to_say_that_it_is_json(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Deployed) -> None:
        wire = world.wire()
        header = f"content-type: {kind}\r\n" if kind else ""
        wire.say(f"POST /v1/models/m/load HTTP/1.1\r\nhost: a\r\n{header}content-length: 2\r\n\r\n{{}}".encode())
        assert (await wire.read()).startswith(b"HTTP/1.1 415 ")
        wire.leave()

    in_world(check, monkeypatch)


@pytest.mark.parametrize(
    "query", ["wait=perhaps", "nonsense=1", "wait=true&wait=false", "wait", "&".join(f"a{n}=" for n in range(99))]
)
def test_a_query_is_read_strictly(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Deployed) -> None:
        status, answer = await world.ask("PUT", f"/v1/config?{query}", config(app("a")))
        assert status == 400
        assert answer["error"].startswith("The query is wrong: ")
        assert await world.names() == []
        assert (await world.ask("GET", f"/v1/status?{query}"))[0] == 400

    in_world(check, monkeypatch)


def test_what_fails_is_told_and_what_does_not_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Deployed) -> None:
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
    async def check(world: Deployed) -> None:
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
    async def check(world: Deployed) -> None:
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
    async def check(world: Deployed) -> None:
        wire = world.wire()
        body = config(app("a"))
        wire.say(PUT + b"content-length: %d\r\n\r\n" % len(body) + body)
        await asyncio.sleep(BUILD_S / 2)
        wire.leave()
        await asyncio.sleep(BUILD_S)
        assert await world.names() == ["a"]

    in_world(check, monkeypatch)


def test_a_client_that_leaves_in_the_middle_of_its_body_has_asked_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Deployed) -> None:
        wire = world.wire()
        wire.say(PUT + b"content-length: 1000\r\n\r\n" + config(app("a")))
        await asyncio.sleep(1)
        wire.leave()
        await asyncio.sleep(BUILD_S + 1)
        assert await world.names() == []

    in_world(check, monkeypatch)


def test_the_newest_configuration_counts_however_long_each_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Deployed) -> None:
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
    async def check(world: Deployed) -> None:
        right = asyncio.create_task(world.deploy(app("a")))
        await asyncio.sleep(BUILD_S / 2)
        assert (await world.deploy(app("b", nonsense=1)))[0] == 400
        assert (await right)[0] == 200
        assert await world.names() == ["a"]

    in_world(check, monkeypatch)


def test_what_is_under_way_ends_with_the_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Deployed) -> None:
        asking = asyncio.create_task(world.deploy(app("a")))
        await asyncio.sleep(BUILD_S / 2)
        await world.admin.close()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.sleep(BUILD_S + 1)
        assert await world.names() == []

    in_world(check, monkeypatch)


def test_what_was_decided_is_told_of_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(world: Asked) -> None:
        handle = await world.cluster.run(app_of(Good))
        responses = [handle.remote(), handle.remote()]
        await asyncio.gather(*responses)
        status, answer = await world.ask("GET", f"/v1/decisions?request_id={responses[0].request_id}&limit=9")
        assert status == 200
        assert [each["kind"] for each in answer["decisions"]] == ["end", "route"]
        assert (await world.ask("GET", "/v1/decisions?limit=none"))[0] == 400

    in_world(check, monkeypatch)
