"""A user's own rule for the number of replicas: what it is told, and what it may answer.

The names of the fields are those of Ray Serve's `AutoscalingContext`, where it has the same.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingContext:
    """What a policy decides by.

    Attributes:
        app_name: the application.
        deployment_name: the deployment in it.
        current_num_replicas: replicas that have reported.
        target_num_replicas: how many there are to be so far.
        total_num_requests: those that run or wait, over the look-back period, by `aggregation_function`.
        total_queued_requests: those that wait in callers now.
        total_running_requests: those that run on replicas now.
        running_requests: the same for each replica.
        models: of each replica its models, with how much each is used of late; 0 is idle.
        models_in_use: how many different models were used within the look-back period.
        reload_fraction: the part of the replicas' time that went into loading evicted models again.
        capacity_adjusted_min_replicas: `min_replicas`.
        capacity_adjusted_max_replicas: `max_replicas`.
        policy_state: the dict that the policy returned last time; empty at first.
        last_scale_up_time: when the number last grew, on the clock of `now`; None if it never has.
        last_scale_down_time: when it last shrank.
        now: seconds on a clock that only goes forward; not the time of day.
        config: the options of autoscaling (`AutoscalingConfig`).
    """

    app_name: str = ""
    deployment_name: str = ""
    current_num_replicas: int = 0
    target_num_replicas: int = 0
    total_num_requests: float = 0.0
    total_queued_requests: float = 0.0
    total_running_requests: float = 0.0
    running_requests: Mapping[str, float] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    models_in_use: int = 0
    reload_fraction: float = 0.0
    capacity_adjusted_min_replicas: int = 1
    capacity_adjusted_max_replicas: int = 1
    policy_state: dict[str, Any] = field(default_factory=dict)
    last_scale_up_time: float | None = None
    last_scale_down_time: float | None = None
    now: float = 0.0
    config: Any = None

    @property
    def running_replicas(self) -> list[str]:
        """The ids of the replicas that have reported."""
        return list(self.running_requests)


# Returns the number of replicas, or that and a dict to be given to it the next time.
ScalingPolicy = Callable[[ScalingContext], Any]


def ask(policy: ScalingPolicy, context: ScalingContext) -> tuple[float, dict[str, Any] | None]:
    """What the policy answers: a number, not yet whole or within bounds, and its new state if it gives one.

    Raises what the policy raises, and TypeError if its answer is none.
    """
    answer = policy(context)
    number, state = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
    is_number = hasattr(number, "__float__") and not isinstance(number, bool) and math.isfinite(number)
    if not is_number or not isinstance(state, Mapping | None):
        raise TypeError(f"It returned {answer!r:.100}; a number of replicas would be right, or (number, dict).")
    return float(number), None if state is None else dict(state)
