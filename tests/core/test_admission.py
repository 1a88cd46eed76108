"""Slots of a replica, and the lines in which requests wait."""

import random

import pytest

from modelplex.core.admission import UNLIMITED, Request, Slots, WaitingRoom


def pending(number: int, model_id: str = "m", deadline: float | None = None) -> Request:
    return Request(number, model_id, deadline)


def numbers(pendings: list[Request]) -> list[int]:
    return [p.number for p in pendings]


# Slots


def test_slots_are_taken_until_none_is_left() -> None:
    slots = Slots(2)
    assert [slots.take(), slots.take(), slots.take()] == [True, True, False]
    assert (slots.free, slots.own) == (0, 2)


def test_a_slot_given_back_can_be_taken_again() -> None:
    slots = Slots(1)
    slots.take()
    slots.give_back()
    assert slots.free == 1
    assert slots.take()


def test_a_slot_that_was_never_taken_cannot_be_given_back() -> None:
    with pytest.raises(RuntimeError, match="never taken"):
        Slots(1).give_back()


@pytest.mark.parametrize("limit", [0, -1])
def test_a_replica_has_at_least_one_slot(limit: int) -> None:
    with pytest.raises(ValueError, match="at least one slot"):
        Slots(limit)


def test_requests_of_others_take_slots_too() -> None:
    slots = Slots(3)
    slots.take()
    slots.told(3)
    assert (slots.own, slots.others, slots.free) == (1, 2, 0)
    assert not slots.take()


def test_fewer_than_ones_own_means_that_some_have_not_arrived_yet() -> None:
    slots = Slots(3)
    slots.take()
    slots.take()
    slots.told(1)
    assert (slots.others, slots.free) == (0, 1)


def test_the_newest_word_about_others_replaces_the_one_before() -> None:
    slots = Slots(3)
    slots.told(3)
    slots.told(1)
    assert slots.free == 2


def test_more_than_the_limit_leaves_no_free_slot_rather_than_a_negative_number() -> None:
    slots = Slots(2)
    slots.told(5)
    assert slots.free == 0


# Lines


def test_a_line_is_in_the_order_of_arrival_whatever_the_order_of_joining() -> None:
    room = WaitingRoom(UNLIMITED)
    for number in (3, 1, 2):
        room.add(pending(number), "a", 10.0)
    first = room.first("a")
    assert first is not None
    assert first.number == 1
    assert numbers(room.all_in("a")) == [1, 2, 3]
    assert (room.length("a"), len(room)) == (3, 3)


def test_lines_are_apart_and_the_common_line_is_one_of_them() -> None:
    room = WaitingRoom(UNLIMITED)
    room.add(pending(1), "a", 10.0)
    room.add(pending(2), None, 10.0)
    assert numbers(room.all_in("a")) == [1]
    assert numbers(room.all_in(None)) == [2]
    assert room.first("b") is None
    assert room.all_in("b") == []
    assert room.length("b") == 0


def test_one_who_leaves_makes_the_next_the_first() -> None:
    room = WaitingRoom(UNLIMITED)
    one, two = pending(1), pending(2)
    room.add(one, "a", 10.0)
    room.add(two, "a", 10.0)
    room.remove(one)
    assert room.first("a") is two
    room.remove(two)
    assert room.first("a") is None
    assert len(room) == 0


def test_one_who_changes_lines_is_in_the_new_one_only_and_may_come_back() -> None:
    room = WaitingRoom(UNLIMITED)
    one, two = pending(1), pending(2)
    room.add(one, "a", 10.0)
    room.add(two, "a", 10.0)
    for line, other in [("b", "a"), ("a", "b"), ("b", "a")]:
        room.remove(one)
        room.add(one, line, 10.0)
        assert room.first(line) is one
        assert one not in room.all_in(other)
        assert room.length(line) == len(room.all_in(line))


def test_those_who_wait_for_a_model_are_found_in_all_lines() -> None:
    room = WaitingRoom(UNLIMITED)
    room.add(pending(1, "x"), "a", 10.0)
    room.add(pending(2, "y"), "a", 10.0)
    room.add(pending(3, "x"), "b", 10.0)
    assert numbers(list(room.of_model("x"))) == [1, 3]
    assert set(room.models) == {"x", "y"}


def test_a_model_for_which_nobody_waits_any_more_is_forgotten() -> None:
    room = WaitingRoom(UNLIMITED)
    one = pending(1, "x")
    room.add(one, "a", 10.0)
    room.remove(one)
    assert list(room.models) == []
    assert list(room.of_model("x")) == []


def test_one_who_waits_is_found_by_number() -> None:
    room = WaitingRoom(UNLIMITED)
    one = pending(1)
    room.add(one, "a", 10.0)
    assert room.get(1) is one
    room.remove(one)
    assert room.get(1) is None


def test_a_limited_room_is_full_at_its_limit() -> None:
    room = WaitingRoom(2)
    fulls = [room.full]
    for number in (1, 2):
        room.add(pending(number), "a", 10.0)
        fulls.append(room.full)
    room.remove(room.all_in("a")[0])
    assert [*fulls, room.full] == [False, False, True, False]


def test_a_room_for_nobody_is_always_full_and_an_unlimited_one_never() -> None:
    assert WaitingRoom(0).full
    room = WaitingRoom(UNLIMITED)
    for number in range(1000):
        room.add(pending(number), None, 10.0)
    assert not room.full


# Looking again


def test_those_who_are_due_come_oldest_first_and_once() -> None:
    room = WaitingRoom(UNLIMITED)
    for number, look_at in [(2, 1.0), (1, 2.0), (3, 9.0)]:
        room.add(pending(number), "a", look_at)
    assert room.next_look == 1.0
    assert numbers(room.due(2.0)) == [1, 2]
    assert room.due(2.0) == []
    assert room.next_look == 9.0


def test_an_earlier_deadline_is_a_reason_to_look() -> None:
    room = WaitingRoom(UNLIMITED)
    room.add(pending(1, deadline=3.0), "a", 10.0)
    assert room.next_look == 3.0


@pytest.mark.parametrize(
    ("look_at", "deadline", "cold_deadline", "next_look"),
    [
        (10.0, 5.0, 3.0, 3.0),
        (10.0, 3.0, 5.0, 3.0),
        (2.0, 3.0, 5.0, 2.0),
        (None, None, 3.0, 3.0),
        (10.0, None, 30.0, 10.0),
    ],
)
def test_the_earliest_reason_to_look_counts(
    look_at: float | None, deadline: float | None, cold_deadline: float | None, next_look: float
) -> None:
    room = WaitingRoom(UNLIMITED)
    room.add(Request(1, "m", deadline, cold_deadline), "a", look_at)
    assert room.next_look == next_look
    assert numbers(room.due(next_look)) == [1]


def test_a_later_deadline_is_not() -> None:
    room = WaitingRoom(UNLIMITED)
    room.add(pending(1, deadline=30.0), "a", 10.0)
    assert room.next_look == 10.0


def test_one_who_is_not_to_be_looked_at_is_never_due() -> None:
    room = WaitingRoom(UNLIMITED)
    room.add(pending(1), None, None)
    assert room.next_look is None
    assert room.due(1e9) == []


def test_one_who_is_not_to_be_looked_at_is_due_at_the_deadline() -> None:
    room = WaitingRoom(UNLIMITED)
    room.add(pending(1, deadline=3.0), None, None)
    assert room.next_look == 3.0
    assert numbers(room.due(3.0)) == [1]


def test_nobody_is_due_who_has_left() -> None:
    room = WaitingRoom(UNLIMITED)
    one = pending(1)
    room.add(one, "a", 1.0)
    room.remove(one)
    assert room.next_look is None
    assert room.due(5.0) == []


def test_one_who_joined_again_is_due_at_the_new_time_only() -> None:
    room = WaitingRoom(UNLIMITED)
    one = pending(1)
    room.add(one, "a", 1.0)
    room.remove(one)
    room.add(one, "a", 5.0)
    assert room.due(1.0) == []
    assert room.due(5.0) == [one]


@pytest.mark.parametrize("seed", range(20))
def test_any_history_of_joining_leaving_and_moving_agrees_with_a_plain_list(seed: int) -> None:
    chance = random.Random(seed)
    room = WaitingRoom(UNLIMITED)
    plain: dict[int, tuple[Request, str | None, float]] = {}
    now = 0.0
    for number in range(200):
        if plain and chance.random() < 0.6:
            moved, _, _ = plain.pop(chance.choice(list(plain)))
            room.remove(moved)
        else:
            moved = pending(number, chance.choice("xyz"))
        if chance.random() < 0.7:
            line, look_at = chance.choice(["a", "b", None]), now + chance.choice([0.0, 1.0, 5.0])
            room.add(moved, line, look_at)
            plain[moved.number] = (moved, line, look_at)
        now += chance.choice([0.0, 0.5])
        for line in ("a", "b", None):
            expected = sorted(n for n, (_, at, _) in plain.items() if at == line)
            first = room.first(line)
            assert (None if first is None else first.number) == (expected[0] if expected else None)
            assert numbers(room.all_in(line)) == expected
            assert room.length(line) == len(expected)
        soonest = min((look_at for _, _, look_at in plain.values()), default=None)
        assert soonest is None or (room.next_look is not None and room.next_look <= soonest)
        due = numbers(room.due(now))
        assert due == sorted(n for n, (_, _, look_at) in plain.items() if look_at <= now)
        for number_due in due:
            moved, line, _ = plain.pop(number_due)
            room.remove(moved)
            room.add(moved, line, now + 2.0)
            plain[number_due] = (moved, line, now + 2.0)
