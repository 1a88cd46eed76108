"""Who has which GPU."""

import random

import pytest

from modelplex.core.gpus import Gpus


def test_whole_ones_are_handed_out_in_their_order() -> None:
    gpus = Gpus(["0", "1", "2"])
    assert gpus.take("a", 1) == {"0": 1.0}
    assert gpus.take("b", 2) == {"1": 1.0, "2": 1.0}
    assert gpus.take("c", 1) is None


def test_too_many_at_a_time_take_none() -> None:
    gpus = Gpus(["0", "1"])
    assert gpus.take("a", 3) is None
    assert gpus.holders == {}
    assert gpus.take("b", 2) == {"0": 1.0, "1": 1.0}


def test_a_share_goes_to_the_fullest_that_has_room() -> None:
    gpus = Gpus(["0", "1", "2"])
    gpus.adopt("x", {"1": 0.5})
    gpus.adopt("y", {"2": 0.75})
    assert gpus.take("a", 0.5) == {"1": 0.5}
    assert gpus.take("b", 0.25) == {"2": 0.25}
    assert gpus.take("c", 0.25) == {"0": 0.25}


def test_a_whole_one_shares_with_nobody() -> None:
    gpus = Gpus(["0", "1"])
    gpus.take("a", 0.1)
    assert gpus.take("b", 1) == {"1": 1.0}
    assert gpus.take("c", 1) is None
    assert gpus.take("d", 0.9) == {"0": 0.9}
    assert gpus.take("e", 0.1) is None


@pytest.mark.parametrize("parts", [3, 7, 10, 93])
def test_parts_that_make_up_one_fit_on_one(parts: int) -> None:
    gpus = Gpus(["0"])
    assert [gpus.take(str(n), 1 / parts) for n in range(parts)] == [{"0": 1 / parts}] * parts
    assert gpus.take("one more", 1 / parts) is None


def test_what_is_given_back_is_free_again_and_only_once() -> None:
    gpus = Gpus(["0"])
    gpus.take("a", 1)
    gpus.give_back("a")
    assert gpus.take("b", 1) == {"0": 1.0}
    gpus.give_back("a")  # again: what b has stays
    assert gpus.take("c", 0.5) is None
    gpus.give_back("b")
    for owner in ("d", "e"):
        gpus.take(owner, 0.5)
    gpus.give_back("d")
    assert gpus.take("f", 1) is None  # e still has its half


def test_who_wants_none_has_none() -> None:
    gpus = Gpus()
    assert gpus.take("a", 0) == {}
    assert gpus.take("b", 0.5) is None
    assert gpus.holders == {}


def test_what_a_process_has_already_is_not_handed_out_even_if_it_is_heard_before_the_gpus_are_known() -> None:
    gpus = Gpus()
    gpus.adopt("old", {"GPU-a": 1.0, "GPU-gone": 0.5})
    gpus.ids = ["GPU-a", "GPU-b"]
    assert gpus.take("new", 1) == {"GPU-b": 1.0}
    gpus.give_back("old")
    assert gpus.take("next", 1) == {"GPU-a": 1.0}


def test_a_process_that_was_counted_twice_is_more_than_full() -> None:
    gpus = Gpus(["0", "1"])
    gpus.adopt("a", {"0": 1.0})
    gpus.adopt("b", {"0": 1.0})
    gpus.give_back("a")
    assert gpus.take("c", 0.1) == {"1": 0.1}


def test_who_has_what() -> None:
    gpus = Gpus(["0", "1"])
    gpus.take("a", 0.5)
    gpus.take("b", 1)
    assert gpus.holders == {"a": {"0": 0.5}, "b": {"1": 1.0}}


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_nothing_is_handed_out_twice(seed: int) -> None:
    rng = random.Random(seed)
    gpus = Gpus([str(n) for n in range(rng.randint(0, 5))])
    owners: dict[str, dict[str, float]] = {}
    for step in range(500):
        if owners and rng.random() < 0.5:
            owner = rng.choice(list(owners))
            gpus.give_back(owner)
            del owners[owner]
        else:
            amount = rng.choice([0, 0.1, 0.25, 1 / 3, 0.5, 1, 1, 2, 3])
            taken = {gpu: sum(shares.get(gpu, 0) for shares in owners.values()) for gpu in gpus.ids}
            shares = gpus.take(str(step), amount)
            if shares is None:
                fits = [gpu for gpu in gpus.ids if taken[gpu] + min(amount, 1) <= 1 + 1e-9]
                assert len(fits) < max(1, amount), "refused although there was room"
                continue
            assert sum(shares.values()) == pytest.approx(amount)
            if shares:
                owners[str(step)] = shares
        assert gpus.holders == owners
        for gpu in gpus.ids:
            held = [shares[gpu] for shares in owners.values() if gpu in shares]
            assert sum(held) <= 1 + 1e-5
            assert 1.0 not in held or len(held) == 1
