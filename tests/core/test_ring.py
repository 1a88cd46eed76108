"""A few replicas for a model: the same everywhere, even, and little disturbed when replicas come and go."""

import random
from collections import Counter
from collections.abc import Iterable

import pytest

from modelplex.core.residency import ReplicaView
from modelplex.core.ring import PROBES, Ring

COUNT = 8
MODELS = [f"customers/{n}/model:v1" for n in range(2000)]


def views(number: int) -> list[ReplicaView]:
    return [ReplicaView(f"replica-{n}", 5, None) for n in range(number)]


def ring(replicas: Iterable[ReplicaView]) -> Ring:
    together = Ring()
    for view in replicas:
        together.add(view)
    return together


def ids(near: Iterable[ReplicaView]) -> set[str]:
    return {view.replica_id for view in near}


def test_an_empty_ring_has_nobody() -> None:
    assert ring([]).near("m", COUNT) == []


@pytest.mark.parametrize("number", [1, COUNT - 1, COUNT])
def test_no_more_than_asked_for_are_all_given(number: int) -> None:
    replicas = views(number)
    assert all(ids(ring(replicas).near(model_id, COUNT)) == ids(replicas) for model_id in MODELS[:50])


@pytest.mark.parametrize("number", [COUNT + 1, 20, 300])
def test_of_more_some_are_given_each_once(number: int) -> None:
    together = ring(views(number))
    for model_id in MODELS[:200]:
        near = together.near(model_id, COUNT)
        assert COUNT // PROBES <= len(near) == len(ids(near)) <= COUNT


def test_all_routers_find_the_same_in_whatever_order_they_hear_of_replicas() -> None:
    replicas = views(50)
    one, other = ring(replicas), ring(random.Random(1).sample(replicas, len(replicas)))
    for model_id in MODELS[:200]:
        assert ids(one.near(model_id, COUNT)) == ids(other.near(model_id, COUNT))


def test_another_model_has_other_candidates() -> None:
    together = ring(views(100))
    assert len({frozenset(ids(together.near(model_id, COUNT))) for model_id in MODELS}) > 0.95 * len(MODELS)


@pytest.mark.parametrize("number", [20, 100])
def test_every_replica_is_a_candidate_of_some_models_and_none_of_very_many(number: int) -> None:
    together = ring(views(number))
    counts = Counter(view.replica_id for model_id in MODELS for view in together.near(model_id, COUNT))
    assert len(counts) == number
    assert max(counts.values()) < 5 * sum(counts.values()) / number


def test_a_replica_that_leaves_is_replaced_only_where_it_was_a_candidate() -> None:
    replicas = views(30)
    together = ring(replicas)
    before = {model_id: ids(together.near(model_id, COUNT)) for model_id in MODELS}
    together.discard(replicas[7])
    for model_id, had in before.items():
        has = ids(together.near(model_id, COUNT))
        if "replica-7" in had:
            assert had - has == {"replica-7"}
        else:
            assert has == had


def test_one_that_comes_back_is_as_if_it_had_never_left() -> None:
    replicas = views(30)
    together = ring(replicas)
    before = [ids(together.near(model_id, COUNT)) for model_id in MODELS[:100]]
    for view in replicas[::3]:
        together.discard(view)
    for view in replicas[::3]:
        together.add(view)
    assert [ids(together.near(model_id, COUNT)) for model_id in MODELS[:100]] == before


def test_who_is_there_twice_or_not_at_all_makes_no_difference() -> None:
    one, two, stranger = views(3)
    together = ring([one, two, one])
    assert len(together) == 2
    together.discard(stranger)
    together.discard(one)
    together.discard(one)
    assert together.near("m", COUNT) == [two]


@pytest.mark.parametrize("seed", range(5))
def test_any_history_leaves_who_is_there(seed: int) -> None:
    draw, replicas, there = random.Random(seed), views(20), set[str]()
    together = Ring()
    for _ in range(300):
        view = draw.choice(replicas)
        if draw.random() < 0.5:
            together.add(view)
            there.add(view.replica_id)
        else:
            together.discard(view)
            there.discard(view.replica_id)
        assert len(together) == len(there)
        assert ids(together.near("m", len(replicas))) == there
        assert ids(together.near("m", COUNT)) <= there
