"""How many replicas: each rule, and each option."""

from typing import Any

import pytest

from modelplex.config import AutoscalingConfig
from modelplex.core.replica_load import ReplicaLoad
from modelplex.core.scaling import Autoscaler


def options(**given: Any) -> AutoscalingConfig:
    """Without delays and looking back hardly at all, unless given."""
    at_once = {"min_replicas": 0, "max_replicas": 20, "upscale_delay_s": 0, "downscale_delay_s": 0}
    return AutoscalingConfig(**at_once | {"look_back_period_s": 0.001} | given)


def autoscaler(current: int = 1, **given: Any) -> Autoscaler:
    return Autoscaler(options(**given), current, 0.0)


def looks(scaler: Autoscaler, *demands: tuple[float, float]) -> list[int]:
    """The targets after looks at these times, when so many requests have just been reported to run."""
    targets = []
    for now, ongoing in demands:
        scaler.told_replica("r", ReplicaLoad(ongoing), now - 0.01)
        targets.append(scaler.decide(now))
    return targets


# What the demand makes


@pytest.mark.parametrize(
    ("current", "requests", "given", "target"),
    [
        (1, 2.0, {}, 1),
        (1, 2.01, {}, 2),
        (1, 10.0, {}, 5),
        (5, 10.0, {}, 5),
        (5, 8.1, {}, 5),
        (5, 8.0, {}, 4),
        (5, 0.1, {}, 1),
        (5, 0.0, {}, 1),  # to none only by way of one
        (1, 0.0, {}, 0),
        (1, 0.1, {}, 1),
        (3, 0.1 * 3 * 20, {}, 3),  # 6.000000000000001
        (1, 10.0, {"target_ongoing_requests": 0.5}, 20),
        (1, 10.0, {"target_ongoing_requests": 3}, 4),
        (1, 100.0, {"max_replicas": 7}, 7),
        (5, 1.0, {"min_replicas": 2}, 2),
        (1, 0.0, {"min_replicas": 1}, 1),
        # A part of the difference, rounded up: all of it in the end.
        (1, 20.0, {"upscaling_factor": 0.5}, 6),
        (9, 20.0, {"upscaling_factor": 0.5}, 10),
        (1, 2.2, {"upscaling_factor": 0.01}, 2),
        (1, 20.0, {"upscaling_factor": 1.5}, 15),
        (1, 2.0, {"upscaling_factor": 9}, 1),
        (10, 4.0, {"downscaling_factor": 0.5}, 6),
        (10, 4.0, {"downscaling_factor": 0.1}, 10 - 1),  # 9.2 is ten, which would be for ever
        (3, 4.0, {"downscaling_factor": 0.5}, 2),
        (10, 4.0, {"downscaling_factor": 2}, 2),  # not too few, then
        (10, 19.0, {"downscaling_factor": 0.1}, 10),
        (10, 4.0, {"upscaling_factor": 0.5}, 2),
        (1, 20.0, {"downscaling_factor": 0.5}, 10),
    ],
)
def test_the_number_for_a_demand(current: int, requests: float, given: dict[str, Any], target: int) -> None:
    assert looks(autoscaler(current, **given), (1.0, requests)) == [target]


def test_all_that_runs_and_all_that_waits_counts() -> None:
    scaler = autoscaler(1)
    scaler.told_replica("r1", ReplicaLoad(2.0), 0.0)
    scaler.told_replica("r2", ReplicaLoad(3.0), 0.0)
    scaler.told_waiting("proxy", 4, 0.0)
    scaler.told_waiting("handle", 5, 0.0)
    assert scaler.decide(0.0) == 7
    scaler.told_waiting("proxy", 1, 0.5)
    assert scaler.decide(1.0) == 6
    scaler.replica_gone("r2")
    scaler.source_gone("handle")
    scaler.decide(2.0)
    assert scaler.decide(3.0) == 2
    scaler.replica_gone("r2")
    scaler.source_gone("nobody")


@pytest.mark.parametrize(("function", "target"), [("mean", 3), ("max", 5), ("min", 1)])
def test_what_counts_of_the_look_back_period(function: str, target: int) -> None:
    scaler = autoscaler(1, aggregation_function=function, look_back_period_s=30, max_replicas=9)
    for now, ongoing in ((0.0, 20.0), (10.0, 10.0), (20.0, 2.0), (30.0, 4.0)):
        scaler.told_replica("r", ReplicaLoad(ongoing), now)
    assert scaler.decide(40.0) == target  # 10, 2 and 4 in the last 30 s


def test_nothing_is_decided_before_anybody_has_reported() -> None:
    scaler = autoscaler(3)
    assert scaler.decide(100.0) == 3
    assert scaler.why == "3 replicas stay: nobody has reported yet."


# Delays


@pytest.mark.parametrize(
    ("current", "demands", "targets"),
    [
        # More is wanted at each look for so long.
        (1, [(0, 4), (29, 4), (30, 4)], [1, 1, 2]),
        (1, [(0, 4), (20, 6), (30, 8)], [1, 1, 4]),  # however much more; then what is wanted now
        (1, [(0, 4), (29, 2), (30, 4), (59, 4), (60, 4)], [1, 1, 1, 1, 2]),
        (3, [(0, 8), (20, 2), (30, 8), (59, 8), (60, 8)], [3, 3, 3, 3, 4]),  # less, meanwhile
        (1, [(0, 4), (30, 4), (40, 6), (69, 6), (70, 6)], [1, 2, 2, 2, 3]),  # each time anew
        (1, [(0, 4), (500, 4)], [1, 2]),
        # And less.
        (5, [(0, 4), (599, 4), (600, 4)], [5, 5, 2]),
        (5, [(0, 4), (599, 10), (600, 4), (1199, 4), (1200, 4)], [5, 5, 5, 5, 2]),
        (5, [(0, 4), (300, 12), (310, 4), (909, 4), (910, 4)], [5, 5, 5, 5, 2]),
        # To one first, and then to none.
        (3, [(0, 0), (600, 0), (700, 0), (799, 0), (800, 0)], [3, 1, 1, 1, 0]),
        (1, [(0, 0), (50, 1), (60, 0), (159, 0), (160, 0)], [1, 1, 1, 1, 0]),
    ],
)
def test_it_has_to_be_wanted_for_so_long(current: int, demands: list[tuple[int, float]], targets: list[int]) -> None:
    scaler = autoscaler(current, upscale_delay_s=30, downscale_delay_s=600, downscale_to_zero_delay_s=100)
    assert looks(scaler, *demands) == targets


def test_the_last_one_has_the_delay_of_the_others_unless_it_has_its_own() -> None:
    assert looks(autoscaler(1, downscale_delay_s=50), (0, 0), (49, 0), (50, 0)) == [1, 1, 0]


# To zero, and back


@pytest.mark.parametrize(
    ("given", "target"),
    [({}, 1), ({"upscaling_factor": 2.5}, 3), ({"upscaling_factor": 0.5}, 1), ({"upscaling_factor": 99}, 20)],
)
def test_from_zero_one_waiting_request_is_enough_at_once(given: dict[str, Any], target: int) -> None:
    scaler = autoscaler(0, upscale_delay_s=30, **given)
    assert scaler.decide(5.0) == 0
    scaler.told_waiting("proxy", 1, 6.0)
    assert scaler.next_look <= 6.0
    assert scaler.decide(6.0) == target
    assert scaler.why == f"{target} replicas instead of 0: 1 requests wait, and nothing runs."
    assert scaler.next_look > 6.0


def test_at_zero_what_was_is_no_reason_to_start_anything() -> None:
    scaler = autoscaler(0, look_back_period_s=30)
    scaler.told_waiting("proxy", 7, 1.0)
    scaler.told_waiting("proxy", 0, 2.0)  # its clients have left
    assert scaler.next_look > 2.0
    assert scaler.decide(2.0) == 0


@pytest.mark.parametrize("waits", [True, False])
def test_the_last_replica_stays_while_anything_is_asked_for(waits: bool) -> None:
    scaler = autoscaler(1, aggregation_function="min", look_back_period_s=30)
    scaler.told_replica("r", ReplicaLoad(0.0), 0.0)
    if waits:
        scaler.told_waiting("proxy", 1, 10.0)
    else:
        scaler.told_replica("r", ReplicaLoad(0.2), 10.0)
    assert scaler.decide(10.0) == 1
    scaler.told_waiting("proxy", 0, 11.0)
    scaler.told_replica("r", ReplicaLoad(0.0), 11.0)
    assert scaler.decide(11.0) == 0


# Models


def models(names: str, capacity: int = 2, ongoing: float = 0.0, reload_s: float = 0.0) -> ReplicaLoad:
    return ReplicaLoad(ongoing, dict.fromkeys(names, 1.0), capacity, reload_s)


@pytest.mark.parametrize(
    ("current", "reports", "given", "target"),
    [
        (1, {"x": models("abcd", reload_s=2.9)}, {}, 1),
        (1, {"x": models("ab", reload_s=3.1)}, {}, 2),  # 10% of 30 s
        (2, {"x": models("ab", reload_s=3.1), "y": models("cd")}, {}, 2),
        (2, {"x": models("ab", reload_s=3.1), "y": models("cd", reload_s=3.1)}, {}, 3),
        (1, {"x": models("ab", reload_s=30, ongoing=1)}, {"max_reload_fraction": None}, 1),
        (1, {"x": models("ab", reload_s=30)}, {"max_replicas": 1}, 1),
        (1, {"x": models("ab", reload_s=30, ongoing=9)}, {}, 5),  # demand makes more already
        (5, {"x": models("ab", reload_s=30)}, {}, 6),  # not fewer, though demand would
        # Those in use have to fit.
        (5, {"x": models("ab"), "y": models("cd")}, {}, 2),
        (5, {"x": models("abcde"), "y": models("e")}, {}, 3),
        (5, {"x": models("abcde"), "y": models("e")}, {"max_reload_fraction": None}, 1),
        (5, {"x": models("abcde", capacity=-1)}, {}, 1),
        (1, {"x": models("a")}, {}, 1),
        (1, {"x": models("")}, {}, 0),
        (2, {"x": models("abcdefgh")}, {}, 2),  # which starts nothing
        (5, {"x": models("abcdefgh")}, {"max_replicas": 5}, 4),
    ],
)
def test_models(current: int, reports: dict[str, ReplicaLoad], given: dict[str, Any], target: int) -> None:
    scaler = autoscaler(current, **{"max_reload_fraction": 0.1, "look_back_period_s": 30} | given)
    for replica_id, load in reports.items():
        scaler.told_replica(replica_id, load, 0.0)
    assert scaler.decide(1.0) == target


def test_reloads_have_to_last_and_are_counted_anew_after_each_replica() -> None:
    scaler = autoscaler(1, max_reload_fraction=0.1, look_back_period_s=30, upscale_delay_s=20)
    targets = []
    for now in range(0, 60, 5):
        scaler.told_replica("x", models("abc", reload_s=1.6), now)  # a third of the time
        targets.append(scaler.decide(now))
    # Two reports are more than a tenth of 30 s: wanted at 5, there at 25; then the same again.
    assert targets == [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3]


def test_replicas_that_reloads_called_for_stay_while_as_many_models_are_used() -> None:
    scaler = autoscaler(2, max_reload_fraction=0.1, look_back_period_s=30)
    scaler.told_replica("x", models("abcd", reload_s=10), 0.0)
    assert scaler.decide(0.0) == 3
    assert scaler.why.startswith("3 replicas instead of 2: 33.3% of the replicas' time goes into reloads, 10.0% may; ")
    scaler.told_replica("x", models("bcde"), 20.0)
    assert scaler.decide(45.0) == 3
    assert scaler.why.startswith("3 replicas stay: 4 models in use need 3 replicas; 0 requests run or wait")
    scaler.told_replica("x", models("ab"), 45.0)
    assert scaler.decide(60.0) == 1


# Options, looks and words


def test_options_change_while_it_runs() -> None:
    scaler = autoscaler(5)
    assert scaler.set_options(options(max_replicas=3), 0.0) == 3
    assert scaler.set_options(options(min_replicas=4, max_replicas=9, upscale_delay_s=10), 1.0) == 4
    assert looks(scaler, (2.0, 20.0), (11.0, 20.0), (12.0, 20.0)) == [4, 4, 9]
    assert scaler.set_options(options(max_replicas=9), 13.0, lambda context: 7) == 9
    assert scaler.decide(14.0) == 7


def test_a_delay_that_changes_counts_from_when_it_began() -> None:
    scaler = autoscaler(1, upscale_delay_s=100)
    assert looks(scaler, (0.0, 4.0)) == [1]
    scaler.set_options(options(upscale_delay_s=20), 5.0)
    assert scaler.next_look == 10.0
    assert looks(scaler, (19.0, 4.0), (20.0, 4.0)) == [1, 2]


def test_a_look_back_period_that_changes_counts_at_once() -> None:
    scaler = autoscaler(1, look_back_period_s=100)
    scaler.told_replica("r", ReplicaLoad(0.5), 0.0)
    scaler.told_replica("r", ReplicaLoad(10.0), 90.0)
    assert scaler.decide(100.0) == 1
    scaler.set_options(options(look_back_period_s=10), 100.0)
    assert scaler.decide(100.0) == 5


def test_the_number_to_begin_with_is_within_bounds() -> None:
    assert autoscaler(50).target == 20
    assert autoscaler(0, min_replicas=2).target == 2


def test_the_next_look_is_regular_or_when_a_delay_ends() -> None:
    scaler = autoscaler(1, upscale_delay_s=12, metrics_interval_s=10)
    assert scaler.next_look == 10.0
    looks(scaler, (10.0, 4.0))
    assert scaler.next_look == 20.0
    looks(scaler, (20.0, 4.0))
    assert scaler.next_look == 22.0
    assert looks(scaler, (22.0, 4.0)) == [2]
    assert scaler.next_look == 32.0


def test_it_says_why() -> None:
    scaler = autoscaler(1, upscale_delay_s=12, look_back_period_s=30)
    assert scaler.why == "Nothing has been looked at yet."
    looks(scaler, (0.0, 5.125))
    numbers = "5.12 requests run or wait (mean of 30 s), 2 for each replica."
    assert scaler.why == f"1 replicas, 3 in 12 s if that lasts: {numbers}"
    assert (scaler.target, scaler.wanted) == (1, 3)
    looks(scaler, (12.0, 5.125))
    assert scaler.why == f"3 replicas instead of 1: {numbers}"
    looks(scaler, (13.0, 5.125))
    assert scaler.why == f"3 replicas stay: {numbers}"
    idle = autoscaler(0)
    looks(idle, (0.0, 0.0))
    assert idle.why == "0 replicas stay: nothing waits."
