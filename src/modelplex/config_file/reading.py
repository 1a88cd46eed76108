"""A configuration file, read: everything that is wrong with it, or what it says."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelplex.config import (
    AdminOptions,
    DeploymentConfig,
    GRPCOptions,
    HTTPOptions,
    LoggingConfig,
    check_import_path,
    check_location,
    check_name,
    check_route_prefix,
)
from modelplex.config_file import hints, modules
from modelplex.config_file.document import BROKEN, BYTES_MAX, Value, parse
from modelplex.config_file.options import entries, fitting, made, made_of, missing
from modelplex.config_file.places import Findings, Place, shown
from modelplex.config_file.settings import ApplicationConfig, DeploymentOverride, RuntimeEnv, SystemConfig
from modelplex.errors import ConfigFileError

# What a file for Ray Serve may have that means nothing here, and why.
IGNORED = {
    "tracing_config": "MODELPLEX_TRACING in the environment asks for traces",
    "target_capacity": "there is no second system to share the load with",
}
IGNORED_OF_APPLICATION = {
    "autoscaling_policy": "each deployment has its own (autoscaling_config)",
    "external_scaler_enabled": "there is no external scaler",
}
# Keys of their own for what are options of HTTP, as in files for Ray Serve.
PROXY_LOCATION = "proxy_location"
GRPC_OPTIONS = "grpc_options"

# What may run a file's applications; the first is the default.
ENGINES = ("local", "ray")

_NO_RUNTIME_ENV = (
    "of an application's runtime_env only env_vars and working_dir are used; install the rest beforehand, or, on Ray, "
    "have it in ray_actor_options of the deployments"
)


def read_file(file: str | Path, *, app_dir: str | Path = ".", check_modules: bool = True) -> SystemConfig:
    """What a configuration file says. See `read_text`; relative folders in it are below the file's own.

    Raises `ConfigFileError` for a file that cannot be read, too.
    """
    path = Path(file)
    try:
        with path.open("rb") as opened:
            text = opened.read(BYTES_MAX + 1).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else f"It is not UTF-8 text: {error}"
        raise ConfigFileError(problems=[Place(str(file)).problem(f"The file cannot be read: {why}.")]) from error
    return read_text(text, str(file), folder=path.parent, app_dir=app_dir, check_modules=check_modules)


def read_text(
    text: str,
    name: str = "<text>",
    *,
    folder: str | Path = ".",
    app_dir: str | Path = ".",
    check_modules: bool = True,
) -> SystemConfig:
    """What YAML, or JSON, says that has the form of a configuration file.

    Args:
        text: the whole.
        name: of the file, for messages.
        folder: what relative folders in it are below of.
        app_dir: where modules are looked for, of applications without a `working_dir`.
        check_modules: whether a module that is not there is a mistake. None is imported.

    Raises `ConfigFileError` with all mistakes and their places.
    """
    findings = Findings()
    root = parse(text, name, findings)
    config = _Reader(findings, Path(folder), Path(app_dir), check_modules).system(root)
    if findings.problems or config is None:
        raise findings.error()
    return dataclasses.replace(config, warnings=tuple(sorted(findings.warnings, key=lambda w: (w.line, w.column))))


def names_of(kind: type[Any]) -> list[str]:
    """The keys of a section that is this dataclass."""
    return [field.name for field in dataclasses.fields(kind) if field.name not in ("place", "warnings")]


def _check_engine(engine: object) -> None:
    if engine not in ENGINES:
        raise ValueError(f"engine must be {' or '.join(map(repr, ENGINES))}, got {engine!r}.")


class _Reader:
    def __init__(self, findings: Findings, folder: Path, app_dir: Path, check_modules: bool) -> None:
        self.findings = findings
        self.folder = folder
        self.app_dir = app_dir
        self.check_modules = check_modules

    def system(self, value: Value) -> SystemConfig | None:
        known = [*names_of(SystemConfig), PROXY_LOCATION, GRPC_OPTIONS]
        given = entries(value, known, self.findings, ignored=IGNORED)
        http = self._http(given)
        location = given.get(PROXY_LOCATION)
        if location is None or location.data in (None, BROKEN):
            pass
        elif self._is_right(location, lambda where: check_location(PROXY_LOCATION, where)):
            http = http.at(location.data)
        engine = given.get("engine")
        if engine is not None and (engine.data is BROKEN or not self._is_right(engine, _check_engine)):
            engine = None
        admin = self._section(given, "admin_options", AdminOptions)
        logging = self._section(given, "logging_config", LoggingConfig)
        if missing(value, given, ["applications"], self.findings):
            return None
        applications = [app for item in self._items(given["applications"]) if (app := self._application(item))]
        self._check_unique(given["applications"])
        return SystemConfig(
            engine=ENGINES[0] if engine is None else engine.data,
            http_options=http,
            admin_options=admin,
            logging_config=logging,
            applications=tuple(applications),
        )

    def _http(self, given: dict[str, Value]) -> HTTPOptions:
        """The options of HTTP, with those of gRPC: at the top of the file, or inside of those of HTTP."""
        http = given.get("http_options")
        if http is not None and isinstance(http.data, dict) and "grpc" in http.data:
            rest = {key: entry for key, entry in http.data.items() if key != "grpc"}
            given = {GRPC_OPTIONS: http.data["grpc"], **given, "http_options": dataclasses.replace(http, data=rest)}
        found: HTTPOptions = self._section(given, "http_options", HTTPOptions) or HTTPOptions()
        grpc = self._section(given, GRPC_OPTIONS, GRPCOptions)
        if grpc is None:
            return found
        if not self._is_right(given[GRPC_OPTIONS], lambda _: dataclasses.replace(found, grpc=grpc)):
            return found
        return dataclasses.replace(found, grpc=grpc)

    def _section(self, given: dict[str, Value], name: str, kind: type[Any]) -> Any:
        """What one key has, made into a dataclass; None if it is not given, or null, or wrong."""
        if name not in given or given[name].data is None:
            return None
        return made(given[name], kind, self.findings)

    def _items(self, value: Value) -> list[Value]:
        if value.data is BROKEN:
            return []
        if not isinstance(value.data, list):
            name = value.place.path.rpartition(".")[2]
            self.findings.wrong(value.place, f"{name} must be a list, got {shown(value.plain())}.")
            return []
        return value.data

    def _application(self, value: Value) -> ApplicationConfig | None:
        if isinstance(value.data, dict):
            value = self._without_http(value)
        given = entries(value, names_of(ApplicationConfig), self.findings, ignored=IGNORED_OF_APPLICATION)
        incomplete = missing(value, given, ["import_path"], self.findings)
        environment = self._runtime_env(given.pop("runtime_env", None))
        logging = self._section(given, "logging_config", LoggingConfig)
        overrides = self._overrides(given.pop("deployments", None))
        given.pop("logging_config", None)
        plain = fitting(given, ApplicationConfig, self.findings)
        self._check_application(plain, environment)
        if incomplete or "import_path" not in plain:
            return None
        return ApplicationConfig(
            **{name: each.plain() for name, each in plain.items()},
            runtime_env=environment or RuntimeEnv(),
            logging_config=logging,
            deployments=tuple(overrides),
            place=value.place,
        )

    def _without_http(self, value: Value) -> Value:
        """The application without what belongs to the whole file, which is noted."""
        for key in ("host", "port"):
            if key in value.data:
                message = f"{key} is the same for all applications: it belongs to http_options at the top of the file."
                self.findings.wrong(value.data[key].key_place, message)
        rest = {key: entry for key, entry in value.data.items() if key not in ("host", "port")}
        return dataclasses.replace(value, data=rest)

    def _check_application(self, given: dict[str, Value], environment: RuntimeEnv | None) -> None:
        if "name" in given:
            self._is_right(given["name"], lambda name: check_name("An application's", name))
        if "route_prefix" in given:
            self._is_right(given["route_prefix"], check_route_prefix)
        if "import_path" not in given:
            return
        is_right = self._is_right(given["import_path"], lambda path: check_import_path("import_path", path))
        if is_right and environment is not None and self.check_modules:
            self._check_module(given["import_path"], environment)

    def _is_right(self, value: Value, check: Callable[[Any], object]) -> bool:
        """Whether a check lets it pass; what it says else is noted."""
        try:
            check(value.data)
        except ValueError as error:
            self.findings.wrong(value.place, str(error))
            return False
        return True

    def _check_module(self, import_path: Value, environment: RuntimeEnv) -> None:
        folder = Path(environment.working_dir) if environment.working_dir else self.app_dir
        module = modules.module_of(import_path.data)
        if not modules.exists(module, folder):
            where = f"in {str(folder.resolve())!r}, or where Python looks"
            self.findings.wrong(import_path.place, f"There is no module {module!r} {where}.")

    def _runtime_env(self, value: Value | None) -> RuntimeEnv | None:
        """None if it is not known in which folder it is."""
        if value is None or value.data is None:
            return RuntimeEnv()
        known = names_of(RuntimeEnv)
        others = [key for key in value.data if key not in known] if isinstance(value.data, dict) else []
        given = entries(value, known, self.findings, ignored=dict.fromkeys(others, _NO_RUNTIME_ENV))
        plain = {name: each.plain() for name, each in fitting(given, RuntimeEnv, self.findings).items()}
        if "working_dir" in given and "working_dir" not in plain:
            return None
        if plain.get("working_dir") is not None:
            folder = self.folder / plain["working_dir"]
            if not _is_folder(folder):
                message = f"working_dir must be a folder on this machine; there is no {str(folder)!r}."
                self.findings.wrong(given["working_dir"].place, message)
                return None
            plain["working_dir"] = str(folder.resolve())
        return RuntimeEnv(**plain)

    def _overrides(self, value: Value | None) -> list[DeploymentOverride]:
        if value is None or value.data is None:
            return []
        found, lines = [], dict[str, int]()
        for item in self._items(value):
            override = self._override(item)
            if override is None:
                continue
            if override.name in lines:
                message = f"The deployment {shown(override.name)} is there already, on line {lines[override.name]}."
                self.findings.wrong(item.data["name"].place, message)
            lines.setdefault(override.name, item.place.line)
            found.append(override)
        return found

    def _override(self, value: Value) -> DeploymentOverride | None:
        kinds = {name: kind for name, hint in hints.of(DeploymentConfig).items() if (kind := hints.section(hint))}
        given = entries(value, DeploymentConfig.option_names(), self.findings)
        if missing(value, given, ["name"], self.findings):
            return None
        for name, kind in kinds.items():
            if name in given and given[name].data is not None:
                before = len(self.findings.problems)
                made(given[name], kind, self.findings, lambda part, name=name: _overridden(_beside(given, name, part)))  # type: ignore[misc]
                if len(self.findings.problems) > before:
                    del given[name]  # what is wrong with it has been said
        given = fitting(given, DeploymentConfig, self.findings, _overridden)
        made_of(given, value.place, self.findings, _overridden)
        options = {name: each.plain() for name, each in given.items()}
        name = options.pop("name", "")
        return DeploymentOverride(name=name, options=options, place=value.place) if name else None

    def _check_unique(self, applications: Value) -> None:
        """Note names and prefixes that two applications have, also where they are not written, but the defaults."""
        for key, default in (("name", "default"), ("route_prefix", "/")):
            lines: dict[str, int] = {}
            for item in applications.data if isinstance(applications.data, list) else []:
                entry = item.data.get(key) if isinstance(item.data, dict) else None
                text = default if entry is None else entry.data
                if not isinstance(item.data, dict) or not isinstance(text, str):
                    continue
                if text in lines:
                    message = f"The {key} {shown(text)} is that of the application on line {lines[text]}, too."
                    message += " It is the default." if entry is None else ""
                    self.findings.wrong(item.place if entry is None else entry.place, message)
                lines.setdefault(text, item.place.line)


def _overridden(given: dict[str, Any]) -> DeploymentConfig:
    """The options over the defaults, as they will be over those in the code."""
    given = {"name": "Deployment", **given}
    return DeploymentConfig(name=given.pop("name")).with_options(given)


def _beside(given: dict[str, Value], name: str, part: Any) -> dict[str, Any]:
    """One option alone, with the one other that its defaults depend on."""
    beside = {name: part}
    if name == "autoscaling_config" and "num_replicas" in given and given["num_replicas"].data != "auto":
        beside["num_replicas"] = 1
    return beside


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no folder can have
        return False
