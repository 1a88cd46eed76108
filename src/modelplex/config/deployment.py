"""The options of one deployment."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from modelplex.config.autoscaling import AutoscalingConfig
from modelplex.config.cache import CacheOptions
from modelplex.config.checks import (
    UNLIMITED,
    check_choice,
    check_code,
    check_int,
    check_name,
    check_number,
    check_seconds,
    made_from,
    parse_bytes,
)
from modelplex.config.logs import LoggingConfig
from modelplex.config.multiplexing import MultiplexingConfig
from modelplex.config.tenants import TenantConfig, checked

# With num_replicas="auto", unless autoscaling_config says otherwise.
AUTO_MAX_REPLICAS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class BackpressureConfig:
    """What a client is told when a queue is full.

    Attributes:
        status_code: of HTTP: 503 or 429.
        retry_after_s: seconds after which it is told to try again.
    """

    status_code: int = 503
    retry_after_s: float = 1.0

    def __post_init__(self) -> None:
        check_choice("status_code", self.status_code, (503, 429))
        check_seconds("retry_after_s", self.retry_after_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRouterConfig:
    """Who chooses the replica for a request.

    Attributes:
        request_router_class: a class like `modelplex.core.chooser.Chooser`, or its import path.
        request_router_kwargs: the arguments of its constructor.
    """

    request_router_class: Callable[..., Any] | str
    request_router_kwargs: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_code("request_router_class", self.request_router_class)
        if not isinstance(self.request_router_kwargs, dict | None):
            raise TypeError(f"request_router_kwargs must be a dict, got {self.request_router_kwargs!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentConfig:
    """The options of one deployment.

    Attributes:
        name: unique in its application; the name of the class or function unless given.
        num_replicas: processes to run, or "auto" for as many as the demand takes (1 to 100).
        max_ongoing_requests: requests that run at a time on one replica; those for a model that loads count.
        max_queued_requests: requests that may wait in one caller (a proxy, a handle's process); -1 for any number.
        backpressure_config: what a client is told when they are so many (`BackpressureConfig`).
        retry_lost_requests: whether a request whose replica dies before it has begun to answer is sent to another one.
        user_config: given to the object's `reconfigure` after its construction, and again when it is changed, which
            starts nothing anew. What JSON can say.
        autoscaling_config: how the number of replicas follows the demand (`AutoscalingConfig`).
        multiplexing_config: what overrides the options of `serve.multiplexed` in the code (`MultiplexingConfig`).
        tenants: what each tenant may take (`TenantConfig`), by its name; "*" is all others together, and requests of no
            tenant.
        request_router_config: who chooses the replica for a request (`RequestRouterConfig`).
        graceful_shutdown_timeout_s: how long a replica that is to stop may take over what runs on it.
        graceful_shutdown_wait_loop_s: taken and not used: a replica that is to stop does when its last request ends.
        health_check_period_s: how often an object that has `check_health` is asked; it raises if it is not well.
        health_check_timeout_s: one that takes longer has failed.
        health_check_failure_threshold: failures in a row after which a replica is replaced.
        max_constructor_retry_count: failed starts after which a deployment is given up, or three for each replica if
            that is fewer.
        rolling_update_percentage: the part of the replicas that are replaced at a time, as a fraction of 1; at least
            one is.
        max_surge_percent: how many replicas more than wanted there may be meanwhile, as a fraction of 1, rounded up;
            as many as are replaced at a time unless given. With 0 an old one ends before a new one starts.
        max_leaked_bytes: a replica whose unloaded models still take more is replaced, as a number of bytes or as text
            such as "2GiB"; None for never.
        ray_actor_options: what a replica needs. On one machine `num_gpus` is how many GPUs each has for itself, or
            which part of one (`CUDA_VISIBLE_DEVICES`; with 0 it sees none, without it that variable is left alone), and
            `runtime_env` may have `env_vars`; the rest is ignored. On a Ray cluster they are the options of its actor;
            `num_cpus` is 1 unless given.
        placement_group_bundles, placement_group_strategy: on a Ray cluster, what is reserved for each replica, which
            runs in the first bundle, and how (`ray.util.placement_group`). Ignored on one machine.
        max_replicas_per_node: on a Ray cluster, how many of its replicas a machine may have. Ignored on one machine.
        logging_config: the logs of its replicas (`LoggingConfig`).
    """

    name: str
    num_replicas: int | str = 1
    max_ongoing_requests: int = 5
    max_queued_requests: int = UNLIMITED
    backpressure_config: BackpressureConfig | dict[str, Any] | None = None
    retry_lost_requests: bool = True
    user_config: Any = None
    autoscaling_config: AutoscalingConfig | dict[str, Any] | None = None
    multiplexing_config: MultiplexingConfig | dict[str, Any] | None = None
    tenants: Mapping[str, TenantConfig | dict[str, Any]] | None = None
    request_router_config: RequestRouterConfig | dict[str, Any] | None = None
    graceful_shutdown_timeout_s: float = 20.0
    graceful_shutdown_wait_loop_s: float = 2.0
    health_check_period_s: float = 10.0
    health_check_timeout_s: float = 30.0
    health_check_failure_threshold: int = 3
    max_constructor_retry_count: int = 20
    rolling_update_percentage: float = 0.2
    max_surge_percent: float | None = None
    max_leaked_bytes: int | str | None = None
    ray_actor_options: dict[str, Any] | None = None
    placement_group_bundles: list[dict[str, float]] | None = None
    placement_group_strategy: str | None = None
    max_replicas_per_node: int | None = None
    logging_config: LoggingConfig | dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_name("A deployment's", self.name)
        if self.num_replicas == "auto" and isinstance(self.autoscaling_config, dict):
            self._set("autoscaling_config", {"max_replicas": AUTO_MAX_REPLICAS, **self.autoscaling_config})
        for option, kind in _PARTS.items():
            self._set(option, made_from(kind, option, getattr(self, option)))
        self._set("tenants", checked(self.tenants))
        self.over(CacheOptions(models_max=UNLIMITED))
        self._check_numbers()
        self._check_replicas()
        if self.max_leaked_bytes is not None:
            self._set("max_leaked_bytes", parse_bytes("max_leaked_bytes", self.max_leaked_bytes))
        check_choice("retry_lost_requests", self.retry_lost_requests, (True, False))
        try:
            json.dumps(self.user_config)
        except (TypeError, ValueError) as error:
            raise TypeError(f"user_config must be what JSON can say: {error}.") from error
        _check_ray_actor_options(self.ray_actor_options)

    def _check_numbers(self) -> None:
        check_int("max_ongoing_requests", self.max_ongoing_requests, 1)
        check_int("max_constructor_retry_count", self.max_constructor_retry_count, 0)
        check_int("health_check_failure_threshold", self.health_check_failure_threshold, 1)
        if self.max_queued_requests != UNLIMITED:
            check_int("max_queued_requests", self.max_queued_requests, 0, f", or {UNLIMITED} for any number")
        for option in ("graceful_shutdown_timeout_s", "graceful_shutdown_wait_loop_s"):
            check_seconds(option, getattr(self, option))
        for option in ("health_check_period_s", "health_check_timeout_s"):
            check_number(option, getattr(self, option), 0, above=True)
        check_number("rolling_update_percentage", self.rolling_update_percentage, 0, 1, above=True)
        if self.max_surge_percent is not None:
            check_number("max_surge_percent", self.max_surge_percent, 0, 1)

    def _check_replicas(self) -> None:
        scaling = self.autoscaling_config
        if self.num_replicas == "auto":
            if scaling is None:
                scaling = AutoscalingConfig(max_replicas=AUTO_MAX_REPLICAS)
            self._set("autoscaling_config", scaling)
        elif not isinstance(self.num_replicas, int) or isinstance(self.num_replicas, bool) or self.num_replicas < 1:
            raise ValueError(f"num_replicas must be an integer of at least 1, or 'auto', got {self.num_replicas!r}.")
        elif scaling is not None and self.num_replicas != 1:
            raise ValueError(
                f"num_replicas={self.num_replicas} says how many replicas there are, and autoscaling_config that the "
                "demand does: give one of them, or num_replicas='auto'."
            )

    def _set(self, option: str, value: Any) -> None:
        object.__setattr__(self, option, value)

    def with_options(self, changes: Mapping[str, Any]) -> "DeploymentConfig":
        """The same with other options. A number of replicas takes the place of autoscaling, and the other way round."""
        changes = dict(changes)
        if self.autoscaling_config is not None and isinstance(changes.get("num_replicas"), int):
            changes.setdefault("autoscaling_config", None)
        elif changes.get("autoscaling_config") is not None:
            changes.setdefault("num_replicas", "auto")
        return replace(self, **changes)

    @property
    def scaling(self) -> AutoscalingConfig | None:
        return self.autoscaling_config if isinstance(self.autoscaling_config, AutoscalingConfig) else None

    @property
    def first_replicas(self) -> int:
        """How many replicas to begin with."""
        if self.scaling is not None:
            return self.scaling.first_replicas
        assert isinstance(self.num_replicas, int)
        return self.num_replicas

    @property
    def backpressure(self) -> BackpressureConfig:
        given = self.backpressure_config
        return given if isinstance(given, BackpressureConfig) else BackpressureConfig()

    @property
    def multiplexing(self) -> MultiplexingConfig:
        given = self.multiplexing_config
        return given if isinstance(given, MultiplexingConfig) else MultiplexingConfig()

    def over(self, options: CacheOptions) -> CacheOptions:
        """The options of a loader with these in their place. ValueError if tenants reserve more than there is."""
        options = self.multiplexing.over(options)
        return replace(options, tenants=self.tenants) if self.tenants else options  # type: ignore[arg-type]

    @property
    def logs(self) -> LoggingConfig:
        return self.logging_config if isinstance(self.logging_config, LoggingConfig) else LoggingConfig()

    @property
    def num_gpus(self) -> float | None:
        """How many GPUs each replica has; None if nothing is said of them."""
        given: float | None = (self.ray_actor_options or {}).get("num_gpus")
        return given

    @property
    def env_vars(self) -> dict[str, str]:
        """Environment variables of its replicas, over those of the application."""
        return dict(_env_vars(self.ray_actor_options or {}))

    @property
    def ignored(self) -> list[str]:
        """The options that are given and have no effect."""
        options = self.ray_actor_options or {}
        keys = [f"ray_actor_options[{key!r}]" for key in options if key not in ("num_gpus", "runtime_env")]
        runtime_env = options.get("runtime_env") or {}
        keys += [f"ray_actor_options['runtime_env'][{key!r}]" for key in runtime_env if key != "env_vars"]
        elsewhere = ("placement_group_bundles", "placement_group_strategy", "max_replicas_per_node")
        return keys + [option for option in elsewhere if getattr(self, option) is not None]

    @classmethod
    def option_names(cls) -> list[str]:
        return [field.name for field in fields(cls)]


_PARTS: dict[str, type[Any]] = {
    "backpressure_config": BackpressureConfig,
    "autoscaling_config": AutoscalingConfig,
    "multiplexing_config": MultiplexingConfig,
    "request_router_config": RequestRouterConfig,
    "logging_config": LoggingConfig,
}


def _check_ray_actor_options(options: object) -> None:
    if options is None:
        return
    if not isinstance(options, dict):
        raise TypeError(f"ray_actor_options must be a dict, got {options!r}.")
    if (gpus := options.get("num_gpus")) is not None:
        check_number("num_gpus", gpus, 0)
        if gpus > 1 and gpus % 1 != 0:
            raise ValueError(f"num_gpus must be a whole number, or a part of 1, got {gpus!r}.")
    if not isinstance(options.get("runtime_env"), dict | None):
        raise TypeError(f"runtime_env must be a dict, got {options['runtime_env']!r}.")
    env_vars = _env_vars(options)
    if not isinstance(env_vars, dict) or not all(isinstance(t, str) for kv in env_vars.items() for t in kv):
        raise TypeError(f"env_vars of runtime_env must map text to text, got {env_vars!r}.")
    for name, value in env_vars.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError(f"{name!r}: {value!r} of runtime_env's env_vars cannot be an environment variable.")


def _env_vars(options: Mapping[str, Any]) -> Any:
    return (options.get("runtime_env") or {}).get("env_vars") or {}
