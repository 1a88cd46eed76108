"""What Ray Serve's functions take that is not needed otherwise: has its meaning, or is refused."""

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from modelplex import serve
from modelplex.config import LoggingConfig
from modelplex.deployment import Application, flatten, with_logging
from modelplex.pytest_plugin import ServeLocal
from modelplex.serve import context as serve_context
from modelplex.serve.config import ProxyLocation


@pytest.fixture(autouse=True)
def nothing_is_served_afterwards() -> Iterator[None]:
    yield
    serve.shutdown()


class Here:
    async def __call__(self, *others: Any) -> str:
        return "here"


Plain = serve.deployment(name="Plain")(Here)


def levels(application: Application) -> dict[str, str]:
    return {node.deployment.name: node.deployment.config.logs.log_level for node in flatten(application, "app")}


def test_options_of_logs_are_for_deployments_that_say_nothing_of_it() -> None:
    shared = Plain.options(name="shared").bind()
    own = Plain.options(name="own", logging_config={"log_level": "ERROR"}).bind()
    application = Plain.bind([shared, {"own": own}], shared)
    assert levels(with_logging(application, {"log_level": "DEBUG"})) == {
        "shared": "DEBUG",
        "own": "ERROR",
        "Plain": "DEBUG",
    }
    assert levels(application) == {"shared": "INFO", "own": "ERROR", "Plain": "INFO"}


@pytest.mark.parametrize(
    ("of_run", "expected"), [(None, "WARNING"), ({"log_level": "DEBUG"}, "DEBUG"), (LoggingConfig(), "INFO")]
)
def test_run_has_its_own_options_of_logs_or_those_of_start(
    of_run: Any, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelplex import driver

    deployed: list[Application] = []
    running = SimpleNamespace(deploy=lambda application, *_: deployed.append(application))
    monkeypatch.setattr(driver, "start", lambda *_, **__: running)
    serve.start(logging_config={"log_level": "WARNING"})
    serve.run(Plain.bind(), logging_config=of_run)
    assert levels(deployed[0]) == {"Plain": expected}
    serve.shutdown()
    serve.run(Plain.bind())
    assert levels(deployed[1]) == {"Plain": "INFO"}


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="not scaled from outside"):
        serve.run(Plain.bind(), external_scaler_enabled=True)
    with pytest.raises(ValueError, match="there is no reflection"):
        serve.start(grpc_options={"enable_reflection": True})
    with pytest.raises(TypeError, match="Unknown key of grpc_options: prot"):
        serve.start(grpc_options={"prot": 9000})
    with pytest.raises(ValueError, match=r"proxy_location must be Disabled, .*EveryNode or AllNodes, got 'Everywhere'"):
        serve.start(proxy_location="Everywhere")
    with pytest.raises(TypeError, match="log_levels"):
        serve.start(logging_config={"log_levels": "INFO"})
    assert serve.status() == serve.ServeStatus()


@pytest.mark.parametrize(
    ("options", "location"),
    [
        ({}, "EveryNode"),
        ({"proxy_location": None}, "EveryNode"),
        ({"proxy_location": "AllNodes"}, "AllNodes"),
        ({"proxy_location": ProxyLocation.HeadOnly}, "HeadOnly"),
        ({"proxy_location": "HeadOnly", "http_options": {"location": "Disabled"}}, "Disabled"),
    ],
)
def test_which_machines_serve_http_is_an_option_of_http(
    options: dict[str, Any], location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelplex import driver

    started: list[serve.HTTPOptions] = []
    monkeypatch.setattr(driver, "start", lambda engine, http, **_: started.append(http))
    serve.start(**options)
    assert [http.location for http in started] == [location]


def test_several_applications_are_run_and_deleted_without_waiting() -> None:
    targets = [serve.RunTarget(Plain.bind(), name=name, route_prefix=None) for name in ("one", "two")]
    handles = serve.run_many(targets, _local_testing_mode=True)
    assert [handle.remote().result() for handle in handles] == ["here", "here"]
    assert [handle.app_name for handle in handles] == ["one", "two"]
    serve.delete("one", _blocking=True)
    assert list(serve.status().applications) == ["two"]


@pytest.mark.system
def test_without_a_proxy_there_are_handles_alone() -> None:
    serve.start(proxy_location="Disabled")
    assert serve.run(Plain.bind()).remote().result(timeout_s=60) == "here"
    assert serve.status().address == ""


def test_outside_of_requests_and_replicas_the_context_is_empty() -> None:
    assert serve_context._serve_request_context.get() == serve_context._RequestContext()
    assert serve_context._get_internal_replica_context() is None


def build() -> Starlette:
    return Starlette(routes=[Route("/", lambda _: PlainTextResponse("no class"))])


def test_an_app_is_served_without_a_class(serve_local: ServeLocal) -> None:
    serve_local(serve.deployment(serve.ingress(build)()).bind())
    assert serve_local.http_client().get("/").text == "no class"


def test_a_gradio_interface_is_built_in_the_replica(serve_local: ServeLocal, monkeypatch: pytest.MonkeyPatch) -> None:
    gradio: Any = ModuleType("gradio")
    create_app = lambda blocks: Starlette(routes=[Route("/", lambda _: PlainTextResponse(f"shows {blocks}"))])  # noqa: E731
    gradio.routes = SimpleNamespace(App=SimpleNamespace(create_app=create_app))
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    from modelplex.serve.gradio_integrations import GradioIngress, GradioServer

    serve_local(GradioServer.options(name="Server").bind(lambda: "a textbox"))
    assert serve_local.http_client().get("/").text == "shows a textbox"

    class Own(GradioIngress):
        def __init__(self, name: str) -> None:
            self.name = name
            super().__init__(lambda: f"a button of {self.name}")

    serve_local(serve.deployment(Own).bind("mine"))
    assert serve_local.http_client().get("/").text == "shows a button of mine"
