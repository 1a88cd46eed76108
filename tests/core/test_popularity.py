import itertools

import pytest

from modelplex.core.popularity import AGE_HALF_LIVES, HALF_LIFE_MODELS_MIN, HALF_LIFE_USES, Demand, Popularity, Uses

HALF_LIFE = HALF_LIFE_USES * HALF_LIFE_MODELS_MIN  # uses, of a few models


def use(popularity: Popularity, uses: Uses, times: int = 1, models: int = 1) -> None:
    for _ in range(times):
        popularity.used(uses, models)


def test_a_use_counts_half_after_a_half_life_of_uses() -> None:
    popularity, a, b = Popularity(), Uses(), Uses()
    use(popularity, a)
    use(popularity, b, HALF_LIFE)
    now = popularity.share(a)
    use(popularity, b, HALF_LIFE)
    # All uses together grow to 1.5 times of what they were: the new ones, and half of the old.
    assert popularity.share(a) == pytest.approx(now / 2 / 1.5, rel=0.01)


def test_the_shares_of_all_models_are_one_together() -> None:
    popularity, models = Popularity(), [Uses() for _ in range(5)]
    for n in range(1000):
        use(popularity, models[n * n % 5])
    assert sum(map(popularity.share, models)) == pytest.approx(1.0)


def test_the_share_of_a_model_is_its_part_of_the_uses() -> None:
    popularity, a, b = Popularity(), Uses(), Uses()
    for _ in range(2000):
        use(popularity, a, 3)
        use(popularity, b)
    assert (popularity.share(a), popularity.share(b)) == pytest.approx((0.75, 0.25), abs=0.01)


def test_the_first_use_does_not_count_for_more_than_all() -> None:
    popularity, unused, a = Popularity(), Uses(), Uses()
    use(popularity, a)
    assert (popularity.share(a), popularity.share(unused)) == (1.0, 0.0)


def test_with_more_models_known_a_use_counts_for_longer() -> None:
    shares = []
    for models in (2, 10 * HALF_LIFE_MODELS_MIN):
        popularity, a, b = Popularity(), Uses(), Uses()
        use(popularity, a, 100, models)
        use(popularity, b, 2 * HALF_LIFE, models)
        shares.append(popularity.share(a))
    assert shares[0] < shares[1] / 1.5


def test_the_order_of_two_frequencies_does_not_change_while_neither_is_used() -> None:
    popularity, often, lately, other = Popularity(), Uses(), Uses(), Uses()
    use(popularity, often, 50)
    use(popularity, other, 3 * HALF_LIFE)
    use(popularity, lately, 8)
    before = often.log_frequency, lately.log_frequency
    use(popularity, other, 10 * HALF_LIFE)
    assert (often.log_frequency, lately.log_frequency) == before
    # A use of three half-lives ago counts for an eighth: 50 of them for less than 8 of now.
    assert popularity.share(often) < popularity.share(lately)
    assert often.log_frequency < lately.log_frequency


def test_the_logarithm_orders_as_the_frequencies_at_any_time_do() -> None:
    popularity, models = Popularity(), [Uses() for _ in range(6)]
    for n in range(3000):
        use(popularity, models[n * n * n % 11 % 6])
        if n % 100 == 99:
            by_log = sorted(range(6), key=lambda m: models[m].log_frequency)
            assert by_log == sorted(range(6), key=lambda m: popularity.share(models[m]))


def test_a_model_that_was_never_used_compares_with_the_others() -> None:
    popularity, a = Popularity(), Uses()
    use(popularity, a)
    assert Uses().log_frequency == 0.0 < a.log_frequency


def test_a_use_of_very_long_ago_counts_nothing_and_breaks_nothing() -> None:
    popularity, a, b = Popularity(), Uses(), Uses()
    use(popularity, a)
    popularity._age, popularity._total = 10_000, 0.0
    use(popularity, b)
    before = popularity.share(a)
    use(popularity, a)
    assert before == 0.0
    assert popularity.share(a) == pytest.approx(0.5, abs=0.01)


def test_nothing_changes_when_an_age_begins() -> None:
    """Weights would else grow for ever."""
    popularity, a, b, never = Popularity(), Uses(), Uses(), Uses()
    use(popularity, b, 1000)
    shares, logs = [], []
    for _ in range(2 * AGE_HALF_LIVES):
        use(popularity, a, HALF_LIFE - 50)
        use(popularity, b, 50)
        shares.append((popularity.share(a), popularity.share(b), popularity.share(never)))
        logs.append(b.log_frequency)
    assert a.age == b.age == 2
    assert shares[20:] == [pytest.approx(shares[20], rel=1e-6)] * len(shares[20:])
    assert [later - earlier for earlier, later in itertools.pairwise(logs)][20:] == pytest.approx(
        [1.0] * (len(logs) - 21)
    )


def test_a_share_is_raised_and_never_lowered() -> None:
    popularity, a, b = Popularity(), Uses(), Uses()
    use(popularity, a, 3)
    use(popularity, b)
    shares = []
    for share in (0.1, 0.5):
        popularity.raise_share(b, share)
        shares.append(popularity.share(b))
    assert shares == pytest.approx([0.25, 0.5], abs=0.01)
    assert popularity.share(a) == pytest.approx(0.75, abs=0.01)


def test_demand_is_the_part_of_the_requests_that_named_the_model() -> None:
    demand = Demand()
    for model_id in "abac" * 500:
        demand.named(model_id, 0.0)
    assert [demand.share(model_id) for model_id in "abcd"] == pytest.approx([0.5, 0.25, 0.25, 0.0], abs=0.01)


def test_demand_is_remembered_of_the_models_that_were_named_last() -> None:
    demand = Demand(models_max=2)
    for model_id in "abac":
        demand.named(model_id, 0.0)
    assert [demand.share(model_id) > 0.0 for model_id in "abc"] == [True, False, True]
