"""Applications of a configuration file, each built in a process of its own: the controller imports no user code.

So a file that is deployed again finds the newest code, and code that breaks its process harms nobody.
"""

import asyncio
import hashlib
import json
import os
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

# Of what the process has written, what is told.
TOLD_CHARACTERS = 8000


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
    with tempfile.TemporaryDirectory(prefix="modelplex-build-") as folder:
        out = Path(folder) / "spec"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", __name__, str(out)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            process_group=0,
            cwd=environment.working_dir,
            env={**os.environ, **environment.env_vars, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        question = json.dumps({"config": dict(config), "name": name, "app_dir": app_dir}).encode()
        try:
            async with asyncio.timeout(BUILD_TIMEOUT_S):
                _, said = await process.communicate(question)
        except TimeoutError:
            raise errors.DeploymentFailedError(f"{name} was not built within {BUILD_TIMEOUT_S:g} s.") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0 or not out.exists():
            text = said.decode(errors="replace").strip()[-TOLD_CHARACTERS:]
            raise errors.DeploymentFailedError(f"The application {name!r} could not be built:\n{text}")
        spec = payload.loads(out.read_bytes())
        assert isinstance(spec, AppSpec)
        return spec


def read_config(config: Mapping[str, Any], app_dir: str) -> SystemConfig:
    """Raises `ConfigFileError`."""
    return read_text(json.dumps(config), "<configuration>", app_dir=app_dir, check_modules=False)


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
    libraries = [Path(p) for p in sysconfig.get_paths().values()] + [Path(__file__).parents[1]]
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
