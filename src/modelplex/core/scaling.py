"""How many replicas a deployment is to have.

In this order:

1. What is wanted by demand: the requests that run or wait, over the look-back period, for each replica so many; of the
   difference to what there is, the factor's part. Or a user's own policy says it.
2. By models, if `max_reload_fraction` is set: one more than there are while reloads take more time than that; and no
   fewer than the models in use need.
3. Bounds: `min_replicas` and `max_replicas`; from several to none only by way of one, and to none only when nothing is
   asked for at this moment.
4. Delays: for so long more, or fewer, have to be wanted at each look. Not when something waits and there are none.

The first, the third and the fourth are Ray Serve's rules (`replica_queue_length_autoscaling_policy`), but that stopping
replicas never overshoots, whatever its factor.
"""

import math
from typing import Any, Protocol

from modelplex.core.look_back import LookBack
from modelplex.core.replica_load import ReplicaLoad as ReplicaLoad
from modelplex.core.replica_load import stop_order as stop_order
from modelplex.core.scaling_policy import ScalingContext as ScalingContext
from modelplex.core.scaling_policy import ScalingPolicy as ScalingPolicy
from modelplex.core.scaling_policy import ask
from modelplex.core.working_set import WorkingSet

# What a sum of floating-point numbers may be off, in replicas, without one more being started for it.
ROUNDING = 1e-6


class ScalingOptions(Protocol):
    """The options that are used here; `config.AutoscalingConfig` says what they mean."""

    @property
    def min_replicas(self) -> int: ...
    @property
    def max_replicas(self) -> int: ...
    @property
    def target_ongoing_requests(self) -> float: ...
    @property
    def metrics_interval_s(self) -> float: ...
    @property
    def look_back_period_s(self) -> float: ...
    @property
    def upscale_delay_s(self) -> float: ...
    @property
    def downscale_delay_s(self) -> float: ...
    @property
    def downscale_to_zero_delay_s(self) -> float | None: ...
    @property
    def upscaling_factor(self) -> float | None: ...
    @property
    def downscaling_factor(self) -> float | None: ...
    @property
    def aggregation_function(self) -> str: ...
    @property
    def max_reload_fraction(self) -> float | None: ...


class Autoscaler:
    """Decides the number of replicas of one deployment, by what its replicas and callers report.

    Args:
        options: the rules' numbers.
        current: how many replicas there are to be at first.
        now: seconds, on a clock that only goes forward.
        policy: a user's function that says what is wanted, instead of the rules 1 and 2.
        app_name: for the policy.
        deployment_name: for the policy.

    Attributes:
        target: how many replicas there are to be.
        wanted: how many were wanted at the last look; they become the target when that has lasted.
        why: a sentence with the numbers of the last look, for status and logs.
        policy_error: what the policy raised at the last look.
    """

    def __init__(
        self,
        options: ScalingOptions,
        current: int,
        now: float,
        *,
        policy: ScalingPolicy | None = None,
        app_name: str = "",
        deployment_name: str = "",
    ) -> None:
        self.target = self.wanted = current
        self.why = "Nothing has been looked at yet."
        self.policy_error: Exception | None = None
        self._options = options
        self._policy = policy
        self._policy_state: dict[str, Any] = {}
        self._names = (app_name, deployment_name)
        self._loads: dict[str, ReplicaLoad] = {}
        self._waiting: dict[str, int] = {}
        self._heard = False  # whether anybody has ever reported
        self._requests = LookBack(options.look_back_period_s)
        self._models = WorkingSet(options.look_back_period_s)
        self._reloads_want_more = False
        self._looked_at = now
        self._wanted_since: float | None = None  # more, or fewer, than the target
        self._last_up: float | None = None
        self._last_down: float | None = None
        self.set_options(options, now, policy)

    # What is told

    def told_replica(self, replica_id: str, load: ReplicaLoad, now: float) -> None:
        """A replica reports. Those that are stopping are to be left out, though they may still run something."""
        self._heard = True
        self._loads[replica_id] = load
        self._models.told(load, now)
        self._requests.told(self._requests_now, now)

    def replica_gone(self, replica_id: str) -> None:
        """It has ended, or is stopping; counts from the next report or look on."""
        self._loads.pop(replica_id, None)

    def told_waiting(self, source_id: str, waiting: int, now: float) -> None:
        """So many requests wait in one caller (a proxy, or a process that has handles)."""
        self._heard = True
        self._waiting[source_id] = waiting
        self._requests.told(self._requests_now, now)

    def source_gone(self, source_id: str) -> None:
        """The caller has ended, and its requests with it."""
        self._waiting.pop(source_id, None)

    def set_options(self, options: ScalingOptions, now: float, policy: ScalingPolicy | None = None) -> int:
        """Other options, and the policy that goes with them. The target, which is brought within the new bounds."""
        self._options, self._policy = options, policy
        self._requests.period_s = self._models.period_s = options.look_back_period_s
        if (target := self._within_bounds(self.target)) != self.target:
            self._become(target, now)
        return self.target

    # What is decided

    @property
    def next_look(self) -> float:
        """When to call `decide`, unless something is told before that; in the past if it is to be called at once."""
        if self.target == 0 and self._waiting_now > 0:
            return self._looked_at
        regular = self._looked_at + self._options.metrics_interval_s
        return regular if (due := self._due) is None else min(regular, due)

    def decide(self, now: float) -> int:
        """The target, as it is from now on."""
        if self._heard:
            self._requests.told(self._requests_now, now)
        self._looked_at = now
        self._reloads_want_more = False
        before, had_wanted = self.target, self.wanted
        number, reason = self._by_policy(now) if self._policy else self._by_demand(now)
        self.wanted = self._within_bounds(number)
        from_zero = self.target == 0 and self._waiting_now > 0
        if from_zero:
            first = max(1, math.ceil(self._options.upscaling_factor or 1), self.wanted)
            self.wanted, reason = self._within_bounds(first), f"{self._waiting_now:g} requests wait, and nothing runs"
        if self.wanted == before:
            self._wanted_since = None
        elif self._wanted_since is None or (self.wanted > before) != (had_wanted > before):
            self._wanted_since = now
        due = self._due
        if due is not None and (from_zero or now >= due):
            if self._reloads_want_more and self.wanted > before:
                self._models.more_needed(before + 1, now)
            self._become(self.wanted, now)
        self.why = f"{self._verdict(before, now)}: {reason.rstrip('.')}."
        return self.target

    def _become(self, target: int, now: float) -> None:
        if target > self.target:
            self._last_up = now
        else:
            self._last_down = now
        self.target = self.wanted = target
        self._wanted_since = None
        self._models.replicas_changed()

    @property
    def _due(self) -> float | None:
        """When what is wanted will have been wanted for long enough."""
        if self._wanted_since is None:
            return None
        options = self._options
        delay_s = options.upscale_delay_s if self.wanted > self.target else options.downscale_delay_s
        if self.wanted == 0 and options.downscale_to_zero_delay_s is not None:
            delay_s = options.downscale_to_zero_delay_s
        return self._wanted_since + delay_s

    def _verdict(self, before: int, now: float) -> str:
        if self.target != before:
            return f"{self.target} replicas instead of {before}"
        due = self._due
        if due is None:
            return f"{self.target} replicas stay"
        return f"{self.target} replicas, {self.wanted} in {round(max(0.0, due - now), 1):g} s if that lasts"

    # What is wanted

    def _by_demand(self, now: float) -> tuple[int, str]:
        options = self._options
        if not self._heard:
            return self.target, "nobody has reported yet"
        if self.target == 0:
            return 0, "nothing waits"
        requests = self._requests.aggregate(options.aggregation_function, now)
        reason = (
            f"{round(requests, 2):g} requests run or wait ({options.aggregation_function} of "
            f"{options.look_back_period_s:g} s), {options.target_ongoing_requests:g} for each replica"
        )
        wanted = self._in_part(requests / options.target_ongoing_requests)
        if options.max_reload_fraction is not None:
            wanted, reason = self._by_models(wanted, reason, options.max_reload_fraction, now)
        return wanted, reason

    def _in_part(self, needed: float) -> int:
        """The number that the factors make of what is needed; it comes nearer by one replica at least."""
        whole = math.ceil(needed - ROUNDING)
        if self.target in (0, whole):
            return whole
        missing = needed - self.target
        factor = self._options.upscaling_factor if missing > 0 else self._options.downscaling_factor
        part = math.ceil(self.target + (factor or 1.0) * missing - ROUNDING)
        if missing > 0:
            return max(part, self.target + 1)
        return max(whole, min(part, self.target - 1))

    def _by_models(self, wanted: int, reason: str, reload_fraction_max: float, now: float) -> tuple[int, str]:
        fraction = self._models.reload_fraction(len(self._loads), now)
        self._reloads_want_more = fraction > reload_fraction_max
        if self._reloads_want_more and wanted <= self.target:
            wanted = self.target + 1
            reason = f"{fraction:.1%} of the replicas' time goes into reloads, {reload_fraction_max:.1%} may; {reason}"
        needed = min(self.target, self._models.replicas_needed(now))
        if wanted < needed:
            wanted = needed
            reason = f"{self._models.in_use(now)} models in use need {needed} replicas; {reason}"
        return wanted, reason

    def _by_policy(self, now: float) -> tuple[int, str]:
        assert self._policy is not None
        self.policy_error = None
        try:
            number, state = ask(self._policy, self._context(now))
        except Exception as error:  # noqa: BLE001 - a user's code: it may raise anything, and is told so by `why`
            self.policy_error = error
            return self.target, f"the policy failed with {type(error).__name__}: {error}"
        if state is not None:
            self._policy_state = state
        return self._in_part(number), f"the policy wants {number:g}"

    def _context(self, now: float) -> ScalingContext:
        app_name, deployment_name = self._names
        options = self._options
        running = {replica_id: load.ongoing for replica_id, load in self._loads.items()}
        return ScalingContext(
            app_name=app_name,
            deployment_name=deployment_name,
            current_num_replicas=len(self._loads),
            target_num_replicas=self.target,
            total_num_requests=self._requests.aggregate(options.aggregation_function, now),
            total_queued_requests=self._waiting_now,
            total_running_requests=sum(running.values()),
            running_requests=running,
            models={replica_id: dict(load.models) for replica_id, load in self._loads.items()},
            models_in_use=self._models.in_use(now),
            reload_fraction=self._models.reload_fraction(len(self._loads), now),
            capacity_adjusted_min_replicas=options.min_replicas,
            capacity_adjusted_max_replicas=options.max_replicas,
            policy_state=dict(self._policy_state),
            last_scale_up_time=self._last_up,
            last_scale_down_time=self._last_down,
            now=now,
            config=options,
        )

    def _within_bounds(self, number: int) -> int:
        least = self._options.min_replicas
        if self.target > 1 or (self.target == 1 and self._requests_now > 0):
            least = max(1, least)
        return max(least, min(self._options.max_replicas, number))

    @property
    def _waiting_now(self) -> float:
        return sum(self._waiting.values())

    @property
    def _requests_now(self) -> float:
        return self._waiting_now + sum(load.ongoing for load in self._loads.values())
