"""What a router believes about the models and the room of one replica."""

import pytest

from modelplex.core.admission import UNLIMITED
from modelplex.core.residency import ReplicaView


def view(room: int | None = 2, loads_max: int = UNLIMITED, harm_s: float = 0.0) -> ReplicaView:
    return ReplicaView("a", 5, room, loads_max=loads_max, harm_s=harm_s)


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
    assert (a.models, a.loading) == ({}, {})


def test_news_that_a_model_is_gone_of_which_the_replica_never_spoke_leaves_the_booking() -> None:
    """It is older than the request, which the replica will load it for."""
    a = view(room=1)
    a.book("m")
    a.told_gone("m")
    assert a.expects("m")


# Room


@pytest.mark.parametrize(("room", "has_room"), [(0, False), (1, True), (None, True)])
def test_room_is_what_the_replica_said_whatever_is_on_its_way_there(room: int | None, has_room: bool) -> None:
    a = view(room)
    for number in range(5):
        a.book(f"m{number}")
    assert a.has_room is has_room


def test_a_model_that_was_refused_for_want_of_room_is_not_expected_any_more() -> None:
    a = view(room=1)
    a.book("m")
    a.book("m")
    a.told_no_room("m")
    a.unbook("m")
    assert not a.has_room
    assert not a.expects("m")
    assert not a.unbook("m") or a.models == {}


def test_a_model_that_was_refused_may_be_booked_again_and_needs_an_eviction_then() -> None:
    a = view(room=1)
    a.book("m")
    a.told_no_room("m")
    assert a.book("m")
    assert a.expects("m")
    assert not a.fits("m")


def test_a_model_that_was_refused_and_loads_after_all_is_expected() -> None:
    a = view(room=1)
    a.book("m")
    a.told_no_room("m")
    a.told_loading("m", 0.0)
    assert a.expects("m")
    assert a.fits("m")


# Loads


def test_loads_that_run_are_counted_once_each() -> None:
    a = view()
    a.told_loading("x", 0.0)
    a.told_loading("x", 0.0)
    a.told_loading("y", 0.0)
    assert len(a.loading) == 2


def test_a_load_ends_when_the_model_is_loaded_or_gone() -> None:
    a = view()
    a.told_loading("x", 0.0)
    a.told_loading("y", 0.0)
    a.told_loaded("x")
    a.told_loaded("x")
    assert len(a.loading) == 1
    a.told_gone("y")
    a.told_gone("y")
    assert len(a.loading) == 0


def test_a_model_that_was_loaded_and_loads_again_is_not_loaded() -> None:
    a = view()
    a.told_loaded("m")
    a.told_loading("m", 0.0)
    assert not a.has_loaded("m")
    assert len(a.loading) == 1


def test_a_load_has_run_since_the_replica_said_so() -> None:
    a = view()
    a.book("m")
    assert a.load_elapsed_s("m", 7.0) == 0.0
    a.told_loading("m", 2.0)
    assert a.load_elapsed_s("m", 7.0) == 5.0
    a.told_loaded("m")
    assert a.load_elapsed_s("m", 9.0) == 0.0
    assert a.load_elapsed_s("unknown", 9.0) == 0.0


def test_a_load_that_is_told_of_again_runs_since_then() -> None:
    a = view()
    a.told_loading("m", 2.0)
    a.told_loading("m", 5.0)
    assert a.load_elapsed_s("m", 6.0) == 1.0


@pytest.mark.parametrize(
    ("loads_max", "loading", "booked", "backlog"),
    [
        (UNLIMITED, 5, 5, 0.0),
        (1, 0, 0, 0.0),
        (1, 1, 0, 1.0),
        (1, 0, 1, 1.0),
        (1, 2, 1, 3.0),
        (2, 1, 0, 0.0),
        (2, 1, 1, 0.5),
        (2, 2, 2, 1.5),
    ],
)
def test_one_more_load_is_delayed_by_those_before_it_beyond_the_limit(
    loads_max: int, loading: int, booked: int, backlog: float
) -> None:
    a = view(room=None, loads_max=loads_max)
    for number in range(loading):
        a.told_loading(f"l{number}", 0.0)
    for number in range(booked):
        a.book(f"b{number}")
    assert a.backlog == backlog


# What is coming


def test_a_model_that_is_coming_loads_and_what_was_said_before_stands() -> None:
    a = view()
    a.book("m")
    a.told_coming("m", 3.0)
    assert a.models["m"].loading
    assert a.load_elapsed_s("m", 5.0) == 2.0
    a.told_coming("m", 4.0)
    assert a.load_elapsed_s("m", 5.0) == 2.0
    a.told_loaded("m")
    a.told_coming("m", 6.0)
    assert a.has_loaded("m")


# Fitting


@pytest.mark.parametrize(
    ("room", "others", "fits"),
    [(0, 0, False), (1, 0, True), (1, 5, True), (None, 0, False)],
)
def test_a_booked_model_fits_if_the_replica_had_room_then(room: int | None, others: int, fits: bool) -> None:
    """Of a replica without a limit there is nothing to check."""
    a = view(room)
    for number in range(others):
        a.book(f"b{number}")
    a.book("m")
    assert a.fits("m") == fits


def test_all_requests_for_a_model_are_sent_alike_whatever_is_said_of_room_meanwhile() -> None:
    """The first is refused if the room went to another model; those after it must not evict that, or any."""
    a = view(room=1)
    a.book("m")
    a.told_room(0)
    a.book("m")
    assert a.fits("m")


@pytest.mark.parametrize("room", [0, None])
def test_a_model_that_is_there_or_loads_fits(room: int | None) -> None:
    a = view(room)
    a.told_loaded("x")
    a.told_loading("y", 0.0)
    assert a.fits("x")
    assert a.fits("y")


@pytest.mark.parametrize("model_id", ["", "unknown"])
def test_what_is_not_booked_here_does_not_fit(model_id: str) -> None:
    assert not view(room=None).fits(model_id)
    assert not view(room=5).fits(model_id)


# Harm and slots


def test_the_harm_of_one_more_eviction_grows_with_those_booked_before_it() -> None:
    a = view(harm_s=0.5)
    assert a.harm_s == 0.5
    a.book("x")
    a.book("y")
    assert a.harm_s == 1.5
    a.told_loading("x", 0.0)
    assert a.harm_s == 1.0
    a.told_harm(2.0)
    assert a.harm_s == 4.0


def test_how_busy_it_is_counts_the_requests_of_others_too() -> None:
    a = view()
    assert a.busy == 0.0
    a.slots.take()
    a.slots.told(2)
    assert a.busy == pytest.approx(0.4)
    a.slots.told(9)
    assert a.busy == 1.0
