"""A user's own rule: what it may answer, and what becomes of it."""

from dataclasses import FrozenInstanceError
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from modelplex.config import AutoscalingConfig
from modelplex.core.replica_load import ReplicaLoad
from modelplex.core.scaling import Autoscaler, ScalingContext, ScalingPolicy
from modelplex.core.scaling_policy import ask

AT_ONCE = AutoscalingConfig(min_replicas=1, max_replicas=8, upscale_delay_s=0, downscale_delay_s=0)


def autoscaler(policy: ScalingPolicy, options: AutoscalingConfig = AT_ONCE, current: int = 3) -> Autoscaler:
    return Autoscaler(options, current, 0.0, policy=policy, app_name="app", deployment_name="Model")


@pytest.mark.parametrize(
    ("answer", "number", "state"),
    [
        (3, 3.0, None),
        (2.4, 2.4, None),
        (np.int64(3), 3.0, None),
        (Decimal("2.5"), 2.5, None),
        ((3, {"a": 1}), 3.0, {"a": 1}),
        ((3, None), 3.0, None),
        ((-1, {}), -1.0, {}),
    ],
)
def test_what_a_policy_may_answer(answer: Any, number: float, state: Any) -> None:
    assert ask(lambda context: answer, ScalingContext()) == (number, state)


@pytest.mark.parametrize(
    "answer",
    [None, "3", True, float("nan"), float("inf"), (), (3,), (3, 4), (3, {}, {}), (None, {}), {"replicas": 3}, 3j],
)
def test_what_it_may_not_answer(answer: Any) -> None:
    with pytest.raises(TypeError, match=r"It returned .*; a number of replicas would be right, or \(number, dict\)\."):
        ask(lambda context: answer, ScalingContext())


@pytest.mark.parametrize(("number", "target"), [(5, 5), (4.2, 5), (3, 3), (1, 1), (0, 1), (-7, 1), (9, 8), (1e300, 8)])
def test_its_number_is_made_whole_and_brought_within_bounds(number: float, target: int) -> None:
    assert autoscaler(lambda context: number).decide(1.0) == target


def test_delays_and_factors_apply_to_it_as_to_the_demand() -> None:
    options = AutoscalingConfig(
        max_replicas=8, upscale_delay_s=30, downscale_delay_s=60, upscaling_factor=0.5, downscaling_factor=0.5
    )
    wanted = 7
    scaler = autoscaler(lambda context: wanted, options)
    assert [scaler.decide(now) for now in (0.0, 29.0, 30.0)] == [3, 3, 5]
    wanted = 2
    assert [scaler.decide(now) for now in (40.0, 99.0, 100.0)] == [5, 5, 4]


def test_it_is_told_all_there_is_to_know() -> None:
    contexts: list[ScalingContext] = []

    def policy(context: ScalingContext) -> tuple[int, dict[str, int]]:
        contexts.append(context)
        return 4, {"calls": context.policy_state.get("calls", 0) + 1}

    scaler = autoscaler(policy)
    scaler.told_replica("r1", ReplicaLoad(2.0, {"a": 1.0}, 3, reload_s=3.0), 0.0)
    scaler.told_replica("r2", ReplicaLoad(1.0, {"a": 0.5, "b": 0.0}, 3), 0.0)
    scaler.told_waiting("proxy", 5, 0.0)
    scaler.decide(10.0)
    scaler.decide(20.0)
    first, second = contexts
    assert first == ScalingContext(
        app_name="app",
        deployment_name="Model",
        current_num_replicas=2,
        target_num_replicas=3,
        total_num_requests=8.0,
        total_queued_requests=5,
        total_running_requests=3.0,
        running_requests={"r1": 2.0, "r2": 1.0},
        models={"r1": {"a": 1.0}, "r2": {"a": 0.5, "b": 0.0}},
        models_in_use=1,
        reload_fraction=0.05,
        capacity_adjusted_min_replicas=1,
        capacity_adjusted_max_replicas=8,
        now=10.0,
        config=AT_ONCE,
    )
    assert first.running_replicas == ["r1", "r2"]
    assert (second.policy_state, second.target_num_replicas) == ({"calls": 1}, 4)
    assert (second.last_scale_up_time, second.last_scale_down_time) == (10.0, None)


def test_its_state_stays_when_it_gives_no_other() -> None:
    answers: list[Any] = [(3, {"a": 1}), 3, 3]
    seen = []

    def policy(context: ScalingContext) -> Any:
        seen.append(dict(context.policy_state))
        context.policy_state["b"] = 2  # a copy, which is not kept
        return answers[len(seen) - 1]

    scaler = autoscaler(policy)
    for now in (1.0, 2.0, 3.0):
        scaler.decide(now)
    assert seen == [{}, {"a": 1}, {"a": 1}]
    with pytest.raises(FrozenInstanceError):
        ScalingContext().now = 1.0  # type: ignore[misc]


def test_one_that_fails_keeps_the_target_and_is_told() -> None:
    answers: list[Any] = [KeyError("demand"), "many", 5]

    def policy(context: ScalingContext) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    scaler = autoscaler(policy)
    assert scaler.decide(1.0) == 3
    assert scaler.why == "3 replicas stay: the policy failed with KeyError: 'demand'."
    assert repr(scaler.policy_error) == "KeyError('demand')"
    assert scaler.decide(2.0) == 3
    assert "It returned 'many'; a number of replicas would be right" in scaler.why
    assert scaler.decide(3.0) == 5
    assert scaler.why == "5 replicas instead of 3: the policy wants 5."
    assert scaler.policy_error is None


def test_a_failure_begins_the_delay_anew() -> None:
    failing = False

    def policy(context: ScalingContext) -> int:
        if failing:
            raise ValueError
        return 5

    scaler = autoscaler(policy, AutoscalingConfig(max_replicas=8, upscale_delay_s=10))
    scaler.decide(0.0)
    failing = True
    scaler.decide(9.0)
    failing = False
    assert [scaler.decide(now) for now in (10.0, 19.9, 20.0)] == [3, 3, 5]


def test_what_ends_the_program_is_not_held_back() -> None:
    def policy(context: ScalingContext) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        autoscaler(policy).decide(1.0)


def test_from_zero_it_may_start_several_and_waiting_requests_start_one() -> None:
    options = AutoscalingConfig(min_replicas=0, max_replicas=8, upscale_delay_s=30)
    morning = autoscaler(lambda context: 4, options, current=0)
    assert [morning.decide(now) for now in (0.0, 29.0, 30.0)] == [0, 0, 4]
    night = autoscaler(lambda context: 0, options, current=0)
    night.told_waiting("proxy", 1, 0.0)
    assert night.decide(0.0) == 1


def test_it_does_not_stop_the_last_replica_while_something_runs() -> None:
    options = AutoscalingConfig(min_replicas=0, max_replicas=8, downscale_delay_s=0)
    scaler = autoscaler(lambda context: 0, options)
    scaler.told_replica("r", ReplicaLoad(0.1), 0.0)
    assert [scaler.decide(now) for now in (0.0, 1.0)] == [1, 1]
    scaler.told_replica("r", ReplicaLoad(0.0), 2.0)
    assert scaler.decide(2.0) == 0
