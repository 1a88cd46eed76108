"""Systems that run on their own: their commands, what survives what, and what is left of them."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from served import is_running, serving, wait_until
from started import Clients, Started, as_json, home_in

from modelplex.admin_client import AdminClient

pytestmark = pytest.mark.system

SHOP = """
import asyncio
from modelplex import serve
from starlette.responses import StreamingResponse

VERSION = {version!r}

async def slow():
    for number in range(30):
        await asyncio.sleep(0.1)
        yield f"{{number}} "

@serve.deployment(num_replicas=2, max_ongoing_requests=20)
class Model:
    @serve.multiplexed(max_num_models_per_replica=8)
    async def get_model(self, model_id):
        await asyncio.sleep(0.05)
        return model_id

    async def __call__(self, request):
        if request.url.path == "/slow":
            return StreamingResponse(slow())
        await self.get_model(serve.get_multiplexed_model_id())
        return VERSION

app = Model.bind()
"""

WHOLE_STREAM = " ".join(map(str, range(30))).encode() + b" "

SMALL = """
from modelplex import serve

@serve.deployment
async def answer(request):
    return {answer!r}

app = answer.bind()
"""


def shop(replicas: int = 2) -> dict[str, Any]:
    deployments = [{"name": "Model", "num_replicas": replicas}]
    return {"name": "shop", "import_path": "shop:app", "deployments": deployments}


def small(**more: Any) -> dict[str, Any]:
    return {"name": "small", "import_path": "small:app"} | more


@pytest.fixture
def system(tmp_path: Path) -> Iterator[Started]:
    with home_in(tmp_path) as started:
        yield started


def test_under_load_nothing_that_is_done_to_a_system_is_noticed(system: Started) -> None:
    system.write("shop.py", SHOP.format(version="one"))
    system.start(system.config(shop()))
    models = [f"m{number}" for number in range(8)]
    with Clients(system.port, models, count=8) as clients:
        clients.go_on()
        assert clients.take_cold() == 8

        system.write("shop.py", SHOP.format(version="two"))
        system.command("deploy", system.config(shop()))
        clients.go_on()
        assert (clients.take_cold(), clients.failures) == (0, []), "new code"
        clients.bodies.clear()
        clients.go_on()
        assert set(clients.bodies) == {b"two"}

        for count in (5, 2):
            system.command("deploy", system.config(shop(count)))
            clients.go_on()
            assert (clients.take_cold(), clients.failures) == (0, []), f"{count} replicas"
        wait_until(lambda: len(system.replicas()) == 2, "there are two replicas")
        before = system.processes()[1:]

        system.kill_controller()
        system.command("status", code=3)
        clients.go_on()
        system.command("start")
        wait_until(lambda: len(system.status["proxies"]) == 1, "the proxy has registered")
        clients.go_on()
        assert (clients.take_cold(), clients.failures) == (0, []), "another controller"
        assert system.processes()[1:] == before

        replica = system.replicas()[0]
        os.kill(replica, signal.SIGTERM)
        wait_until(lambda: not is_running(replica), "the replica has ended")
        clients.go_on()
        assert (clients.take_cold(), clients.failures) == (0, []), "SIGTERM to a replica"
        assert len(system.replicas()) == 2

        [proxy] = system.proxies()
        os.kill(proxy, signal.SIGTERM)
        wait_until(lambda: not is_running(proxy), "the proxy has ended")
        clients.go_on()
        assert (clients.take_cold(), clients.failures) == (0, []), "SIGTERM to the proxy"
    assert set(clients.statuses) == {200}
    assert set(clients.streams) == {WHOLE_STREAM}
    assert clients.failures == []


# Commands, on one system


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """Runs `small`, which answers `one`; every test leaves it so."""
    with home_in(tmp_path_factory.mktemp("shared")) as started:
        started.write("small.py", SMALL.format(answer="one"))
        assert "Served at http://127.0.0.1:" in started.start(started.config(small())).stdout
        yield started


def unchanged(system: Started) -> None:
    assert system.get() == (200, b"one")
    assert system.status["applications"]["small"]["status"] == "RUNNING"


def test_a_second_controller_is_refused(shared: Started) -> None:
    assert "runs already" in shared.start(code=1).stderr
    assert "runs already" in shared.start("--blocking", code=1).stderr
    unchanged(shared)


def test_the_status_as_text_and_as_json(shared: Started) -> None:
    text = shared.command("status").stdout
    assert "small: RUNNING" in text
    assert "answer: HEALTHY (1 RUNNING)" in text
    found = as_json(shared.command("status", "--json", "--name", "small"))
    assert list(found["applications"]) == ["small"]
    assert found == shared.status
    assert "no application 'other'" in shared.command("status", "--name", "other", code=1).stderr


def test_the_configuration_can_be_read_and_deployed_again(shared: Started) -> None:
    before = shared.processes()
    text = shared.command("config").stdout
    assert yaml.safe_load(text) == as_json(shared.command("config", "--json"))
    assert yaml.safe_load(text)["applications"] == [small()]
    shared.command("deploy", shared.write("again.yaml", text))
    assert shared.processes() == before
    unchanged(shared)


def test_a_file_with_mistakes_changes_nothing(shared: Started) -> None:
    wrong = small(deployments=[{"name": "answer", "num_replicas": "many"}], route_prefix="small")
    said = shared.command("deploy", shared.config(wrong), code=2).stderr
    assert "serve.yaml:" in said
    assert "num_replicas" in said
    assert "route_prefix" in said
    assert (
        "no module 'nothing'"
        in shared.command("deploy", shared.config({"name": "other", "import_path": "nothing:app"}), code=2).stderr
    )
    shared.command("deploy", "nowhere.yaml", code=2)
    unchanged(shared)


@pytest.mark.parametrize(
    ("broken", "where"),
    [("class Bad:\n    def __init__(self):\n        {}\napp = serve.deployment(name='answer')(Bad).bind()", "start"),
     ("{}", "build")],
    ids=["in the constructor", "in the module"],
)  # fmt: skip
def test_code_that_cannot_start_is_rolled_back(shared: Started, broken: str, where: str) -> None:
    shared.write("small.py", "from modelplex import serve\n" + broken.format('raise RuntimeError("no weights")'))
    said = shared.command("deploy", shared.config(small()), code=1).stderr
    assert "RuntimeError: no weights" in said
    unchanged(shared)
    if where == "start":
        assert "no weights" in shared.status["applications"]["small"]["message"]
        assert "rolled back" in shared.command("status").stdout or "no weights" in shared.command("status").stdout
    shared.write("small.py", SMALL.format(answer="one"))
    shared.command("deploy", shared.config(small()))
    assert shared.status["applications"]["small"]["message"] == ""
    unchanged(shared)


def test_one_application_of_a_file_that_cannot_be_built_does_not_stop_the_others(shared: Started) -> None:
    shared.write("bad.py", "raise SystemExit('no weights')")
    other = {"name": "other", "import_path": "small:app", "route_prefix": "/other"}
    bad = {"name": "bad", "import_path": "bad:app", "route_prefix": "/bad"}
    assert "no weights" in shared.command("deploy", shared.config(small(), other, bad), code=1).stderr
    assert shared.get("/other") == (200, b"one")
    found = shared.status["applications"]
    assert {name: app["status"] for name, app in found.items()} == {
        "bad": "DEPLOY_FAILED",
        "other": "RUNNING",
        "small": "RUNNING",
    }
    assert "no weights" in found["bad"]["message"]
    assert "Deleted: bad" in shared.command("delete", "bad").stdout
    assert "Deleted: other" in shared.command("delete", "other").stdout
    assert shared.get("/other") == (200, b"one"), "the application that is served under /"
    assert list(shared.status["applications"]) == ["small"]
    assert "no application 'other'" in shared.command("delete", "other", code=1).stderr
    unchanged(shared)


def test_what_the_next_file_does_not_have_is_stopped(shared: Started) -> None:
    other = {"name": "other", "import_path": "small:app", "route_prefix": "/other"}
    assert "Deployed: small, other" in shared.command("deploy", shared.config(small(), other)).stdout
    assert "Accepted: small" in shared.command("deploy", "--no-wait", shared.config(small())).stdout
    wait_until(lambda: list(shared.status["applications"]) == ["small"], "the other one is deleted")
    unchanged(shared)


def test_options_of_http_that_come_too_late_are_told(shared: Started) -> None:
    said = shared.command("deploy", shared.config(small(), http_options={"request_timeout_s": 7})).stderr
    assert "http_options (request_timeout_s) are those that the system was started with" in said
    unchanged(shared)


# Beginning and end


@pytest.mark.parametrize("words", [["status"], ["config"], ["deploy", "serve.yaml"], ["delete", "x"], ["shutdown"]])
def test_where_nothing_runs_commands_say_so(tmp_path: Path, words: list[str]) -> None:
    with home_in(tmp_path) as system:
        system.write("small.py", SMALL.format(answer="one"))
        system.config(small())
        assert "Nothing runs" in system.command(*words, code=3).stderr


def test_the_options_of_http_in_a_file_are_the_systems_also_for_the_next_controller(system: Started) -> None:
    system.write("small.py", SMALL.format(answer="one"))
    options = {"root_path": "/api", "request_timeout_s": 7.5}
    system.start(system.config(small(), http_options=options))
    port = system.port
    assert system.admin.config()["http_options"] == {**options, "port": 0}
    system.kill_controller()
    system.command("start")
    assert system.admin.config()["http_options"] == {**options, "port": 0}
    assert system.port == port
    assert "Stopped." in system.command("shutdown").stdout
    assert not system.home.state.exists()
    assert not system.home.sockets.exists()
    system.start()  # at once
    assert system.admin.config() == {"http_options": {"port": 0}, "applications": []}


def test_a_file_that_cannot_start_leaves_a_system_to_deploy_to(system: Started) -> None:
    system.write("small.py", "raise RuntimeError('no weights')")
    assert "no weights" in system.start(system.config(small()), code=1).stderr
    [(name, app)] = system.status["applications"].items()
    assert (name, app["status"], "no weights" in app["message"]) == ("small", "DEPLOY_FAILED", True)


def test_a_port_that_is_taken_is_told_and_nothing_is_left(system: Started) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "Cannot listen on 127.0.0.1" in system.command("start", "--port", port, code=1).stderr


def test_a_system_without_applications_survives_its_controller_too(system: Started) -> None:
    system.start("--proxies", "2")
    port = system.port
    wait_until(lambda: len(system.proxies()) == 2, "both proxies are there")
    before = system.proxies()
    system.kill_controller()
    system.command("start")
    wait_until(lambda: len(system.status["proxies"]) == 2, "both proxies have registered")
    assert (system.port, system.proxies()) == (port, before)
    system.kill_controller()
    system.command("shutdown")
    assert system.processes() == []


def test_a_shutdown_returns_when_the_controller_has_ended_and_not_before(system: Started) -> None:
    ends_late = "import atexit, sys, time\nif '--blocking' in sys.orig_argv: atexit.register(time.sleep, 1.0)\n"
    system.write("sitecustomize.py", ends_late)
    system.command("start", "--port", "0", PYTHONPATH=str(system.folder))
    system.command("shutdown")
    assert system.processes() == []


def test_what_was_to_run_is_forgotten_without_being_started(system: Started) -> None:
    system.start()
    os.kill(system.controllers()[0], signal.SIGTERM)
    wait_until(lambda: not system.processes(), "all have ended")
    assert system.home.state.exists()
    assert "Nothing ran" in system.command("shutdown").stdout
    assert not system.home.state.exists()
    system.command("shutdown", code=3)


def test_shutdown_ends_what_a_dead_controller_has_left(system: Started) -> None:
    system.write("small.py", SMALL.format(answer="one"))
    system.start(system.config(small()))
    port = system.port
    system.kill_controller()
    assert len(system.processes()) == 2
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"one"
    assert "Stopped." in system.command("shutdown").stdout
    assert system.processes() == []


def test_processes_that_are_not_wanted_any_more_are_told_to_end(system: Started) -> None:
    """The state is lost, and with it what they were for; the proxy hands on its socket all the same."""
    system.write("small.py", SMALL.format(answer="one"))
    system.start(system.config(small()))
    port = system.port
    [replica] = system.replicas()
    system.kill_controller()
    system.home.state.unlink()
    system.command("start", "--port", str(port))
    wait_until(lambda: not is_running(replica), "the replica has ended")
    assert system.port == port
    assert system.status["applications"] == {}


def test_a_controller_that_is_told_to_end_takes_all_along_and_the_next_one_begins_anew(system: Started) -> None:
    system.write("small.py", SMALL.format(answer="one"))
    system.start(system.config(small()))
    [controller] = system.controllers()
    os.kill(controller, signal.SIGTERM)
    wait_until(lambda: not system.processes(), "all have ended")
    assert not system.home.sockets.exists()
    system.start()
    wait_until(lambda: system.status["applications"]["small"]["status"] == "RUNNING", "it runs again")
    assert system.get() == (200, b"one")


def test_a_file_is_run_until_the_command_ends(tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(SMALL.format(answer="one"))
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump({"applications": [small()]}))
    with serving(str(file), tmp_path) as served:
        assert served.call().body == b"one"
        admin = AdminClient(served.sockets_folder())
        assert list(admin.status()["applications"]) == ["small"]
        assert admin.config()["applications"] == [small()]
        assert served.stop() == 0


@pytest.mark.parametrize(("code", "module"), [(2, "small:nothing:x"), (1, "small:app")])
def test_a_file_that_cannot_be_run_says_why(tmp_path: Path, code: int, module: str) -> None:
    (tmp_path / "small.py").write_text("raise RuntimeError('no weights')")
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump({"applications": [small(import_path=module)]}))
    words = [sys.executable, "-m", "modelplex.cli", "run", str(file), "--port", "0", "--app-dir", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done
    assert ("no weights" if code == 1 else "import_path") in done.stderr
