"""The order of replicas for a model: the same everywhere, even, and little disturbed when replicas come and go."""

import random
from collections import Counter
from collections.abc import Iterable

import pytest

from modelplex.core import rendezvous
from modelplex.core.rendezvous import mix, point, weight

REPLICAS = [f"replica-{n}" for n in range(5)]
MODELS = [f"customers/{n}/model:v1" for n in range(2000)]


def order(model_id: str, replica_ids: Iterable[str]) -> list[str]:
    return rendezvous.order(model_id, replica_ids, point)


def weight_of(model_id: str, replica_id: str) -> int:
    return weight(point(model_id), point(replica_id))


def test_weights_are_64_bits() -> None:
    weights = [weight_of(model_id, "r") for model_id in MODELS]
    assert all(0 <= w < 2**64 for w in weights)
    assert max(weights) > 2**63


def test_the_order_is_by_weight_the_heaviest_first() -> None:
    for model_id in MODELS[:100]:
        weights = [weight_of(model_id, replica_id) for replica_id in order(model_id, REPLICAS)]
        assert weights == sorted(weights, reverse=True)


def test_the_order_does_not_depend_on_the_order_in_which_replicas_are_named() -> None:
    shuffled = random.Random(1).sample(REPLICAS, len(REPLICAS))
    for model_id in MODELS[:100]:
        assert order(model_id, REPLICAS) == order(model_id, shuffled)


def test_every_replica_is_in_the_order_once() -> None:
    assert sorted(order("m", REPLICAS)) == REPLICAS
    assert order("m", []) == []


def test_the_order_is_the_same_in_every_process_and_version() -> None:
    """Python's own `hash` of strings would not do."""
    assert point("m") == 0xE101F268E101F268
    assert mix(1) == 0x5692161D100B05E5
    assert weight_of("m", "r") == 0x7F2445C996C5538E
    assert order("m", REPLICAS) == [f"replica-{n}" for n in (3, 0, 2, 4, 1)]


def test_ids_of_any_script_have_a_point() -> None:
    assert point("modèle/日本") != point("modele/日本")


def test_names_that_differ_have_points_that_differ() -> None:
    assert len({point(name) for name in MODELS + REPLICAS}) == len(MODELS) + len(REPLICAS)


def test_mixing_loses_nothing_and_spreads_neighbours() -> None:
    mixed = [mix(bits) for bits in range(4096)]
    assert len(set(mixed)) == len(mixed)
    ones = [sum(word >> bit & 1 for word in mixed) for bit in range(64)]
    assert all(1800 < count < 2300 for count in ones[:64]), ones


@pytest.mark.parametrize("place", [0, 1, 4])
def test_each_replica_has_about_as_many_models_in_each_place(place: int) -> None:
    counts = Counter(order(model_id, REPLICAS)[place] for model_id in MODELS)
    assert all(320 < counts[replica_id] < 480 for replica_id in REPLICAS), counts


def test_the_second_choice_is_spread_over_all_the_others() -> None:
    """Otherwise the models of a lost replica would all move to one other."""
    seconds = Counter(order(m, REPLICAS)[1] for m in MODELS if order(m, REPLICAS)[0] == "replica-0")
    assert set(seconds) == set(REPLICAS[1:])
    assert max(seconds.values()) < 2 * min(seconds.values())


def test_a_lost_replica_leaves_the_order_of_the_others_as_it_was() -> None:
    for model_id in MODELS:
        assert order(model_id, REPLICAS[:-1]) == [r for r in order(model_id, REPLICAS) if r != REPLICAS[-1]]


def test_a_new_replica_takes_its_share_of_models_to_itself() -> None:
    moved = sum(order(model_id, [*REPLICAS, "new"])[0] == "new" for model_id in MODELS)
    assert 250 < moved < 420  # a sixth
