"""What is to run, as it travels from who deploys it to who runs it, and as it is kept on disk."""

import hashlib
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelplex.config import DeploymentConfig, check_name, check_route_prefix
from modelplex.deployment import Application, Node, flatten
from modelplex.runtime import payload
from modelplex.runtime.spoken import protocols_of

# Options of a deployment that its processes need not be started anew for.
LIGHT_OPTIONS = {
    "num_replicas",
    "max_queued_requests",
    "backpressure_config",
    "retry_lost_requests",
    "user_config",
    "autoscaling_config",
    "graceful_shutdown_timeout_s",
    "graceful_shutdown_wait_loop_s",
    "health_check_period_s",
    "health_check_timeout_s",
    "health_check_failure_threshold",
    "max_constructor_retry_count",
    "rolling_update_percentage",
    "max_surge_percent",
    "max_leaked_bytes",
}


@dataclass(frozen=True)
class Environment:
    """What the processes of an application are started with, besides what the controller has.

    Attributes:
        sys_path: where they import from.
        env_vars: their environment variables.
        working_dir: their current folder; the controller's unless given.
        runtime_env: what Ray is to put round them, on a cluster.
    """

    sys_path: Sequence[str] = ()
    env_vars: Mapping[str, str] = field(default_factory=dict)
    working_dir: str | None = None
    runtime_env: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Definition:
    """What to construct: a class with its arguments, or a function."""

    func_or_class: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] | None = None


@dataclass(frozen=True)
class DeploymentSpec:
    """One deployment.

    Attributes:
        config: its options.
        definition: the code with its arguments, or the pickle of that: the controller need not be able to import it.
        version: the same for two of them if and only if the same code runs with the same arguments.
        protocols: of other systems, that the code speaks (`spoken.protocols_of`).
    """

    config: DeploymentConfig
    definition: Definition | bytes
    version: str
    protocols: Sequence[str] = ()

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def process_version(self) -> str:
        """The same for two of them if and only if the processes of one can be told to be those of the other."""
        heavy = [getattr(self.config, name) for name in DeploymentConfig.option_names() if name not in LIGHT_OPTIONS]
        return f"{self.version}-{hashlib.sha256(repr(heavy).encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class AppSpec:
    """One application: its deployments, those that others call before their callers. The last one is its ingress.

    `source` is what a configuration file says of it, if it is of one.
    """

    name: str
    route_prefix: str | None
    deployments: Sequence[DeploymentSpec]
    environment: Environment = field(default_factory=Environment)
    source: Mapping[str, Any] | None = None

    @property
    def ingress(self) -> str:
        return self.deployments[-1].name

    @property
    def protocols(self) -> list[str]:
        """Those that its ingress speaks."""
        return list(self.deployments[-1].protocols)

    def deployment(self, name: str) -> DeploymentSpec | None:
        return next((d for d in self.deployments if d.name == name), None)

    @classmethod
    def of_application(
        cls, name: str, application: Application, route_prefix: str | None, *, pickled: bool
    ) -> "AppSpec":
        """What `serve.run` was given. Raises ValueError if its name or its route cannot be."""
        check_name("An application's", name)
        check_route_prefix(route_prefix)
        return cls.of(name, flatten(application, name), route_prefix, pickled=pickled)

    @classmethod
    def of(
        cls,
        name: str,
        nodes: Sequence[Node],
        route_prefix: str | None,
        environment: Environment | None = None,
        *,
        pickled: bool = False,
        version: str = "",
        source: Mapping[str, Any] | None = None,
    ) -> "AppSpec":
        """What `deployment.flatten` made of an application.

        Args:
            name: of the application.
            nodes: its deployments.
            route_prefix: where it is served; None for handles alone.
            environment: this process's own import path unless given.
            pickled: whether the code is to travel to another process.
            version: of its code; one that no other has unless given.
            source: what a configuration file says of it.
        """
        version = version or secrets.token_hex(8)

        def spec(node: Node) -> DeploymentSpec:
            definition = Definition(node.deployment.func_or_class, node.args, node.kwargs)
            code = payload.dumps(definition) if pickled else definition
            protocols = protocols_of(node.deployment.func_or_class)
            return DeploymentSpec(node.deployment.config, code, version, protocols)

        environment = environment or Environment(sys_path=list(sys.path))
        return cls(name, route_prefix, [spec(node) for node in nodes], environment, source)
