"""The order of replicas for a model: the same everywhere, even, and little disturbed when replicas come and go."""

import random
from collections import Counter

import pytest

from modelplex.core.rendezvous import first, weight

REPLICAS = [f"replica-{n}" for n in range(5)]
MODELS = [f"customers/{n}/model:v1" for n in range(2000)]


def test_weights_are_64_bits() -> None:
    weights = [weight(model_id, "r") for model_id in MODELS]
    assert all(0 <= w < 2**64 for w in weights)
    assert max(weights) > 2**63


def test_the_order_does_not_depend_on_the_order_in_which_replicas_are_named() -> None:
    shuffled = random.Random(1).sample(REPLICAS, len(REPLICAS))
    for model_id in MODELS[:100]:
        assert first(model_id, REPLICAS, 5) == first(model_id, shuffled, 5)


def test_the_first_are_the_beginning_of_the_whole_order() -> None:
    for model_id in MODELS[:100]:
        assert first(model_id, REPLICAS, 2) == first(model_id, REPLICAS, 5)[:2]


def test_fewer_replicas_than_asked_for_are_all_given() -> None:
    assert sorted(first("m", ["a", "b"], 8)) == ["a", "b"]
    assert first("m", [], 2) == []


def test_the_weight_is_the_same_in_every_process_and_version() -> None:
    """Python's own `hash` of strings would not do."""
    assert weight("m", "r") == 0xD151_4B22_CC06_A91A
    assert first("m", REPLICAS, 5) == [f"replica-{n}" for n in (1, 4, 0, 2, 3)]


def test_ids_of_any_script_have_a_weight() -> None:
    assert weight("modèle/日本", "r") != weight("modele/日本", "r")


@pytest.mark.parametrize("place", [0, 1, 4])
def test_each_replica_has_about_as_many_models_in_each_place(place: int) -> None:
    counts = Counter(first(model_id, REPLICAS, 5)[place] for model_id in MODELS)
    assert all(320 < counts[replica_id] < 480 for replica_id in REPLICAS), counts


def test_the_second_choice_is_spread_over_all_the_others() -> None:
    """Otherwise the models of a lost replica would all move to one other."""
    seconds = Counter(first(m, REPLICAS, 2)[1] for m in MODELS if first(m, REPLICAS, 1) == ["replica-0"])
    assert set(seconds) == set(REPLICAS[1:])
    assert max(seconds.values()) < 2 * min(seconds.values())


def test_a_lost_replica_moves_only_the_models_that_were_first_on_it() -> None:
    left = REPLICAS[:-1]
    for model_id in MODELS:
        before = first(model_id, REPLICAS, 1)
        if before != REPLICAS[-1:]:
            assert first(model_id, left, 1) == before


def test_a_new_replica_takes_models_to_itself_and_moves_no_others() -> None:
    moved = 0
    for model_id in MODELS:
        before, after = first(model_id, REPLICAS, 1), first(model_id, [*REPLICAS, "new"], 1)
        assert after in (before, ["new"])
        moved += after == ["new"]
    assert 250 < moved < 420  # a sixth
