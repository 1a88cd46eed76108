"""What `serve.status` answers."""

from dataclasses import dataclass, field
from enum import StrEnum


class ApplicationState(StrEnum):
    NOT_STARTED = "NOT_STARTED"
    DEPLOYING = "DEPLOYING"
    DEPLOY_FAILED = "DEPLOY_FAILED"
    RUNNING = "RUNNING"
    UNHEALTHY = "UNHEALTHY"
    DELETING = "DELETING"


class DeploymentState(StrEnum):
    UPDATING = "UPDATING"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"


@dataclass(frozen=True, slots=True)
class ReplicaLeaks:
    """What the unloaded models of one replica still take.

    Attributes:
        leaked_bytes: in all.
        models: the models that are still alive, the worst of them, with their bytes.
    """

    leaked_bytes: int
    models: dict[str, int]


@dataclass(frozen=True, slots=True)
class DeploymentStatus:
    """One deployment.

    Attributes:
        status: whether as many replicas run as are wanted.
        replica_states: how many replicas are `STARTING` and `RUNNING`.
        message: why it is not healthy.
        leaks: by the replica's id, those that leak.
    """

    status: DeploymentState
    replica_states: dict[str, int]
    message: str = ""
    leaks: dict[str, ReplicaLeaks] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ApplicationStatus:
    """One application.

    Attributes:
        status: the state of the whole.
        message: why it failed, if it did.
        last_deployed_time_s: seconds since the epoch.
        deployments: by name.
    """

    status: ApplicationState
    message: str
    last_deployed_time_s: float
    deployments: dict[str, DeploymentStatus]


@dataclass(frozen=True, slots=True)
class ServeStatus:
    """Everything that is served by this program; empty while nothing is.

    Attributes:
        proxies: by name, those that run (`HEALTHY`).
        applications: by name.
        address: the URL that is served; empty if HTTP is not. Of several machines, the head's, or else the first one's.
        log_dir: where replicas write their logs.
        proxy_addresses: by name, the URL that each of the proxies serves.
        admin_address: the URL of the admin interface; empty if it is not open over TCP.
        proxy_failures: by machine, why a proxy could not start there; it is tried again. A single machine has no name.
        grpc_address: host and port where gRPC is served; empty if it is not.
    """

    proxies: dict[str, str] = field(default_factory=dict)
    applications: dict[str, ApplicationStatus] = field(default_factory=dict)
    address: str = ""
    log_dir: str = ""
    proxy_addresses: dict[str, str] = field(default_factory=dict)
    proxy_failures: dict[str, str] = field(default_factory=dict)
    admin_address: str = ""
    grpc_address: str = ""
