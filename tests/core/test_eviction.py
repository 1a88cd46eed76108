import pytest

from modelplex.core.eviction import GDSF, LRU, EvictionPolicy, IdleModel


def idle(model_id: str, *, size_bytes: int = 0, load_s: float = 0.0, uses: int = 1) -> IdleModel:
    return IdleModel(model_id, size_bytes, load_s, uses)


def lru(*model_ids: str) -> EvictionPolicy:
    policy = LRU()
    for model_id in model_ids:
        policy.add(idle(model_id))
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
    policy.add(idle("a"))
    assert evicted(policy) == ["b", "c", "a"]


def test_only_recency_counts() -> None:
    policy = LRU()
    policy.add(idle("dear", size_bytes=1, load_s=100.0, uses=1000))
    policy.add(idle("cheap", size_bytes=1 << 40, load_s=0.1, uses=1))
    assert evicted(policy) == ["dear", "cheap"]


def test_what_is_not_idle_cannot_be_removed() -> None:
    with pytest.raises(KeyError):
        lru("a").remove("b")


# GDSF


def worth(model_id: str, uses: int, load_s: float, size_bytes: int) -> IdleModel:
    return IdleModel(model_id, size_bytes, load_s, uses)


@pytest.mark.parametrize(
    ("kept", "gone"),
    [
        (worth("used more", 3, 1.0, 1), worth("used less", 2, 1.0, 1)),
        (worth("slow to load", 1, 2.0, 1), worth("fast to load", 1, 1.0, 1)),
        (worth("small", 1, 1.0, 10), worth("large", 1, 1.0, 20)),
        (worth("of known size", 2, 1.0, 1), worth("of no known size", 1, 1.0, 0)),
    ],
)
def test_gdsf_gives_up_what_is_worth_least(kept: IdleModel, gone: IdleModel) -> None:
    policy = GDSF()
    policy.add(kept)
    policy.add(gone)
    assert policy.victim() == gone.model_id


def test_gdsf_lets_what_was_used_often_long_ago_grow_old() -> None:
    policy = GDSF()
    policy.add(worth("once popular", 5, 1.0, 1))
    evicted = []
    for number in range(20):
        policy.add(worth(f"new {number}", 1, 1.0, 1))
        victim = policy.victim()
        assert victim is not None
        policy.remove(victim)
        evicted.append(victim)
    assert "once popular" in evicted


def test_gdsf_does_not_age_by_what_is_used_again() -> None:
    policy = GDSF()
    policy.add(worth("a", 100, 1.0, 1))
    policy.remove("a")  # leased, not evicted
    policy.add(worth("b", 1, 1.0, 1))
    policy.add(worth("c", 2, 1.0, 1))
    assert policy.victim() == "b"
    assert policy.victim() == "b"  # asking changes nothing


def test_gdsf_has_no_victim_when_nothing_is_idle() -> None:
    policy = GDSF()
    assert policy.victim() is None
    policy.add(worth("a", 1, 1.0, 1))
    policy.remove("a")
    assert policy.victim() is None
