"""Which replica a request goes to, and when: one rule each, as commands that answer inputs."""

import random
from collections import Counter
from dataclasses import dataclass

import pytest

from modelplex.core import rendezvous
from modelplex.core.admission import UNLIMITED
from modelplex.core.estimates import Estimates
from modelplex.core.placement import SCORED_MAX
from modelplex.core.routing import LOSSES_MAX, Command, Reject, Router, Send, Why

NO_REPLICA_WAIT_S = 30.0


def make_router(queued_max: int = UNLIMITED, load_s: float = 1.0, service_s: float = 0.1) -> Router:
    return Router(queued_max, NO_REPLICA_WAIT_S, Estimates(load_s, service_s))


def up(
    router: Router, replica_id: str, *loaded: str, slots: int = 5, room: int | None = 4, now: float = 0.0
) -> list[Command]:
    return router.replica_up(replica_id, slots, room, loaded, [], now)


def ask(router: Router, model_id: str = "", now: float = 0.0, deadline: float | None = None) -> list[Command]:
    return router.submit(router.number(), model_id, now, deadline)


@dataclass
class To:
    """Equal to a `Send` of the request to this replica, whether its model is expected to fit there or not."""

    number: int
    replica_id: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Send) and (other.number, other.replica_id) == (self.number, self.replica_id)


def where(commands: list[Command]) -> list[tuple[int, str]]:
    """The requests that are sent, and where to; nothing may be rejected."""
    sends = [command for command in commands if isinstance(command, Send)]
    assert sends == commands
    return [(send.number, send.replica_id) for send in sends]


def target(commands: list[Command]) -> str:
    [(_, replica_id)] = where(commands)
    return replica_id


def tick_until(router: Router, until: float) -> list[Command]:
    """Every tick that the router asks for up to a time."""
    commands: list[Command] = []
    while (now := router.next_tick) is not None and now <= until:
        commands += router.tick(now)
    return commands


# Where


def test_a_warm_request_goes_to_the_holder() -> None:
    for holder in ("a", "b", "c"):
        router = make_router()
        for replica_id in ("a", "b", "c"):
            up(router, replica_id, *(["m"] if replica_id == holder else []))
        assert ask(router, "m") == [To(1, holder)]


def test_warm_requests_are_shared_among_the_holders() -> None:
    router = make_router()
    up(router, "a", "m")
    up(router, "b", "m")
    assert Counter(target(ask(router, "m")) for _ in range(10)) == {"a": 5, "b": 5}


def test_simultaneous_cold_requests_follow_one_another_to_one_replica() -> None:
    """Booked at the moment of the decision: the replica has not said anything yet."""
    router = make_router()
    for replica_id in ("a", "b", "c"):
        up(router, replica_id)
    assert len({target(ask(router, "m")) for _ in range(5)}) == 1


def test_cold_requests_follow_to_a_replica_that_has_no_slot_left() -> None:
    router = make_router()
    for replica_id in ("a", "b", "c"):
        up(router, replica_id, slots=2)
    first = target(ask(router, "m"))
    assert target(ask(router, "m")) == first
    assert [ask(router, "m") for _ in range(3)] == [[], [], []]
    assert where(router.finish(1, 1.0)) == [(3, first)]


def test_a_cold_request_that_waits_is_followed_as_well() -> None:
    router = make_router()
    up(router, "a", slots=1)
    ask(router, "x")
    assert ask(router, "m") == []
    up(router, "b", slots=1)
    assert ask(router, "m") == []
    assert router.finish(1, 0.1) == [To(2, "a")]


def test_replicas_with_room_come_before_replicas_that_must_evict() -> None:
    for number in range(20):
        router = make_router()
        up(router, "a", room=0)
        up(router, "b", room=1)
        up(router, "c", room=0)
        assert target(ask(router, f"m{number}")) == "b"


def test_cold_models_on_replicas_without_room_go_to_the_first_of_their_rendezvous_order() -> None:
    for number in range(20):
        router = make_router()
        for replica_id in ("a", "b", "c"):
            up(router, replica_id, room=0)
        assert [target(ask(router, f"m{number}"))] == rendezvous.order(f"m{number}", "abc", rendezvous.point)[:1]


def test_a_cold_request_does_not_wait_while_a_replica_with_room_is_idle() -> None:
    router = make_router()
    for replica_id in "abcdef":
        up(router, replica_id, slots=1)
    assert sorted(target(ask(router, f"m{number}")) for number in range(6)) == list("abcdef")


@pytest.mark.parametrize("seed", range(10))
def test_models_that_fit_are_each_placed_once_and_fill_the_replicas_exactly(seed: int) -> None:
    router = make_router()
    rooms = dict.fromkeys("abc", 4)
    for replica_id, room in rooms.items():
        up(router, replica_id, slots=100, room=room)
    requests = [f"m{number}" for number in range(12)] * 5
    random.Random(seed).shuffle(requests)
    placed: dict[str, set[str]] = {model_id: set() for model_id in requests}
    for model_id in requests:
        replica_id = target(ask(router, model_id))
        if not placed[model_id]:
            rooms[replica_id] -= 1
            router.model_loading(replica_id, model_id, rooms[replica_id], 0.0)
            router.model_loaded(replica_id, model_id, rooms[replica_id], 1.0, 1.0)
        placed[model_id].add(replica_id)
    assert all(len(replica_ids) == 1 for replica_ids in placed.values())
    assert Counter(replica_id for replica_ids in placed.values() for replica_id in replica_ids) == dict.fromkeys(
        "abc", 4
    )


def test_two_routers_that_see_the_same_decide_alike() -> None:
    one, two = make_router(), make_router()
    for replica_id in "abcd":
        up(one, replica_id, slots=20)
    for replica_id in "dcba":
        up(two, replica_id, slots=20)
    for number in range(40):
        assert target(ask(one, f"m{number % 20}")) == target(ask(two, f"m{number % 20}"))
        if number % 2:
            one.finish(number, 1.0)
            two.finish(number, 1.0)


def test_more_holders_than_are_weighed_all_get_requests() -> None:
    router = make_router()
    replicas = 2 * SCORED_MAX
    for number in range(replicas):
        up(router, f"r{number}", "m", slots=2)
    assert Counter(target(ask(router, "m")) for _ in range(2 * replicas)) == {f"r{n}": 2 for n in range(replicas)}
    assert ask(router, "m") == []


def test_requests_are_numbered_in_the_order_of_arrival() -> None:
    router = make_router()
    assert [router.number() for _ in range(3)] == [1, 2, 3]


# Waiting


def test_a_request_whose_holder_is_full_waits_and_gets_the_next_slot_there() -> None:
    router = make_router()
    up(router, "a", "m", slots=1)
    up(router, "b", slots=1)
    assert ask(router, "m") == [To(1, "a")]
    assert ask(router, "m") == []
    assert router.queued == 1
    assert router.finish(1, 0.1) == [To(2, "a")]
    assert router.queued == 0


def test_a_line_is_served_in_the_order_of_arrival_whatever_the_models() -> None:
    router = make_router()
    up(router, "a", "x", "y", slots=1)
    served = [number for number, _ in where(ask(router, "x"))]
    for model_id in ("y", "x", "x", "y"):
        assert ask(router, model_id) == []
    for number in range(1, 5):
        served += [after for after, _ in where(router.finish(number, number / 10))]
    assert served == [1, 2, 3, 4, 5]


def test_each_slot_that_comes_free_is_filled() -> None:
    router = make_router()
    up(router, "a", "m", slots=3)
    router.told_ongoing("a", 3, 0.0)
    for _ in range(4):
        assert ask(router, "m") == []
    assert where(router.told_ongoing("a", 1, 0.1)) == [(1, "a"), (2, "a")]


def test_when_waiting_costs_clearly_more_than_a_load_the_request_goes_elsewhere() -> None:
    """The holder is stuck in a call, which is expected to last as long again as it has lasted."""
    router = make_router()
    up(router, "a", "m", slots=1)
    up(router, "b", slots=1)
    ask(router, "m")
    assert ask(router, "m") == []
    assert router.next_tick == pytest.approx(2.1)
    assert router.tick(2.2) == [To(2, "b")]
    assert router.finish(1, 3.0) == []


def test_when_the_wait_is_short_the_request_stays_in_its_line() -> None:
    router = make_router(service_s=1.0)
    up(router, "a", "m", slots=1)
    up(router, "b", slots=1)
    ask(router, "m")
    assert [ask(router, "m"), ask(router, "m")] == [[], []]
    assert router.finish(1, 2.0) == [To(2, "a")]
    assert router.tick(2.2) == []
    assert router.finish(2, 3.0) == [To(3, "a")]


def test_one_who_stays_is_looked_at_again_later() -> None:
    router = make_router()
    up(router, "a", "m", slots=1)
    ask(router, "m")
    ask(router, "m")
    assert router.tick(2.2) == []
    assert router.next_tick == pytest.approx(2.2 + 2 * 2.1)  # and later each time, or long queues would cost too much


def test_a_hot_model_is_copied_to_as_many_replicas_as_its_requests_need() -> None:
    router = make_router(load_s=0.1, service_s=1.0)
    for replica_id in "abcdef":
        up(router, replica_id, slots=1, room=None)
    sent: dict[int, str] = {}
    for number in range(1, 7):
        sent |= where(ask(router, "m", now=0.3 * number))
        sent |= where(tick_until(router, 0.3 * number))
        for replica_id in set(sent.values()):
            router.model_loaded(replica_id, "m", None, 0.1, 0.3 * number)
    assert sorted(set(sent.values())) == list("abcdef")


def test_a_slow_first_load_does_not_cause_a_second_load_elsewhere() -> None:
    """It takes thirty times as long as was expected, and those who wait are looked at again and again."""
    router = make_router()
    for replica_id in "abc":
        up(router, replica_id)
    commands = [command for _ in range(20) for command in ask(router, "m")]
    [first] = {replica_id for _, replica_id in where(commands)}
    assert len(commands) == 5
    router.model_loading(first, "m", 3, 0.0)
    looks = 0
    while (now := router.next_tick) is not None and now < 30.0:
        looks += 1
        assert router.tick(now) == []
    assert looks > 2
    assert router.model_loaded(first, "m", 3, 30.0, 30.0) == []
    for number in range(1, 21):
        router.answered(number)
        commands += router.finish(number, 30.0 + number / 10, load_s=30.0 if number <= 5 else 0.0)
        commands += tick_until(router, 30.0 + number / 10)
    assert where(commands) == [(number, first) for number in range(1, 21)]


def test_a_slot_that_frees_on_a_second_holder_serves_the_oldest_who_waits_for_that_model_in_another_line() -> None:
    router = make_router()
    up(router, "a", "m", slots=1)
    up(router, "b", slots=1)
    assert ask(router, "m") == [To(1, "a")]
    assert target(ask(router, "x")) == "b"
    assert [ask(router, "m"), ask(router, "m")] == [[], []]
    router.model_loaded("b", "m", 3, 1.0, 0.1)
    assert router.finish(2, 0.2) == [To(3, "b")]
    assert router.finish(3, 0.3) == [To(4, "b")]


def test_ones_own_line_is_served_before_those_who_wait_elsewhere() -> None:
    router = make_router()
    up(router, "a", "m", slots=1)
    up(router, "b", "x", slots=1)
    ask(router, "m")
    ask(router, "x")
    assert [ask(router, "m"), ask(router, "x")] == [[], []]
    router.model_loaded("b", "m", 3, 1.0, 0.1)
    assert router.finish(2, 0.2) == [To(4, "b")]
    assert router.finish(4, 0.3) == [To(3, "b")]


def test_a_model_that_gets_loaded_on_an_idle_replica_serves_those_who_wait_for_it() -> None:
    """Another router had it loaded there."""
    router = make_router()
    up(router, "a", "m", slots=1)
    up(router, "b", slots=1)
    ask(router, "m")
    assert ask(router, "m") == []
    assert router.model_loading("b", "m", 3, 0.0) == []
    assert router.model_loaded("b", "m", 3, 1.0, 1.0) == [To(2, "b")]


def test_a_new_replica_that_has_the_model_serves_those_who_wait_for_it() -> None:
    router = make_router()
    up(router, "a", "m", slots=1)
    ask(router, "m")
    ask(router, "m")
    ask(router, "m")
    assert up(router, "b", "m", slots=1) == [To(2, "b")]


# The queue and the deadline


def test_when_the_queue_is_full_a_request_that_would_wait_is_rejected() -> None:
    router = make_router(queued_max=1)
    up(router, "a", "m", slots=1)
    assert ask(router, "m") == [To(1, "a")]
    assert ask(router, "m") == []
    assert ask(router, "m") == [Reject(3, Why.QUEUE_FULL)]
    assert router.finish(1, 0.1) == [To(2, "a")]
    assert ask(router, "m") == []


def test_when_the_queue_is_full_a_request_that_need_not_wait_is_served() -> None:
    router = make_router(queued_max=1)
    up(router, "a", "m", slots=1)
    up(router, "b", "x", slots=1)
    ask(router, "m")
    ask(router, "m")
    assert ask(router, "x") == [To(3, "b")]


def test_a_rejected_request_leaves_no_booking() -> None:
    router = make_router(queued_max=0)
    up(router, "a", room=1, slots=1)
    ask(router, "x")
    assert ask(router, "y") == [Reject(2, Why.QUEUE_FULL)]
    up(router, "b", slots=1)
    assert ask(router, "y") == [To(3, "b")]


@pytest.mark.parametrize("model_id", ["", "m"])
def test_without_any_queue_only_what_can_be_served_at_once_is_accepted(model_id: str) -> None:
    router = make_router(queued_max=0)
    assert ask(router, model_id) == [Reject(1, Why.QUEUE_FULL)]
    up(router, "a", "m", slots=1)
    assert ask(router, model_id) == [To(2, "a")]
    assert ask(router, model_id) == [Reject(3, Why.QUEUE_FULL)]


def test_a_request_that_comes_back_waits_even_when_the_queue_is_full() -> None:
    """It was accepted once."""
    router = make_router(queued_max=1)
    up(router, "a", "m", slots=1)
    ask(router, "m")
    ask(router, "m")
    assert router.refused(1, 1, 0.1) == []
    assert router.queued == 2
    assert router.told_ongoing("a", 0, 0.2) == [To(1, "a")]


def test_a_request_that_waits_past_its_deadline_is_rejected_at_the_tick() -> None:
    router = make_router()
    up(router, "a", "m", slots=1)
    ask(router, "m")
    ask(router, "m", deadline=0.5)
    assert router.next_tick == 0.5
    assert router.tick(0.4) == []
    assert router.tick(0.5) == [Reject(2, Why.DEADLINE)]
    assert router.finish(1, 0.6) == []
    assert router.next_tick is None


def test_a_request_that_runs_has_no_deadline_here() -> None:
    router = make_router()
    up(router, "a", "m")
    assert ask(router, "m", deadline=0.5) == [To(1, "a")]
    assert router.next_tick is None
    assert router.tick(1.0) == []


def test_a_deadline_still_counts_after_the_request_was_looked_at_and_moved() -> None:
    router = make_router()
    up(router, "a", "m", slots=1)
    ask(router, "m")
    ask(router, "m", deadline=5.0)
    router.tick(2.2)
    up(router, "b", "x", slots=1, now=2.5)
    ask(router, "x", now=2.5)
    assert router.replica_down("a", 3.0) == []
    assert router.tick(5.0) == [Reject(2, Why.DEADLINE)]


# No replica


@pytest.mark.parametrize("model_id", ["", "m"])
def test_without_any_replica_a_request_waits_for_one(model_id: str) -> None:
    router = make_router()
    assert ask(router, model_id) == []
    assert router.tick(NO_REPLICA_WAIT_S - 1) == []
    assert up(router, "a", now=NO_REPLICA_WAIT_S - 1) == [To(1, "a")]


@pytest.mark.parametrize("model_id", ["", "m"])
def test_without_any_replica_for_too_long_it_is_rejected(model_id: str) -> None:
    router = make_router()
    ask(router, model_id, now=5.0)
    assert router.next_tick == 5.0 + NO_REPLICA_WAIT_S
    assert router.tick(5.0 + NO_REPLICA_WAIT_S) == [Reject(1, Why.NO_REPLICA)]
    assert router.queued == 0


def test_those_who_waited_for_a_replica_are_served_in_the_order_of_arrival() -> None:
    router = make_router()
    for model_id in ("x", "", "x", "y", ""):
        ask(router, model_id)
    assert where(up(router, "a", slots=2)) == [(1, "a"), (2, "a")]
    assert [where(router.finish(n, 1.0)) for n in (1, 2, 3)] == [[(3, "a")], [(4, "a")], [(5, "a")]]


@pytest.mark.parametrize("model_id", ["", "m"])
@pytest.mark.parametrize("how", ["replica_down", "replica_retiring"])
def test_the_wait_for_a_replica_begins_when_the_last_one_is_lost(model_id: str, how: str) -> None:
    router = make_router()
    up(router, "a", "m", slots=1)
    router.told_ongoing("a", 1, 0.0)
    assert ask(router, model_id) == []
    tick_until(router, NO_REPLICA_WAIT_S - 1)
    assert getattr(router, how)("a", NO_REPLICA_WAIT_S - 1) == []
    assert tick_until(router, 2 * NO_REPLICA_WAIT_S - 2) == []
    assert router.tick(2 * NO_REPLICA_WAIT_S) == [Reject(1, Why.NO_REPLICA)]


# Replicas that die


def test_unanswered_requests_of_a_dead_replica_go_elsewhere() -> None:
    router = make_router()
    up(router, "a", "m")
    ask(router, "m")
    up(router, "b")
    assert router.replica_down("a", 1.0) == [To(1, "b")]
    assert router.replica_ids == ["b"]


def test_answered_requests_of_a_dead_replica_are_lost() -> None:
    router = make_router()
    up(router, "a", "m")
    up(router, "b")
    ask(router, "m")
    router.answered(1)
    assert router.replica_down("a", 1.0) == [Reject(1, Why.REPLICA_LOST)]


def test_requests_of_a_dead_replica_come_before_those_who_arrived_later() -> None:
    router = make_router()
    up(router, "a", "m", slots=1)
    ask(router, "m")
    up(router, "b", "x", slots=1)
    ask(router, "x")
    assert [ask(router, "x"), ask(router, "m")] == [[], []]
    assert router.replica_down("a", 0.1) == []
    assert where(router.finish(2, 0.2)) == [(1, "b")]
    assert where(router.finish(1, 0.3)) == [(3, "b")]
    assert where(router.finish(3, 0.4)) == [(4, "b")]


def test_requests_of_a_dead_replica_go_in_the_order_of_arrival_whatever_the_order_in_which_they_were_sent() -> None:
    router = make_router()
    up(router, "a", "m", slots=2)
    ask(router, "m")
    ask(router, "m")
    router.refused(1, 2, 0.0)
    assert router.told_ongoing("a", 1, 0.0) == [To(1, "a")]
    up(router, "b", slots=1)
    assert router.replica_down("a", 0.1) == [To(1, "b")]
    assert router.finish(1, 0.2) == [To(2, "b")]


def test_one_who_waits_for_a_dead_replica_comes_before_a_younger_one_that_ran_there() -> None:
    router = make_router()
    up(router, "a", "m", slots=2)
    assert len(ask(router, "m") + ask(router, "m")) == 2
    assert router.refused(1, 2, 0.0) == []
    up(router, "b", slots=1)
    assert router.replica_down("a", 0.1) == [To(1, "b")]
    assert router.finish(1, 0.2) == [To(2, "b")]


def test_a_request_with_which_many_replicas_have_died_is_given_up() -> None:
    router = make_router()
    ask(router, "m")
    for number in range(LOSSES_MAX):
        assert up(router, f"r{number}") == [To(1, f"r{number}")]
        commands = router.replica_down(f"r{number}", float(number))
    assert commands == [Reject(1, Why.REPLICA_LOST)]
    assert up(router, "next") == []


def test_where_lost_requests_are_not_retried_those_of_a_dead_replica_are_given_up_and_nobody_else() -> None:
    router = make_router()
    router.change(UNLIMITED, 30.0, retries_lost=False)
    up(router, "a", slots=1)
    ask(router)
    ask(router)  # it waits
    assert router.replica_down("a", 0.0) == [Reject(1, Why.REPLICA_LOST)]
    assert up(router, "b", slots=1) == [To(2, "b")]
    assert router.refused(2, 1, 0.0) == []  # which has not begun
    router.change(UNLIMITED, 30.0, retries_lost=True)
    assert router.told_ongoing("b", 0, 0.0) == [To(2, "b")]
    router.replica_down("b", 1.0)
    assert up(router, "c") == [To(2, "c")]


def test_limits_that_change_are_for_those_who_come_later() -> None:
    router = make_router(queued_max=2)
    up(router, "a", slots=1)
    assert where([*ask(router), *ask(router), *ask(router)]) == [(1, "a")]
    router.change(1, 30.0, retries_lost=True)
    assert router.queued == 2
    assert ask(router) == [Reject(4, Why.QUEUE_FULL)]
    router.change(3, 30.0, retries_lost=True)
    assert ask(router) == []
    assert [where(router.finish(n, 0.0)) for n in (1, 2, 3)] == [[(2, "a")], [(3, "a")], [(5, "a")]]


def test_a_broadcast_goes_to_every_replica_however_busy_and_changes_nothing_for_others() -> None:
    router = make_router()
    up(router, "a", slots=1)
    up(router, "b", slots=1)
    up(router, "c", slots=1)
    router.replica_retiring("c", 0.0)
    running = where([*ask(router), *ask(router)])
    assert ask(router) == []
    assert {send.replica_id: send.number for send in router.broadcast("", 0.0)} == {"a": 4, "b": 5}
    assert router.finish(4, 0.0, ongoing=0) == []  # its slot was never taken
    assert router.replica_down("b", 0.0) == [Reject(5, Why.REPLICA_LOST)]
    assert router.replica_ids == ["a"]
    assert where(router.finish({r: n for n, r in running}["a"], 0.0))[0][1] == "a"


def test_a_broadcast_that_is_refused_is_over() -> None:
    router = make_router()
    up(router, "a")
    up(router, "b")
    for send in router.broadcast("", 0.0):
        assert router.refused(send.number, 0, 0.0) == [Reject(send.number, Why.REPLICA_LOST)]
    assert make_router().broadcast("", 0.0) == []


def test_those_who_only_waited_for_a_replica_that_died_are_not_held_responsible() -> None:
    router = make_router()
    up(router, "a", slots=1)
    router.told_ongoing("a", 1, 0.0)
    ask(router, "m")
    for number in range(2 * LOSSES_MAX):
        router.replica_down("a", float(number))
        up(router, "a", slots=1)
        assert router.queued == 0
        router.refused(1, 1, float(number))
        assert router.queued == 1
    assert router.told_ongoing("a", 0, 10.0) == [To(1, "a")]


def test_a_dead_replica_is_forgotten_with_all_that_it_held() -> None:
    router = make_router()
    up(router, "a", "m")
    up(router, "b", "m")
    router.replica_down("a", 0.0)
    assert [target(ask(router, "m")) for _ in range(5)] == ["b"] * 5


def test_a_replica_that_comes_back_starts_from_nothing() -> None:
    router = make_router()
    up(router, "a", "m", slots=1)
    ask(router, "m")
    router.answered(1)
    router.replica_down("a", 0.0)
    up(router, "b", "m", slots=1)
    up(router, "a", slots=1)
    assert [target(ask(router, "m")), target(ask(router, "x"))] == ["b", "a"]


@pytest.mark.parametrize("how", ["replica_down", "replica_retiring"])
def test_news_about_a_replica_that_is_not_known_changes_nothing(how: str) -> None:
    router = make_router()
    assert getattr(router, how)("ghost", 0.0) == []
    assert router.model_loading("ghost", "m", 1, 0.0) == []
    assert router.model_loaded("ghost", "m", 1, 1.0, 0.0) == []
    assert router.model_gone("ghost", "m", 1, 0.0) == []
    assert router.told_ongoing("ghost", 1, 0.0) == []
    assert router.replica_ids == []


# Replicas that retire


def test_a_retiring_replica_gets_nothing_new_and_what_runs_there_finishes() -> None:
    router = make_router()
    up(router, "a", "m")
    up(router, "b")
    ask(router, "m")
    assert router.replica_retiring("a", 0.1) == []
    assert router.replica_ids == ["b"]
    assert [target(ask(router, "m")), target(ask(router))] == ["b", "b"]
    router.answered(1)
    assert router.finish(1, 0.2) == []


def test_those_who_wait_for_a_retiring_replica_go_elsewhere_in_order() -> None:
    router = make_router()
    up(router, "a", "m", slots=1)
    ask(router, "m")
    for _ in range(3):
        assert ask(router, "m") == []
    up(router, "b", slots=2)
    assert where(router.replica_retiring("a", 0.1)) == [(2, "b"), (3, "b")]
    assert router.finish(1, 0.2) == []
    assert router.finish(2, 0.3) == [To(4, "b")]


def test_a_retiring_replica_that_dies_loses_what_still_runs_there() -> None:
    router = make_router()
    up(router, "a", "m")
    up(router, "b")
    ask(router, "m")
    ask(router, "m")
    router.answered(1)
    router.replica_retiring("a", 0.1)
    assert router.replica_down("a", 0.2) == [Reject(1, Why.REPLICA_LOST), To(2, "b")]


def test_a_request_that_a_retiring_replica_refuses_goes_elsewhere() -> None:
    router = make_router()
    up(router, "a", "m")
    up(router, "b")
    ask(router, "m")
    router.replica_retiring("a", 0.1)
    assert router.refused(1, 5, 0.2) == [To(1, "b")]


# Refusals and the requests of other routers


def test_a_refused_request_is_put_back_and_sent_when_there_is_a_slot() -> None:
    router = make_router()
    up(router, "a")
    ask(router, "m")
    router.model_loading("a", "m", 3, 0.0)
    assert router.refused(1, 5, 0.1) == []
    assert router.queued == 1
    assert router.told_ongoing("a", 5, 0.2) == []
    assert router.told_ongoing("a", 4, 0.3) == [To(1, "a")]


def test_refused_requests_keep_their_place() -> None:
    router = make_router()
    up(router, "a", "m", slots=2)
    ask(router, "m")
    ask(router, "m")
    assert ask(router, "m") == []
    assert router.refused(2, 2, 0.1) == []
    assert router.refused(1, 2, 0.1) == []
    assert where(router.told_ongoing("a", 0, 0.2)) == [(1, "a"), (2, "a")]


def test_a_refused_request_goes_to_another_holder_that_has_a_slot() -> None:
    router = make_router()
    up(router, "a", "m")
    ask(router, "m")
    up(router, "b", "m")
    assert router.refused(1, 5, 0.1) == [To(1, "b")]


def test_a_refusal_is_believed_at_once() -> None:
    router = make_router()
    up(router, "a", "m")
    ask(router, "m")
    router.refused(1, 5, 0.1)
    assert ask(router, "m") == []


def test_requests_of_other_routers_count() -> None:
    router = make_router()
    up(router, "a", "m", slots=3)
    router.told_ongoing("a", 2, 0.0)
    assert ask(router, "m") == [To(1, "a")]
    assert ask(router, "m") == []
    assert router.told_ongoing("a", 2, 0.1) == [To(2, "a")]


def test_ones_own_requests_are_not_counted_twice() -> None:
    router = make_router()
    up(router, "a", "m", slots=3)
    ask(router, "m")
    ask(router, "m")
    router.told_ongoing("a", 2, 0.0)
    assert ask(router, "m") == [To(3, "a")]


def test_with_its_answer_a_replica_says_how_many_others_run_there() -> None:
    router = make_router()
    up(router, "a", "m", slots=2)
    ask(router, "m")
    ask(router, "m")
    assert ask(router, "m") == []
    assert router.finish(1, 0.1, ongoing=2) == []
    assert router.finish(2, 0.2, ongoing=1) == [To(3, "a")]


# Models that come and go


def test_a_model_that_has_gone_is_no_longer_looked_for_there() -> None:
    for number in range(10):
        router = make_router()
        up(router, "a", f"m{number}", room=0)
        up(router, "b", room=1)
        assert router.model_gone("a", f"m{number}", 0, 0.1) == []
        assert target(ask(router, f"m{number}")) == "b"


def test_a_model_that_goes_while_requests_wait_for_it_there_is_loaded_where_there_is_a_slot() -> None:
    router = make_router()
    up(router, "a", "m", slots=1)
    assert target(ask(router, "x")) == "a"
    up(router, "b", slots=1)
    assert ask(router, "m") == []
    assert router.model_gone("a", "m", 4, 0.1) == [To(2, "b")]
    assert router.finish(1, 0.2) == []


def test_those_who_wait_for_a_model_that_goes_stay_together_and_in_order() -> None:
    router = make_router()
    up(router, "a", "m", slots=1)
    ask(router, "x")
    up(router, "b", slots=1)
    for _ in range(3):
        assert ask(router, "m") == []
    router.model_gone("a", "m", 4, 0.1)
    assert where(router.finish(1, 0.2)) == [(2, "a")]
    assert where(router.finish(2, 0.3)) == [(3, "a")]
    assert where(router.finish(3, 0.4)) == [(4, "a")]


def test_those_who_wait_for_other_models_are_not_moved() -> None:
    router = make_router()
    up(router, "a", "m", "n", slots=1)
    ask(router, "n")
    up(router, "b", slots=1)
    assert ask(router, "n") == []
    assert router.model_gone("a", "m", 4, 0.1) == []
    assert router.finish(1, 0.2) == [To(2, "a")]


# Requests without a model


def test_a_request_without_a_model_goes_to_the_replica_with_the_most_free_slots() -> None:
    router = make_router()
    up(router, "a", "m")
    up(router, "b")
    ask(router, "m")
    assert ask(router) == [To(2, "b")]


def test_requests_without_a_model_take_turns() -> None:
    router = make_router()
    for replica_id in "abc":
        up(router, replica_id)
    assert Counter(target(ask(router)) for _ in range(9)) == {"a": 3, "b": 3, "c": 3}


def test_a_request_without_a_model_takes_the_first_slot_that_comes_free_anywhere() -> None:
    for freed, replica_id in [(1, "a"), (2, "b")]:
        router = make_router()
        up(router, "a", "x", slots=1)
        up(router, "b", "y", slots=1)
        ask(router, "x")
        ask(router, "y")
        assert ask(router) == []
        assert router.finish(freed, 0.1) == [To(3, replica_id)]


def test_a_request_without_a_model_is_not_stuck_behind_those_who_came_later_or_before() -> None:
    router = make_router()
    up(router, "a", "m", slots=1)
    ask(router, "m")
    for model_id in ("m", "", "m", ""):
        assert ask(router, model_id) == []
    served = [where(router.finish(number, number / 10)) for number in range(1, 5)]
    assert served == [[(2, "a")], [(3, "a")], [(4, "a")], [(5, "a")]]


def test_one_who_waits_only_for_a_slot_need_not_be_looked_at_again() -> None:
    router = make_router()
    up(router, "a", slots=1)
    ask(router)
    assert ask(router) == []
    assert router.next_tick is None


def test_a_new_replica_serves_requests_without_a_model_that_wait() -> None:
    router = make_router()
    up(router, "a", slots=1)
    ask(router)
    ask(router)
    ask(router)
    assert up(router, "b", slots=1) == [To(2, "b")]


# Callers who go away


def test_one_who_cancels_while_waiting_is_never_sent() -> None:
    router = make_router()
    up(router, "a", "m", slots=1)
    ask(router, "m")
    ask(router, "m")
    ask(router, "m")
    assert router.cancel(2, 0.1) == []
    assert router.queued == 1
    assert router.finish(1, 0.2) == [To(3, "a")]


def test_one_who_cancels_while_waiting_leaves_no_booking() -> None:
    router = make_router()
    up(router, "a", slots=1, room=1)
    ask(router, "x")
    ask(router, "m")
    router.cancel(2, 0.1)
    up(router, "b", slots=1)
    assert ask(router, "m") == [To(3, "b")]


def test_one_who_cancels_while_running_gives_the_slot_to_the_next() -> None:
    router = make_router()
    up(router, "a", "m", slots=1)
    ask(router, "m")
    ask(router, "m")
    assert router.cancel(1, 0.1) == [To(2, "a")]


@pytest.mark.parametrize("number", [1, 99])
def test_one_who_cancels_what_is_over_or_was_never_there_changes_nothing(number: int) -> None:
    router = make_router()
    up(router, "a", "m")
    ask(router, "m")
    router.finish(1, 0.1)
    assert router.cancel(number, 0.2) == []


# What is learned


def test_service_times_are_learned_without_the_wait_for_the_model() -> None:
    estimates = Estimates(load_s=1.0, service_s=9.0)
    router = Router(UNLIMITED, NO_REPLICA_WAIT_S, estimates)
    up(router, "a")
    ask(router, "m")
    router.answered(1)
    router.finish(1, 5.0, load_s=4.5)
    assert estimates.service_s == pytest.approx(0.5)


def test_nothing_is_learned_from_requests_that_were_never_answered() -> None:
    estimates = Estimates(load_s=1.0, service_s=9.0)
    router = Router(UNLIMITED, NO_REPLICA_WAIT_S, estimates)
    up(router, "a")
    ask(router, "m")
    router.finish(1, 5.0)
    assert estimates.service_s == 9.0


def test_load_times_are_learned_even_from_a_replica_that_is_gone() -> None:
    estimates = Estimates(load_s=1.0, service_s=9.0)
    router = Router(UNLIMITED, NO_REPLICA_WAIT_S, estimates)
    router.model_loaded("gone", "m", 3, 7.0, 7.0)
    assert estimates.load_s("m") == 7.0


def test_a_holder_that_others_keep_full_is_not_waited_for_without_end() -> None:
    router = make_router()
    up(router, "holder", "m", slots=2)
    up(router, "idle", slots=2)
    router.told_ongoing("holder", 2, 0.0)  # both slots are taken by requests that this router does not see
    assert ask(router, "m") == []
    commands = tick_until(router, 60.0)
    assert where(commands) == [(1, "idle")]


def test_a_holder_that_others_use_but_slots_come_free_on_is_waited_for() -> None:
    router = make_router()
    up(router, "holder", "m", slots=2)
    up(router, "idle", slots=2)
    router.told_ongoing("holder", 2, 0.0)
    ask(router, "m")
    for second in range(1, 20):  # somebody else's requests come and go
        assert tick_until(router, float(second)) == []
        assert router.told_ongoing("holder", 2, float(second)) == []
    assert where(router.told_ongoing("holder", 1, 20.0)) == [(1, "holder")]


def test_a_replica_that_is_full_on_arrival_is_sent_nothing_that_waits() -> None:
    router = make_router()
    assert ask(router, "m") == []
    assert router.replica_up("a", 2, 4, [], [], 1.0, ongoing=2) == []
    assert where(router.told_ongoing("a", 1, 2.0)) == [(1, "a")]
