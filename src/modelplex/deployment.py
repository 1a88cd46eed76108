"""`@deployment`: a class or function with its options, and the applications that bind them together."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, overload

from modelplex.config import DeploymentConfig, LoggingConfig
from modelplex.handle import DeploymentHandle
from modelplex.multiplex import loaders_in


@dataclass(frozen=True)
class Deployment:
    """A class or function that can be served, and how. Made by `@serve.deployment`; never changes."""

    func_or_class: Callable[..., Any]
    config: DeploymentConfig

    def __post_init__(self) -> None:
        if self.config.tenants and isinstance(self.func_or_class, type):
            for loader in loaders_in(self.func_or_class):
                self.config.over(loader.options)  # raises if more is reserved than there is

    @property
    def name(self) -> str:
        return self.config.name

    def options(self, **changes: Any) -> "Deployment":
        """A copy with other options; see `serve.deployment`."""
        _check_options(changes)
        return replace(self, config=self.config.with_options(changes))

    def bind(self, *args: Any, **kwargs: Any) -> "Application":
        """An application: this deployment, constructed with these arguments.

        Applications among the arguments, also inside of lists, tuples and dicts, arrive as handles.
        """
        return Application(self, args, kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            f"The deployment {self.name} cannot be called directly: serve.run({self.name}.bind(...)) starts it and "
            "returns a handle to call."
        )


@dataclass(frozen=True, eq=False)
class Application:
    """A deployment with the arguments of its constructor, and so with the deployments below it."""

    deployment: Deployment
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Node:
    """One deployment of an application, with handles in place of nested applications."""

    deployment: Deployment
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@overload
def deployment(_func_or_class: Callable[..., Any]) -> Deployment: ...


@overload
def deployment(_func_or_class: None = None, **options: Any) -> Callable[[Callable[..., Any]], Deployment]: ...


def deployment(_func_or_class: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make a class or function servable: `@deployment` or `@deployment(num_replicas=2, …)`.

    Options are the fields of `config.DeploymentConfig`. A class is constructed once in each replica, `async def
    __init__` included; requests call its `__call__`, or the method that a handle names. Over HTTP that gets a Starlette
    `Request` if it takes an argument.
    """
    _check_options(options)

    def decorate(func_or_class: Callable[..., Any]) -> Deployment:
        if not callable(func_or_class) or isinstance(func_or_class, Deployment):
            raise TypeError(f"@serve.deployment decorates a class or a function, got {func_or_class!r}.")
        name = options.get("name", getattr(func_or_class, "__name__", ""))
        return Deployment(func_or_class, DeploymentConfig(**{**options, "name": name}))

    return decorate if _func_or_class is None else decorate(_func_or_class)


def _check_options(options: dict[str, Any]) -> None:
    known = DeploymentConfig.option_names()
    if unknown := sorted(set(options) - set(known)):
        raise TypeError(f"Unknown deployment option {', '.join(unknown)}; the options are {', '.join(known)}.")


def with_logging(application: Application, logging_config: LoggingConfig | dict[str, Any]) -> Application:
    """The application with these logs for each of its deployments that says nothing of its own."""
    made: dict[int, Application] = {}

    def visit(app: Application) -> Application:
        if id(app) not in made:
            deployment = app.deployment
            if deployment.config.logging_config is None:
                deployment = deployment.options(logging_config=logging_config)
            args, kwargs = map_applications(app.args, visit), map_applications(app.kwargs, visit)
            made[id(app)] = Application(deployment, args, kwargs)
        return made[id(app)]

    return visit(application)


def map_applications(value: Any, change: Callable[[Application], Any]) -> Any:
    """A value with something else in place of each application in it, also inside of lists, tuples and dicts."""
    if isinstance(value, Application):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(map_applications(v, change) for v in value)
    if type(value) is dict:
        return {k: map_applications(v, change) for k, v in value.items()}
    return value


def flatten(application: Application, app_name: str) -> list[Node]:
    """The deployments of an application, each once, those that others call before their callers.

    An application that is bound into several places is one deployment. Different ones of the same name get `_1`, `_2` …
    """
    nodes: dict[int, Node] = {}
    names: set[str] = set()

    def visit(app: Application) -> DeploymentHandle:
        if id(app) not in nodes:
            args, kwargs = map_applications(app.args, visit), map_applications(app.kwargs, visit)
            name, number = app.deployment.name, 0
            while name in names:
                number += 1
                name = f"{app.deployment.name}_{number}"
            names.add(name)
            nodes[id(app)] = Node(app.deployment.options(name=name), args, kwargs)
        return DeploymentHandle(app_name, nodes[id(app)].deployment.name)

    visit(application)
    return list(nodes.values())
