"""The commands, on a Ray cluster of three nodes, by users whose code is in a folder of their own."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from ray_nodes import RayNodes, ray_nodes

pytestmark = [pytest.mark.system, pytest.mark.long]

MODULE = """
import os
import words  # beside this file, and nowhere else
from modelplex import serve

@serve.deployment
class Greeter:
    def __init__(self, fails=False):
        if fails:
            raise ValueError("no such word")

    def __call__(self, request):
        return f"{os.environ.get('GREETING', 'hello')} {words.WORLD}"

app = Greeter.bind()
bad = Greeter.options(max_constructor_retry_count=1).bind(True)
"""

FILE = """
engine: ray
http_options: {{port: 0}}
applications:
- name: greeter
  import_path: {path}
  route_prefix: /greet
  runtime_env: {{env_vars: {{GREETING: {greeting}}}}}
  deployments:
  - name: Greeter
    num_replicas: {replicas}
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with ray_nodes() as found:
        yield found


@pytest.fixture
def app_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "greetings.py").write_text(MODULE)
    (folder / "words.py").write_text("WORLD = 'world'\n")
    return folder


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "modelplex.cli", *words]


def modelplex(nodes: RayNodes, *words: str, code: int = 0, timeout_s: float = 60.0) -> str:
    """Both of its outputs."""
    env = {**os.environ, "RAY_ADDRESS": nodes.cluster.address}
    done = subprocess.run(
        command(*words), capture_output=True, text=True, timeout=timeout_s, cwd="/", env=env, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextmanager
def running(nodes: RayNodes, app_dir: Path, *words: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """`modelplex run` with an application of the folder: the process, and the URL."""
    line = command("run", *words, "--engine", "ray", "--address", nodes.cluster.address, "--app-dir", str(app_dir))
    process = subprocess.Popen([*line, "--port", "0"], stdout=subprocess.PIPE, text=True, cwd="/")
    assert process.stdout is not None
    try:
        until = time.monotonic() + 60
        said = ""
        while " is served at " not in said:  # Ray shows what replicas print before
            assert select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))[0], "nothing is said"
            said = process.stdout.readline()
            assert said, "it has ended"
        yield process, said.partition(" is served at ")[2].split()[0]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def actors() -> set[str]:
    import ray

    named = ray.util.list_named_actors(all_namespaces=True)
    return {each["name"].partition("#")[0] for each in named if each["namespace"] == "modelplex"}


def test_what_is_run_has_its_folder_on_every_machine_and_goes_alone(nodes: RayNodes, app_dir: Path) -> None:
    with running(nodes, app_dir, "greetings:app") as (first, url):
        assert httpx.get(url).text == "hello world"
        with running(nodes, app_dir, "greetings:app", "--name", "b", "--route-prefix", "/b") as (second, other):
            assert httpx.get(other).text == "hello world"
            assert actors() == {"controller", "proxy", "default_Greeter", "b_Greeter"}
        assert second.returncode == 0
        assert actors() == {"controller", "proxy", "default_Greeter"}
        assert httpx.get(url).text == "hello world"
    assert first.returncode == 0
    assert actors() == set()


def test_what_cannot_be_run_leaves_nothing(nodes: RayNodes, app_dir: Path) -> None:
    words = ["--engine", "ray", "--port", "0", "--app-dir", str(app_dir)]
    assert "no such word" in modelplex(nodes, "run", "greetings:bad", *words, code=1)
    assert actors() == set()
    assert "no application 'missing'" in modelplex(nodes, "run", "greetings:missing", *words, code=2)
    assert actors() == set()


def test_a_file_is_deployed_changed_shown_and_deleted(nodes: RayNodes, app_dir: Path) -> None:
    file = app_dir / "system.yaml"

    def deploy(greeting: str, *, replicas: int = 1, path: str = "greetings:app", code: int = 0) -> str:
        file.write_text(FILE.format(greeting=greeting, replicas=replicas, path=path))
        return modelplex(nodes, "deploy", str(file), "--app-dir", str(app_dir), code=code)

    def status() -> str:
        return modelplex(nodes, "status", "--system", "ray")

    assert "Nothing runs" in modelplex(nodes, "status", "--system", "ray", code=3)
    try:
        assert "Deployed: greeter" in deploy("hi")
        shown = status()
        url = next(word for word in shown.split() if word.startswith("http://")) + "/greet"
        assert "greeter: RUNNING" in shown
        assert httpx.get(url).text == "hi world"
        assert "Deployed" in deploy("bye", replicas=2)
        assert httpx.get(url).text == "bye world"
        assert "2 RUNNING" in status()
        assert "no application 'nothing'" in deploy("never", path="greetings:nothing", code=1)
        assert httpx.get(url).text == "bye world"
        assert "Greeter#" in modelplex(nodes, "replicas", "--system", "ray")
        assert "no models" in modelplex(nodes, "models", "--system", "ray")
        assert "there are: none" in modelplex(nodes, "load", "a", "--deployment", "Greeter", "--system", "ray", code=1)
        assert "Greeter#" in modelplex(nodes, "top", "--once", "--system", "ray")
        assert "GREETING: bye" in modelplex(nodes, "config", "--system", "ray")
        assert "Deleted: greeter" in modelplex(nodes, "delete", "greeter", "--system", "ray")
        assert httpx.get(url).status_code == 404
        assert "no application 'greeter'" in modelplex(nodes, "delete", "greeter", "--system", "ray", code=1)
        file.write_text(FILE.format(greeting="late", replicas=1, path="greetings:app"))
        assert "Accepted" in modelplex(nodes, "deploy", str(file), "--app-dir", str(app_dir), "--no-wait")
        until = time.monotonic() + 30
        while "greeter: RUNNING" not in (shown := status()):
            assert time.monotonic() < until, shown
        assert httpx.get(url).text == "late world"
    finally:
        assert "Stopped" in modelplex(nodes, "shutdown", "--system", "ray")
    assert actors() == set()


def test_where_no_cluster_is_that_is_said_soon(nodes: RayNodes, app_dir: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        line = ["run", "greetings:app", "--app-dir", str(app_dir), "--engine", "ray", "--address", address]
        assert f"no Ray cluster at {address}" in modelplex(nodes, *line, code=3)
