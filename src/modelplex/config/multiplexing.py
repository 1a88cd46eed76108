"""What a deployment's configuration says of the models in its replicas, in place of what its code says."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from modelplex.config.cache import CacheOptions
from modelplex.config.checks import parse_bytes

# The names of `serve.multiplexed` where those of `CacheOptions` are others.
_NAMES = {
    "max_num_models_per_replica": "models_max",
    "max_bytes_per_replica": "bytes_max",
    "max_concurrent_loads": "loads_max",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiplexingConfig:
    """Options of `serve.multiplexed` that override those in the code, for every loader of the deployment.

    Attributes:
        max_num_models_per_replica: models that a replica holds at a time; -1 for any number.
        max_bytes_per_replica: bytes that they may take together, as a number or as text such as "8GiB".
        max_concurrent_loads: loads that run at a time on a replica; -1 for any number.
        load_timeout_s: a load that takes longer has failed.
        eviction: what makes room, by name: "lru" or "gdsf".
        min_residency_s: a model is not evicted before it has been loaded for so long.
        idle_ttl_s: a model that nobody has used for so long is unloaded.
        pinned: models that are loaded when a replica starts and never evicted.
        preload: models that are loaded when a replica starts.
        resolve_interval_s: how often it is asked what each alias in use stands for.

    What is None is as the code says.
    """

    max_num_models_per_replica: int | None = None
    max_bytes_per_replica: int | str | None = None
    max_concurrent_loads: int | None = None
    load_timeout_s: float | None = None
    eviction: str | None = None
    min_residency_s: float | None = None
    idle_ttl_s: float | None = None
    pinned: Sequence[str] | None = None
    preload: Sequence[str] | None = None
    resolve_interval_s: float | None = None

    def __post_init__(self) -> None:
        self.over(CacheOptions())

    def over(self, options: CacheOptions) -> CacheOptions:
        """The options of a loader with these in their place. Raises ValueError or TypeError if one cannot be."""
        given = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) is not None}
        if "max_bytes_per_replica" in given:
            given["max_bytes_per_replica"] = parse_bytes("max_bytes_per_replica", given["max_bytes_per_replica"])
        return replace(options, **{_NAMES.get(name, name): value for name, value in given.items()})
