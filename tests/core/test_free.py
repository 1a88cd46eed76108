"""Replicas with free slots, found without a look at the others."""

from modelplex.core.free import FreeReplicas
from modelplex.core.residency import ReplicaView


def free_of(*views: ReplicaView) -> FreeReplicas:
    free = FreeReplicas({view.replica_id: view for view in views})
    for view in views:
        free.freed(view)
    return free


def replica(replica_id: str, *, near: bool = False, slots: int = 2) -> ReplicaView:
    return ReplicaView(replica_id, slots, None, machine="here" if near else "there", near=near)


def test_those_that_were_sent_to_longest_ago_come_first() -> None:
    a, b, c = replica("a"), replica("b"), replica("c")
    free = free_of(a, b, c)
    free.sent(a)
    assert free.some(3) == [b, c, a]
    assert free.some(1) == [b]


def test_full_ones_are_left_out_until_they_are_free_again() -> None:
    a, b = replica("a", near=True), replica("b", near=True, slots=1)
    free = free_of(a, b)
    b.slots.take()
    free.sent(b)
    assert b not in free
    assert free.some(2) == free.some_near(2) == [a]
    b.slots.give_back()
    free.freed(b)
    assert b in free
    assert free.some(2) == free.some_near(2) == [a, b]


def test_those_that_others_have_filled_are_passed_over() -> None:
    a, b = replica("a", near=True, slots=1), replica("b", near=True)
    free = free_of(a, b)
    a.slots.told(1)
    assert free.some(1) == free.some_near(1) == [b]


def test_near_ones_are_found_apart() -> None:
    far, near = [replica(f"f{n}") for n in range(50)], replica("n", near=True)
    free = free_of(*far, near)
    assert free.knows_near
    assert free.some_near(6) == [near]
    free.discard(near)
    assert free.some_near(6) == []
    assert near not in free
    assert len(free.some(100)) == 50


def test_one_that_may_not_be_chosen_does_not_come_back() -> None:
    free = FreeReplicas({})
    free.freed(replica("a", near=True))
    assert free.some(1) == free.some_near(1) == []
