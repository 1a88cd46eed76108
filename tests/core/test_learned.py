from modelplex.core.backoff import Backoff
from modelplex.core.learned import SUSPICION_FAILURES, Learned


def make() -> Learned:
    return Learned(Backoff(base_s=1.0, max_s=60.0))


def fail(learned: Learned, times: int, name: str = "invented") -> None:
    for n in range(times):
        learned.failed(f"{name} {n}", "no such model", 0.0)


def test_a_model_is_known_once_it_was_loaded() -> None:
    learned = make()
    known = [learned.knows("a")]
    learned.failed("a", "no", 0.0)
    known.append(learned.knows("a"))
    learned.loaded("a", 7)
    assert [*known, learned.knows("a")] == [False, False, True]
    assert (learned.expected_bytes("a"), learned.expected_bytes("b")) == (7, 7)


def test_a_load_that_ends_well_ends_the_memory_of_failures() -> None:
    learned = make()
    assert [learned.failed("a", "no", 0.0), learned.failed("a", "no", 0.0)] == [1.0, 2.0]
    assert learned.recent_failure("a", 0.0) is not None
    learned.loaded("a", 7)
    assert learned.recent_failure("a", 0.0) is None
    assert learned.failed("a", "no", 0.0) == 1.0


def test_failures_in_a_row_of_models_never_loaded_are_suspicious() -> None:
    learned = make()
    fail(learned, SUSPICION_FAILURES - 1)
    assert not learned.suspicious
    fail(learned, 1)
    assert learned.suspicious


def test_a_model_loaded_for_the_first_time_ends_the_suspicion() -> None:
    learned = make()
    fail(learned, SUSPICION_FAILURES)
    learned.loaded("a", 7)
    assert not learned.suspicious


def test_a_model_loaded_again_does_not() -> None:
    learned = make()
    learned.loaded("a", 7)
    fail(learned, SUSPICION_FAILURES)
    learned.loaded("a", 7)
    assert learned.suspicious


def test_failures_of_models_that_were_loaded_before_are_not_suspicious() -> None:
    learned = make()
    learned.loaded("a", 7)
    for _ in range(SUSPICION_FAILURES):
        learned.failed("a", "no", 0.0)
    assert not learned.suspicious
