import pytest

from modelplex.core.eviction import LRU, EvictionPolicy, IdleModel


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
