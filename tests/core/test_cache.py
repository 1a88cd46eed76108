"""One rule of the model cache each. The random histories are in test_cache_histories.py."""

from itertools import count

import pytest

from modelplex.core.allocation import OVERTAKES_MAX
from modelplex.core.backoff import Backoff
from modelplex.core.budget import UNLIMITED
from modelplex.core.cache import Command, Grant, Load, ModelCache, Reject, Start, Unload, Why
from modelplex.core.eviction import GDSF, LRU, EvictionPolicy, IdleModel
from modelplex.core.failures import FAILURES_MAX
from modelplex.core.shelf import PATIENCE_LOADS

NOW = 0.0
_spare_tickets = count(1001)


def make(models_max: int, policy: EvictionPolicy | None = None) -> ModelCache:
    return ModelCache(models_max, policy or LRU(), Backoff(base_s=1.0, max_s=60.0))


def keep(cache: ModelCache, *model_ids: str) -> None:
    """Have these models loaded, and leave them idle."""
    for model_id in model_ids:
        ticket = next(_spare_tickets)
        assert cache.acquire(ticket, model_id, None, NOW) == [Load(model_id)]
        assert cache.loaded(model_id, 1, NOW) == [Grant(ticket, model_id, Start.COLD)]
        assert cache.release(ticket, NOW) == []


def hold(cache: ModelCache, ticket: int, model_id: str, owner: str | None = None) -> None:
    """Have this model loaded, and lease it."""
    keep(cache, model_id)
    assert cache.acquire(ticket, model_id, owner, NOW) == [warm(ticket, model_id)]


def overtake(cache: ModelCache, ticket: int, model_id: str, times: int = OVERTAKES_MAX) -> int:
    """Lease a model again and again, each time before the last lease ends. Answers the ticket that is left."""
    for _ in range(times):
        successor = next(_spare_tickets)
        assert cache.acquire(successor, model_id, f"owner of {successor}", NOW) == [warm(successor, model_id)]
        assert cache.release(ticket, NOW) == []
        ticket = successor
    return ticket


def warm(ticket: int, model_id: str) -> Grant:
    return Grant(ticket, model_id, Start.WARM)


def overcommitted(ticket: int, model_id: str) -> Reject:
    return Reject(ticket, model_id, Why.OVERCOMMITTED)


def closed(ticket: int, model_id: str) -> Reject:
    return Reject(ticket, model_id, Why.CLOSED)


# Loads


def test_a_cold_model_is_loaded_then_granted_and_is_warm_from_then_on() -> None:
    cache = make(3)
    assert cache.acquire(1, "a", None, NOW) == [Load("a")]
    assert (cache.loading, cache.resident) == (["a"], [])
    assert cache.loaded("a", 7, NOW) == [Grant(1, "a", Start.COLD)]
    assert (cache.loading, cache.resident) == ([], ["a"])
    assert cache.acquire(2, "a", None, NOW) == [warm(2, "a")]
    assert cache.release(1, NOW) == cache.release(2, NOW) == []
    assert cache.resident == ["a"]


def test_twenty_acquires_of_one_cold_model_are_one_load() -> None:
    cache = make(3)
    assert cache.acquire(1, "a", "owner 1", NOW) == [Load("a")]
    for ticket in range(2, 21):
        assert cache.acquire(ticket, "a", f"owner {ticket}", NOW) == []
    joined = [Grant(ticket, "a", Start.JOINED) for ticket in range(2, 21)]
    assert cache.loaded("a", 1, NOW) == [Grant(1, "a", Start.COLD), *joined]
    assert cache.acquire(21, "a", "owner 21", NOW) == [warm(21, "a")]


def test_loads_of_different_models_overlap() -> None:
    cache = make(3)
    for ticket, model_id in enumerate("abc"):
        assert cache.acquire(ticket, model_id, None, NOW) == [Load(model_id)]
    assert cache.loading == ["a", "b", "c"]
    assert cache.loaded("b", 1, NOW) == [Grant(1, "b", Start.COLD)]
    assert (cache.loading, cache.resident) == (["a", "c"], ["b"])


def test_a_waiter_that_leaves_before_its_load_began_leaves_nothing() -> None:
    cache = make(1)
    hold(cache, 1, "a")
    assert cache.acquire(2, "b", None, NOW) == []
    assert cache.release(2, NOW) == []
    assert cache.release(1, NOW) == []
    assert (cache.resident, cache.loading, cache.room) == (["a"], [], 0)


def test_a_waiter_that_leaves_before_the_load_began_does_not_take_the_others_along() -> None:
    cache = make(1)
    hold(cache, 1, "a")
    for ticket in (2, 3):
        assert cache.acquire(ticket, "b", None, NOW) == []
    assert cache.release(2, NOW) == []
    assert cache.release(1, NOW) == [Unload("a")]
    assert cache.unloaded("a", NOW) == [Load("b")]
    # It was waited for already when this one came.
    assert cache.loaded("b", 1, NOW) == [Grant(3, "b", Start.JOINED)]


def test_a_load_goes_on_when_its_only_waiter_leaves_and_its_model_becomes_idle() -> None:
    cache = make(1)
    assert cache.acquire(1, "a", None, NOW) == [Load("a")]
    assert cache.release(1, NOW) == []
    assert cache.loading == ["a"]
    assert cache.loaded("a", 1, NOW) == []
    assert cache.resident == ["a"]
    assert cache.acquire(2, "b", None, NOW) == [Unload("a")]


def test_who_joins_a_load_that_everyone_has_left_shares_it() -> None:
    cache = make(1)
    assert cache.acquire(1, "a", None, NOW) == [Load("a")]
    assert cache.release(1, NOW) == []
    assert cache.acquire(2, "a", None, NOW) == []
    assert cache.loaded("a", 1, NOW) == [Grant(2, "a", Start.JOINED)]


# Evictions


def test_the_least_recently_used_is_evicted() -> None:
    cache = make(3)
    keep(cache, "1", "2", "3")
    assert cache.acquire(1, "1", None, NOW) == [warm(1, "1")]
    assert cache.release(1, NOW) == []
    assert cache.acquire(2, "4", None, NOW) == [Unload("2")]
    assert cache.unloaded("2", NOW) == [Load("4")]
    assert cache.loaded("4", 1, NOW) == [Grant(2, "4", Start.COLD)]
    assert sorted(cache.resident) == ["1", "3", "4"]


def test_a_leased_model_is_never_evicted() -> None:
    cache = make(2)
    hold(cache, 1, "a")
    hold(cache, 2, "b")
    assert cache.acquire(3, "c", None, NOW) == []
    assert cache.release(2, NOW) == [Unload("b")]


def test_a_model_is_idle_after_its_last_lease_not_its_first() -> None:
    cache = make(1)
    hold(cache, 1, "a")
    assert cache.acquire(2, "a", None, NOW) == [warm(2, "a")]
    assert cache.acquire(3, "b", None, NOW) == []
    assert cache.release(1, NOW) == []
    assert cache.release(2, NOW) == [Unload("a")]


def test_each_model_that_waits_evicts_one_idle_model() -> None:
    cache = make(3)
    keep(cache, "a", "b", "c")
    assert cache.acquire(1, "d", None, NOW) == [Unload("a")]
    assert cache.acquire(2, "d", None, NOW) == []
    assert cache.acquire(3, "e", None, NOW) == [Unload("b")]
    assert cache.unloaded("b", NOW) == [Load("d")]
    assert cache.unloaded("a", NOW) == [Load("e")]


def test_models_get_room_in_the_order_in_which_they_began_to_wait() -> None:
    cache = make(1)
    hold(cache, 1, "a")
    for ticket, model_id in [(2, "b"), (3, "c"), (4, "b")]:
        assert cache.acquire(ticket, model_id, None, NOW) == []
    assert cache.release(1, NOW) == [Unload("a")]
    assert cache.unloaded("a", NOW) == [Load("b")]
    assert cache.loaded("b", 1, NOW) == [Grant(2, "b", Start.COLD), Grant(4, "b", Start.JOINED)]
    assert cache.release(2, NOW) == []
    assert cache.release(4, NOW) == [Unload("b")]
    assert cache.unloaded("b", NOW) == [Load("c")]


def test_a_model_wanted_while_it_is_unloaded_is_loaded_again() -> None:
    cache = make(1)
    keep(cache, "a")
    assert cache.acquire(1, "b", None, NOW) == [Unload("a")]
    assert cache.acquire(2, "a", None, NOW) == []
    assert cache.unloaded("a", NOW) == [Load("b")]
    assert cache.loaded("b", 1, NOW) == [Grant(1, "b", Start.COLD)]
    assert cache.release(1, NOW) == [Unload("b")]
    assert cache.unloaded("b", NOW) == [Load("a")]
    assert cache.loaded("a", 1, NOW) == [Grant(2, "a", Start.COLD)]


def test_a_model_wanted_while_it_is_unloaded_takes_the_room_back_if_nobody_else_wants_it() -> None:
    cache = make(1)
    keep(cache, "a")
    assert cache.acquire(1, "b", None, NOW) == [Unload("a")]
    assert cache.acquire(2, "a", None, NOW) == cache.acquire(3, "a", None, NOW) == []
    assert cache.release(1, NOW) == cache.release(2, NOW) == []
    assert cache.unloaded("a", NOW) == [Load("a")]
    assert cache.loaded("a", 1, NOW) == [Grant(3, "a", Start.COLD)]


def test_an_unload_goes_on_when_nobody_wants_its_room_any_more() -> None:
    cache = make(1)
    keep(cache, "a")
    assert cache.acquire(1, "b", None, NOW) == [Unload("a")]
    assert cache.release(1, NOW) == []
    assert cache.unloaded("a", NOW) == []
    assert (cache.resident, cache.loading, cache.room) == ([], [], 1)


def test_the_policy_chooses_whom_to_evict() -> None:
    class MostRecent(LRU):
        def victim(self) -> str | None:
            return next(reversed(self._idle), None)

    cache = make(3, MostRecent())
    keep(cache, "a", "b", "c")
    assert cache.acquire(1, "d", None, NOW) == [Unload("c")]


def test_the_policy_is_told_what_an_idle_model_has_cost_and_how_often_it_was_used() -> None:
    told: list[tuple[str, int, float, int]] = []

    class Listening(LRU):
        def add(self, model: IdleModel) -> None:
            told.append((model.model_id, model.size_bytes, model.load_s, model.uses))
            super().add(model)

    cache = make(3, Listening())
    cache.acquire(1, "a", None, 10.0)
    cache.acquire(2, "a", None, 11.0)
    cache.loaded("a", 7, 12.5)
    cache.release(1, 13.0)
    cache.release(2, 14.0)
    assert told[-1] == ("a", 7, 2.5, 2)


# Room


def test_room_is_what_could_be_loaded_without_an_eviction() -> None:
    cache = make(3)
    rooms = [cache.room]
    keep(cache, "a")
    rooms.append(cache.room)
    cache.acquire(1, "b", None, NOW)
    rooms.append(cache.room)
    cache.load_failed("b", "no", NOW)
    rooms.append(cache.room)
    assert rooms == [3, 2, 1, 2]


def test_room_of_an_unloading_model_is_not_free() -> None:
    cache = make(1)
    keep(cache, "a")
    assert cache.acquire(1, "b", None, NOW) == [Unload("a")]
    assert cache.release(1, NOW) == []
    assert (cache.resident, cache.room) == ([], 0)
    assert cache.acquire(2, "c", None, NOW) == []
    assert cache.unloaded("a", NOW) == [Load("c")]


def test_room_is_never_negative() -> None:
    cache = make(1)
    hold(cache, 1, "a")
    for ticket, model_id in enumerate("bcd", start=2):
        cache.acquire(ticket, model_id, None, NOW)
    assert cache.room == 0


def test_without_a_limit_nothing_is_ever_evicted() -> None:
    cache = make(UNLIMITED)
    model_ids = [f"model {n}" for n in range(100)]
    keep(cache, *model_ids)
    assert cache.room is None
    assert cache.resident == model_ids


# Failures


def test_a_failed_load_rejects_each_waiter_once() -> None:
    cache = make(3)
    for ticket in (1, 2, 3):
        cache.acquire(ticket, "a", None, NOW)
    assert cache.load_failed("a", "no such file", NOW) == [
        Reject(ticket, "a", Why.LOAD_FAILED, "no such file", 1.0) for ticket in (1, 2, 3)
    ]
    assert (cache.resident, cache.loading, cache.room) == ([], [], 3)
    assert not any(ticket in cache for ticket in (1, 2, 3))


def test_who_left_a_load_does_not_hear_of_its_failure() -> None:
    cache = make(3)
    for ticket in (1, 2):
        cache.acquire(ticket, "a", None, NOW)
    assert cache.release(1, NOW) == []
    assert cache.load_failed("a", "no", NOW) == [Reject(2, "a", Why.LOAD_FAILED, "no", 1.0)]


def test_a_failed_load_makes_room_for_the_next() -> None:
    cache = make(1)
    cache.acquire(1, "a", None, NOW)
    cache.acquire(2, "b", None, NOW)
    assert cache.load_failed("a", "no", NOW) == [Reject(1, "a", Why.LOAD_FAILED, "no", 1.0), Load("b")]


def test_a_recent_failure_is_told_at_once_and_evicts_nothing() -> None:
    cache = make(2)
    cache.acquire(1, "a", None, NOW)
    cache.load_failed("a", "no such file", NOW)
    keep(cache, "b", "c")
    assert cache.acquire(2, "a", None, 0.25) == [Reject(2, "a", Why.FAILED_RECENTLY, "no such file", 0.75)]
    assert cache.resident == ["b", "c"]
    assert cache.acquire(3, "a", None, 1.0) == [Unload("b")]


def test_each_further_failure_is_remembered_for_longer() -> None:
    cache = make(1)
    now, delays_s = 0.0, []
    for ticket in range(8):
        assert cache.acquire(ticket, "a", None, now) == [Load("a")]
        [reject] = cache.load_failed("a", "no", now)
        assert isinstance(reject, Reject)
        assert reject.retry_after_s is not None
        delays_s.append(reject.retry_after_s)
        now += reject.retry_after_s
    assert delays_s == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_a_success_clears_the_failures() -> None:
    cache = make(1)
    cache.acquire(1, "a", None, 0.0)
    cache.load_failed("a", "no", 0.0)
    cache.acquire(2, "a", None, 1.0)
    cache.loaded("a", 1, 1.0)
    cache.release(2, 1.0)
    cache.acquire(3, "b", None, 1.0)
    cache.unloaded("a", 1.0)
    cache.load_failed("b", "no", 1.0)
    assert cache.acquire(4, "a", None, 1.0) == [Load("a")]
    assert cache.load_failed("a", "no", 1.0) == [Reject(4, "a", Why.LOAD_FAILED, "no", 1.0)]


def test_a_bounded_number_of_failures_is_remembered_the_latest() -> None:
    cache = make(1)
    for ticket in range(FAILURES_MAX + 1):
        cache.acquire(ticket, f"model {ticket}", None, NOW)
        cache.load_failed(f"model {ticket}", "no", NOW)
    ticket = FAILURES_MAX + 1
    assert cache.acquire(ticket, "model 1", None, NOW) == [Reject(ticket, "model 1", Why.FAILED_RECENTLY, "no", 1.0)]
    assert cache.acquire(ticket, "model 0", None, NOW) == [Load("model 0")]


# Owners that hold what they wait for


def test_a_lessee_that_wants_the_room_that_only_it_holds_is_told_so_at_once() -> None:
    cache = make(1)
    hold(cache, 1, "a", "A")
    assert cache.acquire(2, "b", "A", NOW) == [overcommitted(2, "b")]
    assert cache.acquire(3, "a", "A", NOW) == [warm(3, "a")]


def test_so_is_one_that_asks_for_everything_at_the_same_time() -> None:
    cache = make(2)
    assert cache.acquire(1, "a", "A", NOW) == [Load("a")]
    assert cache.acquire(2, "b", "A", NOW) == [Load("b")]
    assert cache.acquire(3, "c", "A", NOW) == [overcommitted(3, "c")]
    assert cache.loaded("a", 1, NOW) == [Grant(1, "a", Start.COLD)]
    assert cache.loaded("b", 1, NOW) == [Grant(2, "b", Start.COLD)]


def test_so_is_one_that_asked_for_more_before_it_became_a_lessee() -> None:
    cache = make(1)
    hold(cache, 1, "a", "A")
    assert cache.acquire(2, "b", "B", NOW) == []
    assert cache.acquire(3, "a", "B", NOW) == [warm(3, "a"), overcommitted(2, "b")]


def test_a_lessee_waits_for_room_that_others_hold() -> None:
    cache = make(2)
    hold(cache, 1, "a", "A")
    hold(cache, 2, "b", "B")
    assert cache.acquire(3, "c", "A", NOW) == []
    assert cache.release(2, NOW) == [Unload("b")]
    assert cache.unloaded("b", NOW) == [Load("c")]
    assert cache.loaded("c", 1, NOW) == [Grant(3, "c", Start.COLD)]


def test_a_lessee_waits_for_room_that_a_load_without_waiters_will_leave() -> None:
    cache = make(2)
    hold(cache, 1, "a", "A")
    assert cache.acquire(2, "b", "B", NOW) == [Load("b")]
    assert cache.release(2, NOW) == []
    assert cache.acquire(3, "c", "A", NOW) == []
    assert cache.loaded("b", 1, NOW) == [Unload("b")]


def test_of_two_lessees_that_wait_for_each_other_the_newest_is_rejected() -> None:
    cache = make(2)
    hold(cache, 1, "a", "A")
    hold(cache, 2, "b", "B")
    assert cache.acquire(3, "c", "A", NOW) == []
    assert cache.acquire(4, "d", "B", NOW) == [overcommitted(4, "d")]
    assert cache.release(2, NOW) == [Unload("b")]
    assert cache.unloaded("b", NOW) == [Load("c")]


def test_who_holds_nothing_is_not_rejected_for_lessees_that_wait_for_each_other() -> None:
    cache = make(1)
    hold(cache, 1, "a", "A")
    assert cache.acquire(2, "b", "B", NOW) == []
    assert cache.acquire(3, "c", "A", NOW) == [overcommitted(3, "c")]
    assert cache.acquire(4, "d", "C", NOW) == []


def test_leases_without_an_owner_never_wait_for_each_other() -> None:
    cache = make(1)
    hold(cache, 1, "a", None)
    assert cache.acquire(2, "b", None, NOW) == []
    assert cache.release(1, NOW) == [Unload("a")]


# Bounded overtaking


def test_a_model_that_waits_for_room_gets_its_turn_though_the_others_are_always_leased() -> None:
    cache = make(1)
    hold(cache, 1, "a", "A")
    assert cache.acquire(2, "b", "B", NOW) == []
    last = overtake(cache, 1, "a")
    assert cache.acquire(3, "a", "C", NOW) == []
    assert cache.release(last, NOW) == [Unload("a")]
    assert cache.unloaded("a", NOW) == [Load("b")]
    assert cache.loaded("b", 1, NOW) == [Grant(2, "b", Start.COLD)]
    assert cache.release(2, NOW) == [Unload("b")]
    assert cache.unloaded("b", NOW) == [Load("a")]
    assert cache.loaded("a", 1, NOW) == [Grant(3, "a", Start.COLD)]


def test_until_then_the_others_go_on() -> None:
    cache = make(1)
    hold(cache, 1, "a", "A")
    assert cache.acquire(2, "b", "B", NOW) == []
    last = overtake(cache, 1, "a", OVERTAKES_MAX - 1)
    assert cache.acquire(3, "a", "C", NOW) == [warm(3, "a")]
    assert cache.release(last, NOW) == []
    assert cache.acquire(4, "a", "D", NOW) == []


def test_only_one_model_takes_no_new_leases_the_one_that_was_granted_longest_ago() -> None:
    cache = make(2)
    hold(cache, 1, "a", "A")
    hold(cache, 2, "b", "B")
    assert cache.acquire(3, "c", "C", NOW) == []
    for n in range(OVERTAKES_MAX):
        assert cache.acquire(100 + n, "ab"[n % 2], f"owner {n}", float(n)) == [warm(100 + n, "ab"[n % 2])]
    assert cache.acquire(4, "b", "D", 100.0) == [warm(4, "b")]
    assert cache.acquire(5, "a", "E", 100.0) == []


@pytest.mark.parametrize("waits", [True, False])
def test_when_the_one_that_waited_leaves_the_model_takes_leases_again(waits: bool) -> None:
    cache = make(1)
    hold(cache, 1, "a", "A")
    assert cache.acquire(2, "b", "B", NOW) == []
    overtake(cache, 1, "a")
    if waits:
        assert cache.acquire(3, "a", "C", NOW) == cache.acquire(4, "a", "D", NOW) == []
    assert cache.release(2, NOW) == ([warm(3, "a"), warm(4, "a")] if waits else [])
    assert cache.acquire(5, "a", "E", NOW) == [warm(5, "a")]


def test_when_other_room_comes_first_the_model_takes_leases_again() -> None:
    cache = make(2)
    hold(cache, 1, "a", "A")
    hold(cache, 2, "b", "B")
    assert cache.acquire(3, "c", "C", NOW) == []
    overtake(cache, 1, "a", OVERTAKES_MAX)
    # All leases are of the same instant, so it is "a", the first to come, that takes no new ones.
    assert cache.acquire(4, "a", "D", NOW) == []
    assert cache.release(2, NOW) == [Unload("b"), warm(4, "a")]
    assert cache.acquire(5, "a", "E", NOW) == [warm(5, "a")]


def test_who_holds_a_model_gets_it_again_though_it_takes_no_new_leases() -> None:
    cache = make(1)
    hold(cache, 1, "a", "A")
    assert cache.acquire(2, "b", "B", NOW) == []
    last = overtake(cache, 1, "a")
    assert cache.acquire(3, "a", f"owner of {last}", NOW) == [warm(3, "a")]
    assert cache.acquire(4, "a", "C", NOW) == []


def test_having_no_owner_is_not_being_the_same_owner() -> None:
    cache = make(1)
    hold(cache, 1, "a", None)
    assert cache.acquire(2, "b", None, NOW) == []
    for ticket in range(100, 100 + OVERTAKES_MAX):
        assert cache.acquire(ticket, "a", None, NOW) == [warm(ticket, "a")]
    assert cache.acquire(3, "a", None, NOW) == []


def test_a_waiter_for_a_model_that_takes_no_new_leases_may_leave() -> None:
    cache = make(1)
    hold(cache, 1, "a", "A")
    assert cache.acquire(2, "b", "B", NOW) == []
    last = overtake(cache, 1, "a")
    assert cache.acquire(3, "a", "C", NOW) == []
    assert cache.release(3, NOW) == []
    assert cache.release(last, NOW) == [Unload("a")]
    assert cache.unloaded("a", NOW) == [Load("b")]
    assert cache.loading == ["b"]


def test_a_lessee_that_wants_a_resident_model_is_not_rejected_for_want_of_room() -> None:
    cache = make(2)
    hold(cache, 1, "a", "A")
    hold(cache, 2, "b", "B")
    assert cache.acquire(3, "c", "C", NOW) == []
    last = overtake(cache, 1, "a")
    assert cache.acquire(4, "d", f"owner of {last}", NOW) == []  # the lessee of "a", so that "a" would not run dry
    assert cache.acquire(5, "a", "B", NOW) == [warm(5, "a")]


def test_a_lessee_that_asks_for_too_much_does_not_let_the_others_overtake_again() -> None:
    cache = make(1)
    hold(cache, 1, "a", "A")
    assert cache.acquire(2, "b", "B", NOW) == []
    last = overtake(cache, 1, "a")
    assert cache.acquire(3, "c", f"owner of {last}", NOW) == [overcommitted(3, "c")]
    assert cache.acquire(4, "a", "C", NOW) == []
    assert cache.release(last, NOW) == [Unload("a")]


def test_nor_do_lessees_that_ask_for_too_much_each_time() -> None:
    cache = make(1)
    hold(cache, 1, "a", "A")
    assert cache.acquire(2, "b", "B", NOW) == []
    for n in range(OVERTAKES_MAX):
        # Each wants both at once, and overtakes as the lessee of "a" that it becomes.
        assert cache.acquire(100 + 2 * n, "c", f"owner {n}", NOW) == []
        assert cache.acquire(101 + 2 * n, "a", f"owner {n}", NOW)[0] == warm(101 + 2 * n, "a")
    assert cache.acquire(3, "a", "C", NOW) == []


# A place that is cheaper than every idle one

DEAR_S, CHEAP_S = 100.0, 1.0
NEW_S = (DEAR_S + CHEAP_S) / 2  # what the load of a new model is expected to take
START = DEAR_S + CHEAP_S


class Favourite(LRU):
    """Of the models in use it has an opinion, of idle ones none."""

    def worth(self, model: IdleModel) -> float:
        return 10.0 * (model.model_id == "dear")


def one_dear_and_idle_one_cheap_and_leased(
    policy: EvictionPolicy | None = None, owner: str | None = None, models_max: int = 2
) -> ModelCache:
    """At START, ticket 2 has just got the cheap one."""
    cache = make(models_max, policy or GDSF())
    assert cache.acquire(1, "dear", None, 0.0) == [Load("dear")]
    assert cache.loaded("dear", 1, DEAR_S) == [Grant(1, "dear", Start.COLD)]
    assert cache.release(1, DEAR_S) == []
    assert cache.acquire(2, "cheap", owner, DEAR_S) == [Load("cheap")]
    assert cache.loaded("cheap", 1, START) == [Grant(2, "cheap", Start.COLD)]
    return cache


def test_a_cold_model_waits_for_the_place_of_one_in_use_that_is_worth_clearly_less_than_every_idle_one() -> None:
    cache = one_dear_and_idle_one_cheap_and_leased()
    assert cache.acquire(3, "new", None, START) == []
    assert cache.release(2, START + 0.5) == [Unload("cheap")]
    assert cache.unloaded("cheap", START + 0.5) == [Load("new")]
    assert cache.next_tick is None


def test_it_waits_for_the_place_of_one_that_loads_too() -> None:
    cache = make(2, GDSF())
    cache.acquire(1, "cheap", None, 0.0)
    cache.loaded("cheap", 1, CHEAP_S)
    cache.release(1, CHEAP_S)
    cache.acquire(2, "dear", None, CHEAP_S)
    cache.loaded("dear", 1, START)
    assert cache.acquire(3, "third", None, START) == [Unload("cheap")]
    cache.unloaded("cheap", START)  # "third" loads, and is expected to cost what both do on average
    for ticket in range(4, 10):
        cache.acquire(ticket, "dear", None, START)
        cache.release(ticket, START)
    cache.release(2, START)
    assert cache.acquire(20, "cheap", None, START) == []
    assert cache.next_tick == START + PATIENCE_LOADS * CHEAP_S
    assert cache.loaded("third", 1, START + 0.5) == [Grant(3, "third", Start.COLD)]


def test_it_waits_only_a_little_longer_than_its_own_load_takes() -> None:
    patience_s = PATIENCE_LOADS * NEW_S
    cache = one_dear_and_idle_one_cheap_and_leased(Favourite())
    assert cache.acquire(3, "new", None, START) == []
    ticks = [cache.next_tick]
    last = 2
    for n in range(OVERTAKES_MAX - 1):  # the cheap one stays in use, always lately granted
        now = START + patience_s * (n + 1) / OVERTAKES_MAX
        assert cache.acquire(100 + n, "cheap", None, now) == [warm(100 + n, "cheap")]
        assert cache.release(last, now) == []
        last = 100 + n
    ticks.append(cache.next_tick)
    assert cache.tick(START + patience_s) == [Unload("dear")]
    ticks.append(cache.next_tick)
    assert ticks == [START + patience_s, START + patience_s, None]
    assert cache.unloaded("dear", START + patience_s) == [Load("new")]


def test_one_that_is_hurried_does_not_wait_nor_does_who_waits_with_it() -> None:
    cache = one_dear_and_idle_one_cheap_and_leased()
    assert cache.acquire(3, "new", None, START) == []
    assert cache.acquire(4, "new", None, START, hurried=True) == [Unload("dear")]


def test_it_does_not_wait_for_one_that_has_been_in_use_for_longer_than_its_load_took() -> None:
    cache = one_dear_and_idle_one_cheap_and_leased()
    assert cache.acquire(3, "new", None, START + CHEAP_S) == [Unload("dear")]


def test_nor_any_longer_once_that_is_so() -> None:
    cache = one_dear_and_idle_one_cheap_and_leased()
    assert cache.acquire(3, "new", None, START) == []
    assert cache.acquire(4, "new", None, START + CHEAP_S) == [Unload("dear")]


def test_nor_for_one_that_is_not_clearly_cheaper() -> None:
    cache = make(2, GDSF())
    for ticket, model_id in enumerate("ab"):
        cache.acquire(ticket, model_id, None, ticket * 10.0)
        cache.loaded(model_id, 1, ticket * 10.0 + 10.0)
    cache.release(0, 20.0)
    assert cache.acquire(3, "new", None, 20.0) == [Unload("a")]


def test_nor_without_end_when_it_was_never_expected_to_take_time() -> None:
    cache = make(1, GDSF())
    keep(cache, "a")
    assert cache.acquire(1, "b", None, NOW) == [Unload("a")]


def test_lru_never_waits_for_a_cheaper_place() -> None:
    cache = one_dear_and_idle_one_cheap_and_leased(LRU())
    assert cache.acquire(3, "new", None, START) == [Unload("dear")]


def test_while_one_waits_for_a_cheap_place_nobody_else_waits_for_the_same() -> None:
    cache = one_dear_and_idle_one_cheap_and_leased()
    assert cache.acquire(3, "new", None, START) == []
    assert cache.acquire(4, "newer", None, START) == [Unload("dear")]


def test_those_behind_one_that_waits_for_a_cheap_place_get_what_room_there_is() -> None:
    cache = ModelCache(UNLIMITED, Favourite(), Backoff(base_s=1.0, max_s=60.0), bytes_max=100)
    for ticket, (model_id, size_bytes) in enumerate([("small", 10), ("large", 80), ("dear", 40), ("cheap", 45)]):
        cache.acquire(ticket, model_id, None, float(ticket))
        if model_id == "dear":
            assert cache.unloaded("small", 2.0) == []
            assert cache.unloaded("large", 2.0) == [Load("dear")]
        assert cache.loaded(model_id, size_bytes, ticket + 1.0) == [Grant(ticket, model_id, Start.COLD)]
        if model_id != "cheap":
            cache.release(ticket, ticket + 1.0)
    assert cache.acquire(4, "large", None, 4.0) == []
    assert cache.next_tick == 4.0 + PATIENCE_LOADS
    assert cache.acquire(5, "small", None, 4.0) == [Load("small")]


def test_a_request_that_holds_the_cheap_model_does_not_wait_for_its_place() -> None:
    cache = one_dear_and_idle_one_cheap_and_leased(owner="A")
    assert cache.acquire(3, "new", "A", START) == [Unload("dear")]


def test_nor_does_another_while_that_request_waits_for_room() -> None:
    cache = one_dear_and_idle_one_cheap_and_leased(owner="A", models_max=3)
    cache.acquire(3, "other", "B", START)
    cache.loaded("other", 1, START + DEAR_S)  # in use, and dear
    cache.acquire(4, "cheap", "A", START + DEAR_S)
    assert cache.acquire(5, "new", "C", START + DEAR_S) == []
    assert cache.acquire(6, "newer", "A", START + DEAR_S) == [Unload("dear")]


def test_who_waits_for_a_cheap_place_may_leave() -> None:
    cache = one_dear_and_idle_one_cheap_and_leased()
    assert cache.acquire(3, "new", None, START) == []
    assert cache.release(3, START) == []
    assert cache.next_tick is None
    assert cache.release(2, START) == []
    assert cache.resident == ["dear", "cheap"]


def test_who_waits_for_a_cheap_place_is_told_when_the_cache_closes() -> None:
    cache = one_dear_and_idle_one_cheap_and_leased()
    assert cache.acquire(3, "new", None, START) == []
    assert cache.close(START) == [closed(3, "new"), Unload("dear")]
    assert cache.next_tick is None


def test_a_policy_of_the_users_may_say_what_models_are_worth() -> None:
    cache = one_dear_and_idle_one_cheap_and_leased(Favourite())
    assert cache.acquire(3, "new", None, START) == []
    assert cache.release(2, START) == [Unload("dear")]  # what is evicted is the policy's choice still


# What may be asked of it


def test_a_model_is_known_while_it_is_here_or_waited_for() -> None:
    cache = make(1)
    known = [cache.knows("a")]
    cache.acquire(1, "a", None, NOW)
    known.append(cache.knows("a"))
    cache.loaded("a", 1, NOW)
    known.append(cache.knows("a"))
    cache.acquire(2, "b", None, NOW)
    known.append(cache.knows("b"))
    cache.release(1, NOW)  # "a" is being unloaded
    known.append(cache.knows("a"))
    cache.unloaded("a", NOW)
    assert [*known, cache.knows("a")] == [False, True, True, True, True, False]


def test_what_is_resident_has_been_measured_and_nothing_else() -> None:
    cache = make(1)
    measured = [cache.measured("a")]
    cache.acquire(1, "a", None, 1.0)
    measured.append(cache.measured("a"))
    cache.loaded("a", 7, 3.5)
    measured.append(cache.measured("a"))
    cache.acquire(2, "b", None, 4.0)
    cache.release(1, 4.0)
    assert [*measured, cache.measured("a")] == [None, None, (7, 2.5), None]


def test_the_rest_of_a_load_is_what_it_was_expected_to_take_less_what_it_has_taken() -> None:
    cache = make(3)
    assert cache.rest_s("new", 0.0) == 0.0
    cache.acquire(1, "a", None, 0.0)
    cache.loaded("a", 1, 8.0)
    assert (cache.rest_s("new", 8.0), cache.rest_s("a", 8.0)) == (8.0, 8.0)
    cache.acquire(2, "b", None, 10.0)
    assert [cache.rest_s("b", now) for now in (10.0, 12.0, 30.0)] == [8.0, 6.0, 20.0]


def test_a_model_that_was_loaded_before_is_expected_to_take_as_long_again() -> None:
    cache = make(1)
    for ticket, (model_id, load_s) in enumerate([("a", 8.0), ("b", 2.0)]):
        cache.acquire(ticket, model_id, None, ticket * 10.0)
        if ticket:
            cache.unloaded("a", 10.0)
        cache.loaded(model_id, 1, ticket * 10.0 + load_s)
        cache.release(ticket, ticket * 10.0 + load_s)
    assert [cache.rest_s(model_id, 20.0) for model_id in ("a", "b", "new")] == [8.0, 2.0, 5.0]


# Harm


def test_an_empty_cache_does_no_harm() -> None:
    assert make(1).harm_s == 0.0


def test_harm_is_the_load_of_the_next_victim_by_its_demand() -> None:
    cache = make(2)
    harm_s = []
    for ticket, (model_id, load_s) in enumerate([("a", 8.0), ("b", 2.0)]):
        cache.acquire(ticket, model_id, None, 0.0)
        cache.loaded(model_id, 1, load_s)
        cache.release(ticket, load_s)
        harm_s.append(cache.harm_s)
    # First the only one, of which all uses were; then one of two, equally used, which is a demand of 1.
    assert harm_s == pytest.approx([8.0, 8.0], rel=0.01)
    for ticket in range(10, 16):
        cache.acquire(ticket, "b", None, 10.0)
        cache.release(ticket, 10.0)
    assert cache.harm_s == pytest.approx(8.0 * 2 / 8, rel=0.05)  # one use in eight is of "a", among two models


def test_a_leased_model_does_no_harm_since_it_is_not_the_next_to_go() -> None:
    cache = make(2)
    for ticket, (model_id, load_s) in enumerate([("slow", 8.0), ("fast", 2.0)]):
        cache.acquire(ticket, model_id, None, 0.0)
        cache.loaded(model_id, 1, load_s)
    cache.release(1, 8.0)
    assert cache.harm_s == pytest.approx(2.0, rel=0.01)


def test_when_nothing_could_be_evicted_it_is_as_if_an_average_model_had_all_the_demand() -> None:
    cache = make(2)
    for ticket, (model_id, load_s) in enumerate([("slow", 8.0), ("fast", 2.0)]):
        cache.acquire(ticket, model_id, None, 0.0)
        cache.loaded(model_id, 1, load_s)
    assert cache.harm_s == (8.0 + 2.0) / 2 * 2


# Close


def test_close_unloads_what_is_idle_and_the_rest_when_it_becomes_so() -> None:
    cache = make(3)
    keep(cache, "idle")
    hold(cache, 1, "leased", "A")
    assert cache.acquire(2, "loading", "B", NOW) == [Load("loading")]
    assert cache.close(NOW) == [closed(2, "loading"), Unload("idle")]
    assert cache.release(1, NOW) == [Unload("leased")]
    assert cache.loaded("loading", 1, NOW) == [Unload("loading")]
    for model_id in ("idle", "leased", "loading"):
        assert cache.unloaded(model_id, NOW) == []
    assert (cache.resident, cache.loading, cache.room) == ([], [], 3)


def test_close_rejects_whoever_waits_for_room_for_an_unload_or_for_a_model_that_takes_no_new_leases() -> None:
    cache = make(2)
    hold(cache, 1, "a", "A")
    keep(cache, "b")
    assert cache.acquire(2, "c", "C", NOW) == [Unload("b")]
    assert cache.acquire(3, "b", "B", NOW) == []
    assert cache.acquire(4, "d", "D", NOW) == []
    last = overtake(cache, 1, "a")
    assert cache.acquire(5, "a", "E", NOW) == []
    rejects = cache.close(NOW)
    assert sorted(map(str, rejects)) == sorted(str(closed(t, m)) for t, m in [(2, "c"), (3, "b"), (4, "d"), (5, "a")])
    assert cache.unloaded("b", NOW) == []
    assert cache.release(last, NOW) == [Unload("a")]


def test_after_close_a_failed_load_is_over() -> None:
    cache = make(1)
    cache.acquire(1, "a", None, NOW)
    assert cache.close(NOW) == [closed(1, "a")]
    assert cache.load_failed("a", "no", NOW) == []
    assert (cache.resident, cache.loading) == ([], [])


def test_after_close_every_acquire_is_rejected_even_of_what_is_still_resident() -> None:
    cache = make(1)
    hold(cache, 1, "a", "A")
    assert cache.close(NOW) == []
    assert cache.acquire(2, "a", "A", NOW) == [closed(2, "a")]
    assert cache.acquire(3, "b", "B", NOW) == [closed(3, "b")]


def test_close_twice_is_close_once() -> None:
    cache = make(1)
    keep(cache, "a")
    assert cache.close(NOW) == [Unload("a")]
    assert cache.close(NOW) == []


# Illegal use


@pytest.mark.parametrize("models_max", [0, -2])
def test_a_cache_has_room_for_at_least_one_model(models_max: int) -> None:
    with pytest.raises(ValueError, match="models_max must be at least 1"):
        make(models_max)


def test_a_ticket_names_one_acquire() -> None:
    cache = make(1)
    cache.acquire(1, "a", None, NOW)
    with pytest.raises(ValueError, match="ticket 1 is in use"):
        cache.acquire(1, "b", None, NOW)


def test_only_what_was_acquired_can_be_released() -> None:
    cache = make(1)
    with pytest.raises(KeyError):
        cache.release(1, NOW)
    hold(cache, 1, "a")
    cache.release(1, NOW)
    with pytest.raises(KeyError):
        cache.release(1, NOW)


def test_a_ticket_is_in_the_cache_while_it_waits_or_holds_a_lease() -> None:
    cache = make(1)
    here = [1 in cache]
    steps: list[list[Command]] = [cache.acquire(1, "a", None, NOW)]
    here.append(1 in cache)
    steps.append(cache.loaded("a", 1, NOW))
    here.append(1 in cache)
    steps.append(cache.release(1, NOW))
    here.append(1 in cache)
    assert here == [False, True, True, False]
    assert steps == [[Load("a")], [Grant(1, "a", Start.COLD)], []]


@pytest.mark.parametrize("model_id", ["resident", "leased", "loading", "unloading", "waiting", "unknown"])
def test_what_was_not_commanded_cannot_have_happened(model_id: str) -> None:
    cache = make(4)
    keep(cache, "unloading")
    for ticket, acquired in enumerate(("loading", "leased", "resident"), start=10):
        cache.acquire(ticket, acquired, None, NOW)
    for loaded in ("leased", "resident"):
        cache.loaded(loaded, 1, NOW)
    cache.release(12, NOW)
    cache.acquire(13, "leased", None, NOW)
    cache.close(NOW)
    ends = {"loaded": lambda: cache.loaded(model_id, 1, NOW), "unloaded": lambda: cache.unloaded(model_id, NOW)}
    ends["load_failed"] = lambda: cache.load_failed(model_id, "error", NOW)
    legal = {"loading": {"loaded", "load_failed"}, "unloading": {"unloaded"}, "resident": {"unloaded"}}
    for name in ends.keys() - legal.get(model_id, set()):
        with pytest.raises(RuntimeError, match="is not"):
            ends[name]()


# Retired models


def test_a_retired_model_goes_at_once_if_it_is_idle_and_else_with_its_last_lease() -> None:
    cache = make(3)
    keep(cache, "idle")
    hold(cache, 1, "used")
    assert cache.retire("idle", NOW) == [Unload("idle")]
    assert cache.retire("used", NOW) == []
    assert cache.holds("used")
    assert cache.release(1, NOW) == [Unload("used")]
    assert (cache.retire("unknown", NOW), cache.retire("used", NOW)) == ([], [])


def test_a_retired_model_that_is_asked_for_again_stays() -> None:
    cache = make(3)
    hold(cache, 1, "a")
    assert cache.retire("a", NOW) == []
    assert cache.acquire(2, "a", None, NOW) == [warm(2, "a")]
    assert cache.release(1, NOW) == cache.release(2, NOW) == []
    assert cache.resident == ["a"]


def test_a_model_that_is_retired_while_it_loads_serves_who_waits_and_goes() -> None:
    cache = make(3)
    assert cache.acquire(1, "a", None, NOW) == [Load("a")]
    assert cache.retire("a", NOW) == []
    assert cache.loaded("a", 1, NOW) == [Grant(1, "a", Start.COLD)]
    assert cache.release(1, NOW) == [Unload("a")]
    cache.unloaded("a", NOW)
    assert cache.acquire(2, "a", None, NOW) == [Load("a")]
    assert cache.release(2, NOW) == []
    assert cache.retire("a", NOW) == []
    assert cache.loaded("a", 1, NOW) == [Unload("a")]


def test_the_room_of_a_retired_model_goes_to_who_waits() -> None:
    cache = make(1)
    hold(cache, 1, "a")
    assert cache.acquire(2, "b", "B", NOW) == []
    assert cache.retire("a", NOW) == []
    assert cache.release(1, NOW) == [Unload("a")]
    assert cache.unloaded("a", NOW) == [Load("b")]


def test_a_retired_model_goes_however_young_it_is() -> None:
    cache = ModelCache(3, LRU(), Backoff(1.0, 60.0), min_residency_s=100.0)
    keep(cache, "a")
    assert cache.retire("a", NOW) == [Unload("a")]


def test_what_is_being_unloaded_for_nobody_is_not_kept() -> None:
    cache = make(1)
    keep(cache, "a")
    assert cache.keeps("a")
    cache.retire("a", NOW)
    assert (cache.knows("a"), cache.keeps("a"), cache.keeps("unknown")) == (True, False, False)
    cache.acquire(1, "a", None, NOW)
    assert cache.keeps("a")
