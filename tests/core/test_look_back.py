"""A number as it was of late."""

import pytest

from modelplex.core.look_back import LookBack


def told(*steps: tuple[float, float], period_s: float = 10.0) -> LookBack:
    look_back = LookBack(period_s)
    for at, value in steps:
        look_back.told(value, at)
    return look_back


@pytest.mark.parametrize(
    ("steps", "now", "mean", "most", "least"),
    [
        ([], 5.0, 0.0, 0.0, 0.0),
        ([(5.0, 3.0)], 5.0, 3.0, 3.0, 3.0),  # just told
        ([(5.0, 3.0)], 100.0, 3.0, 3.0, 3.0),
        ([(0.0, 2.0), (5.0, 4.0)], 10.0, 3.0, 4.0, 2.0),
        ([(0.0, 2.0), (5.0, 4.0)], 6.0, 14 / 6, 4.0, 2.0),  # known for less than the period
        ([(0.0, 2.0), (5.0, 4.0)], 12.0, 3.4, 4.0, 2.0),  # the first one in part
        ([(0.0, 2.0), (5.0, 4.0)], 15.0, 4.0, 4.0, 4.0),  # and no more
        ([(0.0, 2.0), (5.0, 4.0)], 5.0, 2.0, 4.0, 2.0),  # what is so now counts for the extremes
        ([(0.0, 1.0), (1.0, 9.0), (2.0, 1.0)], 10.0, 1.8, 9.0, 1.0),
        ([(0.0, 1.0), (1.0, 9.0), (2.0, 1.0), (12.0, 1.0)], 12.0, 1.0, 1.0, 1.0),
    ],
)
def test_aggregates(steps: list[tuple[float, float]], now: float, mean: float, most: float, least: float) -> None:
    look_back = told(*steps)
    assert look_back.aggregate("mean", now) == pytest.approx(mean)
    assert look_back.aggregate("max", now) == most
    assert look_back.aggregate("min", now) == least


def test_a_longer_period_takes_effect_with_what_is_kept() -> None:
    look_back = told((0.0, 2.0), (5.0, 4.0))
    look_back.period_s = 2.0
    assert look_back.aggregate("min", 10.0) == 4.0
    look_back.period_s = 10.0
    assert look_back.aggregate("min", 10.0) == 2.0


def test_what_is_kept_is_bounded_however_often_it_changes() -> None:
    look_back = told(*((n / 1000, n % 7) for n in range(50_000)))
    assert len(look_back._steps) <= 1002
    assert look_back.aggregate("mean", 50.0) == pytest.approx(3.0, abs=0.1)
