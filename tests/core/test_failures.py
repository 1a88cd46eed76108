from modelplex.core.backoff import Backoff
from modelplex.core.failures import FAILURES_MAX, Failure, Failures


def make() -> Failures:
    return Failures(Backoff(base_s=1.0, max_s=60.0))


def test_a_failure_is_recent_until_its_delay_is_over() -> None:
    failures = make()
    assert failures.add("a", "no", 5.0) == 1.0
    assert failures.recent("a", 5.9) == Failure("no", 1, 6.0)
    assert failures.recent("a", 6.0) is None
    assert failures.recent("b", 5.0) is None


def test_each_failure_in_a_row_is_recent_for_longer() -> None:
    failures = make()
    assert [failures.add("a", "no", 0.0) for _ in range(8)] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_what_is_forgotten_begins_anew() -> None:
    failures = make()
    failures.add("a", "no", 0.0)
    failures.forget("a")
    failures.forget("b")
    assert failures.recent("a", 0.0) is None
    assert failures.add("a", "no", 0.0) == 1.0


def test_a_bounded_number_is_remembered_the_latest() -> None:
    failures = make()
    for n in range(FAILURES_MAX):
        failures.add(f"model {n}", "no", 0.0)
    failures.add("model 0", "no", 0.0)
    failures.add("one more", "no", 0.0)
    assert failures.recent("model 1", 0.0) is None
    assert failures.recent("model 0", 0.0) is not None
