"""One rule each of the model cache: bytes, loads at a time, overdue loads, and times. See also test_cache.py."""

import pytest

from modelplex.core.backoff import Backoff
from modelplex.core.budget import UNLIMITED
from modelplex.core.cache import Command, Grant, Load, ModelCache, Reject, Start, Unload, Why
from modelplex.core.eviction import LRU
from modelplex.core.learned import SUSPICION_FAILURES

NOW = 0.0


def make(
    models_max: int = UNLIMITED,
    *,
    bytes_max: int = UNLIMITED,
    loads_max: int = UNLIMITED,
    min_residency_s: float = 0.0,
    idle_ttl_s: float | None = None,
) -> ModelCache:
    return ModelCache(
        models_max,
        LRU(),
        Backoff(base_s=1.0, max_s=60.0),
        bytes_max=bytes_max,
        loads_max=loads_max,
        min_residency_s=min_residency_s,
        idle_ttl_s=idle_ttl_s,
    )


def hold(cache: ModelCache, ticket: int, model_id: str, size_bytes: int = 1, now: float = NOW) -> None:
    """Have this model loaded, and lease it."""
    assert cache.acquire(ticket, model_id, None, now) == [Load(model_id)]
    assert cache.loaded(model_id, size_bytes, now) == [cold(ticket, model_id)]


def keep(cache: ModelCache, ticket: int, model_id: str, size_bytes: int = 1, now: float = NOW) -> None:
    """Have this model loaded, and leave it idle."""
    hold(cache, ticket, model_id, size_bytes, now)
    assert cache.release(ticket, now) == []


def load_four(cache: ModelCache) -> list[list[Command]]:
    """Four requests, a model each; nothing is known of the sizes, so all of them are loaded at the same time."""
    return [cache.acquire(ticket, model_id, None, NOW) for ticket, model_id in enumerate("abcd", start=1)]


def invent(cache: ModelCache, times: int = SUSPICION_FAILURES) -> None:
    """Ask for ids that nobody has ever seen, none of which can be loaded."""
    for n in range(times):
        assert cache.acquire(1000 + n, f"invented {n}", None, NOW) == [Load(f"invented {n}")]
        cache.load_failed(f"invented {n}", "no such model", NOW)


def cold(ticket: int, model_id: str) -> Grant:
    return Grant(ticket, model_id, Start.COLD)


def too_large(ticket: int, model_id: str, size_bytes: int) -> Reject:
    return Reject(ticket, model_id, Why.TOO_LARGE, size_bytes)


# Bytes


def test_a_model_is_loaded_when_the_bytes_that_it_had_last_are_there() -> None:
    cache = make(bytes_max=100)
    keep(cache, 1, "a", 60)
    assert cache.acquire(2, "b", None, NOW) == [Unload("a")]  # 60 are expected of it, too
    assert cache.unloaded("a", NOW) == [Load("b")]
    assert cache.loaded("b", 40, NOW) == [cold(2, "b")]
    assert cache.acquire(3, "a", None, NOW) == [Load("a")]


def test_small_models_are_loaded_beside_each_other() -> None:
    cache = make(bytes_max=100)
    for ticket, model_id in enumerate("abcde"):
        keep(cache, ticket, model_id, 20)
    assert cache.acquire(9, "f", None, NOW) == [Unload("a")]


def test_the_bytes_of_a_load_are_taken_from_its_start() -> None:
    cache = make(bytes_max=100)
    hold(cache, 1, "a", 50)
    assert cache.acquire(2, "b", None, NOW) == [Load("b")]
    assert cache.acquire(3, "c", None, NOW) == []
    assert cache.loaded("b", 10, NOW) == [cold(2, "b")]  # 40 are left
    assert cache.release(2, NOW) == [Unload("b")]
    assert cache.unloaded("b", NOW) == [Load("c")]


def test_a_model_that_needs_many_bytes_evicts_several() -> None:
    cache = make(bytes_max=100)
    hold(cache, 1, "large", 90)
    assert cache.release(1, NOW) == []
    assert cache.acquire(2, "a", None, NOW) == [Unload("large")]
    assert cache.unloaded("large", NOW) == [Load("a")]
    assert cache.loaded("a", 30, NOW) == [cold(2, "a")]
    hold_b = cache.acquire(3, "b", None, NOW)
    assert hold_b == [Load("b")]
    assert cache.loaded("b", 30, NOW) == [cold(3, "b")]
    assert cache.release(2, NOW) == cache.release(3, NOW) == []
    assert cache.acquire(4, "large", None, NOW) == [Unload("a"), Unload("b")]
    assert cache.unloaded("b", NOW) == []
    assert cache.unloaded("a", NOW) == [Load("large")]


def test_one_that_turns_out_larger_is_granted_when_idle_models_have_paid_for_it() -> None:
    cache = make(bytes_max=100)
    keep(cache, 1, "a", 40)
    assert cache.acquire(2, "b", None, NOW) == [Load("b")]
    assert cache.loaded("b", 80, NOW) == [Unload("a")]
    assert (cache.resident, cache.loading) == ([], ["b"])
    assert cache.acquire(3, "b", None, NOW) == []
    assert cache.unloaded("a", NOW) == [cold(2, "b"), Grant(3, "b", Start.JOINED)]
    assert cache.resident == ["b"]


def test_one_that_turns_out_larger_waits_for_leases_to_end() -> None:
    cache = make(bytes_max=100)
    hold(cache, 1, "a", 40)
    cache.acquire(2, "b", None, NOW)
    assert cache.loaded("b", 80, NOW) == []
    assert cache.release(1, NOW) == [Unload("a")]
    assert cache.unloaded("a", NOW) == [cold(2, "b")]


def test_one_that_turns_out_larger_and_that_nobody_wants_any_more_goes_itself() -> None:
    cache = make(bytes_max=100)
    hold(cache, 1, "a", 40)
    cache.acquire(2, "b", None, NOW)
    assert cache.loaded("b", 80, NOW) == []
    assert cache.release(2, NOW) == [Unload("b")]


def test_of_models_that_only_wait_for_each_others_bytes_the_newest_is_loaded_again_later() -> None:
    cache = make(bytes_max=100)
    load_four(cache)
    assert cache.loaded("a", 60, NOW) == [cold(1, "a")]
    assert cache.loaded("b", 60, NOW) == cache.loaded("c", 60, NOW) == []
    assert cache.load_failed("d", "no", NOW) == [Reject(4, "d", Why.LOAD_FAILED, "no", 1.0)]
    assert cache.release(1, NOW) == [Unload("a"), Unload("c")]
    assert cache.unloaded("a", NOW) == []
    assert cache.unloaded("c", NOW) == [cold(2, "b")]
    assert cache.release(2, NOW) == [Unload("b")]
    assert cache.unloaded("b", NOW) == [Load("c")]
    assert cache.loaded("c", 60, NOW) == [cold(3, "c")]


def test_a_lessee_that_waits_for_bytes_that_only_it_holds_is_told_so() -> None:
    cache = make(bytes_max=100)
    assert cache.acquire(1, "a", "A", NOW) == [Load("a")]
    assert cache.acquire(2, "b", "A", NOW) == [Load("b")]
    assert cache.loaded("a", 60, NOW) == [cold(1, "a")]
    assert cache.loaded("b", 60, NOW) == [Reject(2, "b", Why.OVERCOMMITTED), Unload("b")]


def test_room_counts_models_of_the_average_size() -> None:
    cache = make(10, bytes_max=100)
    rooms = [cache.room]
    keep(cache, 1, "a", 30)
    rooms.append(cache.room)
    keep(cache, 2, "b", 10)
    rooms.append(cache.room)
    assert rooms == [10, 2, 3]


def test_room_is_there_for_one_though_the_average_is_larger_than_the_budget() -> None:
    cache = make(bytes_max=100)
    cache.acquire(1, "a", None, NOW)
    cache.loaded("a", 1000, NOW)
    cache.unloaded("a", NOW)
    assert cache.room == 1
    assert cache.acquire(2, "b", None, NOW) == [Load("b")]


# What can never fit


def test_what_can_never_fit_is_refused_and_unloaded_and_not_tried_again() -> None:
    cache = make(bytes_max=100)
    for ticket in (1, 2):
        cache.acquire(ticket, "a", None, NOW)
    assert cache.loaded("a", 101, NOW) == [too_large(1, "a", 101), too_large(2, "a", 101), Unload("a")]
    assert cache.acquire(3, "a", None, NOW) == [too_large(3, "a", 101)]
    assert cache.unloaded("a", NOW) == []
    assert cache.acquire(4, "a", None, NOW) == [too_large(4, "a", 101)]
    assert not any(ticket in cache for ticket in (1, 2, 3, 4))


def test_what_can_never_fit_evicts_nothing_once_it_is_known() -> None:
    cache = make(bytes_max=100)
    keep(cache, 1, "a", 50)
    cache.acquire(2, "b", None, NOW)
    assert cache.loaded("b", 101, NOW) == [too_large(2, "b", 101), Unload("b")]
    assert cache.resident == ["a"]


def test_what_can_never_fit_does_not_wait_for_what_was_loaded_before_it() -> None:
    cache = make(bytes_max=100)
    load_four(cache)
    cache.loaded("a", 60, NOW)
    assert cache.loaded("b", 60, NOW) == []
    assert cache.loaded("c", 101, NOW) == [too_large(3, "c", 101), Unload("c")]


def test_what_fills_the_budget_fits() -> None:
    cache = make(bytes_max=100)
    hold(cache, 1, "a", 100)


# Loads at a time


def test_so_many_loads_run_at_a_time() -> None:
    cache = make(loads_max=2)
    assert load_four(cache) == [[Load("a")], [Load("b")], [], []]
    assert cache.loaded("b", 1, NOW) == [cold(2, "b"), Load("c")]
    assert cache.load_failed("a", "no", NOW) == [Reject(1, "a", Why.LOAD_FAILED, "no", 1.0), Load("d")]


def test_what_waits_for_its_turn_to_load_evicts_nothing_yet() -> None:
    cache = make(2, loads_max=1)
    keep(cache, 1, "a")
    assert cache.acquire(2, "b", None, NOW) == [Load("b")]
    assert cache.acquire(3, "c", None, NOW) == []
    assert cache.loaded("b", 1, NOW) == [cold(2, "b"), Unload("a")]


# Overdue loads


def test_who_waits_for_an_overdue_load_is_told_and_its_room_stays_taken() -> None:
    cache = make(1)
    cache.acquire(1, "a", None, NOW)
    cache.acquire(2, "b", None, NOW)
    assert cache.load_overdue("a", "slow", NOW) == [Reject(1, "a", Why.LOAD_FAILED, "slow", 1.0)]
    assert (cache.loading, cache.room) == (["a"], 0)
    assert cache.acquire(3, "a", None, 0.25) == [Reject(3, "a", Why.FAILED_RECENTLY, "slow", 0.75)]


def test_an_overdue_load_that_ends_well_is_of_use() -> None:
    cache = make(1)
    cache.acquire(1, "a", None, NOW)
    cache.load_overdue("a", "slow", NOW)
    assert cache.acquire(2, "a", None, 1.0) == []
    assert cache.loaded("a", 1, 2.0) == [Grant(2, "a", Start.JOINED)]
    assert cache.acquire(3, "a", None, 2.0) == [Grant(3, "a", Start.WARM)]


def test_an_overdue_load_that_fails_gives_its_room_back() -> None:
    cache = make(1)
    cache.acquire(1, "a", None, NOW)
    cache.acquire(2, "b", None, NOW)
    cache.load_overdue("a", "slow", NOW)
    assert cache.load_failed("a", "no", NOW) == [Load("b")]


def test_when_an_overdue_load_makes_strangers_wait_the_others_pass_them_by() -> None:
    cache = make(bytes_max=100)
    keep(cache, 1, "known", 10)
    hold(cache, 2, "held", 50)
    invent(cache, SUSPICION_FAILURES - 1)
    assert cache.acquire(3, "a", None, NOW) == [Load("a")]  # 30 are expected of it
    assert cache.acquire(4, "b", None, NOW) == [Unload("known")]
    assert cache.unloaded("known", NOW) == cache.acquire(5, "known", None, NOW) == []
    assert cache.load_overdue("a", "slow", NOW) == [Reject(3, "a", Why.LOAD_FAILED, "slow", 1.0), Load("known")]


# Times


def test_a_young_model_is_not_evicted_before_its_time() -> None:
    cache = make(1, min_residency_s=10.0)
    keep(cache, 1, "a", now=5.0)
    assert cache.acquire(2, "b", None, 6.0) == []
    assert cache.next_tick == 15.0
    assert cache.tick(14.0) == []
    assert cache.tick(15.0) == [Unload("a")]


def test_one_that_is_old_enough_when_it_becomes_idle_is_evicted_at_once() -> None:
    cache = make(1, min_residency_s=10.0)
    hold(cache, 1, "a")
    assert cache.acquire(2, "b", None, 6.0) == []
    assert cache.release(1, 10.0) == [Unload("a")]


def test_close_unloads_the_young_too() -> None:
    cache = make(1, min_residency_s=10.0)
    keep(cache, 1, "a")
    assert cache.close(1.0) == [Unload("a")]


def test_what_was_idle_for_too_long_is_unloaded_though_nobody_wants_its_room() -> None:
    cache = make(idle_ttl_s=10.0)
    keep(cache, 1, "a", now=5.0)
    assert cache.next_tick == 15.0
    assert cache.tick(15.0) == [Unload("a")]
    assert cache.unloaded("a", 15.0) == []
    assert cache.next_tick is None


def test_what_is_used_again_is_idle_from_its_last_use() -> None:
    cache = make(idle_ttl_s=10.0)
    keep(cache, 1, "a")
    assert cache.acquire(2, "a", None, 9.0) == [Grant(2, "a", Start.WARM)]
    assert cache.tick(10.0) == []
    assert cache.release(2, 12.0) == []
    assert cache.next_tick == 22.0
    assert cache.tick(22.0) == [Unload("a")]


def test_without_times_no_tick_is_asked_for() -> None:
    cache = make()
    keep(cache, 1, "a")
    assert cache.next_tick is None
    assert cache.tick(1e9) == []


def test_a_model_that_is_loaded_again_is_looked_at_in_time() -> None:
    cache = make(1, min_residency_s=2.0, idle_ttl_s=100.0)
    keep(cache, 1, "a")
    assert cache.tick(2.0) == []  # the next look is for the time to live
    assert cache.acquire(2, "b", None, 3.0) == [Unload("a")]
    assert cache.release(2, 3.0) == []
    assert cache.unloaded("a", 3.0) == []
    keep(cache, 3, "a", now=4.0)
    assert cache.acquire(4, "b", None, 4.0) == []
    assert cache.next_tick == 6.0
    assert cache.tick(6.0) == [Unload("a")]


# Invented ids


def test_while_ids_are_invented_models_never_loaded_are_loaded_one_at_a_time() -> None:
    cache = make()
    invent(cache)
    assert load_four(cache) == [[Load("a")], [], [], []]
    assert cache.load_failed("a", "no", NOW) == [Reject(1, "a", Why.LOAD_FAILED, "no", 1.0), Load("b")]


def test_models_that_were_loaded_before_pass_them_by() -> None:
    cache = make(idle_ttl_s=10.0)
    keep(cache, 1, "known")
    assert cache.tick(10.0) == [Unload("known")]
    assert cache.unloaded("known", 10.0) == []
    invent(cache)
    assert cache.acquire(2, "a", None, 10.0) == [Load("a")]
    assert cache.acquire(3, "b", None, 10.0) == []
    assert cache.acquire(4, "known", None, 10.0) == [Load("known")]


def test_one_new_model_that_exists_ends_the_suspicion() -> None:
    cache = make()
    invent(cache)
    load_four(cache)
    assert cache.loaded("a", 1, NOW) == [cold(1, "a"), Load("b"), Load("c"), Load("d")]


def test_a_flood_of_invented_ids_evicts_one_model() -> None:
    cache = make(4)
    keep(cache, 1, "a")
    keep(cache, 2, "b")
    keep(cache, 3, "c")
    invent(cache)
    flood = [cache.acquire(ticket, f"flood {ticket}", None, NOW) for ticket in range(10, 30)]
    assert sum(map(len, flood)) == 1
    assert cache.resident == ["a", "b", "c"]


# Illegal use


@pytest.mark.parametrize("bytes_max", [0, -2])
def test_a_cache_has_at_least_one_byte(bytes_max: int) -> None:
    with pytest.raises(ValueError, match="bytes_max must be at least 1"):
        make(bytes_max=bytes_max)
