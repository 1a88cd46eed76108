"""A user's class that chooses replicas: what it is told, what becomes of its answers, who is asked for again."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from modelplex.core.admission import UNLIMITED
from modelplex.core.chooser import Choice, ChoiceError, PendingRequest, ReplicaInfo
from modelplex.core.dispatch import DECLINED_S, Command, Reject, Send, Why
from modelplex.core.estimates import Estimates
from modelplex.core.routing import Router

LOAD_S = 1.0

Answer = Callable[[PendingRequest, Sequence[ReplicaInfo]], Any]


class Scripted:
    """Chooses as its `answer` says, which a test may change, and remembers what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[PendingRequest] = []
        self.failures: list[Exception] = []

    def choose(self, request: PendingRequest, replicas: Sequence[ReplicaInfo]) -> Any:
        self.asked.append(request)
        return self.answer(request, replicas)

    def choice(self) -> Choice:
        return Choice(self, lambda number: (f"request-{number}", "method"), self.failures.append)


def router_of(scripted: Scripted | None, *replica_ids: str, slots: int = 1, room: int | None = 4) -> Router:
    """A router that has such a class, and empty replicas."""
    router = Router(UNLIMITED, 30.0, Estimates(LOAD_S, 0.1))
    if scripted is not None:
        assert router.use(scripted.choice(), 0.0) == []
    for replica_id in replica_ids:
        router.replica_up(replica_id, slots, room, [], [], 0.0)
    return router


def always(answer: Any) -> Scripted:
    return Scripted(lambda *_: answer)


def by_default() -> Scripted:
    return Scripted(lambda request, _: request.default_choice())


def ask(router: Router, model_id: str = "", now: float = 0.0, deadline: float | None = None) -> list[Command]:
    return router.submit(router.number(), model_id, now, deadline)


def where(commands: list[Command]) -> list[tuple[int, str]]:
    """The requests that are sent, and where to; nothing else happens."""
    sends = [command for command in commands if isinstance(command, Send)]
    assert sends == commands
    return [(send.number, send.replica_id) for send in sends]


# What it is told


def test_it_is_told_of_the_request_and_of_all_replicas() -> None:
    seen: list[dict[str, Any]] = []

    def answer(request: PendingRequest, replicas: Sequence[ReplicaInfo]) -> str:
        seen[:] = [
            {
                "id": r.replica_id,
                "slots": (r.ongoing, r.free, r.max_ongoing),
                "waiting": r.waiting,
                "room": r.room,
                "models": r.models,
                "held": [m for m in ("m", "n", "o") if r.holds(m)],
                "loading": [m for m in ("m", "n", "o") if r.loading(m)],
            }
            for r in replicas
        ]
        return "b"

    scripted = Scripted(answer)
    router = router_of(scripted)
    router.replica_up("a", 2, 0, ["m"], ["n"], 0.0, ongoing=1)
    router.replica_up("b", 1, None, [], [], 0.0)
    ask(router, "o")
    ask(router, "o")
    ask(router)
    assert seen == [
        {"id": "a", "slots": (1, 1, 2), "waiting": 0, "room": 0, "models": ["m", "n"], "held": ["m"], "loading": ["n"]},
        {"id": "b", "slots": (1, 0, 1), "waiting": 1, "room": None, "models": ["o"], "held": [], "loading": ["o"]},
    ]
    request = scripted.asked[1]
    assert (request.model_id, request.request_id, request.method_name) == ("o", "request-2", "method")
    assert (request.waited_s, request.attempt) == (0.0, 1)


def test_it_is_told_how_long_a_request_waits_and_how_often_it_has_come_back() -> None:
    scripted = always("a")
    router = router_of(scripted, "a", "b")
    ask(router, "m", now=1.0)
    router.refused(1, 1, 2.5)
    assert [(r.waited_s, r.attempt) for r in scripted.asked] == [(0.0, 1), (1.5, 2)]
    scripted.answer = lambda *_: "b"
    assert where(router.replica_down("a", 4.0)) == [(1, "b")]
    assert where(router.replica_up("c", 1, 4, [], [], 5.0)) == []
    scripted.answer = lambda *_: "c"
    assert where(router.replica_down("b", 6.0)) == [(1, "c")]
    assert [(r.waited_s, r.attempt) for r in scripted.asked[2:]] == [(3.0, 2), (5.0, 3)]


def test_the_replicas_are_those_there_are() -> None:
    seen: list[list[str]] = []
    scripted = Scripted(lambda _, replicas: seen.append([r.replica_id for r in replicas]))
    router = router_of(scripted, "a", "b")
    ask(router)
    router.replica_retiring("a", 0.0)
    router.replica_up("c", 1, 4, [], [], 0.0)
    ask(router)
    assert (seen[0], seen[-1]) == (["a", "b"], ["b", "c"])


def test_without_any_replica_nobody_is_asked_and_requests_wait_for_one() -> None:
    scripted = always("a")
    router = router_of(scripted)
    assert ask(router, "m") == []
    assert scripted.asked == []
    assert where(router.replica_up("a", 1, 4, [], [], 1.0)) == [(1, "a")]
    assert ask(router) == []
    assert router.replica_retiring("a", 2.0) == []
    assert router.tick(31.9) == []
    assert router.tick(32.0) == [Reject(2, Why.NO_REPLICA)]


# What becomes of its answers


@pytest.mark.parametrize("model_id", ["", "m"])
@pytest.mark.parametrize("chosen", ["a", "b", "c"])
def test_the_request_goes_where_it_says(model_id: str, chosen: str) -> None:
    router = router_of(always(chosen), "a", "b", "c", slots=2)
    router.model_loaded("a", "m", 3, 1.0, 0.0)
    assert where(ask(router, model_id)) == [(1, chosen)]


@pytest.mark.parametrize(("room", "fits"), [(1, True), (0, False)])
def test_a_model_may_have_to_evict_as_by_our_own_choice(room: int, fits: bool) -> None:
    own, users = router_of(None, "a", room=room), router_of(always("a"), "a", room=room)
    assert ask(users, "m") == ask(own, "m") != []
    users = router_of(always("a"), "a", "b", room=room)
    [send] = ask(users, "m")
    assert isinstance(send, Send)
    assert (send.replica_id, send.fits) == ("a", fits)


def test_a_model_that_was_refused_for_want_of_room_is_sent_again_to_evict() -> None:
    router = router_of(always("a"), "a", "b", room=1)
    ask(router, "m")
    [send] = router.refused(1, 0, 1.0, no_room=True)
    assert isinstance(send, Send)
    assert (send.replica_id, send.fits) == ("a", False)


def test_a_replica_that_is_full_is_waited_for_in_the_order_of_arrival() -> None:
    scripted = always("a")
    router = router_of(scripted, "a", "b")
    assert [where(ask(router, "m")) for _ in range(3)] == [[(1, "a")], [], []]
    assert where(ask(router)) == []
    asked = len(scripted.asked)
    assert where(router.finish(1, 1.0)) == [(2, "a")]
    assert where(router.finish(2, 1.0)) == [(3, "a")]
    assert where(router.finish(3, 1.0)) == [(4, "a")]
    assert len(scripted.asked) == asked, "it has said so"


def test_the_question_is_put_again_after_a_while() -> None:
    scripted = always("a")
    router = router_of(scripted, "a", "b")
    ask(router, "m")
    ask(router, "m")
    scripted.answer = lambda *_: "b"
    assert router.next_tick is not None
    assert where(router.tick(router.next_tick)) == [(2, "b")]


@pytest.mark.parametrize("answer", ["nobody", "", 3, ["a"], True, b"a"])
def test_what_is_no_answer_is_told_and_our_own_choice_taken(answer: Any) -> None:
    scripted = always(answer)
    router = router_of(scripted, "a", "b")
    router.model_loaded("b", "m", 3, 1.0, 0.0)
    assert where(ask(router, "m")) == [(1, "b")]
    [error] = scripted.failures
    assert isinstance(error, ChoiceError)
    assert repr(answer) in str(error)


def test_what_it_raises_is_told_and_our_own_choice_taken() -> None:
    scripted = Scripted(lambda *_: 1 / 0)
    router = router_of(scripted, "a", "b")
    router.model_loaded("b", "m", 3, 1.0, 0.0)
    assert where(ask(router, "m")) == [(1, "b")]
    assert where(ask(router)) == [(2, "a")]
    assert ask(router) == []
    assert where(router.finish(2, 1.0)) == [(3, "a")]
    assert [type(error) for error in scripted.failures] == [ZeroDivisionError] * 4


# None


def test_who_is_told_to_wait_is_asked_for_again_soon_until_the_deadline() -> None:
    scripted = always(None)
    router = router_of(scripted, "a")
    assert ask(router, deadline=0.25) == []
    assert router.next_tick == pytest.approx(DECLINED_S)
    assert router.tick(0.1) == []
    assert router.next_tick == pytest.approx(0.2)
    assert [r.waited_s for r in scripted.asked] == [0.0, 0.1]
    assert router.tick(0.2) == []
    assert router.next_tick == pytest.approx(0.25)
    assert router.tick(0.25) == [Reject(1, Why.DEADLINE)]
    assert router.next_tick is None


def test_who_is_told_to_wait_is_asked_for_again_when_a_slot_comes_free_the_oldest_first() -> None:
    router = router_of(Scripted(lambda _, replicas: next((r.replica_id for r in replicas if r.free), None)), "a", "b")
    assert [where(ask(router)) for _ in range(4)] == [[(1, "a")], [(2, "b")], [], []]
    assert where(router.finish(2, 0.01)) == [(3, "b")]
    assert where(router.replica_up("c", 1, 4, [], [], 0.02)) == [(4, "c")]


def test_others_pass_one_who_is_told_to_wait() -> None:
    scripted = Scripted(lambda request, _: None if request.model_id == "held back" else "a")
    router = router_of(scripted, "a")
    assert where(ask(router, "held back")) == []
    assert where(ask(router, "m")) == [(2, "a")]
    assert router.finish(2, 0.01) == []
    assert where(ask(router, "m")) == [(3, "a")]


def test_many_who_are_told_to_wait_are_not_asked_for_all_the_time() -> None:
    scripted = always(None)
    router = router_of(scripted, "a")
    for _ in range(1000):
        ask(router)
    asked, now = len(scripted.asked), 0.0
    while (next_tick := router.next_tick) is not None and next_tick <= 10.0:
        now = next_tick
        router.tick(now)
    assert now > 9.0
    assert 5_000 < len(scripted.asked) - asked < 20_000, "about a thousand a second"


def test_a_cancelled_request_is_not_asked_for_again() -> None:
    scripted = always(None)
    router = router_of(scripted, "a")
    ask(router)
    router.cancel(1, 0.05)
    assert router.tick(0.1) == []
    assert (len(scripted.asked), router.next_tick, router.queued) == (1, None, 0)


# The default


@pytest.mark.parametrize("model_id", ["", "m", "n", "cold"])
def test_the_default_choice_is_our_own(model_id: str) -> None:
    routers = [router_of(None, "a", "b", "c"), router_of(by_default(), "a", "b", "c")]
    for router in routers:
        router.model_loaded("a", "m", 3, 1.0, 0.0)
        router.model_loading("c", "n", 3, 0.0)
    own, users = ([ask(router, model_id, now=0.1) for _ in range(5)] for router in routers)
    assert own == users


def test_the_default_choice_of_a_busy_holder_is_waited_for_and_any_other_that_is_free_sooner() -> None:
    router = router_of(by_default())
    router.replica_up("a", 1, 4, ["m"], [], 0.0)
    router.replica_up("b", 1, 4, ["m"], [], 0.0)
    first, second = where(ask(router, "m")), where(ask(router, "m"))
    assert {first[0][1], second[0][1]} == {"a", "b"}
    assert where(ask(router, "m")) == where(ask(router, "m")) == []
    assert where(router.finish(1, 0.01)) == [(3, first[0][1])]
    assert where(router.finish(2, 0.02)) == [(4, second[0][1])]


# Another class, or none


def test_those_who_wait_are_asked_for_by_a_new_class_and_placed_by_our_rules_when_it_is_gone() -> None:
    router = router_of(always(None), "a", "b")
    ask(router, "m")
    ask(router)
    assert where(router.use(always("b").choice(), 0.01)) == [(1, "b")]
    assert where(router.use(None, 0.02)) == [(2, "a")]
    assert ask(router) == []
    assert where(router.finish(1, 0.03)) == [(3, "b")]
