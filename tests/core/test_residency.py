"""What a router believes about the models and the room of one replica."""

from modelplex.core.residency import ReplicaView


def view(room: int | None = 2) -> ReplicaView:
    return ReplicaView("a", 5, room)


def test_a_booked_model_is_believed_to_be_there_but_not_loaded() -> None:
    a = view()
    a.book("m")
    assert "m" in a.models
    assert not a.has_loaded("m")


def test_a_booking_that_ends_without_a_word_of_the_replica_leaves_nothing() -> None:
    a = view()
    a.book("m")
    a.unbook("m")
    assert a.models == {}


def test_a_booking_lasts_until_the_last_request_for_the_model_ends() -> None:
    a = view()
    a.book("m")
    a.book("m")
    a.unbook("m")
    assert "m" in a.models
    a.unbook("m")
    assert "m" not in a.models


def test_a_model_that_the_replica_has_spoken_of_outlives_its_requests() -> None:
    a = view()
    a.book("m")
    a.told_loading("m", 0.0)
    a.unbook("m")
    assert "m" in a.models
    a.told_loaded("m")
    assert a.has_loaded("m")


def test_a_model_that_is_gone_stays_booked_for_those_who_are_on_their_way_to_it() -> None:
    a = view()
    a.told_loaded("m")
    a.book("m")
    a.told_gone("m")
    assert "m" in a.models
    assert not a.has_loaded("m")
    a.unbook("m")
    assert "m" not in a.models


def test_a_model_that_is_gone_and_that_nobody_wants_is_forgotten() -> None:
    a = view()
    a.told_loaded("m")
    a.told_gone("m")
    assert a.models == {}


def test_news_that_an_unknown_model_is_gone_changes_nothing() -> None:
    a = view()
    a.told_gone("m")
    assert (a.models, a.loads) == ({}, 0)


def test_news_that_a_model_is_gone_of_which_the_replica_never_spoke_leaves_the_booking() -> None:
    """It is older than the request, which the replica will load it for."""
    a = view(room=1)
    a.book("m")
    a.told_gone("m")
    assert "m" in a.models
    assert not a.has_room


# Room


def test_room_is_what_the_replica_said() -> None:
    assert view(room=1).has_room
    assert not view(room=0).has_room


def test_unlimited_room_is_always_there() -> None:
    a = view(room=None)
    for number in range(100):
        a.book(f"m{number}")
    assert a.has_room


def test_a_booked_model_takes_room_at_once() -> None:
    a = view(room=1)
    a.book("m")
    assert not a.has_room


def test_several_requests_for_one_model_take_room_for_one() -> None:
    a = view(room=2)
    for _ in range(5):
        a.book("m")
    assert a.has_room


def test_a_booking_for_a_model_that_is_there_takes_no_room() -> None:
    a = view(room=1)
    a.told_loaded("m")
    a.book("m")
    assert a.has_room


def test_a_booking_that_ends_gives_its_room_back() -> None:
    a = view(room=1)
    a.book("m")
    a.unbook("m")
    assert a.has_room


def test_room_is_not_counted_twice_when_the_replica_says_that_it_loads_what_was_booked() -> None:
    a = view(room=2)
    a.book("m")
    a.told_room(1)
    a.told_loading("m", 0.0)
    assert a.has_room
    a.told_loaded("m")
    assert a.has_room


def test_a_booked_model_that_is_evicted_under_way_takes_room_again() -> None:
    a = view(room=0)
    a.told_loaded("m")
    a.book("m")
    a.told_room(1)
    a.told_gone("m")
    assert not a.has_room


def test_a_booked_model_whose_load_failed_takes_room_until_its_requests_end() -> None:
    a = view(room=1)
    a.book("m")
    a.told_room(0)
    a.told_loading("m", 0.0)
    a.told_room(1)
    a.told_gone("m")
    assert not a.has_room
    a.unbook("m")
    assert a.has_room


# Loads


def test_loads_that_run_are_counted_once_each() -> None:
    a = view()
    a.told_loading("x", 0.0)
    a.told_loading("x", 0.0)
    a.told_loading("y", 0.0)
    assert a.loads == 2


def test_a_load_ends_when_the_model_is_loaded_or_gone() -> None:
    a = view()
    a.told_loading("x", 0.0)
    a.told_loading("y", 0.0)
    a.told_loaded("x")
    a.told_loaded("x")
    assert a.loads == 1
    a.told_gone("y")
    a.told_gone("y")
    assert a.loads == 0


def test_a_model_that_was_loaded_and_loads_again_is_not_loaded() -> None:
    a = view()
    a.told_loaded("m")
    a.told_loading("m", 0.0)
    assert not a.has_loaded("m")
    assert a.loads == 1


def test_a_load_has_run_since_the_replica_said_so() -> None:
    a = view()
    a.book("m")
    assert a.load_elapsed_s("m", 7.0) == 0.0
    a.told_loading("m", 2.0)
    assert a.load_elapsed_s("m", 7.0) == 5.0
    a.told_loaded("m")
    assert a.load_elapsed_s("m", 9.0) == 0.0
    assert a.load_elapsed_s("unknown", 9.0) == 0.0
