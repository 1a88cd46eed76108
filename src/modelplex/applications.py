"""Applications from what a command line or a configuration file names: imported, built, and given other options."""

import dataclasses
import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelplex.config import LoggingConfig, check_import_path
from modelplex.config_file import DeploymentOverride
from modelplex.config_file.modules import module_of
from modelplex.config_file.options import unknown
from modelplex.deployment import Application, Deployment, Node
from modelplex.errors import ApplicationImportError, ConfigFileError, Problem

_NO_CONVERSION = (dict, Mapping, typing.MutableMapping, Any, inspect.Parameter.empty)


def import_application(
    import_path: str, args: Mapping[str, Any] | None = None, app_dir: str | Path | None = None
) -> Application:
    """The application that an import path names, or that the function that it names builds.

    Args:
        import_path: `module:name`, or `package.module.name`; the name may have dots. It is what `.bind()` returned, or
            a function that returns that. The function takes nothing, or one argument: a dict, or what its annotation
            says, a pydantic model, a dataclass or a msgspec Struct, made of `args`.
        args: what the function gets; text where a number is wanted is converted.
        app_dir: a folder to import from, besides where Python looks; it stays on the path.

    Raises `ApplicationImportError` if there is no such thing, and whatever the user's code raises.
    """
    try:
        check_import_path("import_path", import_path)
    except ValueError as error:
        raise ApplicationImportError(f"{error} For example: app:entry.") from error
    found = _find(import_path, app_dir)
    given = dict(args or {})
    if isinstance(found, Application):
        if given:
            raise ApplicationImportError(
                f"{import_path} is an application, which takes no arguments ({', '.join(map(str, given))}); a function "
                "that builds one does."
            )
        return found
    module = module_of(import_path)
    if isinstance(found, Deployment):
        raise ApplicationImportError(f"{_nothing(import_path)} That is a deployment; {_bind(import_path)} makes one.")
    if inspect.isclass(found) or not callable(found):
        raise ApplicationImportError(f"{_nothing(import_path)} {_others(module)}")
    return _build(import_path, found, given)


def _find(import_path: str, app_dir: str | Path | None) -> Any:
    if app_dir is not None:
        if not Path(app_dir).is_dir():
            raise ApplicationImportError(f"There is no folder {str(app_dir)!r} to import from (--app-dir).")
        folder = str(Path(app_dir).resolve())
        sys.path[:] = [folder, *(other for other in sys.path if other != folder)]
    module_name = module_of(import_path)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        where = f"in {str(app_dir)!r} (--app-dir)" if app_dir is not None else "where Python looks"
        raise ApplicationImportError(f"There is no module {error.name!r} {where}.") from error
    for name in import_path[len(module_name) + 1 :].split("."):
        if not hasattr(found, name):
            raise ApplicationImportError(f"{_nothing(import_path)} {_others(module_name)}")
        found = getattr(found, name)
    return found


def _nothing(import_path: str) -> str:
    module = module_of(import_path)
    return f"{module} has no application {import_path[len(module) + 1 :]!r}."


def _bind(import_path: str) -> str:
    return f"{import_path[len(module_of(import_path)) + 1 :]}.bind()"


def _others(module: str) -> str:
    """What there is instead."""
    values = vars(sys.modules[module]).items()
    applications = [name for name, value in values if isinstance(value, Application)]
    return f"Its applications: {', '.join(applications) or 'none'}."


# Builders


def _build(import_path: str, builder: Callable[..., Any], given: dict[str, Any]) -> Application:
    takes = _parameter(import_path, builder, given)
    if takes is None or (not given and takes.default is not takes.empty):
        built = builder()
    else:
        argument = _converted(import_path, _annotation(builder, takes), given)
        built = builder(**{takes.name: argument}) if takes.kind is takes.KEYWORD_ONLY else builder(argument)
    if isinstance(built, Application):
        return built
    if inspect.iscoroutine(built):
        built.close()
        raise ApplicationImportError(
            f"{import_path} is an async function; one that builds an application is a plain def."
        )
    hint = " It returned a deployment: let it return what .bind() of that returns." * isinstance(built, Deployment)
    raise ApplicationImportError(
        f"{import_path} must build an application, which is what .bind() returns; it returned {type(built).__name__}."
        f"{hint}"
    )


def _parameter(import_path: str, builder: Callable[..., Any], given: dict[str, Any]) -> inspect.Parameter | None:
    """The one that the arguments go to; None if the function takes none."""
    try:
        parameters = list(inspect.signature(builder).parameters.values())
    except (TypeError, ValueError) as error:
        raise ApplicationImportError(f"{import_path} cannot be called to build an application: {error}.") from error
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    required = [p for p in named if p.default is p.empty]
    if len(required) > 1:
        raise ApplicationImportError(
            f"{import_path} takes {', '.join(p.name for p in required)}; a function that builds an application takes "
            "one argument at most: a dict, or a model of its fields."
        )
    if given and not named:
        raise ApplicationImportError(f"{import_path} takes no arguments; it was given {', '.join(map(str, given))}.")
    return next(iter(required or named), None)


def _annotation(builder: Callable[..., Any], takes: inspect.Parameter) -> Any:
    """What the parameter has to be; text in it is looked up where the function is from."""
    if not isinstance(takes.annotation, str):
        return takes.annotation
    function = inspect.unwrap(builder)
    return typing.get_type_hints(function if inspect.isroutine(function) else type(function).__call__)[takes.name]


def _converted(import_path: str, kind: Any, given: dict[str, Any]) -> Any:
    """The arguments as a builder wants them. Raises `ApplicationImportError` that names the one that is wrong."""
    if kind in _NO_CONVERSION or typing.get_origin(kind) in _NO_CONVERSION:
        return given
    if hasattr(kind, "model_validate") or hasattr(kind, "parse_obj"):
        return _from_pydantic(import_path, kind, given)
    import msgspec

    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind) if field.init]
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        names = [field.encode_name for field in msgspec.structs.fields(kind)]
    else:
        raise ApplicationImportError(
            f"{import_path} takes {getattr(kind, '__name__', kind)}, which cannot be made of arguments: a dict, a "
            "pydantic model, a dataclass or a msgspec Struct can."
        )
    if wrong := [unknown("argument", name, names) for name in given if name not in names]:
        raise ApplicationImportError(f"{import_path}: {' '.join(wrong)}")
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        said, _, where = str(error).partition(" - at ")
        argument = where.strip("`").removeprefix("$").removeprefix(".")
        at = f" argument {argument!r}:" if argument else ""
        raise ApplicationImportError(f"{import_path}:{at} {said}.") from error


def _from_pydantic(import_path: str, kind: Any, given: dict[str, Any]) -> Any:
    """By `model_validate`, or as version 1 calls it. Pydantic is the user's: it is not imported here."""
    try:
        return kind.model_validate(given) if hasattr(kind, "model_validate") else kind.parse_obj(given)
    except ValueError as error:
        if not callable(getattr(error, "errors", None)):
            raise
        wrong = [
            f"argument {'.'.join(map(str, each['loc'])) or kind.__name__!r}: {each['msg']}"
            for each in error.errors()  # type: ignore[attr-defined]
        ]
        raise ApplicationImportError(f"{import_path}: {'; '.join(wrong)}.") from error


# Options of a file


def check_names(overrides: Sequence[DeploymentOverride], names: Sequence[str]) -> None:
    """Raise `ConfigFileError`, with each place, if there are options for deployments that are not there.

    Args:
        names: of the application's deployments.
    """
    problems = [
        override.place.problem(unknown("deployment", override.name, list(names)))
        for override in overrides
        if override.name not in names
    ]
    if problems:
        raise ConfigFileError(problems=problems)


def apply_overrides(
    nodes: Sequence[Node], overrides: Sequence[DeploymentOverride], *, logging_config: LoggingConfig | None = None
) -> list[Node]:
    """The deployments of an application with the options of a file in place of those in the code.

    Args:
        nodes: what `deployment.flatten` made.
        overrides: of the file.
        logging_config: that of the application or the whole file, for deployments that have none.

    Raises `ConfigFileError` with the places of options for deployments that are not there, or that do not go with what
    the code says.
    """
    check_names(overrides, [node.deployment.name for node in nodes])
    by_name = {override.name: override for override in overrides}
    problems: list[Problem] = []
    changed = []
    for node in nodes:
        override = by_name.get(node.deployment.name)
        options = dict(override.options) if override is not None else {}
        own = options.get("logging_config") or node.deployment.config.logging_config
        if logging_config is not None and own is None:
            options["logging_config"] = logging_config
        try:
            deployment = node.deployment.options(**options)
        except (ValueError, TypeError) as error:
            assert override is not None
            problems.append(override.place.problem(f"With what the code says of {override.name!r}: {error}"))
        else:
            changed.append(dataclasses.replace(node, deployment=deployment))
    if problems:
        raise ConfigFileError(problems=problems)
    return changed
