"""The best replica for a model, by what is expected to take how long."""

import pytest

from modelplex.core import rendezvous
from modelplex.core.admission import Pending
from modelplex.core.estimates import Estimates
from modelplex.core.placement import HOLDERS_SCORED, MARGIN_S, Fleet
from modelplex.core.residency import Flight, ReplicaView

LOAD_S = 1.0
SERVICE_S = 0.1


def replica(replica_id: str, *loaded: str, slots: int = 1, room: int | None = 2) -> ReplicaView:
    view = ReplicaView(replica_id, slots, room)
    for model_id in loaded:
        view.told_loaded(model_id)
    return view


def fleet(*views: ReplicaView) -> Fleet:
    together = Fleet(Estimates(LOAD_S, SERVICE_S))
    for view in views:
        together.join(view)
    return together


def run(view: ReplicaView, model_id: str = "", sent: float = 0.0) -> None:
    """A request runs on the replica."""
    view.slots.take()
    number = len(view.flights)
    view.flights[number] = Flight(Pending(number, model_id, None), view, sent)


def chosen(together: Fleet, model_id: str, now: float = 0.0) -> str:
    view = together.choose(model_id, now)
    assert view is not None
    return view.replica_id


def in_order(model_id: str, *replica_ids: str) -> list[str]:
    return rendezvous.first(model_id, replica_ids, len(replica_ids))


# The index


def test_what_a_replica_holds_or_loads_when_it_joins_is_in_the_index() -> None:
    a = replica("a", "x")
    a.told_loading("y", 0.0)
    assert fleet(a)._holders == {"x": {"a": a}, "y": {"a": a}}


def test_a_replica_that_leaves_is_in_no_part_of_the_index() -> None:
    a, b = replica("a", "x", "y"), replica("b", "x")
    together = fleet(a, b)
    together.leave("a")
    assert together._holders == {"x": {"b": b}}
    assert list(together.views) == ["b"]


def test_a_booking_is_in_the_index_until_it_ends() -> None:
    a = replica("a")
    together = fleet(a)
    together.book(a, "x")
    assert together._holders == {"x": {"a": a}}
    together.unbook(a, "x")
    assert together._holders == {}


def test_a_booking_that_ends_on_a_replica_that_has_left_does_not_bring_it_back() -> None:
    a = replica("a", "x")
    together = fleet(a)
    together.book(a, "x")
    together.book(a, "x")
    together.leave("a")
    together.unbook(a, "x")
    assert together._holders == {}


def test_a_request_without_a_model_books_nothing() -> None:
    a = replica("a")
    together = fleet(a)
    together.book(a, "")
    together.unbook(a, "")
    assert (a.models, together._holders) == ({}, {})


# Without replicas, and without a model


@pytest.mark.parametrize("model_id", ["", "m"])
def test_without_replicas_there_is_no_choice(model_id: str) -> None:
    assert fleet().choose(model_id, 0.0) is None


def test_without_a_model_the_replica_with_the_most_free_slots_is_chosen() -> None:
    a, b = replica("a", slots=3), replica("b", slots=3)
    run(a)
    assert chosen(fleet(a, b), "") == "b"


def test_without_a_model_the_share_of_free_slots_counts_not_their_number() -> None:
    small, large = replica("small", slots=2), replica("large", slots=10)
    for _ in range(7):
        run(large)
    assert chosen(fleet(small, large), "") == "small"


def test_without_a_model_and_equally_busy_they_take_turns() -> None:
    a, b = replica("a"), replica("b")
    a.sent_last = 7
    assert chosen(fleet(a, b), "") == "b"
    b.sent_last = 8
    assert chosen(fleet(a, b), "") == "a"


# Holders


def test_a_holder_with_a_free_slot_is_chosen() -> None:
    for holder in ("a", "b", "c"):
        views = [replica(r, *(["m"] if r == holder else [])) for r in ("a", "b", "c")]
        assert chosen(fleet(*views), "m") == holder


def test_among_idle_holders_the_one_with_the_most_free_slots_is_chosen() -> None:
    a, b = replica("a", "m", slots=3), replica("b", "m", slots=3)
    run(a, "m")
    assert chosen(fleet(a, b), "m") == "b"


def test_a_free_holder_is_chosen_before_a_full_one_even_if_service_takes_no_time() -> None:
    a, b = replica("a", "m", slots=1), replica("b", "m", slots=3)
    together = fleet(a, b)
    together.estimates.saw_service(0.0)
    run(a, "m")
    run(b, "m")
    assert chosen(together, "m") == "b"


def test_a_replica_that_has_loaded_is_chosen_before_one_that_is_still_loading() -> None:
    a, b = replica("a"), replica("b", "m", slots=2)
    a.told_loading("m", 0.0)
    run(b, "m")
    assert chosen(fleet(a, b), "m") == "b"


def test_a_short_wait_for_a_slot_is_chosen_before_a_long_wait_for_a_load() -> None:
    a, b = replica("a"), replica("b", "m")
    a.told_loading("m", 0.0)
    run(b, "m")
    assert chosen(fleet(a, b), "m") == "b"


def test_a_long_wait_for_a_slot_is_not() -> None:
    a, b = replica("a"), replica("b", "m")
    a.told_loading("m", 5.0)
    run(b, "m", sent=0.0)
    assert chosen(fleet(a, b), "m", now=5.0) == "a"


def test_a_model_that_loads_somewhere_is_waited_for_there() -> None:
    a, b = replica("a"), replica("b")
    a.told_loading("m", 0.0)
    assert chosen(fleet(a, b), "m") == "a"
    assert chosen(fleet(a, b), "m", now=1000.0) == "a"


def test_of_many_holders_those_with_a_free_slot_are_weighed_first() -> None:
    full = [replica(f"full-{n}", "m") for n in range(HOLDERS_SCORED + 1)]
    for view in full:
        run(view, "m")
    assert chosen(fleet(*full, replica("free", "m")), "m") == "free"


# Copies


@pytest.mark.parametrize(("waited_s", "where"), [(0.05, "a"), (2.0, "a"), (2.2, "b"), (100.0, "b")])
def test_a_copy_is_made_when_waiting_costs_clearly_more_than_a_load(waited_s: float, where: str) -> None:
    """The holder has been at a call for so long that it is expected to take as long again; a load counts twice."""
    a, b = replica("a", "m"), replica("b")
    run(a, "m")
    assert chosen(fleet(a, b), "m", now=waited_s) == where


def test_a_long_line_is_a_reason_for_a_copy() -> None:
    a, b = replica("a", "m"), replica("b")
    run(a, "m")
    a.queued = 30
    assert chosen(fleet(a, b), "m") == "b"


def test_nobody_waits_less_than_the_margin_to_load_elsewhere_however_fast_loads_are() -> None:
    a, b = replica("a", "m"), replica("b")
    together = fleet(a, b)
    together.estimates.saw_load("m", 0.0)
    run(a, "m")
    assert chosen(together, "m", now=MARGIN_S - 0.01) == "a"
    assert chosen(together, "m", now=MARGIN_S + 0.01) == "b"


def test_an_eviction_makes_a_copy_dearer_by_a_load() -> None:
    a, b = replica("a", "m"), replica("b", room=0)
    run(a, "m")
    assert chosen(fleet(a, b), "m", now=3.0) == "a"
    assert chosen(fleet(a, b), "m", now=3.2) == "b"


def test_loads_that_run_there_already_make_a_copy_dearer() -> None:
    a, b = replica("a", "m"), replica("b", slots=5)
    b.told_loading("x", 0.0)
    run(a, "m")
    assert chosen(fleet(a, b), "m", now=4.0) == "a"
    assert chosen(fleet(a, b), "m", now=4.2) == "b"


def test_a_replica_without_a_free_slot_gets_no_copy() -> None:
    a, b = replica("a", "m"), replica("b")
    run(a, "m")
    run(b)
    assert chosen(fleet(a, b), "m", now=50.0) == "a"


def test_a_slow_load_elsewhere_says_that_a_second_one_would_be_slow_too() -> None:
    a, b = replica("a"), replica("b")
    a.told_loading("m", 0.0)
    run(a, "m")
    for now in (1.0, 10.0, 100.0):
        assert chosen(fleet(a, b), "m", now) == "a"


def test_a_hot_model_is_copied_to_one_replica_after_the_other_until_all_have_it() -> None:
    """Also to those that are not among the first in its order, though the first have room."""
    views = [replica(r, room=None) for r in "abcdef"]
    together = fleet(*views)
    order = []
    for _ in views:
        order.append(chosen(together, "m", now=10.0))
        run(together.views[order[-1]], "m")
        together.views[order[-1]].told_loaded("m")
        together.index(together.views[order[-1]], "m")
    assert order == in_order("m", *"abcdef")


# Cold models


@pytest.mark.parametrize("model_id", [f"m{n}" for n in range(20)])
def test_a_cold_model_goes_to_a_replica_with_room_before_one_that_must_evict(model_id: str) -> None:
    assert chosen(fleet(replica("a", room=0), replica("b", room=1), replica("c", room=0)), model_id) == "b"


@pytest.mark.parametrize("room", [0, 2, None])
def test_among_equals_a_cold_model_goes_to_the_first_of_its_rendezvous_order(room: int | None) -> None:
    views = [replica(r, room=room) for r in "abcd"]
    for number in range(50):
        assert chosen(fleet(*views), f"m{number}") == in_order(f"m{number}", *"abcd")[0]


def test_replicas_that_join_in_another_order_make_no_difference() -> None:
    views = [replica(r) for r in "abcd"]
    for number in range(50):
        assert chosen(fleet(*views), f"m{number}") == chosen(fleet(*reversed(views)), f"m{number}")


def test_room_that_is_booked_is_no_longer_there() -> None:
    a, b = replica("a", room=1), replica("b", room=0)
    together = fleet(a, b)
    together.book(a, "other")
    for number in range(20):
        assert chosen(together, f"m{number}") == in_order(f"m{number}", "a", "b")[0]


def test_the_second_of_the_order_is_taken_when_the_first_is_busy_with_loads() -> None:
    one, two, _ = in_order("m", "a", "b", "c")
    views = {r: replica(r, slots=5) for r in "abc"}
    views[one].told_loading("x", 0.0)
    assert chosen(fleet(*views.values()), "m") == two


@pytest.mark.parametrize("room", [0, 2, None])
@pytest.mark.parametrize("full", [1, 2, 3])
def test_the_next_of_the_order_is_taken_when_the_first_have_no_slot(full: int, room: int | None) -> None:
    order = in_order("m", *"abcd")
    views = {r: replica(r, room=room) for r in "abcd"}
    for replica_id in order[:full]:
        run(views[replica_id])
    assert chosen(fleet(*views.values()), "m") == order[full]


def test_the_first_of_the_order_is_waited_for_when_all_are_full() -> None:
    views = [replica(r) for r in "abcd"]
    for view in views:
        run(view)
    assert chosen(fleet(*views), "m") == in_order("m", *"abcd")[0]


def test_room_is_waited_for_rather_than_evicting_at_once() -> None:
    """Otherwise models that fit would be loaded more often than once."""
    a, b = replica("a", room=1), replica("b", room=0)
    run(a)
    assert all(chosen(fleet(a, b), f"m{number}") == "a" for number in range(20))


# Expected times


def test_a_free_slot_is_there_at_once() -> None:
    a = replica("a", slots=2)
    run(a)
    assert fleet(a).slot_s(a, 0.0) == 0.0


def test_the_next_slot_comes_with_the_request_that_has_the_least_left() -> None:
    a = replica("a", slots=2)
    run(a, sent=0.0)
    run(a, sent=0.04)
    assert fleet(a).slot_s(a, 0.04) == pytest.approx(0.06)


def test_a_call_that_has_run_for_seconds_is_not_nearly_done() -> None:
    a = replica("a")
    run(a)
    assert fleet(a).slot_s(a, 4.0) == 4.0


def test_a_request_that_waits_for_its_load_keeps_its_slot_as_long_as_that_takes() -> None:
    a = replica("a")
    a.told_loading("m", 0.0)
    run(a, "m")
    assert fleet(a).slot_s(a, 0.25) == 0.75


def test_those_who_wait_already_come_first() -> None:
    a = replica("a", slots=2)
    run(a)
    run(a)
    a.queued = 6
    assert fleet(a).slot_s(a, 0.0) == pytest.approx(SERVICE_S + 6 * SERVICE_S / 2)


def test_what_other_routers_run_is_expected_to_last_as_long_again_as_no_slot_came_free() -> None:
    a = replica("a")
    a.slots.told(1)
    assert [fleet(a).slot_s(a, now) for now in (0.0, 50.0)] == [SERVICE_S, 50.0]
    a.slot_freed = 49.0
    assert fleet(a).slot_s(a, 50.0) == 1.0


def test_patience_lasts_as_long_as_a_load_elsewhere_would_cost() -> None:
    together = fleet()
    together.estimates.saw_load("slow", 30.0)
    together.estimates.saw_load("fast", 0.5)
    assert together.patience_s("slow") == pytest.approx(60.1)
    assert together.patience_s("fast") == pytest.approx(1.1)
