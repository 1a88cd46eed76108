"""Applications of a file, built in processes of their own."""

import asyncio
import math
import os
import sysconfig
import time
from pathlib import Path
from typing import Any

import pytest
from served import processes_naming, wait_until

from modelplex import errors
from modelplex.runtime import app_builder, payload
from modelplex.runtime.app_spec import AppSpec, Definition

CODE = """
import os
from modelplex import serve
from names import NAME

@serve.deployment(num_replicas=3)
class Greets:
    def __init__(self, greeting, place, variable):
        self.said = f"{greeting} {NAME} {place} {variable}"

def app(args):
    return Greets.bind(args["greeting"], os.getcwd(), os.environ.get("VARIABLE"))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "greets.py").write_text(CODE)
    (tmp_path / "names.py").write_text("NAME = 'Ada'")
    return tmp_path


def config(**more: Any) -> dict[str, Any]:
    args = {"greeting": "Hello"}
    return {"applications": [{"name": "a", "import_path": "greets:app", "args": args, **more}]}


def build(folder: Path, settings: dict[str, Any]) -> AppSpec:
    return asyncio.run(app_builder.build(settings, "a", str(folder)))


def build_code(folder: Path, code: str) -> AppSpec:
    (folder / "other.py").write_text(f"from modelplex import serve\n{code}")
    return build(folder, {"applications": [{"name": "a", "import_path": "other:app"}]})


@pytest.mark.system
def test_an_application_is_built_with_its_arguments_where_it_is_to_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder / "place"
    place.mkdir()
    environment = {"working_dir": str(place), "env_vars": {"VARIABLE": "set"}}
    overrides = [{"name": "Greets", "max_ongoing_requests": 7}]
    settings = config(runtime_env=environment, deployments=overrides, route_prefix="/greet")
    spec = build(folder, settings)
    [deployment] = spec.deployments
    assert (spec.name, spec.route_prefix, spec.source) == ("a", "/greet", settings["applications"][0])
    assert (deployment.config.num_replicas, deployment.config.max_ongoing_requests) == (3, 7)
    assert spec.environment.env_vars == {"VARIABLE": "set"}
    assert spec.environment.working_dir == str(place)
    assert list(spec.environment.sys_path[:2]) == [str(place), str(folder)]
    monkeypatch.syspath_prepend(folder)
    assert isinstance(deployment.definition, bytes)
    definition = payload.loads(deployment.definition)
    assert isinstance(definition, Definition)
    assert definition.args == ("Hello", str(place), "set")


@pytest.mark.system
def test_the_version_is_another_when_code_or_arguments_are_and_else_the_same(folder: Path) -> None:
    def version(**more: Any) -> str:
        return build(folder, config(**more)).deployments[0].version

    first = version()
    assert version(deployments=[{"name": "Greets", "num_replicas": 5}], route_prefix="/elsewhere") == first
    (folder / "unused.py").write_text("")
    assert version() == first
    others = [version(args={"greeting": "Bye"}), version(runtime_env={"env_vars": {"VARIABLE": "set"}})]
    (folder / "names.py").write_text("NAME = 'Eva'")
    others.append(version())
    assert len({first, *others}) == 4


@pytest.mark.system
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise RuntimeError('no weights')", r"(?s)Traceback.*other\.py.*RuntimeError: no weights"),
        ("print('x' * 10_000_000)\nraise RuntimeError('no weights')", "RuntimeError: no weights"),
        ("import sys; sys.stderr.write('x' * 100_000)\nraise RuntimeError('no weights')", "RuntimeError: no weights"),
        ("raise SystemExit('no weights')", "no weights"),
        ("raise SystemExit(0)", "ended before it was done|SystemExit"),
        ("import os; os._exit(7)", "exit code 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("app = 1", "other has no application"),
        ("syntax error", "SyntaxError"),
    ],
)
def test_code_that_cannot_be_built_says_why(folder: Path, code: str, says: str) -> None:
    with pytest.raises(errors.DeploymentFailedError, match=says) as raised:
        build_code(folder, code)
    assert "The application 'a' could not be built" in str(raised.value)
    assert len(str(raised.value)) < app_builder.TOLD_BYTES + 100


@pytest.mark.system
def test_code_that_hangs_is_ended_with_all_that_it_has_started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_builder, "BUILD_TIMEOUT_S", 1.5)
    marker = f"import time; time.sleep(60)  # {folder}"
    code = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {marker!r}])\ntime.sleep(60)"
    with pytest.raises(errors.DeploymentFailedError, match=r"a was not built within 1\.5 s"):
        build_code(folder, code)
    wait_until(lambda: not processes_naming(str(folder)), "its child has ended")


@pytest.mark.system
def test_a_build_that_is_called_off_leaves_no_process(folder: Path) -> None:
    async def main() -> None:
        marker = folder / "began"
        code = f"import pathlib, time\npathlib.Path({str(marker)!r}).touch()\ntime.sleep(60)"
        (folder / "other.py").write_text(code)
        settings = {"applications": [{"name": "a", "import_path": "other:app"}]}
        task = asyncio.create_task(app_builder.build(settings, "a", str(folder)))
        while not os.path.exists(marker):  # noqa: ASYNC110, ASYNC240 - it is another process that makes it
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not processes_naming("modelplex-build-")

    asyncio.run(main())


@pytest.mark.system
def test_what_code_has_started_and_left_is_not_waited_for(folder: Path) -> None:
    code = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(20)'])\n"
    code += "@serve.deployment\ndef f(): pass\napp = f.bind()"
    began = time.monotonic()
    assert build_code(folder, code).deployments[0].name == "f"
    assert time.monotonic() - began < 15


@pytest.mark.system
def test_a_folder_to_work_in_that_has_gone_is_told(folder: Path) -> None:
    with pytest.raises(errors.DeploymentFailedError, match=r"could not be built: .*No such file"):
        build(folder / "gone", config())


def test_all_values_arrive_as_they_were_sent() -> None:
    args = {
        "far": math.inf,
        "near": -math.inf,
        "text": 'Infinity "NaN" \\ \U0001f600 é \x7f \u2028 -Infinity',
        "small": 1e-7,
        "large": 1e16,
        "nothing": None,
        "yes": "yes",
        "day": "2020-01-01",
        "list": [math.inf, True, ""],
    }
    [app] = app_builder.read_config(config(args=args), "/").applications
    assert app.args == args


def test_the_sources_are_the_users_files_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter's own folder may hold programs besides its libraries: /usr/src/app below /usr."""
    paths = {**sysconfig.get_paths(), "data": "/", "scripts": "/"}
    monkeypatch.setattr(sysconfig, "get_paths", lambda: paths)
    found = app_builder._sources()
    assert Path(__file__) in found
    assert Path(pytest.__file__) not in found
    assert Path(app_builder.__file__) not in found
    assert Path(os.__file__) not in found
