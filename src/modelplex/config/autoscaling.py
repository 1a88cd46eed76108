"""How many replicas a deployment has, by what it is asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modelplex.config.checks import check_choice, check_code, check_int, check_number, check_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscalingConfig:
    """The number of replicas follows the demand.

    Attributes:
        min_replicas: never fewer; 0 stops the last one when nothing is asked for. The next request then waits.
        initial_replicas: how many to begin with; `min_replicas` unless given.
        max_replicas: never more.
        target_ongoing_requests: requests that are to run or wait for each replica.
        metrics_interval_s: how often the demand is looked at.
        look_back_period_s: the demand is the mean of so long (see `aggregation_function`).
        upscale_delay_s: for so long more has to be wanted before there is more.
        downscale_delay_s: for so long less has to be wanted before there is less.
        downscale_to_zero_delay_s: the same for the last replica; `downscale_delay_s` unless given.
        upscaling_factor: how much of the missing replicas to add at a time; all (1) unless given.
        downscaling_factor: how much of those that are too many to stop at a time; all (1) unless given.
        aggregation_function: what of the look-back period counts: "mean", "max" or "min".
        max_reload_fraction: models that have been evicted and are loaded again may take replicas so much of their
            time, as a fraction of 1; above it, there is one more. None for any. Fewer replicas than the models in use
            fit into are never made of it.
        policy: a function that decides instead, or its import path: it takes a `core.scaling.ScalingContext` and
            returns the number of replicas. A dict with `policy_function` is taken for that.
    """

    min_replicas: int = 1
    initial_replicas: int | None = None
    max_replicas: int = 1
    target_ongoing_requests: float = 2.0
    metrics_interval_s: float = 10.0
    look_back_period_s: float = 30.0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    downscale_to_zero_delay_s: float | None = None
    upscaling_factor: float | None = None
    downscaling_factor: float | None = None
    aggregation_function: str = "mean"
    max_reload_fraction: float | None = None
    policy: Callable[..., Any] | str | dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.policy, dict) and set(self.policy) == {"policy_function"}:
            object.__setattr__(self, "policy", self.policy["policy_function"])
        check_int("min_replicas", self.min_replicas, 0)
        check_int("max_replicas", self.max_replicas, max(1, self.min_replicas), " and of min_replicas")
        if self.initial_replicas is not None:
            check_int(
                "initial_replicas",
                self.initial_replicas,
                self.min_replicas,
                f" (min_replicas) and at most {self.max_replicas} (max_replicas)",
                most=self.max_replicas,
            )
        check_number("target_ongoing_requests", self.target_ongoing_requests, 0, above=True)
        for option in ("metrics_interval_s", "look_back_period_s"):
            if getattr(self, option) is None:
                raise ValueError(f"{option} must be a number of seconds above 0, got None.")
            check_seconds(option, getattr(self, option), above_0=True)
        for option in ("upscale_delay_s", "downscale_delay_s"):
            check_seconds(option, getattr(self, option))
        if self.downscale_to_zero_delay_s is not None:
            check_seconds("downscale_to_zero_delay_s", self.downscale_to_zero_delay_s)
        for option in ("upscaling_factor", "downscaling_factor"):
            if getattr(self, option) is not None:
                check_number(option, getattr(self, option), 0, above=True)
        check_choice("aggregation_function", self.aggregation_function, ("mean", "max", "min"))
        if self.max_reload_fraction is not None:
            check_number("max_reload_fraction", self.max_reload_fraction, 0, 1, above=True)
        if self.policy is not None:
            check_code("policy", self.policy)

    @property
    def first_replicas(self) -> int:
        """How many to begin with."""
        return self.min_replicas if self.initial_replicas is None else self.initial_replicas
