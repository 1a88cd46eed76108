import pytest

from modelplex.core.backoff import Backoff
from modelplex.core.learned import HALF_LIFE_MODELS_MIN, HALF_LIFE_USES, SUSPICION_FAILURES, Known, Learned

HALF_LIFE = HALF_LIFE_USES * HALF_LIFE_MODELS_MIN  # uses, of a few models


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


def use(learned: Learned, known: Known, times: int = 1) -> None:
    for _ in range(times):
        learned.used(known)


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


def test_a_use_counts_half_after_a_half_life_of_uses() -> None:
    learned = make()
    a, b = load(learned, "a"), load(learned, "b")
    use(learned, a)
    use(learned, b, HALF_LIFE)
    now = learned.share(a)
    use(learned, b, HALF_LIFE)
    # All uses together grow to 1.5 times of what they were: the new ones, and half of the old.
    assert learned.share(a) == pytest.approx(now / 2 / 1.5, rel=0.01)


def test_the_shares_of_all_models_are_one_together() -> None:
    learned = make()
    models = [load(learned, str(n)) for n in range(5)]
    for n in range(1000):
        learned.used(models[n * n % 5])
    assert sum(map(learned.share, models)) == pytest.approx(1.0)


def test_the_share_of_a_model_is_its_part_of_the_uses() -> None:
    learned = make()
    a, b = load(learned, "a"), load(learned, "b")
    for _ in range(2000):
        use(learned, a, 3)
        use(learned, b)
    assert (learned.share(a), learned.share(b)) == pytest.approx((0.75, 0.25), abs=0.01)


def test_the_first_use_does_not_count_for_more_than_all() -> None:
    learned = make()
    unused, a = load(learned, "unused"), load(learned, "a")
    use(learned, a)
    assert (learned.share(a), learned.share(unused)) == (1.0, 0.0)


def test_with_more_models_known_a_use_counts_for_longer() -> None:
    few, many = make(1000), make(1000)
    for n in range(10 * HALF_LIFE_MODELS_MIN):
        load(many, f"other {n}")
    shares = []
    for learned in (few, many):
        a, b = load(learned, "a"), load(learned, "b")
        use(learned, a, 100)
        use(learned, b, 2 * HALF_LIFE)
        shares.append(learned.share(a))
    assert shares[0] < shares[1] / 1.5


def test_the_order_of_two_frequencies_does_not_change_while_neither_is_used() -> None:
    learned = make()
    often, lately, other = load(learned, "often"), load(learned, "lately"), load(learned, "other")
    use(learned, often, 50)
    use(learned, other, 3 * HALF_LIFE)
    use(learned, lately, 8)
    before = often.log_frequency, lately.log_frequency
    use(learned, other, 10 * HALF_LIFE)
    assert (often.log_frequency, lately.log_frequency) == before
    # A use of three half-lives ago counts for an eighth: 50 of them for less than 8 of now.
    assert learned.share(often) < learned.share(lately)
    assert often.log_frequency < lately.log_frequency


def test_the_logarithm_orders_as_the_frequencies_at_any_time_do() -> None:
    learned = make()
    models = [load(learned, str(n)) for n in range(6)]
    for n in range(3000):
        learned.used(models[n * n * n % 11 % 6])
        if n % 100 == 99:
            by_log = sorted(range(6), key=lambda m: models[m].log_frequency)
            assert by_log == sorted(range(6), key=lambda m: learned.share(models[m]))


def test_what_was_used_before_it_was_loaded_again_is_not_forgotten() -> None:
    learned = make()
    known = load(learned, "a")
    use(learned, known, 10)
    before = known.log_frequency
    assert load(learned, "a") is known
    assert known.log_frequency == before


def test_a_model_that_was_never_used_compares_with_the_others() -> None:
    learned = make()
    a = load(learned, "a")
    use(learned, a)
    assert Known().log_frequency == 0.0 < a.log_frequency


def test_a_use_of_very_long_ago_counts_nothing_and_breaks_nothing() -> None:
    learned = make()
    a, b = load(learned, "a"), load(learned, "b")
    use(learned, a)
    learned._half_lives += 1e6
    use(learned, b)
    assert learned.share(a) == 0.0
    use(learned, a)
    assert a.frequency == 1.0


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
