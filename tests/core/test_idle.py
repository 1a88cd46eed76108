import pytest

from modelplex.core.eviction import GDSF, LRU
from modelplex.core.idle import CLEARLY_LOG2, IdleModels
from modelplex.core.learned import Known
from modelplex.core.shelf import Entry


def resident(model_id: str, since: float = 0.0, worth_log2: float = 0.0) -> Entry:
    """A model of one byte that loads in a second; GDSF takes its frequency alone for its worth."""
    return Entry(model_id, 1, Known(size_bytes=1, load_s=1.0, weight=2.0**worth_log2), resident_since=since)


def test_an_idle_model_may_be_evicted_until_it_is_used_again() -> None:
    idle, model = IdleModels(LRU(), 0.0, None), resident("a")
    victims = [idle.victim()]
    idle.add(model, 0.0)
    victims.append(idle.victim())
    idle.remove(model)
    victims.append(idle.victim())
    assert victims == [None, "a", None]


def test_to_remove_one_that_is_not_idle_does_nothing() -> None:
    idle = IdleModels(LRU(), 0.0, None)
    idle.remove(resident("a"))
    assert idle.victim() is None


def test_a_young_model_may_be_evicted_when_it_is_old_enough() -> None:
    idle = IdleModels(LRU(), 10.0, None)
    idle.add(resident("a", since=5.0), 6.0)
    assert (idle.victim(), idle.next_look) == (None, 15.0)
    assert idle.overdue(14.9) == idle.overdue(15.0) == []
    assert (idle.victim(), idle.next_look) == ("a", None)


def test_all_may_be_evicted_when_all_are_offered() -> None:
    idle, model = IdleModels(LRU(), 10.0, None), resident("a")
    idle.add(model, 0.0)
    idle.offer_all()
    idle.add(resident("b"), 0.0)
    victims = [idle.victim()]
    idle.remove(model)
    assert [*victims, idle.victim()] == ["a", "b"]


def test_what_was_idle_for_too_long_is_named_once_it_is_so() -> None:
    idle = IdleModels(LRU(), 0.0, 10.0)
    idle.add(resident("a"), 1.0)
    idle.add(resident("b"), 2.0)
    assert idle.next_look == 11.0
    assert [idle.overdue(10.9), idle.overdue(11.0), idle.overdue(20.0)] == [[], ["a"], ["b"]]


def test_one_that_was_used_again_has_its_time_from_then_on() -> None:
    idle, model = IdleModels(LRU(), 0.0, 10.0), resident("a")
    idle.add(model, 0.0)
    idle.remove(model)
    idle.add(model, 5.0)
    assert idle.overdue(10.0) == []
    assert idle.next_look == 15.0
    assert idle.overdue(15.0) == ["a"]


def test_a_timer_of_an_earlier_life_does_not_stand_for_an_earlier_look() -> None:
    idle, first = IdleModels(LRU(), 2.0, 100.0), resident("a")
    idle.add(first, 3.0)
    assert idle.next_look == 103.0
    idle.remove(first)
    idle.add(resident("a", since=4.0), 4.0)
    assert idle.next_look == 6.0
    assert idle.overdue(6.0) == []
    assert idle.victim() == "a"


def test_timers_do_not_pile_up_with_use() -> None:
    idle, model = IdleModels(LRU(), 0.0, 10.0), resident("a")
    for now in range(9):
        idle.add(model, float(now))
        idle.remove(model)
    assert idle.overdue(10.0) == []
    assert idle.next_look is None


# What models are worth


def test_what_models_in_use_are_worth_is_told_least_first() -> None:
    idle = IdleModels(GDSF(), 0.0, None)
    worths = idle.worths([resident("a", worth_log2=3.0), resident("b", worth_log2=1.0), resident("c", worth_log2=2.0)])
    assert worths == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(("more_log2", "is_dearer"), [(0.0, False), (CLEARLY_LOG2, False), (CLEARLY_LOG2 + 0.01, True)])
def test_a_model_is_dearer_when_it_is_worth_clearly_more(more_log2: float, is_dearer: bool) -> None:
    idle = IdleModels(GDSF(), 0.0, None)
    idle.add(resident("a", worth_log2=more_log2), 0.0)
    assert idle.dearer("a", 0.0) is is_dearer


def test_a_policy_that_has_no_worth_has_no_opinion_of_models_in_use() -> None:
    idle = IdleModels(LRU(), 0.0, None)
    idle.add(resident("dear", worth_log2=100.0), 0.0)
    assert idle.worths([resident("cheap")]) == []
    assert not idle.dearer("dear", 0.0)


def test_what_is_overdue_by_two_timers_is_named_once() -> None:
    """One is left from an earlier life of the model."""
    idle, first, second = IdleModels(LRU(), 2.0, 10.0), resident("a"), resident("a", since=6.0)
    idle.add(first, 5.0)
    idle.remove(first)
    idle.add(second, 6.0)
    assert idle.overdue(8.0) == []
    assert idle.overdue(16.0) == ["a"]
