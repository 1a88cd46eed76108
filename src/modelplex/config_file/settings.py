"""What a configuration file says, once it has been read and is right."""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from modelplex.config import AdminOptions, HTTPOptions, LoggingConfig
from modelplex.config_file.places import Place
from modelplex.errors import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeEnv:
    """What the processes of an application find around them.

    Attributes:
        env_vars: environment variables, of text by text.
        working_dir: the folder that they run in and import from; a relative one is below the folder of the file.
    """

    env_vars: dict[str, str] = field(default_factory=dict)
    working_dir: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentOverride:
    """Options that take the place of those in the code, of one deployment.

    Attributes:
        name: of the deployment in the code.
        options: fields of `config.DeploymentConfig` by name, as they are written in the file.
        place: where it stands.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationConfig:
    """One application of the file.

    Attributes:
        name: unique in the file.
        route_prefix: the path that it is served under, unique in the file; null for handles alone.
        import_path: of what `.bind()` returned, or of a function that builds that: `package.module:name`.
        args: what such a function gets.
        runtime_env: what its processes find around them (`env_vars`, `working_dir`).
        logging_config: the logs of those of its deployments that do not say otherwise.
        deployments: options that take the place of those in the code, by the deployment's name.
        place: where it stands.
    """

    name: str = "default"
    route_prefix: str | None = "/"
    import_path: str
    args: dict[str, Any] = field(default_factory=dict)
    runtime_env: RuntimeEnv = RuntimeEnv()
    logging_config: LoggingConfig | None = None
    deployments: tuple[DeploymentOverride, ...] = ()
    place: Place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemConfig:
    """The whole file.

    Attributes:
        engine: what runs it: "local" for processes on this machine, "ray" for actors on a Ray cluster.
        http_options: where and how HTTP is served.
        admin_options: where the admin interface is open over TCP; nowhere unless given.
        logging_config: the logs of applications that do not say otherwise.
        applications: all that are served; one that runs and is not here is stopped.
        warnings: what the file has and nobody heeds.
    """

    engine: str = "local"
    http_options: HTTPOptions = field(default_factory=HTTPOptions)
    admin_options: AdminOptions | None = None
    logging_config: LoggingConfig | None = None
    applications: tuple[ApplicationConfig, ...]
    warnings: tuple[Problem, ...] = field(default=(), compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """What a file would have to say to be read as this: dicts, lists and scalars; defaults are left out."""
        found: dict[str, Any] = _given(self)
        found["applications"] = [
            {**_given(app), **({"deployments": written} if (written := _overrides(app)) else {})}
            for app in self.applications
        ]
        return found


def _overrides(application: ApplicationConfig) -> list[dict[str, Any]]:
    return [{"name": override.name, **override.options} for override in application.deployments]


def _given(settings: Any) -> dict[str, Any]:
    """The fields that are not their defaults, dataclasses among them as dicts."""
    found: dict[str, Any] = {}
    for each in fields(settings):
        value = getattr(settings, each.name)
        default = each.default_factory() if callable(each.default_factory) else each.default
        if isinstance(value, tuple) and (not value or is_dataclass(value[0])):
            continue  # the sections of a file, which have places of their own
        if each.compare and (value != default or each.name == "name"):
            found[each.name] = _given(value) if is_dataclass(value) else _plain(value)
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
