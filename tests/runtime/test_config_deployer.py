"""What a configuration says comes to run, or it is said why it does not."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from inline_app import app_of
from scripted_engine import ScriptedEngine

from modelplex import errors
from modelplex.deployment import flatten
from modelplex.runtime import config_deployer
from modelplex.runtime.app_spec import AppSpec
from modelplex.runtime.controller import Controller
from modelplex.runtime.directory import Directory
from modelplex.testing import run_virtual


class D:
    pass


async def build(config: Mapping[str, Any], name: str, app_dir: str) -> AppSpec:
    return AppSpec.of(name, flatten(app_of(D), name), f"/{name}", source={"name": name})


def config(*names: str) -> dict[str, Any]:
    return {"applications": [{"name": n, "import_path": "a:b", "route_prefix": f"/{n}"} for n in names]}


@pytest.fixture(autouse=True)
def _without_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_deployer, "build", build)


def test_an_application_that_is_deleted_while_it_starts_is_told_to_be_called_off() -> None:
    async def main() -> None:
        engine = ScriptedEngine()
        engine.at_once = False
        controller = Controller(engine, Directory(engine.connect))
        deploying = asyncio.create_task(config_deployer.deploy(controller, config("a", "b"), "/"))
        await asyncio.sleep(1)
        await controller.delete("a")
        for _, process in engine.replicas:
            if not process.exited.done():
                process.starts()
        with pytest.raises(errors.DeploymentFailedError, match="called off"):
            await deploying
        assert [spec.name for spec in controller.specs] == ["b"]
        await controller.stop()

    run_virtual(main())


def test_whoever_calls_it_off_has_called_it_off() -> None:
    async def main() -> None:
        engine = ScriptedEngine()
        engine.at_once = False
        controller = Controller(engine, Directory(engine.connect))
        deploying = asyncio.create_task(config_deployer.deploy(controller, config("a"), "/"))
        await asyncio.sleep(1)
        deploying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await deploying
        assert controller.specs == []
        await controller.stop()

    run_virtual(main())


def test_the_status_says_what_could_not_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    broken: set[str] = set()

    async def build_or_not(settings: Mapping[str, Any], name: str, app_dir: str) -> AppSpec:
        if name in broken:
            raise errors.DeploymentFailedError(f"no module for {name}")
        return await build(settings, name, app_dir)

    monkeypatch.setattr(config_deployer, "build", build_or_not)

    async def main() -> None:
        engine = ScriptedEngine()
        controller = Controller(engine, Directory(engine.connect))

        async def deploy(*names: str) -> dict[str, tuple[str, bool]]:
            try:
                await config_deployer.deploy(controller, config(*names), "/")
            except errors.DeploymentFailedError as error:
                assert "no module for" in str(error)  # noqa: PT017 - whether it is raised depends on `broken`
            found = controller.status().applications
            return {name: (app.status.value, "no module for" in app.message) for name, app in found.items()}

        assert await deploy("a") == {"a": ("RUNNING", False)}
        broken.update("ab")
        assert await deploy("a", "b") == {"a": ("RUNNING", True), "b": ("DEPLOY_FAILED", True)}
        assert await deploy("a") == {"a": ("RUNNING", True)}
        broken.clear()
        assert await deploy("a", "b") == {"a": ("RUNNING", False), "b": ("RUNNING", False)}
        await controller.stop()

    run_virtual(main())
