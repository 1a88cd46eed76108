"""How the models of one loader are kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelplex.config.checks import UNLIMITED, check_int, check_model_id, check_number, check_seconds, load
from modelplex.config.constants import EVICTION_POLICIES, MAX_NUM_MODELS_PER_REPLICA, RESOLVE_INTERVAL_S
from modelplex.config.tenants import TenantConfig, limits
from modelplex.core.tenants import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """How one loader's models are kept on each replica: the options of `serve.multiplexed`.

    Attributes:
        models_max: `max_num_models_per_replica`: models that are held at a time; -1 for any number.
        bytes_max: `max_bytes_per_replica`: bytes that they may take together; -1 for any number.
        size_of: the size of a model in bytes. Unless given, the model is asked (torch, numpy, scikit-learn, ONNX), and
            if it cannot tell, the growth of the process during its load counts. Sizes are remembered for the next load.
        loads_max: `max_concurrent_loads`: loads that run at a time on a replica; -1 for any number.
        load_timeout_s: a load that takes longer has failed; None for any time. A plain `def` cannot be stopped: it
            keeps its room until it ends.
        model_exists: plain or async; says of a model id whether there is such a model, before anything is evicted.
        not_found: exceptions of the loader that mean that there is no such model, besides `ModelNotFoundError`.
        eviction: what makes room: "lru", the least recently used; "gdsf", what is least worth by uses, load time and
            size; or a class like those of `modelplex.core.eviction`.
        min_residency_s: a model is not evicted before it has been loaded for so long.
        idle_ttl_s: a model that nobody has used for so long is unloaded; None for never.
        pinned: models that are loaded when a replica starts and never evicted.
        preload: models that are loaded when a replica starts; or a function, plain or async, that answers with their
            ids, of which as many are loaded as have room.
        on_unload: plain or async; called with the id and the model before it is destroyed, once.
        resolve: plain or async; says of a model id which version it stands for now: itself, if it is no alias.
        resolve_interval_s: how often that is asked of each alias in use.
        tenants: what each tenant may take; the deployment's option of that name.
    """

    models_max: int = MAX_NUM_MODELS_PER_REPLICA
    bytes_max: int = UNLIMITED
    size_of: Callable[[Any], int] | None = None
    loads_max: int = UNLIMITED
    load_timeout_s: float | None = None
    model_exists: Callable[[str], Any] | None = None
    not_found: tuple[type[Exception], ...] = (FileNotFoundError,)
    eviction: Any = "lru"
    min_residency_s: float = 0.0
    idle_ttl_s: float | None = None
    pinned: Sequence[str] = ()
    preload: Sequence[str] | Callable[[], Any] = ()
    on_unload: Callable[[str, Any], Any] | None = None
    resolve: Callable[[str], Any] | None = None
    resolve_interval_s: float = RESOLVE_INTERVAL_S
    tenants: Mapping[str, TenantConfig] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.models_max, int):
            raise TypeError(f"max_num_models_per_replica must be an integer, got {self.models_max!r}.")
        if self.models_max == 0 or self.models_max < UNLIMITED:
            raise ValueError(
                f"max_num_models_per_replica must be at least 1, or {UNLIMITED} for any number, got {self.models_max}."
            )
        if self.loads_max != UNLIMITED:
            check_int("max_concurrent_loads", self.loads_max, 1)
        for option in ("load_timeout_s", "idle_ttl_s"):
            check_seconds(option, getattr(self, option), above_0=True)
        check_seconds("min_residency_s", self.min_residency_s, above_0=False)
        check_number("resolve_interval_s", self.resolve_interval_s, 0, above=True)
        for option in ("size_of", "model_exists", "on_unload", "resolve"):
            if (hook := getattr(self, option)) is not None and not callable(hook):
                raise TypeError(f"{option} must be a function, got {hook!r}.")
        if isinstance(self.eviction, str) and self.eviction not in EVICTION_POLICIES:
            names = " or ".join(map(repr, EVICTION_POLICIES))
            raise ValueError(f"eviction must be {names}, or a policy class, got {self.eviction!r}.")
        self._check_model_ids()
        if self.tenants:
            limits(self.tenants, self.models_max, self.bytes_max, self.loads_max, len(self.pinned))

    @property
    def tenant_limits(self) -> Mapping[str, Limits] | None:
        """What each tenant may take of such a cache; None without tenants."""
        if not self.tenants:
            return None
        return limits(self.tenants, self.models_max, self.bytes_max, self.loads_max, len(self.pinned))

    @property
    def eviction_policy(self) -> Any:
        """The class that `eviction` names, or is."""
        return load(EVICTION_POLICIES[self.eviction]) if isinstance(self.eviction, str) else self.eviction

    def _check_model_ids(self) -> None:
        for option in ("pinned", "preload"):
            if isinstance(model_ids := getattr(self, option), str):
                raise TypeError(f"{option} takes a list of model ids, got the text {model_ids!r}.")
            if option == "preload" and callable(model_ids):
                continue
            for model_id in model_ids:
                check_model_id(model_id)
        if self.models_max != UNLIMITED and len(self.pinned) >= self.models_max:
            raise ValueError(
                f"{len(self.pinned)} models are pinned, which leaves no room for others with "
                f"max_num_models_per_replica={self.models_max}."
            )
