"""One rule of aliases each. The random histories are in test_aliases_histories.py."""

import pytest

from modelplex.core.aliases import (
    UNUSED_INTERVALS,
    Aliases,
    Forget,
    Load,
    Resolve,
    Retire,
    Stay,
    Switch,
    Unresolved,
)
from modelplex.core.backoff import Backoff

INTERVAL_S = 10.0


class Cache:
    """Has what a test says."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.coming: set[str] = set()

    def holds(self, model_id: str) -> bool:
        return model_id in self.held

    def keeps(self, model_id: str) -> bool:
        return model_id in self.held | self.coming


@pytest.fixture
def cache() -> Cache:
    return Cache()


def make(cache: Cache, **options: object) -> Aliases:
    return Aliases(cache, Backoff(1.0, 60.0), interval_s=INTERVAL_S, **options)  # type: ignore[arg-type]


def serve(aliases: Aliases, cache: Cache, alias: str, version: str, now: float = 0.0) -> None:
    """Have the alias lead to a version that is loaded."""
    assert aliases.choose(alias, now) is None
    assert aliases.asked(alias) == (Resolve(alias),)
    assert aliases.resolved(alias, version, now) == []
    assert aliases.choose(alias, now) == version
    cache.held.add(version)
    assert list(aliases.granted(alias, version, now)) == []


def test_traffic_moves_when_the_new_version_is_loaded_and_then_the_old_one_goes(cache: Cache) -> None:
    aliases = make(cache)
    serve(aliases, cache, "s", "v1")
    assert aliases.next_tick == INTERVAL_S
    assert aliases.tick(10.0) == [Resolve("s")]
    assert aliases.resolved("s", "v2", 10.0) == [Load("v2")]
    assert (aliases.choose("s", 11.0), aliases.leads_to("s")) == ("v1", "v1")
    cache.held.add("v2")
    assert aliases.loaded("v2", 12.0) == [Switch("s", "v1", "v2"), Retire("v1")]
    assert (aliases.choose("s", 12.0), aliases.names_of("v1"), aliases.names_of("v2")) == ("v2", [], ["s"])


def test_one_resolve_at_a_time_for_all_who_wait(cache: Cache) -> None:
    aliases = make(cache)
    assert aliases.asked("s") == (Resolve("s"),)
    assert aliases.asked("s") == ()
    assert aliases.resolve_failed("s", "away", 0.0) == []
    assert aliases.asked("s") == (Resolve("s"),)


def test_one_load_for_all_aliases_that_move_to_a_version(cache: Cache) -> None:
    aliases = make(cache)
    serve(aliases, cache, "a", "v1")
    serve(aliases, cache, "b", "v1")
    assert aliases.resolved("a", "v2", 10.0) == [Load("v2")]
    assert aliases.resolved("b", "v2", 10.0) == []
    cache.held.add("v2")
    assert aliases.loaded("v2", 12.0) == [Switch("a", "v1", "v2"), Switch("b", "v1", "v2"), Retire("v1")]


def test_a_version_that_another_alias_in_use_stands_for_is_not_retired(cache: Cache) -> None:
    aliases = make(cache)
    serve(aliases, cache, "a", "v1")
    serve(aliases, cache, "b", "v1")
    cache.held.add("v2")
    assert aliases.resolved("a", "v2", 10.0) == [Switch("a", "v1", "v2")]
    assert aliases.resolved("b", "v2", 11.0) == [Switch("b", "v1", "v2"), Retire("v1")]


def test_a_version_that_was_asked_for_by_its_name_of_late_is_not_retired(cache: Cache) -> None:
    aliases = make(cache)
    serve(aliases, cache, "s", "v1")
    cache.held.add("v2")
    assert aliases.choose("v1", 5.0) == "v1"
    assert aliases.resolved("s", "v2", 10.0) == [Switch("s", "v1", "v2")]
    later = 10.0 + UNUSED_INTERVALS * INTERVAL_S
    assert aliases.resolved("s", "v1", 11.0) == [Switch("s", "v2", "v1"), Retire("v2")]
    assert aliases.resolved("s", "v2", later) == [Switch("s", "v1", "v2"), Retire("v1")]


def test_a_version_that_fails_is_told_and_tried_again_later_each_time(cache: Cache) -> None:
    aliases = make(cache)
    serve(aliases, cache, "s", "v1")
    assert aliases.resolved("s", "v2", 10.0) == [Load("v2")]
    assert aliases.load_failed("v2", "broken", 11.0) == [Stay("s", "v1", "v2", "broken", 1.0)]
    assert aliases.resolved("s", "v2", 11.5) == []
    assert aliases.next_tick is not None
    assert aliases.tick(12.0) == [Load("v2")]
    assert aliases.load_failed("v2", "broken", 12.0) == [Stay("s", "v1", "v2", "broken", 2.0)]
    assert aliases.tick(13.0) == []
    assert aliases.tick(14.0) == [Load("v2")]
    assert aliases.load_failed("v2", "broken", 14.0, 30.0) == [Stay("s", "v1", "v2", "broken", 30.0)]
    assert aliases.resolved("s", "v3", 15.0) == [Retire("v2"), Load("v3")]
    assert aliases.choose("s", 15.0) == "v1"


def test_a_cold_alias_goes_to_the_new_version_and_back_if_that_fails(cache: Cache) -> None:
    aliases = make(cache)
    serve(aliases, cache, "s", "v1")
    cache.held.clear()
    assert aliases.resolved("s", "v2", 10.0) == []
    assert aliases.choose("s", 11.0) == "v2"
    assert aliases.load_failed("v2", "broken", 12.0) == [Stay("s", "v1", "v2", "broken", 1.0)]
    assert aliases.load_failed("v2", "broken", 12.0) == []  # others waited for it as well
    assert aliases.choose("s", 12.5) == "v1"
    assert aliases.choose("s", 13.0) == "v2"  # nothing was loaded meanwhile: it may as well be tried again
    cache.held.add("v2")
    assert list(aliases.granted("s", "v2", 14.0)) == [Switch("s", "v1", "v2"), Retire("v1")]


def test_a_version_that_was_never_loaded_is_no_reason_to_wait(cache: Cache) -> None:
    aliases = make(cache)
    aliases.asked("s")
    aliases.resolved("s", "v1", 0.0)
    assert aliases.load_failed("v1", "broken", 1.0) == []
    assert aliases.resolved("s", "v2", 10.0) == [Switch("s", "v1", "v2"), Retire("v1")]


def test_a_load_that_is_not_wanted_any_more_is_given_up(cache: Cache) -> None:
    aliases = make(cache)
    serve(aliases, cache, "s", "v1")
    assert aliases.resolved("s", "v2", 10.0) == [Load("v2")]
    assert aliases.resolved("s", "v1", 11.0) == [Retire("v2")]
    assert aliases.resolved("s", "v2", 12.0) == [Load("v2")]


def test_a_store_that_is_away_is_told_once_and_changes_nothing(cache: Cache) -> None:
    aliases = make(cache)
    serve(aliases, cache, "s", "v1")
    assert aliases.tick(10.0) == [Resolve("s")]
    assert aliases.resolve_failed("s", "away", 11.0) == [Unresolved("s", "v1", "away")]
    assert aliases.tick(21.0) == [Resolve("s")]
    assert aliases.resolve_failed("s", "away", 22.0, missing=True) == []
    assert aliases.choose("s", 22.0) == "v1"
    assert aliases.resolved("s", "v1", 23.0) == []
    assert aliases.resolve_failed("s", "away", 24.0) == [Unresolved("s", "v1", "away")]


def test_an_alias_that_nobody_uses_is_not_looked_at_and_resolved_when_it_is_asked_for(cache: Cache) -> None:
    aliases = make(cache)
    serve(aliases, cache, "s", "v1")
    looks = 0
    while (due := aliases.next_tick) is not None and aliases.tick(due):
        assert aliases.resolved("s", "v1", due) == []
        looks += 1
        assert looks <= UNUSED_INTERVALS
    assert looks >= UNUSED_INTERVALS - 1
    assert ("s" in aliases, aliases.leads_to("s"), aliases.choose("s", 400.0)) == (True, "v1", None)
    assert aliases.asked("s") == (Resolve("s"),)
    assert aliases.resolve_failed("s", "gone", 500.0, missing=True) == [Forget("s")]
    assert ("s" in aliases, aliases.leads_to("s")) == (False, "s")


def test_a_pinned_alias_is_always_looked_at_and_loaded(cache: Cache) -> None:
    aliases = make(cache, pinned=["s"])
    serve(aliases, cache, "s", "v1")
    for n in range(1, 50):
        assert aliases.tick(n * INTERVAL_S) == [Resolve("s")]
        assert aliases.resolved("s", "v1", n * INTERVAL_S) == []
    cache.held.clear()
    assert aliases.resolved("s", "v2", 500.0) == [Load("v2")]


def test_only_so_many_are_known_those_used_last_and_the_pinned(cache: Cache) -> None:
    aliases = make(cache, pinned=["p"], aliases_max=2)
    for name in ("p", "a", "b"):
        serve(aliases, cache, name, f"version of {name}")
    assert aliases.choose("a", 1.0) is not None
    aliases.asked("c")
    assert aliases.resolved("c", "v", 2.0) == [Forget("b")]
    assert set(aliases.versions) == {"p", "a", "c"}


def test_an_id_that_stands_for_itself_is_believed_for_a_while_and_as_long_as_it_is_here(cache: Cache) -> None:
    aliases = make(cache)
    aliases.asked("v1")
    assert aliases.resolved("v1", "v1", 0.0) == []
    assert (aliases.choose("v1", 9.0), aliases.choose("v1", 10.0), aliases.versions) == ("v1", None, {})
    cache.coming.add("v1")
    assert aliases.choose("v1", 1000.0) == "v1"
