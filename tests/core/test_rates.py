"""Token buckets: who may go on, and who has to wait for how long."""

import random

import pytest

from modelplex.core.rates import Buckets, Rate


def test_a_burst_and_then_the_rate() -> None:
    buckets, rate = Buckets(10), Rate(per_s=2, burst=3)
    assert [buckets.take("a", rate, 100.0) for _ in range(5)] == [0, 0, 0, 0.5, 0.5]
    assert buckets.take("a", rate, 100.25) == 0.25
    assert buckets.take("a", rate, 100.5) == 0
    assert buckets.take("a", rate, 100.5) == 0.5
    assert [buckets.take("a", rate, 1e6) for _ in range(4)] == [0, 0, 0, 0.5]


def test_callers_do_not_take_from_each_other() -> None:
    buckets, rate = Buckets(10), Rate(per_s=1, burst=1)
    assert [buckets.take(caller, rate, 0.0) for caller in "abab"] == [0, 0, 1, 1]


def test_a_clock_that_goes_back_gives_nothing() -> None:
    buckets, rate = Buckets(10), Rate(per_s=1, burst=1)
    assert buckets.take("a", rate, 100.0) == 0
    assert buckets.take("a", rate, 50.0) == 1
    assert buckets.take("a", rate, 51.0) == 0


def test_another_rate_holds_at_once() -> None:
    buckets = Buckets(10)
    assert buckets.take("a", Rate(per_s=1, burst=100), 0.0) == 0
    assert [buckets.take("a", Rate(per_s=1, burst=2), 0.0) for _ in range(3)] == [0, 0, 1]


def test_so_many_are_remembered_and_who_was_not_seen_for_longest_is_not() -> None:
    buckets, rate = Buckets(2), Rate(per_s=1, burst=1)
    for caller in "abac":
        buckets.take(caller, rate, 0.0)
    assert len(buckets) == 2
    assert buckets.take("a", rate, 0.0) == 1  # b went
    for number in range(1000):
        buckets.take(str(number), rate, 0.0)
    assert len(buckets) == 2


@pytest.mark.parametrize("seed", range(5))
def test_in_any_time_no_more_than_burst_and_rate_allow(seed: int) -> None:
    chance, now = random.Random(seed), 0.0
    buckets, rate = Buckets(1), Rate(per_s=chance.uniform(0.1, 50), burst=chance.randrange(1, 20))
    taken: list[float] = []
    for _ in range(2000):
        now += chance.expovariate(rate.per_s * 2)
        wait_s = buckets.take("a", rate, now)
        assert wait_s <= 1 / rate.per_s + 1e-9
        if not wait_s:
            taken.append(now)
    for first in range(0, len(taken), 37):
        for last in range(first, len(taken), 41):
            assert last - first + 1 <= rate.burst + (taken[last] - taken[first]) * rate.per_s + 1e-6
