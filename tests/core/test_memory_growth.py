"""Growth that unloads leave behind, told apart from all that only looks like it."""

import random
from collections.abc import Iterable

import pytest

from modelplex.core.memory_growth import GROWTH_BYTES_MIN, RISES, UNLOADS_MIN, MemoryGrowth

MIB = 2**20
START = 100 * MIB


def after(rests: Iterable[int], *, models_bytes: int = 10 * MIB, models: int = 3) -> MemoryGrowth:
    """A growth that was told of these bytes beyond the models, one unload each."""
    growth = MemoryGrowth()
    for rest in rests:
        growth.unloaded(rest + models_bytes, models_bytes, models)
    return growth


def growing(step_bytes: int, unloads: int) -> list[int]:
    return [START + n * step_bytes for n in range(unloads)]


def test_what_stays_of_every_unload_is_growth() -> None:
    unloads = 12 * UNLOADS_MIN
    grown = after(growing(2 * MIB, unloads)).growth_bytes
    # Against the most of the first two looks, by the least of the last one.
    assert grown == (unloads - 3 * UNLOADS_MIN + 1) * 2 * MIB


def test_it_takes_several_looks_to_be_certain() -> None:
    looks = RISES + 1
    assert after(growing(20 * MIB, looks * UNLOADS_MIN - 1)).growth_bytes == 0
    assert after(growing(20 * MIB, looks * UNLOADS_MIN)).growth_bytes > 0


def test_memory_that_goes_up_and_down_is_none() -> None:
    random_bytes = random.Random(1)
    assert after(START + random_bytes.randrange(500 * MIB) for _ in range(5000)).growth_bytes == 0


def test_what_allocators_keep_levels_off_and_is_none() -> None:
    levels = [100, 200, 280, 340, 380, 400, 400, 400, 400, 400]
    kept = [level * MIB for level in levels for _ in range(UNLOADS_MIN)]
    assert after(kept, models_bytes=400 * MIB).growth_bytes == 0


def test_a_change_to_larger_models_is_none() -> None:
    """Their sizes are not always known: to the growth it is a single rise."""
    rests = [START] * 10 * UNLOADS_MIN + [START + 900 * MIB] * 40 * UNLOADS_MIN
    assert after(rests).growth_bytes == 0


def test_growth_below_what_the_models_took_is_none() -> None:
    rests = growing(MIB, 14 * UNLOADS_MIN)
    assert after(rests, models_bytes=300 * MIB).growth_bytes == 0
    assert after(rests, models_bytes=30 * MIB).growth_bytes > 0


def test_little_growth_is_none() -> None:
    rests = [START + look * 4 * MIB for look in range(14) for _ in range(UNLOADS_MIN)]
    assert rests[-1] - START < GROWTH_BYTES_MIN
    assert after(rests, models_bytes=0).growth_bytes == 0


def test_many_models_make_for_longer_looks() -> None:
    rests = growing(2 * MIB, 12 * UNLOADS_MIN)
    assert after(rests, models=3).growth_bytes > 0
    assert after(rests, models=100).growth_bytes == 0


@pytest.mark.parametrize("left", [0, 150 * MIB])
def test_growth_that_goes_back_is_forgotten(left: int) -> None:
    rests = growing(2 * MIB, 12 * UNLOADS_MIN)
    first_high = rests[2 * UNLOADS_MIN - 1]
    assert after([*rests, *[first_high + left] * UNLOADS_MIN]).growth_bytes == left


def test_growth_that_comes_to_a_halt_is_kept() -> None:
    rests = growing(2 * MIB, 12 * UNLOADS_MIN)
    halted = after([*rests, *[rests[-1]] * 20 * UNLOADS_MIN]).growth_bytes
    assert halted >= after(rests).growth_bytes > 0


def test_the_models_that_are_left_are_not_growth() -> None:
    growth = MemoryGrowth()
    for n in range(20 * UNLOADS_MIN):
        growth.unloaded(START + n * MIB, n * MIB, 3)
    assert growth.growth_bytes == 0
