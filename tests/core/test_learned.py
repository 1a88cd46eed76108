from modelplex.core.backoff import Backoff
from modelplex.core.learned import SUSPICION_FAILURES, Known, Learned


def make(models_max: int = 100) -> Learned:
    return Learned(Backoff(base_s=1.0, max_s=60.0), models_max)


def load(learned: Learned, model_id: str, size_bytes: int = 7, load_s: float = 1.0) -> Known:
    known = learned.recall(model_id)
    learned.loaded(model_id, known, size_bytes, load_s)
    return known


def fail(learned: Learned, model_id: str) -> float:
    return learned.failed(model_id, learned.recall(model_id), "no such model", 0.0)


def invent(learned: Learned, times: int) -> None:
    for n in range(times):
        fail(learned, f"invented {n}")


# What models take


def test_a_model_is_known_once_it_was_loaded() -> None:
    learned = make()
    known = [learned.known("a")]
    fail(learned, "a")
    known.append(learned.known("a"))
    loaded = load(learned, "a")
    assert [*known, learned.known("a")] == [None, None, loaded]
    assert learned.recall("a") is loaded
    assert loaded.proven


def test_nothing_is_expected_while_nothing_is_known() -> None:
    learned = make()
    expected = learned.recall("a")
    assert (expected.size_bytes, expected.load_s, expected.proven) == (0, 0.0, False)
    assert (learned.average_bytes, learned.average_load_s) == (0, 0.0)


def test_a_model_is_expected_to_take_what_it_took_last_and_a_new_one_the_average() -> None:
    learned = make()
    for model_id, size_bytes, load_s in [("a", 10, 8.0), ("b", 20, 2.0), ("a", 40, 1.0)]:
        load(learned, model_id, size_bytes, load_s)
    expected = [learned.recall(model_id) for model_id in "abc"]
    assert [(e.size_bytes, e.load_s) for e in expected] == [(40, 1.0), (20, 2.0), (30, 1.5)]
    assert (learned.average_bytes, learned.average_load_s) == (30, 1.5)


def test_what_is_expected_of_a_new_model_does_not_change_while_it_loads() -> None:
    learned = make()
    load(learned, "a", 10, 1.0)
    new = learned.recall("new")
    load(learned, "b", 30, 3.0)
    assert (new.size_bytes, new.load_s) == (10, 1.0)


def test_a_bounded_number_of_models_is_remembered_those_that_were_loaded_last() -> None:
    learned = make(models_max=2)
    for model_id, size_bytes in [("a", 10), ("b", 20), ("a", 10), ("c", 30)]:
        load(learned, model_id, size_bytes, float(size_bytes))
    assert [learned.known(model_id) is not None for model_id in "abc"] == [True, False, True]
    expected = learned.recall("b")
    assert (expected.size_bytes, expected.load_s, expected.proven) == (20, 20.0, False)  # the average of the two others


def test_a_model_that_was_forgotten_while_it_was_held_is_counted_once_when_it_is_loaded_again() -> None:
    learned = make(models_max=1)
    first = load(learned, "a", 10, 1.0)
    load(learned, "b", 20, 2.0)
    learned.loaded("a", first, 30, 3.0)
    assert (learned.average_bytes, learned.average_load_s) == (30, 3.0)


# How much they are used


def test_what_was_used_before_it_was_loaded_again_is_not_forgotten() -> None:
    learned = make()
    known = load(learned, "a")
    for _ in range(10):
        learned.used(known)
    before = known.log_frequency
    assert load(learned, "a") is known
    assert known.log_frequency == before


def test_a_use_of_a_stranger_counts_from_the_first_on() -> None:
    learned = make()
    stranger = learned.recall("a")
    learned.used(stranger)
    assert learned.share(stranger) == 1.0


# Failures


def test_a_load_that_ends_well_ends_the_memory_of_failures() -> None:
    learned = make()
    assert [fail(learned, "a"), fail(learned, "a")] == [1.0, 2.0]
    assert learned.recent_failure("a", 0.0) is not None
    load(learned, "a")
    assert learned.recent_failure("a", 0.0) is None
    assert fail(learned, "a") == 1.0


def test_failures_in_a_row_of_models_never_loaded_are_suspicious() -> None:
    learned = make()
    invent(learned, SUSPICION_FAILURES - 1)
    assert not learned.suspicious
    invent(learned, 1)
    assert learned.suspicious


def test_a_model_loaded_for_the_first_time_ends_the_suspicion() -> None:
    learned = make()
    invent(learned, SUSPICION_FAILURES)
    load(learned, "a")
    assert not learned.suspicious


def test_a_model_loaded_again_does_not() -> None:
    learned = make()
    load(learned, "a")
    invent(learned, SUSPICION_FAILURES)
    load(learned, "a")
    assert learned.suspicious


def test_failures_of_models_that_were_loaded_before_are_not_suspicious() -> None:
    learned = make()
    load(learned, "a")
    for _ in range(SUSPICION_FAILURES):
        fail(learned, "a")
    assert not learned.suspicious
