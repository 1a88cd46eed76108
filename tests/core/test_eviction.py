import math
import random
from dataclasses import dataclass

import pytest

from modelplex.core.eviction import GDSF, LRU, EvictionPolicy, IdleModel


@dataclass
class Model:
    """What a policy is shown of a model."""

    model_id: str
    size_bytes: int = 0
    load_s: float = 0.0
    uses: int = 1
    log_frequency: float = 0.0


def lru(*model_ids: str) -> EvictionPolicy:
    policy = LRU()
    for model_id in model_ids:
        policy.add(Model(model_id))
    return policy


def evicted(policy: EvictionPolicy) -> list[str]:
    """All that the policy gives up, in its order."""
    order: list[str] = []
    while (victim := policy.victim()) is not None:
        policy.remove(victim)
        order.append(victim)
    return order


def test_without_idle_models_there_is_no_victim() -> None:
    assert lru().victim() is None


def test_who_became_idle_first_goes_first() -> None:
    assert evicted(lru("a", "b", "c")) == ["a", "b", "c"]


def test_asking_for_the_victim_changes_nothing() -> None:
    policy = lru("a", "b")
    assert [policy.victim(), policy.victim()] == ["a", "a"]


def test_a_model_in_use_is_no_victim() -> None:
    policy = lru("a", "b")
    policy.remove("a")
    assert evicted(policy) == ["b"]


def test_a_use_makes_a_model_the_most_recent() -> None:
    policy = lru("a", "b", "c")
    policy.remove("a")
    policy.add(Model("a"))
    assert evicted(policy) == ["b", "c", "a"]


def test_only_recency_counts() -> None:
    policy = LRU()
    policy.add(Model("dear", 1, 100.0, 1000, log_frequency=10.0))
    policy.add(Model("cheap", 1 << 40, 0.1, 1))
    assert evicted(policy) == ["dear", "cheap"]


def test_what_is_not_idle_cannot_be_removed() -> None:
    with pytest.raises(KeyError):
        lru("a").remove("b")


# GDSF


def worth(model_id: str, frequency: float, load_s: float = 1.0, size_bytes: int = 1) -> Model:
    return Model(model_id, size_bytes, load_s, log_frequency=math.log2(frequency))


def gdsf(*models: IdleModel) -> GDSF:
    policy = GDSF()
    for model in models:
        policy.add(model)
    return policy


@pytest.mark.parametrize(
    ("kept", "gone"),
    [
        (worth("used more", 3, 1.0, 1), worth("used less", 2, 1.0, 1)),
        (worth("slow to load", 1, 2.0, 1), worth("fast to load", 1, 1.0, 1)),
        (worth("small", 1, 1.0, 10), worth("large", 1, 1.0, 20)),
        (worth("of known size", 2, 1.0, 1), worth("of no known size", 1, 1.0, 0)),
        (worth("slow and large", 1, 30.0, 10), worth("fast and small", 1, 2.0, 1)),
        (worth("loads in no time, used more", 3, 0.0, 1), worth("loads in no time", 2, 0.0, 1)),
    ],
)
def test_gdsf_gives_up_what_is_worth_least(kept: IdleModel, gone: IdleModel) -> None:
    assert evicted(gdsf(kept, gone)) == evicted(gdsf(gone, kept)) == [gone.model_id, kept.model_id]


def test_gdsf_counts_uses_by_their_age_not_by_their_number_in_this_life() -> None:
    policy = gdsf(Model("fresh", 1, 1.0, uses=1, log_frequency=3.0), Model("stale", 1, 1.0, uses=100))
    assert policy.victim() == "stale"


def test_worth_is_the_logarithm_of_frequency_times_load_seconds_by_bytes() -> None:
    assert GDSF().worth(worth("a", 8, load_s=4.0, size_bytes=16)) == 1.0
    assert GDSF().worth(worth("of no known size", 8, load_s=4.0, size_bytes=0)) == 5.0


def test_gdsf_lets_what_was_used_often_long_ago_grow_old() -> None:
    """Uses count by how late they are, so that one of ten half-lives later is worth more than a hundred of before."""
    assert evicted(
        gdsf(Model("often", 1, 1.0, log_frequency=math.log2(100)), Model("once", 1, 1.0, log_frequency=10.0))
    )[0] == ("often")


def test_asking_gdsf_for_the_victim_changes_nothing() -> None:
    policy = gdsf(worth("a", 100))
    policy.remove("a")  # leased, not evicted
    policy.add(worth("b", 1))
    policy.add(worth("c", 2))
    assert [policy.victim(), policy.victim()] == ["b", "b"]


def test_gdsf_has_no_victim_when_nothing_is_idle() -> None:
    policy = gdsf()
    assert policy.victim() is None
    policy.add(worth("a", 1))
    policy.remove("a")
    assert policy.victim() is None


def test_gdsf_forgets_what_a_model_was_worth_before() -> None:
    policy = gdsf(worth("a", 1), worth("b", 2))
    policy.remove("a")
    policy.add(worth("a", 4))
    assert evicted(policy) == ["b", "a"]
    policy.add(worth("a", 1))
    policy.remove("a")
    policy.add(worth("c", 2))
    assert evicted(policy) == ["c"]


def test_gdsf_does_not_grow_with_use() -> None:
    policy = gdsf(worth("b", 0.5))
    for n in range(10_000):
        policy.add(worth("a", n + 1))
        policy.remove("a")
    assert len(policy._heap) < 100
    assert evicted(policy) == ["b"]


def test_gdsf_orders_any_history_as_sorting_would() -> None:
    rng = random.Random(5)
    policy, idle = GDSF(), dict[str, Model]()
    for _ in range(5000):
        model_id = str(rng.randrange(40))
        if model_id in idle:
            del idle[model_id]
            policy.remove(model_id)
        else:
            idle[model_id] = worth(model_id, 2 ** rng.uniform(-9, 9), rng.uniform(0, 9), rng.randrange(99))
            policy.add(idle[model_id])
        assert policy.victim() == min(idle, key=lambda m: policy.worth(idle[m]), default=None)
