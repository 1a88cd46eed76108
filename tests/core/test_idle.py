from modelplex.core.eviction import LRU
from modelplex.core.idle import IdleModels
from modelplex.core.shelf import Entry


def resident(model_id: str, since: float = 0.0) -> Entry:
    return Entry(model_id, size_bytes=1, proven=True, resident_since=since)


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
    idle = IdleModels(LRU(), 10.0, None)
    idle.add(resident("a"), 0.0)
    idle.offer_all()
    idle.add(resident("b"), 0.0)
    victims = [idle.victim()]
    idle.remove(resident("a"))
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
