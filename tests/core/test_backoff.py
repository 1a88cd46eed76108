import pytest

from modelplex.core.backoff import Backoff


@pytest.mark.parametrize(
    ("failures", "delay_s"),
    [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 10.0), (7, 10.0)],
)
def test_each_failure_doubles_the_delay_up_to_the_maximum(failures: int, delay_s: float) -> None:
    assert Backoff(base_s=0.5, max_s=10.0).delay_s(failures) == delay_s


def test_the_factor_can_be_chosen() -> None:
    backoff = Backoff(base_s=1.0, max_s=1000.0, factor=3.0)
    assert [backoff.delay_s(failures) for failures in (1, 2, 3, 4)] == [1.0, 3.0, 9.0, 27.0]


def test_a_factor_of_one_keeps_the_delay() -> None:
    backoff = Backoff(base_s=2.0, max_s=60.0, factor=1.0)
    assert {backoff.delay_s(failures) for failures in range(1, 100)} == {2.0}


def test_even_the_first_delay_is_at_most_the_maximum() -> None:
    assert Backoff(base_s=5.0, max_s=1.0).delay_s(1) == 1.0


def test_no_number_of_failures_overflows() -> None:
    assert Backoff(base_s=0.1, max_s=60.0).delay_s(10**9) == 60.0
    assert Backoff(base_s=0.1, max_s=60.0, factor=10.0).delay_s(10**9) == 60.0


def test_no_base_is_no_delay() -> None:
    assert Backoff(base_s=0.0, max_s=60.0).delay_s(100) == 0.0
