"""Has what a configuration file says run: its applications, and none that an earlier file had."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modelplex import errors
from modelplex.runtime.app_builder import build, read_config
from modelplex.runtime.app_spec import AppSpec
from modelplex.runtime.controller import Controller

log = logging.getLogger(__name__)

# An application, or why it could not be built.
Built = AppSpec | BaseException


async def deploy(
    controller: Controller, config: Mapping[str, Any], app_dir: str, is_wanted: Callable[[], bool] = lambda: True
) -> None:
    """Build and run the applications of a configuration; return when they are ready.

    Those that an earlier configuration had, and this one has not, are deleted. Those of programs stay.

    Args:
        controller: runs them.
        config: what `SystemConfig.as_dict` answers.
        app_dir: where to import from.
        is_wanted: whether nobody has asked for another configuration while this one was built.

    Raises:
        ConfigFileError: nothing has been changed.
        DeploymentFailedError: an application could not be built, or does not run, and is what it was before; the others
            run. Or another configuration is wanted by now.
    """
    built = await build_all(config, app_dir)
    if not is_wanted():
        raise errors.DeploymentFailedError("This was called off: another configuration has been deployed since.")
    await run(controller, built)


async def build_all(config: Mapping[str, Any], app_dir: str) -> dict[str, Built]:
    """The applications of a configuration by name, built, or why they could not be. Raises `ConfigFileError`."""
    names = [app.name for app in read_config(config, app_dir).applications]
    built = await asyncio.gather(*(build(config, name, app_dir) for name in names), return_exceptions=True)
    return dict(zip(names, built, strict=True))


async def run(controller: Controller, built: Mapping[str, Built]) -> None:
    """Run what could be built, and return when it is ready. Raises `DeploymentFailedError` as `deploy` does."""
    controller.not_built({name: str(found) for name, found in built.items() if isinstance(found, BaseException)})
    superfluous = [spec.name for spec in controller.specs if spec.source is not None and spec.name not in built]
    await asyncio.gather(*(controller.delete(name) for name in superfluous))
    specs = [spec for spec in built.values() if not isinstance(spec, BaseException)]
    outcomes = await asyncio.gather(*(controller.deploy(spec) for spec in specs), return_exceptions=True)
    _raise_failures([*built.values(), *outcomes])


def _raise_failures(outcomes: Sequence[object]) -> None:
    failed = [error for error in outcomes if isinstance(error, BaseException)]
    texts = []
    for error in failed:
        if isinstance(error, asyncio.CancelledError):  # not of this task, but of one that deploys an application
            texts.append("An application was called off: it is to be something else, or nothing, by now.")
        elif isinstance(error, errors.DeploymentFailedError):
            texts.append(str(error))
        else:
            raise error
    if texts:
        raise errors.DeploymentFailedError("\n".join(texts))


def as_config(controller: Controller, http_options: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration file would say of what files have been deployed."""
    return {
        "http_options": dict(http_options),
        "applications": [dict(spec.source) for spec in controller.specs if spec.source is not None],
    }
