"""Why models are unloaded: each reason, with the numbers that go with it."""

import pytest

from modelplex.core.backoff import Backoff
from modelplex.core.budget import UNLIMITED
from modelplex.core.cache import Load, ModelCache, Reason, Unload
from modelplex.core.eviction import LRU


def cache_of(models_max: int = 3, bytes_max: int = UNLIMITED, idle_ttl_s: float | None = None) -> ModelCache:
    return ModelCache(models_max, LRU(), Backoff(1.0, 60.0), bytes_max=bytes_max, idle_ttl_s=idle_ttl_s)


def hold(cache: ModelCache, ticket: int, model_id: str, now: float, size_bytes: int = 10, load_s: float = 1.0) -> None:
    """Have the model loaded for a ticket that holds it then."""
    cache.acquire(ticket, model_id, None, now)
    cache.loaded(model_id, size_bytes, now + load_s)


def unloads(commands: object) -> list[Unload]:
    assert isinstance(commands, list)
    return [c for c in commands if isinstance(c, Unload)]


def test_another_model_gets_its_room() -> None:
    cache = cache_of(models_max=1)
    hold(cache, 1, "a", 0.0, size_bytes=70, load_s=2.0)
    cache.release(1, 3.0)
    cache.acquire(2, "a", None, 4.0)
    cache.release(2, 5.0)
    (unload,) = unloads(cache.acquire(3, "b", None, 17.0))
    assert (unload.model_id, unload.reason, unload.room_for) == ("a", Reason.ROOM, "b")
    assert (unload.idle_s, unload.uses, unload.size_bytes, unload.idle_models) == (12.0, 2, 70, 1)
    assert unload.harm_s == pytest.approx(2.0 * 2 / 3 * 2, rel=0.05)  # load seconds x share x models


def test_it_pays_for_what_turned_out_larger() -> None:
    cache = cache_of(bytes_max=100)
    hold(cache, 1, "a", 0.0, size_bytes=30)
    cache.release(1, 1.0)
    cache.acquire(2, "b", None, 2.0)
    (unload,) = unloads(cache.loaded("b", 80, 3.0))
    assert (unload.model_id, unload.reason, unload.room_for) == ("a", Reason.SIZE, "b")


def test_it_was_idle_for_too_long() -> None:
    cache = cache_of(idle_ttl_s=5.0)
    hold(cache, 1, "a", 0.0)
    cache.release(1, 2.0)
    (unload,) = unloads(cache.tick(7.5))
    assert (unload.reason, unload.room_for, unload.idle_s) == (Reason.TTL, "", 5.5)


@pytest.mark.parametrize("in_use", [False, True])
def test_it_is_retired(*, in_use: bool) -> None:
    cache = cache_of()
    hold(cache, 1, "a", 0.0)
    if not in_use:
        cache.release(1, 2.0)
    commands = cache.retire("a", 3.0)
    if in_use:
        commands = cache.release(1, 4.0)
    (unload,) = unloads(commands)
    assert unload.reason is Reason.RETIRED


def test_it_is_retired_while_it_loads_and_nobody_wants_it() -> None:
    cache = cache_of()
    cache.acquire(1, "a", None, 0.0)
    cache.retire("a", 0.5)
    cache.release(1, 0.6)
    (unload,) = unloads(cache.loaded("a", 10, 1.0))
    assert unload.reason is Reason.RETIRED


def test_the_replica_stops() -> None:
    cache = cache_of()
    hold(cache, 1, "a", 0.0)
    cache.release(1, 2.0)
    hold(cache, 2, "b", 2.0)
    (unload,) = unloads(cache.close(4.0))
    assert (unload.model_id, unload.reason, unload.idle_s) == ("a", Reason.CLOSED, 2.0)
    assert [u.reason for u in unloads(cache.release(2, 5.0))] == [Reason.CLOSED]


def test_it_can_never_fit() -> None:
    cache = cache_of(bytes_max=100)
    cache.acquire(1, "a", None, 0.0)
    (unload,) = unloads(cache.loaded("a", 101, 1.0))
    assert (unload.reason, unload.size_bytes, unload.idle_s) == (Reason.TOO_LARGE, 101, 0.0)


def test_it_turned_out_larger_and_nobody_waits_for_it_any_more() -> None:
    cache = cache_of(bytes_max=100)
    hold(cache, 1, "a", 0.0, size_bytes=30)
    cache.acquire(2, "b", None, 2.0)
    cache.release(2, 2.5)
    (unload,) = unloads(cache.loaded("b", 80, 3.0))
    assert (unload.model_id, unload.reason) == ("b", Reason.UNWANTED)


def test_of_those_that_wait_for_each_others_room_the_newest_goes() -> None:
    cache = cache_of(bytes_max=100)
    for ticket, model_id in enumerate("abc"):
        cache.acquire(ticket, model_id, None, 0.0)
    for model_id in "abc":
        cache.loaded(model_id, 60, 1.0)
    commands = cache.release(0, 2.0)
    assert [(u.model_id, u.reason) for u in unloads(commands)] == [("a", Reason.SIZE), ("c", Reason.SURPLUS)]


def test_a_load_says_for_whom_it_is_and_what_it_is_expected_to_take() -> None:
    cache = cache_of(bytes_max=100)
    hold(cache, 1, "a", 0.0, size_bytes=30, load_s=2.0)
    (load,) = [c for c in cache.acquire(7, "b", None, 3.0) if isinstance(c, Load)]
    assert (load.ticket, load.size_bytes, load.load_s, load.models, load.taken_bytes) == (7, 30, 2.0, 2, 60)
