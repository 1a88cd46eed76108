"""Applications of a configuration file, each built in a process of its own: the controller imports no user code.

So a file that is deployed again finds the newest code, and code that breaks its process harms nobody.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import signal
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelplex import errors
from modelplex.applications import apply_overrides, import_application
from modelplex.config_file import ApplicationConfig, SystemConfig, read_text
from modelplex.deployment import flatten
from modelplex.runtime import payload
from modelplex.runtime.app_spec import AppSpec, Environment

BUILD_TIMEOUT_S = 300.0

# Of what the process has written, the last is told.
TOLD_BYTES = 8000

# Text of JSON, and its numbers that YAML writes in another way.
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?Infinity|NaN')
_IN_YAML = {"Infinity": ".inf", "-Infinity": "-.inf", "NaN": ".nan"}


async def build(config: Mapping[str, Any], name: str, app_dir: str) -> AppSpec:
    """One application of a configuration, built.

    Args:
        config: what `SystemConfig.as_dict` answers.
        name: which one.
        app_dir: where to import from.

    Raises `DeploymentFailedError` with what the user's code raised.
    """
    app = next(a for a in read_config(config, app_dir).applications if a.name == name)
    environment = _environment(app, app_dir)
    question = json.dumps({"config": dict(config), "name": name, "app_dir": app_dir})
    with tempfile.TemporaryDirectory(prefix="modelplex-build-") as folder_name:
        folder = Path(folder_name)
        (folder / "question").write_text(question)
        try:
            how = await _run(name, environment, folder)
        except OSError as error:
            raise errors.DeploymentFailedError(f"The application {name!r} could not be built: {error}.") from error
        if how or not (folder / "spec").exists():
            said = (folder / "said").read_bytes()[-TOLD_BYTES:].decode(errors="replace").strip()
            why = said or how or "its process ended before it was done"
            raise errors.DeploymentFailedError(f"The application {name!r} could not be built:\n{why}")
        spec = payload.loads((folder / "spec").read_bytes())
        assert isinstance(spec, AppSpec)
        return spec


async def _run(name: str, environment: Environment, folder: Path) -> str:
    """How the process has failed; empty if it has not.

    By files, no pipes: these would be open as long as anything that user code has started.
    Raises `DeploymentFailedError` if it takes too long, and OSError if it cannot be started.
    """
    with (folder / "question").open("rb") as question, (folder / "said").open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, str(folder / "spec")),
            stdin=question,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=said,
            process_group=0,
            cwd=environment.working_dir,
            env={**os.environ, **environment.env_vars, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
    try:
        async with asyncio.timeout(BUILD_TIMEOUT_S):
            code = await process.wait()
    except TimeoutError:
        raise errors.DeploymentFailedError(f"{name} was not built within {BUILD_TIMEOUT_S:g} s.") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if code < 0:
        return f"its process was killed by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}" if code else ""


def read_config(config: Mapping[str, Any], app_dir: str) -> SystemConfig:
    """Raises `ConfigFileError`."""
    text = _JSON_TOKEN.sub(lambda token: _IN_YAML.get(token[0], token[0]), json.dumps(config))
    return read_text(text, "<configuration>", app_dir=app_dir, check_modules=False)


def _environment(app: ApplicationConfig, app_dir: str) -> Environment:
    folder = app.runtime_env.working_dir
    paths = [str(folder)] if folder else []
    return Environment([*paths, app_dir, *sys.path], dict(app.runtime_env.env_vars), folder or app_dir)


def _build(config: Mapping[str, Any], name: str, app_dir: str) -> AppSpec:
    """In the process of its own."""
    system = read_config(config, app_dir)
    app = next(a for a in system.applications if a.name == name)
    environment = _environment(app, app_dir)
    sys.path[:0] = [p for p in environment.sys_path if p not in sys.path]
    application = import_application(app.import_path, dict(app.args), Path(environment.working_dir or app_dir))
    nodes = apply_overrides(
        flatten(application, name), app.deployments, logging_config=app.logging_config or system.logging_config
    )
    told = json.dumps([app.import_path, dict(app.args), dict(environment.env_vars), environment.working_dir])
    version = hashlib.sha256(told.encode())
    for path in _sources():
        version.update(path.read_bytes())
    source = next(a for a in config["applications"] if a.get("name", "default") == name)
    spec = AppSpec.of(
        name, nodes, app.route_prefix, environment, pickled=True, version=version.hexdigest()[:16], source=source
    )
    # What is pickled by name must be there in the replica, too; this process is the place to find out.
    payload.loads(payload.dumps(spec))
    return spec


def _sources() -> list[Path]:
    """The files of the user's code that has been imported: all but libraries."""
    paths = sysconfig.get_paths()
    libraries = [Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    libraries.append(Path(__file__).parents[1])
    files = {Path(f) for module in list(sys.modules.values()) if (f := getattr(module, "__file__", None))}
    own = [f for f in files if f.is_file() and not any(f.is_relative_to(library) for library in libraries)]
    return sorted(own)


def main() -> None:
    """Entry of the process: what to build comes in, the specification goes into a file."""
    question = json.load(sys.stdin)
    try:
        spec = _build(question["config"], question["name"], question["app_dir"])
    except errors.ModelplexError as error:
        sys.exit(str(error))
    Path(sys.argv[1]).write_bytes(payload.dumps(spec))


if __name__ == "__main__":
    main()
