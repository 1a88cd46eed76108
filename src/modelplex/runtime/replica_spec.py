"""What a replica is to run, as an engine takes it to the replica's process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from modelplex import context
from modelplex.config import DeploymentConfig
from modelplex.runtime.app_spec import Definition, Environment


@dataclass(frozen=True)
class ReplicaSpec:
    """What a replica is to run, and as whom.

    Attributes:
        tag: its own part of its name.
        version: see `app_spec.DeploymentSpec`.
        models: those to load before it is ready, since it takes over from a replica that serves these: by the name of
            their loader, which is empty if there is only one.
        gpus: the share that it has of GPUs, by their numbers; the engine fills it in.
    """

    app_name: str
    tag: str
    config: DeploymentConfig
    definition: Definition | bytes
    version: str = ""
    environment: Environment = field(default_factory=Environment)
    models: Mapping[str, Sequence[str]] = field(default_factory=dict)
    gpus: dict[str, float] = field(default_factory=dict)

    @property
    def context(self) -> context.ReplicaContext:
        return context.ReplicaContext(self.app_name, self.config.name, self.tag)
