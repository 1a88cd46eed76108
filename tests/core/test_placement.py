"""The best replica for a model, by what is expected to take how long."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from modelplex.core import rendezvous, routing
from modelplex.core.admission import UNLIMITED, Request
from modelplex.core.costs import CROWDED, MARGIN_S
from modelplex.core.estimates import Estimates
from modelplex.core.free import FreeReplicas
from modelplex.core.placement import SCORED_MAX, SHARED_S, SHARED_SCORED_MAX, Fleet
from modelplex.core.residency import ReplicaView
from modelplex.core.routing import Router, Send

LOAD_S = 1.0
SERVICE_S = 0.1


def replica(
    replica_id: str,
    *loaded: str,
    slots: int = 1,
    room: int | None = 2,
    loads_max: int = UNLIMITED,
    harm_s: float = 0.0,
    machine: str = "",
    near: bool = False,
) -> ReplicaView:
    view = ReplicaView(
        replica_id, slots, room, loads_max=loads_max, harm_s=harm_s, machine="here" if near else machine, near=near
    )
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
    number = len(view.running)
    view.running[number] = request = Request(number, model_id, None)
    request.view, request.sent = view, sent


def chosen(together: Fleet, model_id: str, now: float = 0.0) -> str:
    view = together.choose(model_id, now)
    assert view is not None
    return view.replica_id


def in_order(model_id: str, *replica_ids: str) -> list[str]:
    return rendezvous.order(model_id, replica_ids, rendezvous.point)


# The index


def test_what_a_replica_holds_or_loads_when_it_joins_is_in_the_index() -> None:
    a = replica("a", "x")
    a.told_loading("y", 0.0)
    assert fleet(a)._holders == {"x": (a,), "y": (a,)}


def test_a_replica_that_leaves_is_in_no_part_of_the_index() -> None:
    a, b = replica("a", "x", "y"), replica("b", "x")
    together = fleet(a, b)
    together.leave("a")
    assert together._holders == {"x": (b,)}
    assert list(together.views) == ["b"]


def test_a_booking_is_in_the_index_until_it_ends() -> None:
    a = replica("a")
    together = fleet(a)
    together.book(a, "x")
    assert together._holders == {"x": (a,)}
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


def test_without_a_model_and_of_many_replicas_all_take_turns() -> None:
    views = [replica(f"r{n}", slots=9) for n in range(3 * SCORED_MAX)]
    together, seen = fleet(*views), []
    for number in range(2 * len(views)):
        seen.append(chosen(together, ""))
        view = together.views[seen[-1]]
        run(view)
        view.sent_last = number
        together.free.sent(view)
    assert sorted(seen) == sorted(2 * [view.replica_id for view in views])


# Holders


def test_a_holder_with_a_free_slot_is_chosen() -> None:
    for holder in ("a", "b", "c"):
        views = [replica(r, *(["m"] if r == holder else [])) for r in ("a", "b", "c")]
        assert chosen(fleet(*views), "m") == holder


def test_of_several_holders_the_first_of_the_order_is_used_until_half_full() -> None:
    """Copies that are not needed become idle, and make room."""
    views = {r: replica(r, "m", slots=4) for r in "abc"}
    together, seen = fleet(*views.values()), []
    for _ in range(12):
        seen.append(chosen(together, "m"))
        run(views[seen[-1]], "m")
    order = in_order("m", *"abc")
    each = int(4 * CROWDED) + 1
    assert seen[: 3 * each] == [r for r in order for _ in range(each)]
    assert {r: seen.count(r) for r in "abc"} == dict.fromkeys("abc", 4)


def test_beyond_half_full_the_holder_with_the_most_free_slots_is_chosen() -> None:
    a, b = replica("a", "m", slots=4), replica("b", "m", slots=4)
    for _ in range(3):
        run(a, "m")
    assert chosen(fleet(a, b), "m") == "b"
    for _ in range(3):
        run(b, "m")
    a.slots.give_back()
    assert chosen(fleet(a, b), "m") == "a"


def test_holders_are_in_the_models_order_however_they_came() -> None:
    for ids in ("abcdef", "fedcba", "cafebd"):
        together = fleet(*(replica(r, "m") for r in ids))
        assert [view.replica_id for view in together._holders["m"]] == in_order("m", *"abcdef")


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


@pytest.mark.parametrize("full", [SCORED_MAX, SCORED_MAX + 1, 3 * SCORED_MAX])
def test_of_many_holders_one_with_a_free_slot_is_found(full: int) -> None:
    views = [replica(f"full-{n}", "m") for n in range(full)]
    for view in views:
        run(view, "m")
    together = fleet(*views, replica("free", "m"))
    assert [chosen(together, "m") for _ in range(10)] == ["free"] * 10


def test_many_holders_take_turns_to_be_weighed() -> None:
    together = fleet(*(replica(f"r{n}", "m", slots=100) for n in range(4 * SCORED_MAX)))
    seen = {chosen(together, "m") for _ in range(4)}
    assert len(seen) == 4


@pytest.mark.parametrize("replicas", [1, SCORED_MAX, 2 * SCORED_MAX + 3])
@pytest.mark.parametrize("last_has", [False, True])
def test_a_model_is_cold_unless_one_of_however_many_has_loaded_it(replicas: int, last_has: bool) -> None:
    views = [replica(f"r{n}") for n in range(replicas)]
    for view in views:
        view.told_loading("m", 0.0)
    if last_has:
        views[-1].told_loaded("m")
    together = fleet(*views)
    cold = {together.cold_s("m", 0.25) for _ in range(replicas)}
    assert cold == ({None} if last_has else {0.75})


def test_a_model_that_nobody_has_is_cold_for_as_long_as_a_load_takes() -> None:
    together = fleet(replica("a"))
    together.estimates.saw_load("slow", 30.0)
    assert together.cold_s("slow", 0.0) == 30.0


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


@pytest.mark.parametrize(("loads_max", "from_s"), [(UNLIMITED, 2.1), (1, 3.1), (2, 2.1)])
def test_loads_that_it_would_have_to_wait_for_make_a_copy_dearer(loads_max: int, from_s: float) -> None:
    a, b = replica("a", "m"), replica("b", slots=5, loads_max=loads_max)
    b.told_loading("x", 0.0)
    run(a, "m")
    assert chosen(fleet(a, b), "m", now=from_s - 0.05) == "a"
    assert chosen(fleet(a, b), "m", now=from_s + 0.05) == "b"


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


@pytest.mark.parametrize(("loads_max", "place"), [(UNLIMITED, 0), (2, 0), (1, 1)])
def test_the_second_of_the_order_is_taken_when_the_load_would_have_to_wait_at_the_first(
    loads_max: int, place: int
) -> None:
    order = in_order("m", *"abc")
    views = {r: replica(r, slots=5, loads_max=loads_max) for r in "abc"}
    views[order[0]].told_loading("x", 0.0)
    assert chosen(fleet(*views.values()), "m") == order[place]


def test_of_those_that_must_evict_the_one_is_chosen_where_it_does_least_harm() -> None:
    for number in range(20):
        views = [replica(r, room=0, slots=5, harm_s=harm_s) for r, harm_s in [("a", 0.5), ("b", 0.1), ("c", 0.9)]]
        assert chosen(fleet(*views), f"m{number}") == "b"


def test_harm_counts_not_where_there_is_room() -> None:
    """As far as possible the same in all routers."""
    for number in range(20):
        views = [replica(r, harm_s=harm_s) for r, harm_s in [("a", 0.5), ("b", 0.1), ("c", 0.9)]]
        assert chosen(fleet(*views), f"m{number}") == in_order(f"m{number}", *"abc")[0]


def test_harm_that_is_booked_comes_on_top() -> None:
    a, b = replica("a", room=0, slots=9, harm_s=0.10), replica("b", room=0, slots=9, harm_s=0.15)
    together = fleet(a, b)
    assert chosen(together, "m") == "a"
    together.book(a, "other")
    assert chosen(together, "m") == "b"


def test_among_equals_in_harm_a_crowded_replica_comes_last() -> None:
    """A load keeps a slot from others for as long as it takes."""
    for number in range(20):
        a, b = replica("a", room=0, slots=4), replica("b", room=0, slots=4)
        for _ in range(3):
            run(a)
        assert chosen(fleet(a, b), f"m{number}") == "b"


# Many replicas


@pytest.mark.parametrize("room", [0, 2])
def test_of_many_replicas_one_that_is_near_is_chosen_by_all_routers(room: int) -> None:
    ids = [f"r{n}" for n in range(50)]
    one, other = fleet(*(replica(r, room=room) for r in ids)), fleet(*(replica(r, room=room) for r in reversed(ids)))
    where = [chosen(one, f"m{number}") for number in range(200)]
    assert where == [chosen(other, f"m{number}") for number in range(200)]
    assert len(set(where)) > 30


def test_the_only_one_of_many_with_room_is_found() -> None:
    for number in range(20):
        views = [replica(f"r{n}", room=0) for n in range(50)]
        together = fleet(*views, replica("roomy", room=1))
        assert chosen(together, f"m{number}") == "roomy"


@pytest.mark.parametrize("free_room", [0, 2])
def test_the_only_one_of_many_with_a_free_slot_is_found(free_room: int) -> None:
    for number in range(20):
        views = [replica(f"r{n}", room=free_room) for n in range(50)]
        together = fleet(*views, replica("free", room=free_room))
        for view in views:
            run(view)
            together.free.sent(view)
        assert chosen(together, f"m{number}") == "free"


def test_the_only_one_of_many_with_a_free_slot_is_found_when_others_have_filled_the_rest() -> None:
    views = [replica(f"r{n}") for n in range(50)]
    together = fleet(*views, replica("free"))
    for view in views:
        together.told_ongoing(view, 1, 0.0)
    assert [chosen(together, model_id) for model_id in ("", "m", "")] == ["free"] * 3


def test_a_replica_that_was_full_is_found_when_it_has_a_slot_again() -> None:
    a, b = replica("a"), replica("b")
    together = fleet(a, b)
    for view in (a, b):
        run(view)
        together.free.sent(view)
    assert together.free.some(1) == []
    b.slots.give_back()
    together.free.freed(b)
    assert [chosen(together, model_id) for model_id in ("", "m")] == ["b", "b"]


def test_a_replica_that_has_left_does_not_come_back_with_a_free_slot() -> None:
    a, b = replica("a"), replica("b")
    together = fleet(a, b)
    together.leave("a")
    together.free.freed(a)
    together.index(a, "m")
    assert together.free.some(SCORED_MAX) == [b]
    assert [chosen(together, f"m{number}") for number in range(20)] == ["b"] * 20


def test_room_that_comes_and_goes_is_known_at_the_next_decision() -> None:
    a, b = replica("a", room=1), replica("b", room=0)
    together = fleet(a, b)
    assert all(chosen(together, f"m{number}") == "a" for number in range(10))
    for view, room in ((a, 0), (b, 1)):
        view.told_room(room)
        together.index(view, "other")
    assert all(chosen(together, f"m{number}") == "b" for number in range(10))


# Other routers


def seen_shared(*views: ReplicaView) -> Fleet:
    """Another router was heard of at 0, whose request has ended since."""
    together = fleet(*views)
    together.told_ongoing(views[0], 1, 0.0)
    together.told_ongoing(views[0], 0, 0.0)
    return together


def test_beside_other_routers_only_the_first_of_the_order_are_weighed() -> None:
    for number in range(50):
        harm_s = dict(zip(in_order(f"m{number}", *"abcdef"), (0.6, 0.5, 0.4, 0.3, 0.2, 0.1), strict=True))
        views = [replica(r, room=0, slots=5, harm_s=harm_s[r]) for r in "abcdef"]
        assert chosen(fleet(*views), f"m{number}") == in_order(f"m{number}", *"abcdef")[-1]
        assert chosen(seen_shared(*views), f"m{number}") == in_order(f"m{number}", *"abcdef")[SHARED_SCORED_MAX - 1]


def test_of_others_that_were_not_heard_of_for_long_nothing_is_feared() -> None:
    order = in_order("m", *"abcdef")
    views = [replica(r, room=0, slots=5, harm_s=0.1 * (6 - order.index(r))) for r in "abcdef"]
    together = seen_shared(*views)
    assert chosen(together, "m", SHARED_S - 1) == order[SHARED_SCORED_MAX - 1]
    assert chosen(together, "m", SHARED_S) == order[-1]


def test_beside_other_routers_full_replicas_are_not_among_the_first() -> None:
    for number in range(20):
        order = in_order(f"m{number}", *"abcdef")
        views = {r: replica(r, slots=2) for r in "abcdef"}
        together = seen_shared(*views.values())
        for replica_id in order[:4]:
            run(views[replica_id])
            run(views[replica_id])
        assert chosen(together, f"m{number}") == order[4]


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


def test_patience_lasts_as_long_as_a_load_elsewhere_would_cost() -> None:
    together = fleet()
    together.estimates.saw_load("slow", 30.0)
    together.estimates.saw_load("fast", 0.5)
    assert together.patience_s("slow") == pytest.approx(60.1)
    assert together.patience_s("fast") == pytest.approx(1.1)


# Nearness


def test_without_a_model_a_near_replica_comes_before_equals() -> None:
    far, near = [replica(f"f{n}", slots=2) for n in range(20)], replica("near", slots=2, near=True)
    together = fleet(*far, near)
    assert chosen(together, "") == "near"
    run(near)
    together.free.sent(near)
    assert chosen(together, "") != "near"


def test_near_replicas_take_turns() -> None:
    views = [replica(f"r{n}", slots=9, near=n < 3) for n in range(9)]
    together, order = fleet(*views), []
    for number in range(9):
        view = together.choose("", 0.0)
        assert view is not None
        view.sent_last = number + 1
        together.free.sent(view)
        order.append(view.replica_id)
    assert order == ["r0", "r1", "r2"] * 3


def test_of_several_holders_the_near_one_is_used_until_it_is_crowded() -> None:
    far, near = replica(in_order("m", "a", "b")[0], "m", slots=4), replica(in_order("m", "a", "b")[1], "m", slots=4)
    assert chosen(fleet(far, near), "m") == far.replica_id
    near.near, near.far = True, False
    for _ in range(int(4 * CROWDED) + 1):
        assert chosen(fleet(far, near), "m") == near.replica_id
        run(near)
    assert chosen(fleet(far, near), "m") == far.replica_id


def test_of_many_holders_the_near_one_is_found() -> None:
    views = [replica(f"r{n}", "m", slots=4, near=n == 17) for n in range(10 * SCORED_MAX)]
    together = fleet(*views)
    assert {chosen(together, "m") for _ in range(20)} == {"r17"}


def test_where_a_cold_model_is_loaded_does_not_depend_on_who_asks() -> None:
    """Or routers on different machines would load it twice."""
    for number in range(20):
        routers = [fleet(*(replica(r, near=r == own) for r in "abc")) for own in "abc"]
        assert len({chosen(together, f"m{number}") for together in routers}) == 1


# Files on disks


def test_of_places_as_good_the_one_on_a_machine_with_the_file_is_taken() -> None:
    for number in range(20):
        model_id = f"m{number}"
        views = [replica(r, machine=r) for r in "abcd"]
        for shared in (False, True):
            together = seen_shared(*views) if shared else fleet(*views)
            for holder in "abcd":
                together.disks = type(together.disks)()
                together.costs.disks = together.disks
                together.disks.told(holder, [model_id])
                assert chosen(together, model_id) == holder


def test_a_machine_with_the_file_is_found_among_many() -> None:
    views = [replica(f"r{n}", machine=f"machine-{n}") for n in range(20 * SCORED_MAX)]
    together = fleet(*views)
    together.disks.told("machine-77", ["m"])
    assert chosen(together, "m") == "r77"


def test_a_file_is_no_reason_to_evict_nor_to_wait() -> None:
    with_file, other = replica("a", room=0, machine="a"), replica("b", machine="b")
    together = fleet(with_file, other)
    together.disks.told("a", ["m"])
    assert chosen(together, "m") == "b"
    with_file.told_room(2)
    together.index(with_file, "m")
    assert chosen(together, "m") == "a"
    run(with_file)
    assert chosen(together, "m") == "b"


def test_where_all_must_evict_a_fetch_is_weighed_against_the_harm() -> None:
    with_file, other = replica("a", room=0, harm_s=0.05, machine="a"), replica("b", room=0, machine="b")
    together = fleet(with_file, other)
    together.disks.told("a", ["m"])
    assert chosen(together, "m") == "a"
    with_file.told_harm(0.5)
    assert chosen(together, "m") == "b"


def test_the_files_of_machines_that_are_gone_are_no_candidates() -> None:
    a, b = replica("a", machine="a"), replica("b", machine="b")
    together = fleet(a, b)
    together.disks.told("a", ["m"])
    together.leave("a")
    assert chosen(together, "m") == "b"
    assert list(together._machines) == ["b"]


# What a decision costs


class Counted(ReplicaView):
    """Counts how often a replica is looked at, all replicas together."""

    looks = 0

    def __getattribute__(self, name: str) -> object:
        Counted.looks += 1
        return super().__getattribute__(name)


@contextmanager
def looks_at_most(limit: int) -> Iterator[None]:
    before = Counted.looks
    yield
    looks = Counted.looks - before
    assert looks <= limit, f"{looks} looks at replicas for one decision"


# Looks at replicas for one decision: at most about ten at each of those that are weighed, holders and candidates alike.
LOOKS_MAX = 20 * 2 * SCORED_MAX

SIZES = [10, 100, 1_000, 10_000]


def router_of(replicas: int, patch: pytest.MonkeyPatch, *loaded: str, room: int = 2, slots: int = 2) -> Router:
    patch.setattr(routing, "ReplicaView", Counted)
    router = Router(UNLIMITED, 30.0, Estimates(LOAD_S, SERVICE_S))
    for number in range(replicas):
        router.replica_up(f"r{number}", slots, room, loaded, [], 0.0)
    return router


def cost_of(router: Router, *model_ids: str, now: float = 0.0) -> list[Send]:
    """Ask for the models; each decision, and each end of one that was sent, is bounded."""
    sent = []
    for model_id in model_ids:
        number = router.number()
        with looks_at_most(LOOKS_MAX):
            sent += [command for command in router.submit(number, model_id, now) if isinstance(command, Send)]
    for send in sent:
        with looks_at_most(LOOKS_MAX):
            router.finish(send.number, now)
    return sent


@pytest.mark.parametrize("replicas", SIZES)
@pytest.mark.parametrize("room", [0, 2])
def test_a_cold_decision_costs_the_same_with_any_number_of_replicas(
    replicas: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(cost_of(router_of(replicas, monkeypatch, room=room), *(f"m{n}" for n in range(10)))) == 10


@pytest.mark.parametrize("replicas", SIZES)
def test_a_warm_decision_costs_the_same_with_any_number_of_replicas(
    replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = router_of(replicas, monkeypatch)
    router.model_loaded("r7", "m", 1, LOAD_S, 0.0)
    assert {send.replica_id for send in cost_of(router, "m", "m")} == {"r7"}


@pytest.mark.parametrize("replicas", SIZES)
def test_a_decision_for_a_model_that_all_hold_costs_the_same_with_any_number_of_replicas(
    replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(cost_of(router_of(replicas, monkeypatch, "m"), *["m"] * 20)) == 20


@pytest.mark.parametrize("replicas", SIZES)
def test_a_decision_without_a_model_costs_the_same_with_any_number_of_replicas(
    replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(cost_of(router_of(replicas, monkeypatch), *[""] * 20)) == 20


@pytest.mark.parametrize("replicas", SIZES)
@pytest.mark.parametrize("room", [0, 2])
def test_a_decision_whose_holder_is_full_costs_the_same_with_any_number_of_replicas(
    replicas: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = router_of(replicas, monkeypatch, room=room)
    router.model_loaded("r7", "m", room, LOAD_S, 0.0)
    assert len(router.submit(router.number(), "m", 0.0) + router.submit(router.number(), "m", 0.0)) == 2
    assert cost_of(router, "m", "m") == []  # they wait
    assert [send.replica_id != "r7" for send in cost_of(router, "m", now=100.0)] == [True]  # a copy


@pytest.mark.parametrize("replicas", SIZES)
@pytest.mark.parametrize("model_id", ["", "m", "cold"])
def test_a_decision_when_all_are_full_costs_the_same_with_any_number_of_replicas(
    replicas: int, model_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = router_of(replicas, monkeypatch, "m", slots=1)
    for number in range(replicas):
        router.told_ongoing(f"r{number}", 1, 0.0)
    router.submit(router.number(), "", 0.0)  # finds out, once, that the hints of free slots no longer hold
    assert cost_of(router, *[model_id] * 5) == []


def test_a_decision_that_looks_at_all_replicas_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FreeReplicas, "some", lambda self, _: [v for v in self._views.values() if v.slots.free])
    with pytest.raises(AssertionError, match="looks at replicas"):
        cost_of(router_of(1_000, monkeypatch), "")
