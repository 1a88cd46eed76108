"""The models in use, how many replicas they need, and the time that goes into reloads."""

import pytest

from modelplex.core.replica_load import ReplicaLoad
from modelplex.core.working_set import WorkingSet


def load(used: str = "", idle: str = "", capacity: int = 2, reload_s: float = 0.0) -> ReplicaLoad:
    models = dict.fromkeys(used, 1.0) | dict.fromkeys(idle, 0.0)
    return ReplicaLoad(models=models, capacity_models=capacity, reload_s=reload_s)


@pytest.mark.parametrize(
    ("reports", "now", "in_use", "needed"),
    [
        ([], 0.0, 0, 0),
        ([(0.0, load("ab"))], 0.0, 2, 1),
        ([(0.0, load("ab")), (0.0, load("bc"))], 0.0, 3, 2),  # a copy is no model more
        ([(0.0, load("ab", idle="xyz"))], 0.0, 2, 1),
        ([(0.0, load("ab")), (6.0, load("bc"))], 9.0, 3, 2),
        ([(0.0, load("ab")), (6.0, load("bc"))], 10.0, 2, 1),  # a has not been used for so long
        ([(0.0, load("ab")), (6.0, load(idle="ab"))], 10.0, 0, 0),
        ([(0.0, load("abcde", capacity=-1))], 0.0, 5, 1),
        ([(0.0, load(capacity=-1))], 0.0, 0, 0),
        ([(0.0, load("abc", capacity=2)), (1.0, load("abc", capacity=3))], 1.0, 3, 1),
    ],
)
def test_models_in_use_and_what_they_need(
    reports: list[tuple[float, ReplicaLoad]], now: float, in_use: int, needed: int
) -> None:
    working_set = WorkingSet(10.0)
    for at, report in reports:
        working_set.told(report, at)
    assert (working_set.in_use(now), working_set.replicas_needed(now)) == (in_use, needed)


@pytest.mark.parametrize(
    ("reports", "replicas", "now", "fraction"),
    [
        ([], 0, 0.0, 0.0),
        ([(1.0, 2.0)], 1, 1.0, 0.2),  # of the whole period, though it has just begun
        ([(1.0, 2.0)], 4, 1.0, 0.05),
        ([(1.0, 2.0), (1.001, 1.0), (6.0, 1.0)], 1, 10.9, 0.4),
        ([(1.0, 2.0), (1.001, 1.0), (6.0, 1.0)], 1, 11.0, 0.1),
        ([(1.0, 2.0)], 0, 1.0, 0.2),  # the replica is gone
    ],
)
def test_the_part_of_the_time_that_goes_into_reloads(
    reports: list[tuple[float, float]], replicas: int, now: float, fraction: float
) -> None:
    working_set = WorkingSet(10.0)
    for at, reload_s in reports:
        working_set.told(load(reload_s=reload_s), at)
    assert working_set.reload_fraction(replicas, now) == pytest.approx(fraction)


def test_another_number_of_replicas_starts_with_no_reloads() -> None:
    working_set = WorkingSet(10.0)
    working_set.told(load(reload_s=5.0), 1.0)
    working_set.replicas_changed()
    assert working_set.reload_fraction(1, 1.0) == 0.0


def test_replicas_that_reloads_called_for_stay_needed_for_as_many_models() -> None:
    working_set = WorkingSet(10.0)
    working_set.told(load("abcd"), 0.0)
    assert working_set.replicas_needed(0.0) == 2
    working_set.more_needed(3, 0.0)
    assert working_set.replicas_needed(0.0) == 3
    working_set.told(load("cdef"), 5.0)
    assert working_set.replicas_needed(5.0) == 3
    assert working_set.replicas_needed(10.0) == 3  # as many, though others
    working_set.told(load("def"), 12.0)
    assert working_set.replicas_needed(15.0) == 2


def test_what_is_kept_of_reloads_is_bounded() -> None:
    working_set = WorkingSet(10.0)
    for n in range(20_000):
        working_set.told(load(reload_s=0.001), n / 1000)
    assert len(working_set._reloads) <= 1002
    assert working_set.reload_fraction(1, 20.0) == pytest.approx(1.0, abs=0.01)
