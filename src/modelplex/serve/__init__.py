"""The public door: every name that a user calls. `from modelplex import serve`."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import starlette.requests  # noqa: F401 - programs say starlette.requests.Request after no more than `import starlette`

from modelplex import context as _context
from modelplex.batching import batch
from modelplex.config import AdminOptions as _AdminOptions
from modelplex.config import GRPCOptions, HTTPOptions, LoggingConfig
from modelplex.context import ReplicaContext, get_multiplexed_model_id, get_replica_context
from modelplex.deployment import Application, Deployment, deployment, with_logging
from modelplex.errors import ModelplexError as _ModelplexError
from modelplex.handle import DeploymentHandle
from modelplex.ingress import ingress
from modelplex.multiplex import lease, multiplexed, prefetch
from modelplex.response import DeploymentResponse, DeploymentResponseGenerator
from modelplex.serve import metrics
from modelplex.status import ServeStatus

__all__ = [
    "Adapters",
    "Application",
    "Deployment",
    "DeploymentHandle",
    "DeploymentResponse",
    "DeploymentResponseGenerator",
    "FetchProgress",
    "GRPCOptions",
    "HTTPOptions",
    "ModelStore",
    "ReplicaContext",
    "RunTarget",
    "ServeStatus",
    "SkeletonPool",
    "batch",
    "delete",
    "deployment",
    "get_app_handle",
    "get_deployment_handle",
    "get_multiplexed_model_id",
    "get_replica_context",
    "ingress",
    "lease",
    "metrics",
    "multiplexed",
    "prefetch",
    "run",
    "run_many",
    "shutdown",
    "start",
    "status",
]

if TYPE_CHECKING:
    from modelplex.adapters import Adapters
    from modelplex.skeletons import SkeletonPool
    from modelplex.stores.model_store import FetchProgress, ModelStore

# What many programs do not use is imported when it is.
_ON_USE = {
    "Adapters": "modelplex.adapters",
    "FetchProgress": "modelplex.stores.model_store",
    "ModelStore": "modelplex.stores.model_store",
    "SkeletonPool": "modelplex.skeletons",
}

DEFAULT_APP_NAME = "default"


def __getattr__(name: str) -> Any:
    if name not in _ON_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(_ON_USE[name]), name)
    return globals()[name]


_logging_config: LoggingConfig | dict[str, Any] | None = None  # that of `start`, for what is run later


def run(
    target: Application,
    blocking: bool = False,
    name: str = DEFAULT_APP_NAME,
    route_prefix: str | None = "/",
    logging_config: LoggingConfig | dict[str, Any] | None = None,
    *,
    engine: str | None = None,
    _local_testing_mode: bool = False,
    external_scaler_enabled: bool = False,
) -> DeploymentHandle:
    """Serve an application, in place of one of the same name if there is one, and return a handle to it.

    Args:
        target: what `Deployment.bind` returned.
        blocking: do not return before Ctrl-C or SIGTERM, and then stop everything.
        name: the application's name.
        route_prefix: the path that it is served under; None for handles alone.
        logging_config: the logs of its deployments, for those that say nothing of it; see `LoggingConfig`.
        engine: "local" for processes on this machine, "ray" for actors on the Ray cluster that this program is
            connected to, or that `ray.init()` finds. See docs/clusters.md. What `start` began with, or "local", unless
            given.
        _local_testing_mode: run everything in this process, without a port; `async def` code that blocks then blocks
            all, and Python's own logging has the log. See docs/testing.md.
        external_scaler_enabled: has to be False: there is no way to set numbers of replicas from outside.

    Everything stops when the program ends; on a Ray cluster, when `shutdown` says so.

    Raises:
        TypeError: `target` is not an application.
        ValueError: the prefix does not begin with "/", ends with one, or has braces; or an option of the logs is wrong.
        DeploymentFailedError: a replica could not be started, or the port is taken; the message says why.
    """
    from modelplex import driver

    if not isinstance(target, Application):
        raise TypeError(f"serve.run takes what .bind() returns, an Application; got {type(target).__name__}.")
    if external_scaler_enabled:
        raise ValueError(
            "external_scaler_enabled must be False: replicas are not scaled from outside. A policy of an "
            "autoscaling_config can decide instead, or serve.run with another num_replicas."
        )
    if (logs := logging_config or _logging_config) is not None:
        target = with_logging(target, logs)
    begun = driver.current()
    engine = "inline" if _local_testing_mode else engine or ("local" if begun is None else begun.engine)
    running = driver.start(engine, None if engine == "inline" else HTTPOptions())
    try:
        handle = running.deploy(target, name, route_prefix)
        if blocking:
            driver.wait_for_signal()
    except BaseException:
        if begun is None and not running.status().applications:
            driver.stop_own()
        raise
    if blocking:
        driver.stop_own()
    return handle


@dataclass(frozen=True)
class RunTarget:
    """One application for `run_many`; its fields are arguments of `run`."""

    target: Application
    name: str = DEFAULT_APP_NAME
    route_prefix: str | None = "/"
    logging_config: LoggingConfig | dict[str, Any] | None = None


def run_many(
    targets: Sequence[RunTarget],
    blocking: bool = False,
    *,
    engine: str | None = None,
    _local_testing_mode: bool = False,
) -> list[DeploymentHandle]:
    """Serve several applications, one after the other, and return their handles in the same order. See `run`."""
    handles = [
        run(
            *(t.target, False, t.name, t.route_prefix, t.logging_config),
            engine=engine,
            _local_testing_mode=_local_testing_mode,
        )
        for t in targets
    ]
    if blocking:
        from modelplex import driver

        driver.wait_for_signal()
        driver.stop_own()
    return handles


def start(
    http_options: HTTPOptions | dict[str, Any] | None = None,
    *,
    proxy_location: str | None = "EveryNode",
    grpc_options: GRPCOptions | dict[str, Any] | None = None,
    logging_config: LoggingConfig | dict[str, Any] | None = None,
    engine: str = "local",
    admin_options: _AdminOptions | dict[str, Any] | None = None,
) -> None:
    """Start to listen, before `run`, with other HTTP options than the defaults. Nothing happens if it listens already.

    Args:
        http_options: see `HTTPOptions`; a dict has its fields.
        proxy_location: which machines serve HTTP, unless `http_options` has a `location`: see `HTTPOptions`.
        grpc_options: serve gRPC, too: see `GRPCOptions`; a dict has its fields.
        logging_config: the logs of all deployments that say nothing of it, nor their `run`.
        engine: as for `run`.
        admin_options: opens the admin interface over TCP, too; see `config.AdminOptions`, and docs/admin.md.
    """
    from modelplex import driver

    global _logging_config

    options = http_options if isinstance(http_options, HTTPOptions) else HTTPOptions(**(http_options or {}))
    options = options.at(proxy_location or "EveryNode")
    if grpc_options is not None:
        options = replace(options, grpc=grpc_options)  # type: ignore[arg-type] # which makes one of a dict
    if isinstance(logging_config, dict):
        logging_config = LoggingConfig(**logging_config)
    if isinstance(admin_options, dict):
        admin_options = _AdminOptions(**admin_options)
    driver.start(engine, options, admin=admin_options)
    if logging_config is not None:
        _logging_config = logging_config


def delete(name: str, _blocking: bool = True) -> None:
    """Stop one application: requests that run may end. Nothing happens if there is none of that name.

    Args:
        name: the application's name.
        _blocking: whether to return only when it has stopped.
    """
    from modelplex import driver

    if (running := driver.found()) is not None:
        running.delete(name, wait=_blocking)


def shutdown() -> None:
    """Stop everything that this program serves, or that runs on the Ray cluster that it is on. Else nothing happens."""
    from modelplex import driver

    global _logging_config

    _logging_config = None
    driver.found()
    driver.shutdown()


def status() -> ServeStatus:
    """What this program serves, or the Ray cluster that it is on, and how that is; empty if nothing is served."""
    from modelplex import driver

    running = driver.found()
    return ServeStatus() if running is None else running.status()


def get_app_handle(name: str) -> DeploymentHandle:
    """A handle to an application's ingress deployment. Raises `ModelplexError` if there is no such application.

    In a program that serves nothing itself, it is one of the system on the Ray cluster that the program is connected
    to, tasks and actors included; or else of the system that runs on this machine (`modelplex start`, or another
    program), if there is just one.
    """
    system = _system()
    ingress = _context.caller(system).ingress(name)
    if ingress is None:
        raise _ModelplexError(f"There is no application {name!r}.")
    return DeploymentHandle(name, ingress, system=system)


def get_deployment_handle(deployment_name: str, app_name: str | None = None) -> DeploymentHandle:
    """A handle to a deployment, found as by `get_app_handle`. Raises `ModelplexError` if there is no such deployment.

    Args:
        deployment_name: its name.
        app_name: its application; inside of a replica, that replica's own unless given.
    """
    if app_name is None:
        if not _context.in_replica():
            raise _ModelplexError("Outside of a replica, get_deployment_handle takes app_name, too.")
        app_name = _context.replica().context.app_name
    system = _system()
    if not _context.caller(system).has_deployment(app_name, deployment_name):
        raise _ModelplexError(f"There is no deployment {deployment_name!r} in application {app_name!r}.")
    return DeploymentHandle(app_name, deployment_name, system=system)


def _system() -> str:
    """The control socket of the system whose deployments are meant, or its name; empty if it is this process's own."""
    if _context.has_caller():
        return ""
    from modelplex import driver

    if name := driver.system_on_ray():
        return name
    from modelplex.admin_client import find
    from modelplex.config import CONTROL

    return str(find().folder / CONTROL)
