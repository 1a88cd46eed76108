"""Random histories against the router: true replicas, late messages, refusals, deaths, clients who come and go.

Up to four routers share the replicas, which have the last word about slots (`Occupancy`) and room (`Promises`). What
each router must hold is written in words in `Side.check`; the planted bugs at the end show that these histories find
what they are there to find.
"""

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import pytest

from modelplex.core import admission, placement, recovery, rendezvous
from modelplex.core.admission import UNLIMITED, Slots, WaitingRoom
from modelplex.core.chooser import Choice, ChoiceError, PendingRequest, ReplicaInfo
from modelplex.core.dispatch import DECLINED, Dispatch
from modelplex.core.estimates import Estimates
from modelplex.core.free import FreeReplicas
from modelplex.core.occupancy import Occupancy, Promises
from modelplex.core.placement import Fleet
from modelplex.core.recovery import Recovery
from modelplex.core.residency import ReplicaView
from modelplex.core.ring import Ring
from modelplex.core.routing import LOSSES_MAX, Command, Prefetch, Reject, Router, Send, Why

STEPS = 530
GROUPS = 14
SEEDS_PER_GROUP = 70
INPUTS_MIN = 350_000  # that routers are given, over all groups
SEEDS_TO_CATCH = range(1500)
TRACE_SHOWN = 40

# What takes time in proportion to all that there is, is looked at each so many steps.
CHECK_STEPS = 8


class BrokenError(AssertionError):
    """A history in which something that must hold did not."""


@dataclass(slots=True)
class Request:
    """One request as its caller knows it. It is over, or runs on a replica, or waits."""

    number: int
    model_id: str
    deadline: float | None
    cold_deadline: float | None
    replica_id: str | None = None
    answered: bool = False
    losses: int = 0
    over: str = ""
    slotless: bool = False


class Hostile:
    """A user's class that answers anything."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.moods = [self.random.random() + 0.1 for _ in range(5)]
        self.answers = 0
        self.failures: list[Exception] = []

    def choose(self, request: PendingRequest, replicas: Sequence[ReplicaInfo]) -> str | None:
        self.answers += 1
        assert replicas, "it is asked only if there is something to choose from"
        assert request.waited_s >= 0, f"{request} waits for {request.waited_s} s"
        assert request.attempt >= 1, f"{request} is tried for the {request.attempt}th time"
        for replica in replicas:
            assert 0 <= replica.free == replica.max_ongoing - replica.ongoing, f"slots of {replica}"
            assert replica.room is None or replica.room >= 0, f"room of {replica}"
            held = [m for m in replica.models if replica.holds(m) or replica.loading(m)]
            assert held == replica.models, f"models of {replica}: {held}"
        mood = self.random.choices(["any", "default", "none", "nobody", "raise"], self.moods)[0]
        if mood == "raise":
            raise ZeroDivisionError
        if mood == "nobody":
            answers: list[Any] = ["nobody", DECLINED, 7, ["r1"], replicas[0], object()]
            return self.random.choice(answers)  # type: ignore[no-any-return]
        if mood == "default":
            return request.default_choice()
        return None if mood == "none" else self.random.choice(replicas).replica_id


Mail = Callable[["Side"], None]


@dataclass(slots=True)
class Link:
    """What is on its way between one replica and one router, each way in order.

    It has another token when the network was cut and it is opened anew; until its welcome has come, it is `cut` for the
    router, which does not know of that and sends into nothing.
    """

    token: int
    to_router: deque[tuple[str, Mail]] = field(default_factory=deque)
    to_replica: deque[tuple[str, int, str, bool]] = field(default_factory=deque)  # verb, request, model, fits
    told_up: bool = False
    told_down: bool = False
    told_retiring: bool = False
    cut: bool = False
    dropped: bool = False  # the table says that it is not wanted, for a while


Key = tuple[int, int]  # token of the link, request


class Replica:
    """A replica that really has slots and a bounded model cache, and tells every router what changes."""

    def __init__(self, world: "World", replica_id: str, slots: int, capacity: int | None, loads_max: int) -> None:
        self.world = world
        self.replica_id = replica_id
        self.occupancy: Occupancy[int] = Occupancy(slots)
        self.promises: Promises[Key] = Promises()
        self.capacity = capacity
        self.loads_max = loads_max
        self.loaded: list[str] = []  # least recently used first
        self.loading: dict[str, float] = {}
        self.loads = 0  # that it has begun
        self.prefetched: list[str] = []  # to be loaded when there is room for them, for nobody
        self.running: dict[Key, str] = {}  # -> model
        self.asked: set[Key] = set()  # those of them that have asked for their model
        self.answered: set[Key] = set()
        self.unnoticed: list[int] = []  # tokens of links that are cut, of which it does not know
        self.unkept: set[str] = set()  # models that came not, though somebody was told that they would
        self.alive = True
        self.retiring = False
        self.links = [Link(next(world.tokens)) for _ in world.sides]
        self.machine = world.random.choice(world.machines)

    @property
    def room(self) -> int | None:
        return None if self.capacity is None else self.capacity - len(self.loaded) - len(self.loading)

    @property
    def harm_s(self) -> float:
        return 0.1 * len(self.loaded)

    def knows(self, model_id: str) -> bool:
        wanted = {self.running[key] for key in self.asked}
        return model_id in self.loaded or model_id in self.loading or model_id in wanted

    # What it tells

    def tell(self, words: str, mail: Mail, only: int | None = None) -> None:
        for link in self.links:
            if only is None or link.token == only:
                link.to_router.append((f"{self.replica_id}: {words}", mail))

    def tell_ongoing(self, token: int) -> None:
        ongoing = self.occupancy.ongoing
        self.tell(f"{ongoing} ongoing", lambda side: side.told_ongoing(self.replica_id, ongoing), only=token)

    def correct(self) -> None:
        for token in self.occupancy.mistaken():
            self.tell_ongoing(token)

    def tell_model(self, verb: str, model_id: str, load_s: float | None = None) -> None:
        self.unkept.discard(model_id)
        room, harm_s = self.room, self.harm_s
        fetch_s = None if load_s is None else self.world.random.choice([None, 0.0, load_s / 2])
        self.tell(
            f"{verb} {model_id}, room {room}",
            lambda side: side.told_model(self.replica_id, verb, model_id, room, load_s, harm_s, fetch_s),
        )

    def start(self, models: list[str]) -> None:
        """It may have loaded some models, and be at others, before it can be sent requests."""
        self.loaded = models[::2]
        self.loading = dict.fromkeys(models[1::2], self.world.now)
        for link in self.links:
            self.welcome(link)

    def welcome(self, link: Link, *, same_link: bool = False) -> None:
        words, room, ongoing = (tuple(self.loaded), tuple(self.loading)), self.room, self.occupancy.ongoing
        self.occupancy.join(link.token)
        self.tell(
            f"up {words}, {ongoing} ongoing, {same_link=}",
            lambda side: side.replica_up(self, room, *words, ongoing, same_link=same_link),
            only=link.token,
        )

    def cut(self, link: Link, *, notices: bool) -> None:
        """The network between them is cut, and what was on its way is lost; `notices` is whether it knows at once."""
        link.to_router.clear()
        link.to_replica.clear()
        if notices:
            self.lost(link.token)
        else:
            self.unnoticed.append(link.token)
        link.token, link.cut = next(self.world.tokens), True

    def lost(self, token: int) -> None:
        """It has noticed that a link is gone, and cancels what came by that."""
        self.occupancy.leave(token)
        for key in [key for key in self.running if key[0] == token]:
            self.leave(key)
        self.load_what_is_wanted()

    # What it is told

    def receive(self, token: int, verb: str, number: int, model_id: str, fits: bool) -> None:
        key = (token, number)
        if verb == "hello":
            link = next(link for link in self.links if link.token == token)
            if self.retiring:
                self.lost(token)
                self.tell("closes the link", lambda side: side.replica_down(self.replica_id), only=token)
            else:
                self.welcome(link, same_link=True)
        elif verb == "ahead":
            self.prefetch_ahead(model_id)
        elif verb == "prefetch":
            self.prefetched.append(model_id)
            self.load_what_is_wanted()
        elif verb == "broadcast":
            self.run_slotless(token, number)
        elif verb == "cancel":
            if key in self.running:
                self.leave(key)
                self.tell_ongoing(token)
                self.load_what_is_wanted()
        else:
            self.begin(key, model_id, fits)

    def prefetch_ahead(self, model_id: str) -> None:
        """Load it, unless it is here; or say that it will not be, for a reason that routers may not know."""
        if model_id in self.loaded or model_id in self.loading:
            return
        if self.room == 0 and self.world.random.random() < 0.5:
            self.tell_model("gone", model_id)
        else:
            self.prefetched.append(model_id)
            self.load_what_is_wanted()

    def run_slotless(self, token: int, number: int) -> None:
        if self.retiring:
            self.tell(f"refuses {number}", lambda side: side.refused(number, 0, no_room=False, holds=False), only=token)
        else:
            self.tell(
                f"finishes {number}",
                lambda side: side.finish(self.replica_id, number, 0, 0.0, holds=False),
                only=token,
            )

    def begin(self, key: Key, model_id: str, fits: bool) -> None:
        token, number = key
        has_room = not fits or self.knows(model_id) or self.promises.make(key, model_id, self.room)
        if not has_room or not self.occupancy.begin(token):
            self.promises.end(key)
            self.occupancy.told(token)
            ongoing = self.occupancy.ongoing
            holds = bool(model_id) and (self.knows(model_id) or model_id in self.promises)
            self.tell(
                f"refuses {number}, room: {has_room}, holds: {holds}",
                lambda side: side.refused(number, ongoing, no_room=not has_room, holds=holds),
                only=token,
            )
            return
        self.correct()
        self.running[key] = model_id
        if self.world.random.random() < 0.7:
            self.ask(key)

    def leave(self, key: Key) -> None:
        model_id = self.running.pop(key)
        self.answered.discard(key)
        self.asked.discard(key)
        self.promises.end(key)
        if not self.knows(model_id):
            self.unkept.add(model_id)
        self.occupancy.end(key[0])
        self.occupancy.told(key[0])
        self.correct()

    # What it does

    def ask(self, key: Key) -> None:
        """The request asks for its model."""
        self.asked.add(key)
        self.load_what_is_wanted()

    def load_what_is_wanted(self) -> None:
        wanted = [self.running[key] for key in self.running if key in self.asked]
        for model_id in [*wanted, *self.prefetched]:
            if model_id in self.loaded:
                self.loaded.remove(model_id)
                self.loaded.append(model_id)
            elif model_id and model_id not in self.loading and self.may_load(wanted):
                self.loading[model_id] = self.world.now
                self.loads += 1
                self.promises.keep(model_id)
                self.tell_model("loading", model_id)
        self.prefetched = [m for m in self.prefetched if m not in self.loaded and m not in self.loading]

    def may_load(self, wanted: list[str]) -> bool:
        if self.loads_max != UNLIMITED and len(self.loading) >= self.loads_max:
            return False
        if self.room is None or self.room > 0:
            return True
        victim = next((m for m in self.loaded if m not in wanted), None)
        if victim is None:
            return False
        self.loaded.remove(victim)
        self.tell_model("gone", victim)
        return True

    def end_load(self, model_id: str, fails: bool) -> None:
        load_s = self.world.now - self.loading.pop(model_id)
        if fails:
            self.tell_model("gone", model_id)
            for key in [key for key in self.asked if self.running[key] == model_id]:
                self.finish(key)
        else:
            self.loaded.append(model_id)
            self.tell_model("loaded", model_id, load_s)
        self.load_what_is_wanted()

    def able(self) -> list[Key]:
        """The running requests that have their model."""
        return [key for key, m in self.running.items() if key in self.asked and (not m or m in self.loaded)]

    def answer(self, key: Key) -> None:
        if key not in self.answered:
            self.answered.add(key)
            self.tell(f"answers {key[1]}", lambda side: side.answer(key[1]), only=key[0])

    def finish(self, key: Key) -> None:
        holds, harm_s = self.running[key] in self.loaded, self.harm_s
        self.leave(key)
        ongoing = self.occupancy.ongoing
        self.tell(
            f"finishes {key[1]}",
            lambda side: side.finish(self.replica_id, key[1], ongoing, harm_s, holds=holds),
            only=key[0],
        )
        self.load_what_is_wanted()

    def die(self) -> None:
        self.alive = False
        self.running.clear()
        self.asked.clear()
        self.loading.clear()
        for link in self.links:
            link.to_replica.clear()
        self.tell("down", lambda side: side.replica_down(self.replica_id))


class Side:
    """One router, its callers, and what it has been told; checks the router after every step."""

    def __init__(self, world: "World", index: int, queued_max: int, no_replica_wait_s: float) -> None:
        self.world = world
        self.index = index
        self.queued_max = queued_max
        self.no_replica_wait_s = no_replica_wait_s
        self.retries_lost = True
        machine = world.random.choice(world.machines)
        self.router = Router(queued_max, no_replica_wait_s, Estimates(load_s=1.0, service_s=0.1), machine)
        self.requests: dict[int, Request] = {}
        self.open: dict[int, Request] = {}  # those that are not over
        self.up: set[str] = set()
        self.empty_since = 0.0
        self.sent: list[Send] = []  # in this step
        self.inputs = 0  # that the router was given
        self.hostile: Hostile | None = None
        self.lines_are_new = False
        self.lines: dict[int, str | None] = {}  # where they waited before this step, if a user's class chooses
        self.ahead: set[tuple[str, str]] = set()  # replicas that were asked to load models, and have not said so
        self.asked_ahead = 0
        self.relinked = 0

    @property
    def now(self) -> float:
        return self.world.now

    @property
    def fleet(self) -> Fleet:
        return self.router._fleet

    @property
    def room(self) -> WaitingRoom:
        return self.router._waiting

    def waiting(self) -> list[Request]:
        return [request for request in self.open.values() if request.replica_id is None]

    def give(self, what: Callable[..., list[Command]], *args: Any, **named: Any) -> None:
        """An input of the router, and what comes of it."""
        self.inputs += 1
        self.perform(what(*args, **named))

    def end(self, request: Request, how: str) -> None:
        request.over, request.replica_id = how, None
        del self.open[request.number]

    # What the caller and the replicas do

    def submit(self, model_id: str, deadline: float | None, cold_deadline: float | None) -> None:
        number = self.router.number()
        full = self.queued_max != UNLIMITED and len(self.waiting()) >= self.queued_max
        self.requests[number] = self.open[number] = request = Request(number, model_id, deadline, cold_deadline)
        self.give(self.router.submit, number, model_id, self.now, deadline, cold_deadline)
        if request.replica_id is None:
            assert full == (request.over == Why.QUEUE_FULL.value), f"{request}, though the queue was full: {full}"

    def change(self, queued_max: int, *, retries_lost: bool) -> None:
        self.inputs += 1
        self.queued_max, self.retries_lost = queued_max, retries_lost
        self.router.change(queued_max, self.no_replica_wait_s, retries_lost=retries_lost)

    def use(self, hostile: Hostile | None) -> None:
        self.hostile = hostile
        choice = None if hostile is None else Choice(hostile, failed=hostile.failures.append)
        self.lines_are_new = hostile is not None  # some are declined first, and come to a line later in this step
        self.give(self.router.use, choice, self.now)
        self.lines_are_new = False

    def broadcast(self) -> None:
        self.inputs += 1
        sends = self.router.broadcast("", self.now)
        assert {send.replica_id for send in sends} == self.up, f"{sends}, not one for each of {self.up}"
        for send in sends:
            request = Request(send.number, "", None, None, send.replica_id, slotless=True)
            self.requests[send.number] = self.open[send.number] = request
            self.send(send.replica_id, ("broadcast", send.number, "", False))

    def cancel(self, request: Request) -> None:
        if request.replica_id is not None:
            self.send(request.replica_id, ("cancel", request.number, "", False))
        self.end(request, "cancelled")
        self.give(self.router.cancel, request.number, self.now)

    def answer(self, number: int) -> None:
        request = self.requests[number]
        if not request.over:
            self.inputs += 1
            request.answered = True
            self.router.answered(number)

    def finish(self, replica_id: str, number: int, ongoing: int, harm_s: float, *, holds: bool) -> None:
        request = self.requests[number]
        if request.over:  # cancelled meanwhile
            if not request.slotless:
                self.told_ongoing(replica_id, ongoing)
            return
        self.end(request, "finished")
        self.give(self.router.finish, number, self.now, 0.0, ongoing, harm_s, holds=holds)

    def refused(self, number: int, ongoing: int, *, no_room: bool, holds: bool) -> None:
        request = self.requests[number]
        if request.over:
            return
        view = self.router._dispatch.running[number].view
        request.replica_id = None
        self.inputs += 1
        commands = self.router.refused(number, ongoing, self.now, no_room=no_room, holds=holds)
        if ongoing >= view.slots.limit:
            assert not view.slots.free, f"{view.replica_id} said {ongoing} and was not believed"
        if no_room:
            assert not view.has_room, f"{view.replica_id} said that it has no room, and was not believed"
        self.perform(commands)

    def told_ongoing(self, replica_id: str, ongoing: int) -> None:
        self.give(self.router.told_ongoing, replica_id, ongoing, self.now)

    def told_model(
        self,
        replica_id: str,
        verb: str,
        model_id: str,
        room: int | None,
        load_s: float | None,
        harm_s: float,
        fetch_s: float | None,
    ) -> None:
        self.ahead.discard((replica_id, model_id))
        if load_s is None:
            self.give(getattr(self.router, f"model_{verb}"), replica_id, model_id, room, self.now, harm_s)
        else:
            self.give(self.router.model_loaded, replica_id, model_id, room, load_s, self.now, harm_s, fetch_s)
        view = self.fleet.views.get(replica_id)
        # Where files are on disks, a load that has not begun elsewhere may be expected to end before this one.
        plain = self.hostile is None and not self.fleet.disks.in_use
        if verb == "loading" and view is not None and view.slots.free and plain:
            views = self.fleet.views
            apart = [p for p in self.room.of_model(model_id) if p.line and not views[p.line].models[model_id].told]
            assert not apart, f"{model_id} loads on {replica_id}, which is free, and they wait elsewhere: {apart}"

    def replica_up(
        self,
        replica: Replica,
        room: int | None,
        loaded: tuple[str, ...],
        loading: tuple[str, ...],
        ongoing: int,
        *,
        same_link: bool,
    ) -> None:
        link, replica_id = replica.links[self.index], replica.replica_id
        link.cut, link.told_up = False, True
        if link.told_retiring and not same_link:
            self.replica_down(replica_id)  # it is wanted no more
        if link.told_retiring:
            return
        lost = [] if same_link else self.lost_by(replica_id)
        self.relinked += replica_id in self.up
        if not (same_link and replica_id in self.up):
            self.ahead = {(r, m) for r, m in self.ahead if r != replica_id}
        self.up.add(replica_id)
        self.give(
            self.router.replica_up,
            replica_id,
            replica.occupancy.limit,
            room,
            loaded,
            loading,
            self.now,
            ongoing,
            loads_max=replica.loads_max,
            machine=replica.machine,
            on_disk=[*loaded, "another"],
            same_link=same_link,
        )
        self.check_lost(lost)

    def lost_by(self, replica_id: str) -> list[Request]:
        """What runs there is lost with the replica, or with its link."""
        lost = [request for request in self.open.values() if request.replica_id == replica_id]
        for request in lost:
            request.losses += 1
            request.replica_id = None
        return lost

    def check_lost(self, lost: list[Request]) -> None:
        for request in lost:
            given_up = request.answered or request.losses >= LOSSES_MAX or request.slotless or not self.retries_lost
            assert given_up == (request.over == Why.REPLICA_LOST.value), f"lost its replica: {request}"

    def lose(self, replica_id: str) -> None:
        self.ahead = {(r, m) for r, m in self.ahead if r != replica_id}
        if replica_id in self.up:
            self.up.remove(replica_id)
            if not self.up:
                self.empty_since = self.now

    def replica_retiring(self, replica_id: str) -> None:
        self.lose(replica_id)
        self.give(self.router.replica_retiring, replica_id, self.now)

    def replica_down(self, replica_id: str) -> None:
        self.lose(replica_id)
        self.world.replicas[replica_id].links[self.index].told_down = True
        lost = self.lost_by(replica_id)
        self.give(self.router.replica_down, replica_id, self.now)
        self.check_lost(lost)

    def tick(self) -> None:
        self.give(self.router.tick, self.now)
        next_tick = self.router.next_tick
        assert next_tick is None or next_tick > self.now, "a tick asks for a tick at the same moment, for ever"
        for request in self.waiting():
            late = request.deadline is not None and request.deadline <= self.now
            assert not late, f"waits past its deadline: {request}"
            cold = request.cold_deadline is not None and request.cold_deadline <= self.now and request.model_id
            pending = self.room.get(request.number)
            if cold and pending is not None and pending.cold_deadline is not None:
                raise AssertionError(f"waits past its cold deadline: {request}")

    # What the router answers

    def perform(self, commands: list[Command]) -> None:
        prefetched = {command.model_id for command in commands if isinstance(command, Prefetch)}
        for command in commands:
            if isinstance(command, Prefetch):
                assert command.replica_id in self.up, f"{command}, but that replica is down or retired"
                if command.worth_s is not None:
                    self.check_ahead(command)
                self.send(command.replica_id, ("ahead" if command.worth_s else "prefetch", 0, command.model_id, False))
                continue
            request = self.requests[command.number]
            assert not request.over, f"{command}, but it is over: {request}"
            assert request.replica_id is None, f"{command}, but it runs: {request}"
            if isinstance(command, Send):
                assert command.replica_id in self.up, f"{command}, but that replica is down or retired"
                assert not request.answered, f"{command}, but its answer has begun"
                assert not request.slotless, f"{command}, but it was for another replica"
                request.replica_id = command.replica_id
                self.sent.append(command)
                self.send(command.replica_id, ("request", command.number, request.model_id, command.fits))
            else:
                self.reject(request, command, prefetched)
        self.check_sent()

    def send(self, replica_id: str, mail: tuple[str, int, str, bool]) -> None:
        replica = self.world.replicas[replica_id]
        if replica.alive and not replica.links[self.index].cut:
            replica.links[self.index].to_replica.append(mail)

    def reject(self, request: Request, command: Reject, prefetched: set[str]) -> None:
        self.end(request, command.why.value)
        if command.why is Why.DEADLINE:
            assert request.deadline is not None, f"{command} without a deadline"
            assert request.deadline <= self.now, f"{command} before its deadline"
        elif command.why is Why.COLD:
            self.check_cold(request, command, prefetched)
        elif command.why is Why.NO_REPLICA:
            assert not self.up, f"{command}, but there are replicas: {self.up}"
            waited_s = self.now - self.empty_since
            assert waited_s >= self.no_replica_wait_s - 1e-6, f"{command} after only {waited_s} s without a replica"

    def check_cold(self, request: Request, command: Reject, prefetched: set[str]) -> None:
        """The model is loaded nowhere, it was time, and the load goes on."""
        views, model_id = self.fleet.views.values(), request.model_id
        assert request.cold_deadline is not None, f"{command} without a cold deadline"
        assert request.cold_deadline <= self.now, f"{command} before its cold deadline"
        assert command.retry_after_s is not None, f"{command} without a time to retry"
        assert command.retry_after_s >= 0, f"{command} with a time to retry that has passed"
        assert not any(view.has_loaded(model_id) for view in views), f"{command}, but its model is loaded"
        told = any(model_id in view.models and view.models[model_id].told for view in views)
        told_to_wait = self.hostile is not None
        assert told or model_id in prefetched or not views or told_to_wait, f"{command}, and nobody loads its model"

    def check_ahead(self, command: Prefetch) -> None:
        """Nobody else loads it, and nobody was asked to."""
        model_id = command.model_id
        assert not [r for r, m in self.ahead if m == model_id], f"{command}, and {self.ahead} were asked already"
        expected = [view.replica_id for view in self.fleet.views.values() if view.expects(model_id)]
        assert expected == [command.replica_id], f"{command}, and it is expected of {expected}"
        assert not list(self.room.of_model(model_id)), f"{command}, though requests wait for it elsewhere"
        self.ahead.add((command.replica_id, model_id))
        self.asked_ahead += 1

    # What must hold

    def check(self) -> None:
        """What must hold between two inputs, in proportion to all that there is."""
        self.check_requests()
        self.check_lines()
        self.check_slots()
        self.check_index()

    def check_sent(self) -> None:
        """Of those sent in this step, nobody was served before one who came earlier to the same line."""
        for sent in () if self.lines_are_new else self.sent:
            for line in (sent.replica_id, None):
                waiting = [n for n in self.room._lines.get(line, ()) if self.is_in(n, line)]
                if self.hostile is not None:  # its class may send one there that it was asked for later in this step
                    waiting = [n for n in waiting if self.lines.get(n) == line]
                first = min(waiting, default=sent.number)
                assert first >= sent.number, f"{sent} was served before {first} in the line of {line}"
        self.sent.clear()
        if self.hostile is not None:
            self.lines = {pending.number: pending.line for pending in self.room}

    def is_in(self, number: int, line: str | None) -> bool:
        pending = self.room.get(number)
        return pending is not None and pending.line == line

    def check_requests(self) -> None:
        """Every request is over, runs, or waits, and the router agrees."""
        flights = self.router._dispatch.running
        assert set(self.room._waiting) == {r.number for r in self.waiting()}, (
            "the router and the callers differ on who waits"
        )
        running = {r.number: r.replica_id for r in self.open.values() if r.replica_id is not None}
        assert {n: f.view.replica_id for n, f in flights.items()} == running, "they differ on what runs where"
        looks = [p.look_at for p in self.room._waiting.values() if p.look_at != float("inf")]
        next_tick = self.router.next_tick
        assert not looks or (next_tick is not None and next_tick <= min(looks)), "nobody will look again in time"

    def check_lines(self) -> None:
        """Lines are in the order of arrival, and nobody waits for what is free."""
        room, views = self.room, self.fleet.views
        by_line: dict[str | None, list[admission.Request]] = {}
        for pending in sorted(room._waiting.values(), key=lambda p: p.number):
            by_line.setdefault(pending.line, []).append(pending)
            if pending.line == DECLINED:
                assert self.hostile is not None, f"{pending} waits for an answer that nobody gives"
                assert views, f"{pending} waits for a choice of no replica"
                assert pending.look_at <= self.now + 1.0, f"{pending} is forgotten"
            elif pending.line is None:
                assert (self.hostile is None and not pending.model_id) or not views, (
                    f"{pending} waits in no line, though there are replicas"
                )
            else:
                assert pending.line in views, f"{pending} waits for a replica that is not there"
        for line, pendings in by_line.items():
            assert room.first(line) is pendings[0], f"the first of {line} is not the oldest"
            assert room.all_in(line) == pendings, f"the line of {line} is not in order"
            assert room.length(line) == len(pendings), f"the line of {line} is counted wrong"
        for view in views.values():
            if view.slots.free:
                assert view.replica_id not in by_line, f"{view.replica_id} is free, and they wait in its line"
                assert None not in by_line, f"{view.replica_id} is free, and they wait for any replica"
                held = [m for m in room.models if view.has_loaded(m)]
                assert not held or self.hostile is not None, (
                    f"{view.replica_id} is free and has the model that they wait for: {held}"
                )

    def check_slots(self) -> None:
        """The router sends no more to a replica than it has slots, and counts right."""
        for view in {id(f.view): f.view for f in self.router._dispatch.running.values()}.values():
            assert view.slots.own <= view.slots.limit, f"{view.replica_id} was sent more than it has slots"
        for view in self.fleet.views.values():
            running = [r for r in self.open.values() if r.replica_id == view.replica_id and not r.slotless]
            assert view.slots.own == len(running) == len(view.running), f"slots of {view.replica_id} counted wrong"
            assert view.queued == self.room.length(view.replica_id), f"the line of {view.replica_id} is counted wrong"

    def check_index(self) -> None:
        """The index says what the views say, and bookings are the requests that run or wait there."""
        fleet = self.fleet
        assert set(fleet.views) == self.up, "the router and the news differ on which replicas there are"
        holders: dict[str, set[str]] = {}
        for view in fleet.views.values():
            booked: dict[str, int] = {}
            lines = (p for p in self.room._waiting.values() if p.line == view.replica_id)
            for pending in [*lines, *view.running.values()]:
                booked[pending.model_id] = booked.get(pending.model_id, 0) + 1
            booked.pop("", None)
            bookings = {m: residence.bookings for m, residence in view.models.items() if residence.bookings}
            assert bookings == booked, f"bookings on {view.replica_id}: {bookings}, not {booked}"
            ahead = {(view.replica_id, m) for m, residence in view.models.items() if residence.ahead}
            asked = {(r, m) for r, m in self.ahead if r == view.replica_id}
            assert ahead <= asked, f"{ahead - asked} are booked on {view.replica_id} for nobody"
            forgotten = {(r, m) for r, m in asked if not view.models[m].ahead and not view.models[m].bookings}
            assert not forgotten, f"{forgotten} are booked no more, and may come"
            untold = sum(not residence.told for residence in view.models.values())
            assert view._untold == untold, f"{view.replica_id}: untold models counted wrong"
            loading = {m for m, residence in view.models.items() if residence.loading}
            assert set(view.loading) == loading, f"{view.replica_id}: loads remembered wrong"
            assert not view.slots.free or view in fleet.free, f"{view.replica_id} is free, which is forgotten"
            for model_id in filter(view.expects, view.models):
                holders.setdefault(model_id, set()).add(view.replica_id)
        indexed = {model_id: {v.replica_id for v in views} for model_id, views in fleet._holders.items()}
        assert indexed == holders, f"the index says {indexed}, the views say {holders}"
        for model_id, views in fleet._holders.items():
            ids = [view.replica_id for view in views]
            assert len(ids) == 1 or ids == rendezvous.order(model_id, ids, rendezvous.point), (
                f"the holders of {model_id} are out of order"
            )
        assert set(fleet._ring._views.values()) == set(fleet.views.values()), "the ring has other replicas"
        roomy = {view for view in fleet.views.values() if view.has_room}
        assert set(fleet._roomy._views.values()) == roomy, "the ring of those with room is not up to date"
        by_machine: dict[str, set[str]] = {}
        for view in filter(lambda v: v.machine, fleet.views.values()):
            by_machine.setdefault(view.machine, set()).add(view.replica_id)
        on_machines = {m: {v.replica_id for v in ring._views.values()} for m, ring in fleet._machines.items()}
        assert on_machines == by_machine, "the machines have other replicas"
        for ring in (fleet._ring, fleet._roomy, *fleet._machines.values()):
            assert ring._points == sorted(ring._views), "a ring is out of order"


class World:
    """One random history."""

    def __init__(self, seed: int, *, hostile: bool = False) -> None:
        self.random = random.Random(seed)
        self.hostile = hostile
        self.now = 0.0
        self.trace: list[str] = []
        self.models = [f"m{n}" for n in range(self.random.choice([1, 2, 5, 12]))]
        self.tokens = count()
        self.machines = self.random.choice([[""], ["here", "there"], ["", "here", "there"]])
        self.calm = self.random.random() < 0.5  # replicas seldom come and go
        self.sides: list[Side] = []
        for index in range(self.random.choice([1, 2, 2, 4])):
            queued_max = self.random.choice([UNLIMITED, UNLIMITED, 10, 2, 0])
            self.sides.append(Side(self, index, queued_max, self.random.choice([0.0, 1.0, 30.0])))
        self.replicas: dict[str, Replica] = {}
        self.replicas_max = self.random.choice([4, 4, 4, 12, 24])
        self.preloads = self.random.choice([0.0, 0.3, 1.0])
        self.switched: list[Hostile] = []
        for _ in range(self.random.choice([0, 1, self.replicas_max - 1])):
            self.start()
        for _ in self.sides if hostile else ():
            self.switch()

    def alive(self) -> list[Replica]:
        return [replica for replica in self.replicas.values() if replica.alive]

    # Steps

    def step(self) -> None:
        steps: list[tuple[Callable[[], None], float]] = [
            (self.submit, 9),
            (self.cancel, 1),
            (self.change, 0.1),
            (self.broadcast, 0.1),
            (self.deliver_to_router, 12),
            (self.deliver_to_replica, 10),
            (self.end_load, 4),
            (self.ask, 3),
            (self.answer, 4),
            (self.finish, 8),
            (self.advance, 3),
            (self.retire, 0.1 if self.calm else 0.5),
            (self.die, 0.1 if self.calm else 0.7),
            (self.start, 0.3 if self.calm else 1.5),
            (self.cut, 0.1 if self.calm else 0.5),
            (self.notice, 0.5),
            (self.drop, 0.1),
            (self.want_again, 0.3),
        ]
        steps += [(self.switch, 0.2)] if self.hostile else []
        act = self.random.choices([s for s, _ in steps], [weight for _, weight in steps])[0]
        act()

    def submit(self) -> None:
        side = self.random.choice(self.sides)
        model_id = "" if self.random.random() < 0.15 else self.models[int(len(self.models) * self.random.random() ** 2)]
        deadline, cold_deadline = self.some_time(), self.some_time()
        self.trace.append(f"{side.index}: submit {model_id!r} until {deadline}, while cold until {cold_deadline}")
        side.submit(model_id, deadline, cold_deadline)

    def some_time(self) -> float | None:
        return self.now + self.random.choice([0.0, 0.5, 3.0]) if self.random.random() < 0.15 else None

    def cancel(self) -> None:
        side = self.random.choice(self.sides)
        if requests := list(side.open.values()):
            request = self.random.choice(requests)
            self.trace.append(f"{side.index}: cancel {request}")
            side.cancel(request)

    def change(self) -> None:
        side = self.random.choice(self.sides)
        queued_max, retries_lost = self.random.choice([UNLIMITED, 10, 2, 0]), self.random.random() < 0.8
        self.trace.append(f"{side.index}: {queued_max} may wait, lost requests sent again: {retries_lost}")
        side.change(queued_max, retries_lost=retries_lost)

    def broadcast(self) -> None:
        side = self.random.choice(self.sides)
        self.trace.append(f"{side.index}: broadcast")
        side.broadcast()

    def deliver_to_router(self) -> None:
        links = [(r, s) for r in self.replicas.values() for s in self.sides if r.links[s.index].to_router]
        if links:
            self.deliver(*self.random.choice(links))

    def deliver(self, replica: Replica, side: Side) -> None:
        words, mail = replica.links[side.index].to_router.popleft()
        self.trace.append(f"{side.index}: told by {words}")
        mail(side)

    def deliver_to_replica(self) -> None:
        links = [(r, s.index) for r in self.alive() for s in self.sides if r.links[s.index].to_replica]
        if links:
            self.hand_over(*self.random.choice(links))

    def hand_over(self, replica: Replica, router: int) -> None:
        mail = replica.links[router].to_replica.popleft()
        self.trace.append(f"{router}: {mail} reaches {replica.replica_id}")
        replica.receive(replica.links[router].token, *mail)

    def end_load(self) -> None:
        loads = [(replica, model_id) for replica in self.alive() for model_id in replica.loading]
        if loads:
            replica, model_id = self.random.choice(loads)
            fails = self.random.random() < 0.15
            self.trace.append(f"{replica.replica_id} ends its load of {model_id}, fails: {fails}")
            replica.end_load(model_id, fails)

    def ask(self) -> None:
        if unasked := [(r, key) for r in self.alive() for key in r.running if key not in r.asked]:
            replica, key = self.random.choice(unasked)
            self.trace.append(f"{replica.replica_id}: {key} asks for its model")
            replica.ask(key)

    def able(self) -> list[tuple[Replica, Key]]:
        return [(replica, key) for replica in self.alive() for key in replica.able()]

    def answer(self) -> None:
        if able := self.able():
            replica, key = self.random.choice(able)
            replica.answer(key)

    def finish(self) -> None:
        if able := self.able():
            replica, key = self.random.choice(able)
            if self.random.random() < 0.8:
                replica.answer(key)
            self.trace.append(f"{replica.replica_id} finishes {key}")
            replica.finish(key)

    def switch(self) -> None:
        """A user's class chooses from now on, or no longer."""
        side = self.random.choice(self.sides)
        hostile = Hostile(self.random.randrange(10**6)) if self.random.random() < 0.8 else None
        self.trace.append(f"{side.index}: {'a user chooses' if hostile else 'its own rules'}")
        self.switched += [hostile] if hostile else []
        side.use(hostile)

    def advance(self) -> None:
        """Let time pass. A shell may tick late, or without need."""
        until = self.now + self.random.choice([0.01, 0.1, 1.0, 5.0])
        late = self.random.random() < 0.3
        for side in self.sides:
            while not late and (next_tick := side.router.next_tick) is not None and next_tick <= until:
                self.now = max(self.now, next_tick)
                self.trace.append(f"{side.index}: tick at {self.now}")
                side.tick()
        self.now = max(self.now, until)
        for side in self.sides:
            self.trace.append(f"{side.index}: tick at {self.now}")
            side.tick()

    def start(self) -> None:
        if len(self.alive()) < self.replicas_max:
            slots, capacity = self.random.choice([1, 1, 2, 4]), self.random.choice([1, 2, 3, None])
            loads_max = self.random.choice([UNLIMITED, 1, 2])
            replica = Replica(self, f"r{len(self.replicas)}", slots, capacity, loads_max)
            self.trace.append(f"{replica.replica_id} starts with {slots} slots, {capacity} models")
            self.replicas[replica.replica_id] = replica
            has = capacity or 3 if self.random.random() < self.preloads else 0
            replica.start(self.random.sample(self.models, self.random.randint(0, min(has, len(self.models)))))

    def retire(self) -> None:
        """News of it comes from elsewhere, so it may overtake, or be overtaken by, what the replica itself says."""
        for replica in self.alive():
            if not replica.retiring and self.random.random() < 0.5:
                replica.retiring = True
                self.trace.append(f"{replica.replica_id} is to retire")
                return
        self.spread_news()

    def linked(self) -> list[tuple[Replica, Side, Link]]:
        """The links of replicas that routers believe to be up."""
        links = [(r, side, r.links[side.index]) for r in self.alive() for side in self.sides]
        return [(r, side, link) for r, side, link in links if r.replica_id in side.up and not link.cut]

    def cut(self) -> None:
        """A link is lost without a word, and opened anew."""
        if linked := [(replica, side, link) for replica, side, link in self.linked() if not replica.retiring]:
            replica, side, link = self.random.choice(linked)
            notices = self.random.random() < 0.5
            self.trace.append(f"{side.index}: the link to {replica.replica_id} is cut, {notices=}")
            replica.cut(link, notices=notices)
            replica.welcome(link)

    def notice(self) -> None:
        for replica in self.alive():
            if replica.unnoticed:
                self.trace.append(f"{replica.replica_id} notices that a link was cut")
                replica.lost(replica.unnoticed.pop())

    def drop(self) -> None:
        """For a while, the table has a replica no more."""
        if linked := self.linked():
            replica, side, link = self.random.choice(linked)
            link.dropped = True
            self.trace.append(f"{side.index}: {replica.replica_id} is not wanted")
            side.replica_retiring(replica.replica_id)

    def want_again(self) -> None:
        for replica in self.replicas.values():
            for side in self.sides:
                if replica.links[side.index].dropped:
                    replica.links[side.index].dropped = False
                    self.trace.append(f"{side.index}: {replica.replica_id} is wanted again")
                    side.send(replica.replica_id, ("hello", 0, "", False))

    def spread_news(self) -> None:
        for replica in self.replicas.values():
            for side, link in zip(self.sides, replica.links, strict=True):
                if replica.retiring and link.told_up and not link.told_retiring:
                    link.told_retiring = True
                    self.trace.append(f"{side.index}: news that {replica.replica_id} retires")
                    side.replica_retiring(replica.replica_id)

    def die(self) -> None:
        if alive := self.alive():
            replica = self.random.choice(alive)
            self.trace.append(f"{replica.replica_id} dies")
            replica.die()

    # The end

    def settle(self) -> None:
        """Nothing new happens; everything that is under way ends. No clock is needed to get out of a line."""
        if not any(not replica.retiring for replica in self.alive()):
            while len(self.alive()) >= self.replicas_max:
                self.die()
            self.start()
        self.trace.append("settle")
        for _ in range(500):
            if not self.settle_once():
                break
            self.check()
        else:
            raise AssertionError("it never settles")
        for side in self.sides:
            assert not side.open, f"they wait though everything is idle: {list(side.open.values())}"
            assert side.router.next_tick is None, "a tick is asked for though nobody waits"
            assert side.router.queued == 0, "it counts requests that are not there"
            self.check_belief(side)

    def settle_once(self) -> bool:
        """Whether anything was left to do."""
        before = len(self.trace)
        self.want_again()
        self.notice()
        self.spread_news()
        for replica in self.replicas.values():
            for side in self.sides:
                while replica.links[side.index].to_router:
                    self.deliver(replica, side)
                while replica.links[side.index].to_replica:
                    self.hand_over(replica, side.index)
        for replica in self.alive():
            for key in [key for key in replica.running if key not in replica.asked]:
                self.trace.append(f"{replica.replica_id}: {key} asks for its model")
                replica.ask(key)
        for replica, key in self.able():
            if key in replica.running:
                self.trace.append(f"{replica.replica_id} finishes {key}")
                replica.finish(key)
        for replica in self.alive():
            for model_id in list(replica.loading):
                self.trace.append(f"{replica.replica_id} ends its load of {model_id}")
                replica.end_load(model_id, fails=False)
        if self.hostile:
            self.pass_time()
        return len(self.trace) > before

    def pass_time(self) -> None:
        """Those who were told to wait by a user's class wait for that."""
        for side in self.sides:
            if (next_tick := side.router.next_tick) is not None:
                self.now = max(self.now, next_tick)
                self.trace.append(f"{side.index}: tick at {self.now}")
                side.tick()

    def check_belief(self, side: Side) -> None:
        """When all has been said, the router believes what is so, but for models that were promised and never came."""
        truth = {r.replica_id: r for r in self.alive() if not r.retiring}
        assert set(side.router.replica_ids) == set(truth), "it believes in other replicas than there are"
        assert not side.ahead, f"they were asked to load models, and have said nothing: {side.ahead}"
        for replica_id, view in side.fleet.views.items():
            replica = truth[replica_id]
            has, believed = set(replica.loaded), {m for m in view.models if m not in replica.unkept}
            assert believed == has, f"{replica_id} has {has}, not {believed}"
            assert all(map(view.has_loaded, believed)), f"{replica_id} loads no more: {view.models}"
            assert view._room == replica.room or replica.unkept, (
                f"{replica_id} has room for {replica.room}, not {view._room}"
            )
            assert view.slots.own == 0, f"nothing of this router runs on {replica_id}"
            assert view.slots.free, f"{replica_id} is idle and is believed full"

    def check(self) -> None:
        for side in self.sides:
            side.check()


class Fitting(World):
    """One random history of several routers, and models that just fit; nothing fails, and every request is patient."""

    def __init__(self, seed: int, routers: int) -> None:
        self.random = random.Random(seed)
        self.hostile = False
        self.now = 0.0
        self.tokens = count()
        self.machines = [""]
        self.trace: list[str] = []
        self.models = [f"m{n}" for n in range(12)]
        self.asked_for: set[str] = set()
        self.sides = [Side(self, index, UNLIMITED, no_replica_wait_s=1.0) for index in range(routers)]
        self.replicas = {f"r{n}": Replica(self, f"r{n}", slots=100, capacity=4, loads_max=UNLIMITED) for n in range(3)}
        for replica in self.replicas.values():
            replica.start([])
            for side in self.sides:
                self.deliver(replica, side)

    def step(self) -> None:
        steps: list[tuple[Callable[[], None], float]] = [
            (self.submit, 3),
            (self.deliver_to_router, 12),
            (self.deliver_to_replica, 10),
            (self.end_load, 4),
            (self.ask, 3),
            (self.finish, 8),
        ]
        act = self.random.choices([s for s, _ in steps], [weight for _, weight in steps])[0]
        act()

    def submit(self) -> None:
        model_id = self.random.choice(self.models)
        self.asked_for.add(model_id)
        self.random.choice(self.sides).submit(model_id, None, None)

    def end_load(self) -> None:
        if loads := [(replica, model_id) for replica in self.alive() for model_id in replica.loading]:
            replica, model_id = self.random.choice(loads)
            replica.end_load(model_id, fails=False)


def play(seed: int, *, hostile: bool = False) -> World:
    """One history from its seed to its end; says how to repeat it when it breaks."""
    world = World(seed, hostile=hostile)
    try:
        for step in range(STEPS):
            world.step()
            if step % CHECK_STEPS == 0:
                world.check()
        world.settle()
    except Exception as error:
        tail = "\n".join(world.trace[-TRACE_SHOWN:])
        raise BrokenError(f"seed {seed}: {type(error).__name__}: {error}\n{tail}") from error
    return world


def play_all(seeds: Iterable[int]) -> list[Side]:
    return [side for seed in seeds for side in play(seed).sides]


@pytest.fixture(autouse=True)
def _eager_to_load_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or few of these short histories would have models in such demand."""
    monkeypatch.setattr(recovery, "LIKELY_REQUESTS", 0.01)


@pytest.mark.parametrize("group", range(GROUPS))
def test_what_must_hold_holds_after_every_step(group: int) -> None:
    sides = play_all(range(group * SEEDS_PER_GROUP, (group + 1) * SEEDS_PER_GROUP))
    assert sum(side.inputs for side in sides) >= INPUTS_MIN / GROUPS
    assert sum(side.asked_ahead for side in sides) > 5
    assert sum(side.relinked for side in sides) > 100
    ends = {request.over for side in sides for request in side.requests.values()}
    assert ends == {"finished", "cancelled", *(why.value for why in Why)}, "otherwise they would prove little"


@pytest.mark.parametrize("group", range(4))
def test_what_must_hold_holds_whatever_a_users_class_chooses(group: int) -> None:
    worlds = [play(seed, hostile=True) for seed in range(group * SEEDS_PER_GROUP, (group + 1) * SEEDS_PER_GROUP)]
    assert sum(hostile.answers for world in worlds for hostile in world.switched) > 10_000
    failures = [error for world in worlds for hostile in world.switched for error in hostile.failures]
    assert {type(error) for error in failures} == {ChoiceError, ZeroDivisionError}
    ends = {request.over for world in worlds for side in world.sides for request in side.requests.values()}
    assert ends == {"finished", "cancelled", *(why.value for why in Why)}, "otherwise they would prove little"


def loads_too_many(seed: int) -> int:
    world = Fitting(seed, routers=2)
    for _ in range(STEPS):
        world.step()
    world.settle()
    return sum(replica.loads for replica in world.replicas.values()) - len(world.asked_for)


def test_models_that_just_fit_are_loaded_once_each_through_two_routers() -> None:
    """However late the routers hear of the replicas, and the replicas of the requests."""
    assert {seed: extra for seed in range(150) if (extra := loads_too_many(seed))} == {}


# Planted bugs: each is one thing that somebody could forget or get wrong.


def nothing(*_: Any, **__: Any) -> None:
    """Takes the place of what is forgotten."""


def no_booking_at_the_decision(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fleet, "book", nothing)
    patch.setattr(Fleet, "unbook", nothing)


def no_slot_taken_at_the_decision(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Slots, "take", nothing)
    patch.setattr(Slots, "give_back", nothing)


def unbooking_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fleet, "unbook", nothing)


def unserved_after(method: str, patch: pytest.MonkeyPatch) -> None:
    """The input does all it should but fill the slots that it frees."""
    original = getattr(Router, method)

    def forgetful(self: Router, *args: Any, **kwargs: Any) -> list[Command]:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Dispatch, "serve", lambda *_: [])
            commands: list[Command] = original(self, *args, **kwargs)
        return commands

    patch.setattr(Router, method, forgetful)


def ignored(method: str, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Router, method, lambda *_, **__: [])


def cancelled_waiter_kept(patch: pytest.MonkeyPatch) -> None:
    original = Router.cancel

    def cancel(self: Router, number: int, now: float) -> list[Command]:
        return original(self, number, now) if number in self._dispatch.running else []

    patch.setattr(Router, "cancel", cancel)


def line_of_a_lost_replica_left(patch: pytest.MonkeyPatch) -> None:
    def strand(self: Dispatch, replica_id: str) -> list[admission.Request]:
        if replica_id in self._fleet.views:
            self._fleet.leave(replica_id)
        return []

    patch.setattr(Dispatch, "strand", strand)


def lost_requests_placed_in_any_order(patch: pytest.MonkeyPatch) -> None:
    def place_all(self: Dispatch, homeless: Iterable[admission.Request], now: float) -> list[Command]:
        return [command for pending in homeless for command in self.place(pending, now)]

    patch.setattr(Dispatch, "place_all", place_all)


def lost_requests_sent_again_though_answered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Router, "answered", nothing)


def newest_first(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WaitingRoom, "first", lambda self, line: max(self.all_in(line), key=lambda p: p.number, default=None))


def common_line_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Dispatch, "_next_for", lambda self, view: self._waiting.first(view.replica_id))


def left_replica_stays_in_the_index(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fleet, "leave", lambda self, replica_id: self.views.pop(replica_id))


def index_not_brought_up_to_date(patch: pytest.MonkeyPatch) -> None:
    original = Fleet._forget

    def forget(self: Fleet, view: ReplicaView, model_id: str) -> None:
        if view.replica_id not in self.views:
            original(self, view, model_id)

    patch.setattr(Fleet, "_forget", forget)


def others_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Slots, "told", nothing)


def follow_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Dispatch, "follow", lambda *_: [])


def cold_deadline_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Dispatch, "too_cold", nothing)


def cold_deadline_for_warm_models_too(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fleet, "cold_s", lambda *_: 1.0)


def cold_deadline_without_a_model(patch: pytest.MonkeyPatch) -> None:
    """It would be due again and again."""
    original = Dispatch.place

    def place(self: Dispatch, pending: admission.Request, now: float) -> list[Command]:
        if not pending.model_id:
            pending.cold_deadline = now
        return original(self, pending, now)

    patch.setattr(Dispatch, "place", place)


def prefetch_forgotten(patch: pytest.MonkeyPatch) -> None:
    original = Dispatch.too_cold

    def too_cold(self: Dispatch, pending: admission.Request, now: float) -> list[Command] | None:
        commands = original(self, pending, now)
        return commands and [command for command in commands if not isinstance(command, Prefetch)]

    patch.setattr(Dispatch, "too_cold", too_cold)


def free_hint_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FreeReplicas, "freed", nothing)


def free_hint_lost_at_a_refusal(patch: pytest.MonkeyPatch) -> None:
    original = Router.refused

    def refused(self: Router, *args: Any, **named: Any) -> list[Command]:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(FreeReplicas, "freed", nothing)
            return original(self, *args, **named)

    patch.setattr(Router, "refused", refused)


def full_replicas_offered_as_free(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FreeReplicas, "some", lambda self, count: list(self._free.values())[:2])


def roomy_ring_stale(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fleet, "_index_room", lambda self, view: self._roomy.add(view))


def roomy_ring_stale_after_a_refusal(patch: pytest.MonkeyPatch) -> None:
    original = Router.refused

    def refused(self: Router, number: int, *more: Any, **named: Any) -> list[Command]:
        with pytest.MonkeyPatch.context() as meanwhile:
            meanwhile.setattr(Fleet, "_index_room", nothing)
            return original(self, number, *more, **named)

    patch.setattr(Router, "refused", refused)


def lost_replica_stays_on_the_ring(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ring, "discard", nothing)


def refusal_not_believed(patch: pytest.MonkeyPatch) -> None:
    """It is sent there again, and refused again."""
    original = Router.refused

    def refused(self: Router, number: int, ongoing: int, now: float, **_: bool) -> list[Command]:
        return original(self, number, ongoing, now)

    patch.setattr(Router, "refused", refused)


def refused_models_stay_expected(patch: pytest.MonkeyPatch) -> None:
    """Its requests follow one another there, and are refused for ever."""
    patch.setattr(ReplicaView, "told_no_room", lambda self, m: self.told_room(0))


def slots_of_a_refusal_not_believed(patch: pytest.MonkeyPatch) -> None:
    original = Router.refused

    def refused(self: Router, number: int, ongoing: int, now: float, **named: bool) -> list[Command]:
        return original(self, number, 0, now, **named)

    patch.setattr(Router, "refused", refused)


def refused_requests_before_those_who_came_earlier(patch: pytest.MonkeyPatch) -> None:
    original = Router.refused

    def refused(self: Router, *args: Any, **named: Any) -> list[Command]:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Dispatch, "withdraw_line", lambda *_: [])
            return original(self, *args, **named)

    patch.setattr(Router, "refused", refused)


def holders_out_of_order(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(placement, "bisect", lambda holders, *_, **__: len(holders))


def nobody_is_ever_due(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WaitingRoom, "due", lambda *_: [])


def last_looks_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WaitingRoom, "next_look", None)


def queue_never_full(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WaitingRoom, "full", False)


def limits_never_change(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Router, "change", nothing)


def broadcasts_take_slots(patch: pytest.MonkeyPatch) -> None:
    def send(self: Dispatch, number: int, model_id: str, view: ReplicaView, now: float) -> Send:
        return self._send(admission.Request(number, model_id, None, slotless=True), view, now)

    patch.setattr(Dispatch, "send_slotless", send)


def broadcasts_sent_elsewhere(patch: pytest.MonkeyPatch) -> None:
    original = Router.replica_down

    def replica_down(self: Router, replica_id: str, now: float) -> list[Command]:
        for running in self._dispatch.running.values():
            if running.slotless and running.view.replica_id == replica_id:
                running.slotless = False
                running.view.running[running.number] = running
                running.view.slots.own += 1
        return original(self, replica_id, now)

    patch.setattr(Router, "replica_down", replica_down)


def loads_never_end(patch: pytest.MonkeyPatch) -> None:
    original = ReplicaView.told_gone

    def told_gone(self: ReplicaView, model_id: str) -> None:
        if self.load_elapsed_s(model_id, float("inf")) == 0.0:  # a load that failed is missed
            original(self, model_id)

    patch.setattr(ReplicaView, "told_gone", told_gone)


def what_a_cut_link_took_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    original = Recovery.replica_up

    def replica_up(self: Recovery, view: ReplicaView, ongoing: int, now: float, *, same_link: bool) -> list[Command]:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Recovery, "_lost", lambda *_: ([], []))
            return original(self, view, ongoing, now, same_link=same_link)

    patch.setattr(Recovery, "replica_up", replica_up)


def line_of_a_replaced_view_left(patch: pytest.MonkeyPatch) -> None:
    original = Recovery.replica_up

    def replica_up(self: Recovery, view: ReplicaView, *args: Any, **named: Any) -> list[Command]:
        withdraw = Dispatch.withdraw_line
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Dispatch, "withdraw_line", lambda self, line: withdraw(self, line) if line is None else [])
            return original(self, view, *args, **named)

    patch.setattr(Recovery, "replica_up", replica_up)


def replaced_view_stays_in_the_index(patch: pytest.MonkeyPatch) -> None:
    original = Fleet.join

    def join(self: Fleet, view: ReplicaView) -> None:
        if (before := self.views.get(view.replica_id)) is not None:
            view.models |= before.models
        original(self, view)

    patch.setattr(Fleet, "leave", lambda self, replica_id: self._ring.discard(self.views[replica_id]))
    patch.setattr(Fleet, "join", join)


def same_link_taken_for_another(patch: pytest.MonkeyPatch) -> None:
    original = Router.replica_up
    patch.setattr(Router, "replica_up", lambda *args, same_link, **named: original(*args, **named))


def what_runs_by_the_same_link_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recovery, "_adopted", lambda *_: [])


def loads_ahead_are_not_booked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fleet, "prefetch", nothing)


def loads_ahead_of_what_loads_already(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fleet, "expects", lambda *_: False)


def refused_loads_ahead_stay_booked(patch: pytest.MonkeyPatch) -> None:
    original = ReplicaView.told_gone

    def told_gone(self: ReplicaView, model_id: str) -> None:
        if model_id not in self.models or not self.models[model_id].ahead:
            original(self, model_id)

    patch.setattr(ReplicaView, "told_gone", told_gone)


def loads_ahead_end_with_a_request(patch: pytest.MonkeyPatch) -> None:
    original = ReplicaView.unbook

    def unbook(self: ReplicaView, model_id: str) -> bool:
        self.models[model_id].ahead = False
        return original(self, model_id)

    patch.setattr(ReplicaView, "unbook", unbook)


PLANTED: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "no service after a finish": partial(unserved_after, "finish"),
    "no service after news of slots": partial(unserved_after, "told_ongoing"),
    "no service after a load": partial(unserved_after, "model_loaded"),
    "no service by a new replica": partial(unserved_after, "replica_up"),
    "no service after a refusal": partial(unserved_after, "refused"),
    "news of slots dropped": partial(ignored, "told_ongoing"),
    "news of evictions dropped": partial(ignored, "model_gone"),
    "news of loads dropped": partial(ignored, "model_loaded"),
    "news of retirement dropped": partial(ignored, "replica_retiring"),
} | {
    plant.__name__.replace("_", " "): plant
    for plant in (
        no_booking_at_the_decision,
        no_slot_taken_at_the_decision,
        unbooking_lost,
        cancelled_waiter_kept,
        line_of_a_lost_replica_left,
        lost_requests_placed_in_any_order,
        lost_requests_sent_again_though_answered,
        newest_first,
        common_line_forgotten,
        left_replica_stays_in_the_index,
        index_not_brought_up_to_date,
        others_forgotten,
        follow_forgotten,
        cold_deadline_ignored,
        cold_deadline_for_warm_models_too,
        cold_deadline_without_a_model,
        prefetch_forgotten,
        free_hint_lost,
        free_hint_lost_at_a_refusal,
        full_replicas_offered_as_free,
        roomy_ring_stale,
        roomy_ring_stale_after_a_refusal,
        lost_replica_stays_on_the_ring,
        refusal_not_believed,
        refused_models_stay_expected,
        slots_of_a_refusal_not_believed,
        refused_requests_before_those_who_came_earlier,
        holders_out_of_order,
        nobody_is_ever_due,
        last_looks_forgotten,
        queue_never_full,
        limits_never_change,
        broadcasts_take_slots,
        broadcasts_sent_elsewhere,
        loads_never_end,
        what_a_cut_link_took_is_forgotten,
        line_of_a_replaced_view_left,
        replaced_view_stays_in_the_index,
        same_link_taken_for_another,
        what_runs_by_the_same_link_forgotten,
        loads_ahead_are_not_booked,
        loads_ahead_of_what_loads_already,
        refused_loads_ahead_stay_booked,
        loads_ahead_end_with_a_request,
    )
}


def any_answer_is_believed(patch: pytest.MonkeyPatch) -> None:
    def choose(self: Choice, request: admission.Request, fleet: Fleet, now: float) -> ReplicaView | None:
        answer = self._chooser.choose(PendingRequest(request.model_id), list(map(ReplicaInfo, fleet.views.values())))
        return None if answer is None else fleet.views[answer]

    patch.setattr(Choice, "choose", choose)


def full_replicas_are_sent_to(patch: pytest.MonkeyPatch) -> None:
    original = Dispatch._place_at

    def place_at(self: Dispatch, view: ReplicaView | None, request: admission.Request, now: float) -> list[Command]:
        return original(self, view, request, now) if view is None else [self._send(request, view, now)]

    patch.setattr(Dispatch, "_place_at", place_at)


def told_to_wait_is_looked_at_no_more(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WaitingRoom, "postpone", lambda self, request, at: setattr(request, "look_at", at))


def told_to_wait_without_any_replica(patch: pytest.MonkeyPatch) -> None:
    original = Dispatch.withdraw_line
    patch.setattr(Dispatch, "withdraw_line", lambda self, line: [] if line == DECLINED else original(self, line))


def users_class_gone_and_still_waited_for(patch: pytest.MonkeyPatch) -> None:
    def use(self: Dispatch, choice: Choice | None, now: float) -> list[Command]:
        self.choice = choice
        return []

    patch.setattr(Dispatch, "use", use)


@pytest.mark.parametrize(
    "plant",
    [
        any_answer_is_believed,
        full_replicas_are_sent_to,
        told_to_wait_is_looked_at_no_more,
        told_to_wait_without_any_replica,
        users_class_gone_and_still_waited_for,
    ],
)
def test_a_planted_bug_is_found_by_a_users_class(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(BrokenError):
        [play(seed, hostile=True) for seed in range(200)]


def own_bookings_fill_a_replica(patch: pytest.MonkeyPatch) -> None:
    """Another router does not know of them, and takes the last place there for the same model."""
    patch.setattr(ReplicaView, "has_room", property(lambda self: self._room is None or self._room > self._untold))


def later_requests_may_evict(patch: pytest.MonkeyPatch) -> None:
    """Those that follow one whose room went to another model."""
    patch.setattr(ReplicaView, "fits", lambda self, m: m in self.models and (self.models[m].told or bool(self._room)))


@pytest.mark.parametrize("plant", [own_bookings_fill_a_replica, later_requests_may_evict])
def test_a_planted_bug_costs_loads(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    monkeypatch.setattr(Side, "check_index", nothing)
    assert any(loads_too_many(seed) > 0 for seed in range(150))


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTED[name](monkeypatch)
    with pytest.raises(BrokenError):
        play_all(SEEDS_TO_CATCH)
