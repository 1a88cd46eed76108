"""Why a request goes where it goes, or waits where it waits: the reason of each rule, and the numbers that decided."""

import random
from typing import Any

import pytest

from modelplex.core.admission import UNLIMITED
from modelplex.core.chooser import Choice
from modelplex.core.costs import HYSTERESIS, MARGIN_S
from modelplex.core.dispatch import DECLINED, Command, Reject, Send, Why
from modelplex.core.estimates import Estimates
from modelplex.core.reasons import Numbers, Rule
from modelplex.core.routing import Router

LOAD_S = 1.0
SERVICE_S = 0.1


class Written:
    """A journal."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str | None, Rule, Numbers]] = []

    def waits(self, number: int, line: str | None, rule: Rule, numbers: Numbers) -> None:
        self.lines.append((number, line, rule, numbers))


class World:
    """A router, what it writes, and replicas with a few words for them."""

    def __init__(self, queued_max: int = UNLIMITED, machine: str = "") -> None:
        self.router = Router(queued_max, 30.0, Estimates(LOAD_S, SERVICE_S), machine)
        self.written = Written()
        self.router.tell(self.written)

    def up(self, replica_id: str, *loaded: str, slots: int = 1, room: int | None = 4, **says: Any) -> list[Command]:
        return self.router.replica_up(replica_id, slots, room, loaded, [], 0.0, **says)

    def ask(self, model_id: str = "", now: float = 0.0, **until: Any) -> list[Command]:
        return self.router.submit(self.router.number(), model_id, now, **until)

    def sent(self, model_id: str = "", now: float = 0.0) -> Send:
        return only(self.ask(model_id, now))

    def waits(self, model_id: str = "", now: float = 0.0) -> tuple[str | None, Rule, Numbers]:
        """Of a request that has to wait, what was written of it."""
        assert self.ask(model_id, now) == []
        _, line, rule, numbers = self.written.lines[-1]
        return line, rule, numbers


def only(commands: list[Command]) -> Send:
    [send] = commands
    assert isinstance(send, Send)
    return send


# Sent at once


def test_only_one_replica_holds_the_model() -> None:
    world = World()
    world.up("a", "m", slots=5)
    world.up("b", slots=5)
    world.sent("m")
    send = world.sent("m")
    assert (send.replica_id, send.rule, send.taken, send.slots, send.warm) == ("a", Rule.ONLY_HOLDER, 1, 5, True)
    assert not send.numbers


def test_the_best_of_several_holders() -> None:
    world = World()
    for replica_id in "abc":
        world.up(replica_id, "m", slots=5)
    send = world.sent("m")
    assert (send.rule, send.warm, send.numbers) == (Rule.BEST_HOLDER, True, {"wait_s": 0.0, "holders": 3})


@pytest.mark.parametrize("model_id", ["m", ""])
def test_among_equals_the_near_one(model_id: str) -> None:
    world = World(machine="here")
    world.up("a", "m", slots=5, machine="there")
    world.up("b", "m", slots=5, machine="here")
    send = world.sent(model_id)
    assert (send.replica_id, send.rule) == ("b", Rule.NEAREST)


def test_that_it_is_near_is_no_reason_where_it_is_better_anyhow() -> None:
    world = World(machine="here")
    world.up("a", "m", slots=1, machine="there")
    world.up("b", "m", slots=5, machine="here")
    world.router.told_ongoing("a", 1, 0.0)
    assert (world.sent("m").rule, world.sent().rule) == (Rule.BEST_HOLDER, Rule.FREE_SLOTS)


@pytest.mark.parametrize("is_told", [False, True])
def test_a_model_that_loads_or_is_about_to_is_joined(*, is_told: bool) -> None:
    world = World()
    world.up("a", slots=5)
    world.sent("m")
    if is_told:
        world.router.model_loading("a", "m", 3, 0.0)
    send = world.sent("m", 0.25)
    assert (send.rule, send.warm) == (Rule.JOINS_LOAD, False)
    assert send.numbers["loading_s"] == (0.25 if is_told else 0.0)
    assert send.numbers["rest_s"] == (0.75 if is_told else 1.0)


def test_a_copy_where_waiting_costs_more_than_a_load() -> None:
    world = World()
    world.up("a", "m")
    world.up("b")
    world.sent("m")
    send = world.sent("m", 5.0)
    assert (send.replica_id, send.rule, send.warm) == ("b", Rule.COPY, False)
    assert send.numbers == {"wait_s": 5.0, "copy_s": HYSTERESIS * LOAD_S + MARGIN_S, "holders": 1}


def test_where_there_is_room_for_one_more() -> None:
    world = World()
    world.up("a", room=2, slots=5)
    world.up("b", room=0, slots=5)
    send = world.sent("m")
    assert (send.replica_id, send.rule) == ("a", Rule.ROOM)
    assert send.numbers == {"candidates": 1, "room": 2, "load_s": LOAD_S}


def test_where_an_eviction_does_least_harm() -> None:
    world = World()
    world.up("a", room=0, slots=5, harm_s=3.0)
    world.up("b", room=0, slots=5, harm_s=1.0)
    send = world.sent("m")
    assert (send.replica_id, send.rule) == ("b", Rule.LEAST_HARM)
    assert send.numbers == {"candidates": 2, "room": 0, "load_s": LOAD_S, "harm_s": 1.0, "harm_max_s": 3.0}


def test_where_its_file_is_on_the_disk() -> None:
    world = World()
    world.up("a", slots=5, machine="one")
    world.up("b", slots=5, machine="two", on_disk=["m"])
    send = world.sent("m")
    assert (send.replica_id, send.rule) == ("b", Rule.ON_DISK)


def test_without_a_model_where_most_slots_are_free() -> None:
    world = World()
    world.up("a", slots=5)
    world.up("b", slots=5)
    world.router.told_ongoing("a", 2, 0.0)
    send = world.sent()
    assert (send.replica_id, send.rule, send.warm, send.taken) == ("b", Rule.FREE_SLOTS, True, 0)
    assert send.numbers == {"candidates": 2}


def test_a_class_of_the_users_has_chosen_unless_what_it_says_is_nothing() -> None:
    class Names:
        answer: Any = "b"

        def choose(self, request: object, replicas: object) -> Any:
            return self.answer

    world, names = World(), Names()
    world.up("a", "m", slots=5)
    world.up("b", slots=5)
    world.router.use(Choice(names), 0.0)
    assert (world.sent("m").rule, world.sent("m").replica_id) == (Rule.CHOSEN, "b")
    names.answer = "nobody"
    assert world.sent("m").rule is not Rule.CHOSEN
    names.answer = None
    assert world.waits("m") == (DECLINED, Rule.CHOSEN, {**world.written.lines[-1][3], "ahead": 0})


def test_a_broadcast() -> None:
    world = World()
    world.up("a")
    assert [send.rule for send in world.router.broadcast("", 0.0)] == [Rule.BROADCAST]


# Who waits, and is sent later


def test_a_request_for_a_model_waits_in_the_line_of_its_holder_and_has_its_turn() -> None:
    world = World()
    world.up("a", "m")
    first = world.sent("m")
    line, rule, numbers = world.waits("m", 0.02)
    assert (line, rule) == ("a", Rule.ONLY_HOLDER)
    assert numbers == {"wait_s": pytest.approx(SERVICE_S - 0.02), "holders": 1, "ahead": 0}
    assert world.waits("m", 0.02)[2]["ahead"] == 1
    send = only(world.router.finish(first.number, 0.1))
    assert (send.rule, send.waited) == (Rule.TURN, True)
    assert send.numbers == {"waited_s": pytest.approx(0.08)}


def test_a_request_without_a_model_waits_for_any_slot() -> None:
    world = World()
    world.up("a")
    first = world.sent()
    assert world.waits()[:2] == (None, Rule.FREE_SLOTS)
    assert only(world.router.finish(first.number, 0.5)).rule is Rule.TURN


def test_a_request_waits_for_a_replica_where_there_is_none() -> None:
    world = World()
    assert world.waits("m") == (None, Rule.NO_REPLICA, {"ahead": 0})
    assert only(world.up("a")).rule is Rule.ROOM


def test_another_holder_that_has_a_slot_takes_one_from_a_line() -> None:
    world = World()
    world.up("a", "m")
    world.up("b")
    world.router.told_ongoing("b", 1, 0.0)
    world.sent("m")
    assert world.waits("m")[:2] == ("a", Rule.ONLY_HOLDER)
    world.router.model_loaded("b", "m", 3, LOAD_S, 0.1)
    send = only(world.router.told_ongoing("b", 0, 0.2))
    assert (send.replica_id, send.rule, send.numbers) == ("b", Rule.SLOT_ELSEWHERE, {"waited_s": 0.2})


def test_that_one_goes_on_waiting_where_it_is_is_not_written_again() -> None:
    world = World()
    world.up("a", "m")
    world.sent("m")
    world.waits("m")
    at = world.router.next_tick
    assert at is not None
    assert world.router.tick(at) == []
    assert len(world.written.lines) == 1


# Rejections


def test_a_rejection_has_its_numbers() -> None:
    world = World(queued_max=1)
    world.up("a", "m")
    world.sent("m")
    world.ask("m", 1.0, deadline=3.0)
    [full] = world.ask("m", 1.0)
    [late] = world.router.tick(3.0)
    assert isinstance(full, Reject)
    assert isinstance(late, Reject)
    assert (full.why, full.numbers) == (Why.QUEUE_FULL, {"queued": 1, "queued_max": 1})
    assert (late.why, late.numbers) == (Why.DEADLINE, {"waited_s": 2.0})
    assert len(world.written.lines) == 1, "of the one that was turned away it is not said that it waits"


def test_whose_replicas_are_lost_is_told_how_many() -> None:
    world = World()
    world.router.change(UNLIMITED, 30.0, retries_lost=False)
    world.up("a", "m")
    world.sent("m")
    [reject] = world.router.replica_down("a", 1.0)
    assert isinstance(reject, Reject)
    assert (reject.why, reject.numbers) == (Why.REPLICA_LOST, {"losses": 1})


# Any history


@pytest.mark.parametrize("seed", range(30))
def test_who_is_told_changes_nothing_and_who_waits_is_told(seed: int) -> None:
    rng = random.Random(seed)
    told, untold = World(), World()
    untold.router._dispatch.journal = None
    worlds, now = (told, untold), 0.0
    for world in worlds:
        for replica_id in "abc":
            world.up(replica_id, slots=2, room=2)
    for _ in range(200):
        now += rng.random() * 0.2
        act, model_id, at = rng.random(), rng.choice("mnop"), rng.choice("abc")
        running = list(told.router._dispatch.running)
        picked = rng.choice(running) if running else 0
        answers = []
        for world in worlds:
            if act < 0.45:
                answers.append(world.ask(model_id if act < 0.4 else "", now))
            elif act < 0.6:
                answers.append(world.router.model_loaded(at, model_id, 1, 0.3, now))
            elif act < 0.65:
                answers.append(world.router.model_gone(at, model_id, 2, now))
            elif act < 0.7:
                answers.append(world.router.tick(now))
            else:
                answers.append(world.router.cancel(picked, now))
        assert answers[0] == answers[1]
        for send in answers[0]:
            assert isinstance(send, Send)
            request = told.router._dispatch.running[send.number]
            holds = request.view.has_loaded(request.model_id)
            assert send.warm == (holds or not request.model_id)
            assert send.rule is not Rule.ONLY_HOLDER or holds
            assert 0 <= send.taken < send.slots == 2
        lines = {number: line for number, line, _, _ in told.written.lines}
        assert all(lines[request.number] == request.line for request in told.router._waiting)
