"""Requests on their way: who is looked at again, who is given up while its model is cold, what a refusal brings."""

from collections.abc import Callable

import pytest

from modelplex.core import rendezvous
from modelplex.core.admission import UNLIMITED
from modelplex.core.dispatch import SHARED_MAX, Command, Prefetch, Reject, Send, Why
from modelplex.core.estimates import Estimates
from modelplex.core.routing import Router

LOAD_S = 1.0
NO_REPLICA_WAIT_S = 30.0


def make_router(load_s: float = LOAD_S) -> Router:
    return Router(UNLIMITED, NO_REPLICA_WAIT_S, Estimates(load_s, 0.1))


def up(
    router: Router, replica_id: str, *loaded: str, slots: int = 1, room: int | None = 4, harm_s: float = 0.0
) -> list[Command]:
    return router.replica_up(replica_id, slots, room, loaded, [], 0.0, harm_s=harm_s)


def ask(router: Router, model_id: str = "", now: float = 0.0, cold: float | None = None) -> list[Command]:
    return router.submit(router.number(), model_id, now, None, cold)


def where(commands: list[Command]) -> list[tuple[int, str]]:
    """The requests that are sent, and where to; nothing else happens."""
    sends = [command for command in commands if isinstance(command, Send)]
    assert sends == commands
    return [(send.number, send.replica_id) for send in sends]


def full_by_others(*replica_ids: str, loaded: tuple[str, ...] = ()) -> Router:
    """A router whose replicas have one slot each, which another router has taken."""
    router = make_router()
    for replica_id in replica_ids:
        up(router, replica_id, *loaded)
        router.told_ongoing(replica_id, 1, 0.0)
    return router


# Expected to fit


@pytest.mark.parametrize(
    ("model_id", "room", "fits"),
    [("warm", 0, True), ("cold", 1, True), ("cold", 0, False), ("cold", None, False), ("", 1, False)],
)
def test_a_request_is_sent_with_what_is_expected_of_room(model_id: str, room: int | None, fits: bool) -> None:
    router = make_router()
    up(router, "a", "warm", room=room)
    [send] = ask(router, model_id)
    assert isinstance(send, Send)
    assert (send.number, send.replica_id, send.fits) == (1, "a", fits)


# How popular a model is


def test_a_replica_is_told_how_popular_a_model_is_that_it_has_not_loaded() -> None:
    """Of its own requests, in which the model would have twice the part that it has of those of two replicas."""
    router = make_router()
    for replica_id in "ab":
        up(router, replica_id, *"xyz", slots=50)
    for model_id in "xyz" * 3:
        ask(router, model_id)
    [send] = ask(router, "new")
    assert isinstance(send, Send)
    assert send.share == pytest.approx(2 * 0.1, abs=0.01)


def test_nobody_is_told_that_a_model_has_more_than_all_requests() -> None:
    router = make_router()
    for replica_id in "abc":
        up(router, replica_id)
    [send] = ask(router, "new")
    assert isinstance(send, Send)
    assert send.share == 1.0


@pytest.mark.parametrize("model_id", ["warm", ""])
def test_of_a_model_that_it_has_loaded_a_replica_knows_more_itself(model_id: str) -> None:
    router = make_router()
    up(router, "a", "warm")
    assert ask(router, model_id) == [Send(1, "a", fits=bool(model_id), share=0.0)]


# Following a load


@pytest.mark.parametrize("news", ["loading", "loaded"])
def test_those_who_wait_for_a_model_go_where_another_router_has_it_loaded(news: str) -> None:
    """Or it would be loaded a second time where they wait."""
    router = full_by_others("a", "b")
    assert [ask(router, "m") for _ in range(2)] == [[], []]
    [line, other] = rendezvous.order("m", "ab", rendezvous.point)
    assert router.told_ongoing(other, 0, 0.0) == []
    if news == "loading":
        commands = router.model_loading(other, "m", 3, 0.0)
    else:
        commands = router.model_loaded(other, "m", 3, LOAD_S, 0.0)
    assert where(commands) == [(1, other)]
    assert router.told_ongoing(line, 0, 0.1) == [], "the second waits at the other, too, or is served there"


def test_those_who_follow_keep_their_order() -> None:
    line, other = rendezvous.order("m", "ab", rendezvous.point)
    router = make_router()
    for replica_id, slots in ((line, 1), (other, 3)):
        up(router, replica_id, slots=slots)
        router.told_ongoing(replica_id, slots, 0.0)
    assert [ask(router, "m") for _ in range(4)] == [[], [], [], []]
    assert router.told_ongoing(other, 0, 0.0) == []
    assert where(router.model_loading(other, "m", 3, 0.0)) == [(1, other), (2, other), (3, other)]
    assert where(router.finish(2, 2.0)) == [(4, other)]


def test_those_who_wait_where_their_model_is_need_not_follow() -> None:
    router = full_by_others("a", "b", loaded=("m",))
    assert ask(router, "m") == []
    waits = rendezvous.order("m", "ab", rendezvous.point)[0]
    for replica_id in "ab":
        assert router.model_loading(replica_id, "x", 2, 0.0) == []
    assert where(router.told_ongoing(waits, 0, 0.1)) == [(1, waits)]


def test_those_who_wait_for_another_model_do_not_follow() -> None:
    router = full_by_others("a", "b")
    assert ask(router, "x") == []
    first, other = rendezvous.order("x", "ab", rendezvous.point)
    assert router.told_ongoing(other, 0, 0.0) == []
    assert router.model_loading(other, "m", 3, 0.0) == []
    assert where(router.told_ongoing(first, 0, 0.1)) == [(1, first)]


# Shared lines


def test_a_replica_with_nothing_else_to_do_serves_any_of_its_models_that_are_waited_for_elsewhere() -> None:
    router = make_router()
    up(router, "a", "x", "y")
    assert where(ask(router, "x")) == [(1, "a")]
    assert [ask(router, "y"), ask(router, "x")] == [[], []]
    assert where(up(router, "b", "x", "y", slots=5)) == [(2, "b"), (3, "b")]


def test_only_so_many_of_the_models_that_are_waited_for_are_looked_at() -> None:
    router = make_router()
    up(router, "a", *(f"m{n}" for n in range(SHARED_MAX + 1)))
    ask(router)
    for number in range(SHARED_MAX + 1):
        assert ask(router, f"m{number}") == []
    assert where(up(router, "b", f"m{SHARED_MAX}", slots=5)) == []
    router.finish(1, 0.1)
    assert where(router.model_loaded("b", "other", 3, LOAD_S, 0.2)) == [(SHARED_MAX + 2, "b")]


# Cold starts: each place where a request can wait

Waits = Callable[[Router], list[Command]]


def at_a_full_replica(router: Router) -> list[Command]:
    up(router, "a")
    router.told_ongoing("a", 1, 0.0)
    return ask(router, "m", cold=0.5)


def at_a_replica_that_loads_it(router: Router) -> list[Command]:
    up(router, "a")
    router.told_ongoing("a", 1, 0.0)
    router.model_loading("a", "m", 3, 0.0)
    return ask(router, "m", cold=0.5)


def behind_the_request_that_has_it_loaded(router: Router) -> list[Command]:
    up(router, "a")
    ask(router, "m")
    router.model_loading("a", "m", 3, 0.0)
    return ask(router, "m", cold=0.5)


def without_any_replica(router: Router) -> list[Command]:
    return ask(router, "m", cold=0.5)


def after_a_refusal(router: Router) -> list[Command]:
    up(router, "a")
    commands = ask(router, "m", cold=0.5)
    [(number, _)] = where(commands)
    return router.refused(number, 1, 0.1)


def after_its_replica_died(router: Router) -> list[Command]:
    up(router, "b", "m")
    commands = ask(router, "m", cold=0.5)
    assert len(commands) == 1
    return router.replica_down("b", 0.1)


PREFETCH = Prefetch("a", "m")
PLACES: dict[Waits, list[Command]] = {
    at_a_full_replica: [PREFETCH],
    at_a_replica_that_loads_it: [],
    behind_the_request_that_has_it_loaded: [],
    without_any_replica: [],
    after_a_refusal: [PREFETCH],
    after_its_replica_died: [],
}


@pytest.mark.parametrize(("waits", "before"), PLACES.items(), ids=[place.__name__ for place in PLACES])
def test_a_request_for_a_cold_model_is_given_up_at_its_cold_deadline_and_the_load_goes_on(
    waits: Waits, before: list[Command]
) -> None:
    """The replica is told to load it only if it does not already."""
    router = make_router()
    assert waits(router) == []
    assert router.next_tick == 0.5
    assert router.tick(0.4) == []
    *others, reject = router.tick(0.5)
    assert others == before
    assert isinstance(reject, Reject)
    assert reject.why is Why.COLD
    assert reject.retry_after_s is not None
    assert 0.0 < reject.retry_after_s <= LOAD_S
    assert router.queued == 0
    assert router.tick(60.0) == []


def test_it_may_be_retried_when_the_load_is_expected_to_end() -> None:
    for elapsed_s, rest_s in [(0.25, 0.75), (4.0, 4.0)]:
        router = full_by_others("a")
        router.model_loading("a", "m", 3, 0.0)
        ask(router, "m", now=0.1, cold=elapsed_s)
        assert router.tick(elapsed_s)[-1] == Reject(1, Why.COLD, rest_s)


def test_one_that_is_given_up_leaves_no_booking() -> None:
    router = full_by_others("a")
    ask(router, "m", cold=0.5)
    router.tick(0.5)
    assert router._fleet.views["a"].models == {}
    assert router._fleet.views["a"].queued == 0


def test_a_cold_deadline_that_has_passed_already_is_kept_if_the_request_must_wait() -> None:
    router = make_router()
    up(router, "a")
    assert where(ask(router, "m", cold=0.0)) == [(1, "a")]  # from here on, it is for the replica to keep it
    ask(router, "m", cold=0.0)
    assert router.next_tick == 0.0
    assert [type(command) for command in router.tick(0.0)] == [Prefetch, Reject]


def test_a_request_for_a_warm_model_is_not_given_up_however_long_it_waits_for_its_turn() -> None:
    router = full_by_others("a", loaded=("m",))
    assert ask(router, "m", cold=0.5) == []
    for now in (0.5, 5.0, 50.0):
        assert router.tick(now) == []
        assert router.next_tick is not None
        assert router.next_tick > now
    assert where(router.told_ongoing("a", 0, 60.0)) == [(1, "a")]


def test_a_model_that_is_loaded_in_time_somewhere_is_warm() -> None:
    router = full_by_others("a", "b")
    assert ask(router, "m", cold=0.5) == []
    assert router.model_loaded("b", "m", 3, 0.2, 0.2) == []
    assert router.tick(0.5) == []
    assert router.queued == 1


def test_once_its_model_was_warm_a_request_waits_for_its_turn_even_if_the_model_goes() -> None:
    router = full_by_others("a", loaded=("m",))
    ask(router, "m", cold=0.5)
    router.tick(0.5)
    router.model_gone("a", "m", 4, 0.6)
    assert router.tick(9.0) == []
    assert router.queued == 1


def test_a_request_without_a_model_has_no_cold_deadline() -> None:
    """Neither is it given up, nor looked at again and again."""
    for router in (make_router(), full_by_others("a")):
        assert ask(router, cold=0.5) == []
        assert router.tick(0.5) == []
        assert router.next_tick in (None, NO_REPLICA_WAIT_S)
        assert router.queued == 1


def test_the_deadline_comes_before_the_cold_deadline_when_both_have_passed() -> None:
    router = full_by_others("a")
    router.submit(router.number(), "m", 0.0, 0.5, 0.5)
    assert router.tick(0.5) == [Reject(1, Why.DEADLINE)]


def test_each_is_given_up_at_its_own_time() -> None:
    router = full_by_others("a")
    for cold in (0.5, None, 0.3):
        ask(router, "m", cold=cold)
    assert [router.tick(0.3)[-1], router.tick(0.5)[-1]] == [Reject(n, Why.COLD, LOAD_S) for n in (3, 1)]
    assert where(router.told_ongoing("a", 0, 0.6)) == [(2, "a")]


# Refusals


def test_a_replica_that_has_no_room_after_all_is_not_tried_again_while_others_have_some() -> None:
    for number in range(20):
        router = make_router()
        for replica_id in "abc":
            up(router, replica_id, room=1)
        tried: list[str] = []
        commands = ask(router, f"m{number}")
        while len(tried) < 2:
            [send] = commands
            assert isinstance(send, Send)
            assert send.fits
            tried.append(send.replica_id)
            commands = router.refused(send.number, 0, 0.1, no_room=True)
        [send] = commands
        assert isinstance(send, Send)
        assert sorted([*tried, send.replica_id]) == ["a", "b", "c"]


def test_when_all_have_refused_for_lack_of_room_it_is_sent_to_be_loaded_at_the_cost_of_another() -> None:
    """So there are no more refusals than replicas."""
    router = make_router()
    for replica_id in "abc":
        up(router, replica_id, room=1)
    [send] = ask(router, "m")
    for _ in range(3):
        assert isinstance(send, Send)
        assert send.fits
        [send] = router.refused(send.number, 0, 0.1, no_room=True)
    assert isinstance(send, Send)
    assert not send.fits


def test_a_model_that_is_gone_after_all_is_not_looked_for_there_again() -> None:
    router = make_router()
    up(router, "a", "m", room=0)
    up(router, "b", room=1)
    assert ask(router, "m") == [Send(1, "a", fits=True)]
    [send] = router.refused(1, 0, 0.1, no_room=True)
    assert isinstance(send, Send)
    assert (send.number, send.replica_id, send.fits) == (1, "b", True)


def test_a_replica_that_refuses_and_holds_the_model_is_waited_for_as_a_holder() -> None:
    router = make_router()
    up(router, "a", room=1)
    up(router, "b", room=1)
    [(_, first)] = where(ask(router, "m"))
    assert router.refused(1, 1, 0.1, holds=True) == []
    assert ask(router, "m") == [], "the model is on its way there, so the other would be a second copy"
    assert where(router.told_ongoing(first, 0, 0.2)) == [(1, first)]


def test_a_replica_that_refuses_and_does_not_hold_the_model_is_one_of_many() -> None:
    router = make_router()
    up(router, "a", room=1)
    up(router, "b", room=1)
    [(_, first)] = where(ask(router, "m"))
    assert where(router.refused(1, 1, 0.1)) == [(1, "b" if first == "a" else "a")]


def test_a_slot_that_comes_free_by_a_refusal_is_filled() -> None:
    """The room was gone, so the request goes elsewhere, and those who came to wait for its slot need not."""
    router = make_router()
    up(router, "a", "warm", room=1)
    assert where(ask(router, "m")) == [(1, "a")]
    assert ask(router, "warm") == []
    up(router, "b", room=1)
    assert sorted(where(router.refused(1, 0, 0.1, no_room=True))) == [(1, "b"), (2, "a")]


def test_a_slot_that_comes_free_by_a_refusal_is_known_to_those_who_come_later() -> None:
    router = full_by_others("full")
    up(router, "a", room=1)
    assert where(ask(router, "m")) == [(1, "a")]
    up(router, "b", room=1)
    assert where(router.refused(1, 0, 0.1, no_room=True)) == [(1, "b")]
    assert where(ask(router)) == [(2, "a")]


def test_by_a_refusal_nobody_overtakes_one_who_came_earlier() -> None:
    router = make_router()
    up(router, "a", "x", slots=2, room=1)
    assert where(ask(router, "x") + ask(router, "y")) == [(1, "a"), (2, "a")]
    assert router.refused(1, 2, 0.1) == []
    assert where(router.refused(2, 1, 0.2, no_room=True)) == [(1, "a")]
    assert where(router.told_ongoing("a", 1, 0.3)) == [(2, "a")]


# What is said with an answer


def test_a_model_that_the_replica_holds_at_the_answer_is_loaded() -> None:
    router = make_router()
    up(router, "a", room=2)
    up(router, "b", room=2)
    [(_, first)] = where(ask(router, "m"))
    router.answered(1)
    router.finish(1, 1.0, ongoing=0, holds=True)
    assert router._fleet.views[first].has_loaded("m")
    assert router._fleet.cold_s("m", 1.0) is None


def test_a_model_that_it_does_not_hold_was_only_booked() -> None:
    router = make_router()
    up(router, "a")
    ask(router, "m")
    router.finish(1, 1.0, ongoing=0)
    assert router._fleet.views["a"].models == {}


def test_harm_that_is_said_with_an_answer_counts_for_the_next_choice() -> None:
    router = make_router()
    for replica_id in "ab":
        up(router, replica_id, room=0, slots=9, harm_s=0.5)
    [(_, first)] = where(ask(router, "m"))
    router.finish(1, 1.0, ongoing=0, harm_s=9.0)
    assert where(ask(router, "m", now=1.0)) == [(2, "b" if first == "a" else "a")]


@pytest.mark.parametrize("news", ["model_loading", "model_loaded", "model_gone"])
def test_harm_that_is_said_with_news_counts_for_the_next_choice(news: str) -> None:
    first = rendezvous.order("m", "ab", rendezvous.point)[0]
    router = make_router()
    for replica_id in "ab":
        up(router, replica_id, room=0, slots=9, harm_s=0.5)
    load_s = (LOAD_S,) if news == "model_loaded" else ()
    getattr(router, news)(first, "other", 0, *load_s, 0.0, 9.0)
    assert where(ask(router, "m")) == [(1, "b" if first == "a" else "a")]
