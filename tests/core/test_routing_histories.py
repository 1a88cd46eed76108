"""Random histories against the router: true replicas, late messages, refusals, deaths, clients who come and go.

Two routers may share the replicas. What each must hold is written in words in `Side.check`; the planted bugs at the end
show that these histories find what they are there to find.
"""

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from modelplex.core.admission import UNLIMITED, Pending, Slots, WaitingRoom
from modelplex.core.estimates import Estimates
from modelplex.core.placement import Fleet
from modelplex.core.residency import ReplicaView
from modelplex.core.routing import LOSSES_MAX, Command, Reject, Router, Send, Why

STEPS = 250
SEEDS = range(80)
SEEDS_TO_CATCH = range(40)
TRACE_SHOWN = 40


class BrokenError(AssertionError):
    """A history in which something that must hold did not."""


@dataclass(slots=True)
class Request:
    """One request as its caller knows it. It is over, or runs on a replica, or waits."""

    number: int
    model_id: str
    deadline: float | None
    replica_id: str | None = None
    answered: bool = False
    losses: int = 0
    over: str = ""


Mail = Callable[["Side"], None]


@dataclass(slots=True)
class Link:
    """What is on its way between one replica and one router, each way in order."""

    to_router: deque[tuple[str, Mail]] = field(default_factory=deque)
    to_replica: deque[tuple[str, int, str]] = field(default_factory=deque)  # verb, request, model
    told_up: bool = False
    told_down: bool = False
    told_retiring: bool = False


class Replica:
    """A replica that really has slots and a bounded model cache, and tells every router what changes."""

    def __init__(self, world: "World", replica_id: str, slots: int, capacity: int | None) -> None:
        self.world = world
        self.replica_id = replica_id
        self.slots = slots
        self.capacity = capacity
        self.loaded: list[str] = []  # least recently used first
        self.loading: dict[str, float] = {}
        self.running: dict[tuple[int, int], str] = {}  # (router, request) -> model
        self.answered: set[tuple[int, int]] = set()
        self.alive = True
        self.retiring = False
        self.links = [Link() for _ in world.sides]

    @property
    def room(self) -> int | None:
        return None if self.capacity is None else self.capacity - len(self.loaded) - len(self.loading)

    def tell(self, words: str, mail: Mail, only: int | None = None, but: int | None = None) -> None:
        for index, link in enumerate(self.links):
            if index != but and (only is None or index == only):
                link.to_router.append((f"{self.replica_id}: {words}", mail))

    def tell_ongoing(self, but: int | None = None) -> None:
        ongoing = len(self.running)
        self.tell(f"{ongoing} ongoing", lambda side: side.told_ongoing(self.replica_id, ongoing), but=but)

    def tell_gone(self, model_id: str) -> None:
        room = self.room
        self.tell(
            f"{model_id} gone",
            lambda side: side.perform(side.router.model_gone(self.replica_id, model_id, room, side.now)),
        )

    def start(self, models: list[str]) -> None:
        """It may have loaded some models, and be at others, before it can be sent requests."""
        self.loaded = models[::2]
        self.loading = dict.fromkeys(models[1::2], self.world.now)
        words, room = (tuple(self.loaded), tuple(self.loading)), self.room
        self.tell(f"up {words}", lambda side: side.replica_up(self, room, *words))

    def receive(self, router: int, verb: str, number: int, model_id: str) -> None:
        key = (router, number)
        if verb == "cancel":
            if self.running.pop(key, None) is not None:
                self.answered.discard(key)
                self.tell_ongoing()
                self.load_what_is_wanted()
        elif len(self.running) >= self.slots:
            ongoing = len(self.running)
            self.tell(f"refuses {number}", lambda side: side.refused(number, ongoing), only=router)
        else:
            self.running[key] = model_id
            self.tell_ongoing(but=router)
            self.load_what_is_wanted()

    def load_what_is_wanted(self) -> None:
        for model_id in self.running.values():
            if model_id in self.loaded:
                self.loaded.remove(model_id)
                self.loaded.append(model_id)
            elif model_id and model_id not in self.loading and self.make_room():
                self.loading[model_id] = self.world.now
                room = self.room
                self.tell(
                    f"loading {model_id}",
                    lambda side, m=model_id, room=room: side.perform(  # type: ignore[misc]
                        side.router.model_loading(self.replica_id, m, room, side.now)
                    ),
                )

    def make_room(self) -> bool:
        if self.room is None or self.room > 0:
            return True
        victim = next((m for m in self.loaded if m not in self.running.values()), None)
        if victim is None:
            return False
        self.loaded.remove(victim)
        self.tell_gone(victim)
        return True

    def end_load(self, model_id: str, fails: bool) -> None:
        load_s = self.world.now - self.loading.pop(model_id)
        if fails:
            self.tell_gone(model_id)
            for key in [key for key, wanted in self.running.items() if wanted == model_id]:
                self.finish(key)
            self.load_what_is_wanted()
            return
        self.loaded.append(model_id)
        room = self.room
        self.tell(
            f"loaded {model_id}",
            lambda side: side.perform(side.router.model_loaded(self.replica_id, model_id, room, load_s, side.now)),
        )
        self.load_what_is_wanted()

    def able(self) -> list[tuple[int, int]]:
        """The running requests that have their model."""
        return [key for key, model_id in self.running.items() if not model_id or model_id in self.loaded]

    def answer(self, key: tuple[int, int]) -> None:
        if key not in self.answered:
            self.answered.add(key)
            self.tell(f"answers {key[1]}", lambda side: side.answer(key[1]), only=key[0])

    def finish(self, key: tuple[int, int]) -> None:
        del self.running[key]
        self.answered.discard(key)
        ongoing = len(self.running)
        self.tell(f"finishes {key[1]}", lambda side: side.finish(self.replica_id, key[1], ongoing), only=key[0])
        self.tell_ongoing(but=key[0])
        self.load_what_is_wanted()

    def die(self) -> None:
        self.alive = False
        self.running.clear()
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
        self.router = Router(queued_max, no_replica_wait_s, Estimates(load_s=1.0, service_s=0.1))
        self.requests: dict[int, Request] = {}
        self.up: set[str] = set()
        self.empty_since = 0.0
        self.sent: list[Send] = []  # in this step

    @property
    def now(self) -> float:
        return self.world.now

    def open(self) -> list[Request]:
        return [request for request in self.requests.values() if not request.over]

    def waiting(self) -> list[Request]:
        return [request for request in self.open() if request.replica_id is None]

    # What the caller and the replicas do

    def submit(self, model_id: str, deadline: float | None) -> None:
        number = self.router.number()
        full = self.queued_max != UNLIMITED and len(self.waiting()) >= self.queued_max
        self.requests[number] = request = Request(number, model_id, deadline)
        self.perform(self.router.submit(number, model_id, self.now, deadline))
        if request.replica_id is None:
            assert full == (request.over == Why.QUEUE_FULL.value), f"{request}, though the queue was full: {full}"

    def cancel(self, request: Request) -> None:
        request.over = "cancelled"
        if request.replica_id is not None:
            self.world.replicas[request.replica_id].links[self.index].to_replica.append(("cancel", request.number, ""))
            request.replica_id = None
        self.perform(self.router.cancel(request.number, self.now))

    def answer(self, number: int) -> None:
        request = self.requests[number]
        if not request.over:
            request.answered = True
            self.router.answered(number)

    def finish(self, replica_id: str, number: int, ongoing: int) -> None:
        request = self.requests[number]
        if request.over:  # cancelled meanwhile
            self.told_ongoing(replica_id, ongoing)
            return
        request.over, request.replica_id = "finished", None
        self.perform(self.router.finish(number, self.now, 0.0, ongoing))

    def refused(self, number: int, ongoing: int) -> None:
        request = self.requests[number]
        if request.over:
            return
        view = self.router._flights[number].view
        request.replica_id = None
        commands = self.router.refused(number, ongoing, self.now)
        assert view.slots.free <= view.slots.limit - ongoing, f"{view.replica_id} said {ongoing} and was not believed"
        self.perform(commands)

    def told_ongoing(self, replica_id: str, ongoing: int) -> None:
        self.perform(self.router.told_ongoing(replica_id, ongoing, self.now))

    def replica_up(self, replica: Replica, room: int | None, loaded: tuple[str, ...], loading: tuple[str, ...]) -> None:
        self.up.add(replica.replica_id)
        replica.links[self.index].told_up = True
        self.perform(self.router.replica_up(replica.replica_id, replica.slots, room, loaded, loading, self.now))

    def lose(self, replica_id: str) -> None:
        if replica_id in self.up:
            self.up.remove(replica_id)
            if not self.up:
                self.empty_since = self.now

    def replica_retiring(self, replica_id: str) -> None:
        self.lose(replica_id)
        self.perform(self.router.replica_retiring(replica_id, self.now))

    def replica_down(self, replica_id: str) -> None:
        self.lose(replica_id)
        self.world.replicas[replica_id].links[self.index].told_down = True
        lost = [request for request in self.open() if request.replica_id == replica_id]
        for request in lost:
            request.losses += 1
            request.replica_id = None
        self.perform(self.router.replica_down(replica_id, self.now))
        for request in lost:
            given_up = request.answered or request.losses >= LOSSES_MAX
            assert given_up == (request.over == Why.REPLICA_LOST.value), f"lost its replica: {request}"

    def tick(self) -> None:
        self.perform(self.router.tick(self.now))
        next_tick = self.router.next_tick
        assert next_tick is None or next_tick > self.now, "a tick asks for a tick at the same moment, for ever"
        late = [r for r in self.waiting() if r.deadline is not None and r.deadline <= self.now]
        assert not late, f"wait past their deadline: {late}"

    # What the router answers

    def perform(self, commands: list[Command]) -> None:
        for command in commands:
            request = self.requests[command.number]
            assert not request.over, f"{command}, but it is over: {request}"
            assert request.replica_id is None, f"{command}, but it runs: {request}"
            if isinstance(command, Send):
                assert command.replica_id in self.up, f"{command}, but that replica is down or retired"
                assert not request.answered, f"{command}, but its answer has begun"
                request.replica_id = command.replica_id
                self.sent.append(command)
                replica = self.world.replicas[command.replica_id]
                if replica.alive:
                    replica.links[self.index].to_replica.append(("request", command.number, request.model_id))
            else:
                self.reject(request, command)

    def reject(self, request: Request, command: Reject) -> None:
        request.over = command.why.value
        if command.why is Why.DEADLINE:
            assert request.deadline is not None, f"{command} without a deadline"
            assert request.deadline <= self.now, f"{command} before its deadline"
        elif command.why is Why.NO_REPLICA:
            assert not self.up, f"{command}, but there are replicas: {self.up}"
            waited_s = self.now - self.empty_since
            assert waited_s >= self.no_replica_wait_s - 1e-6, f"{command} after only {waited_s} s without a replica"

    # What must hold

    def check(self) -> None:
        """What must hold after every step."""
        self.check_requests()
        self.check_lines()
        self.check_slots()
        self.check_index()
        self.sent.clear()

    def check_requests(self) -> None:
        """Every request is over, runs, or waits, and the router agrees."""
        room, flights = self.router._waiting, self.router._flights
        assert set(room._waiting) == {r.number for r in self.waiting()}, (
            "the router and the callers differ on who waits"
        )
        running = {r.number: r.replica_id for r in self.open() if r.replica_id is not None}
        assert {n: f.view.replica_id for n, f in flights.items()} == running, "they differ on what runs where"
        looks = [p.look_at for p in room._waiting.values() if p.look_at != float("inf")]
        next_tick = self.router.next_tick
        assert not looks or (next_tick is not None and next_tick <= min(looks)), "nobody will look again in time"

    def check_lines(self) -> None:
        """Nobody waits for what is free, and nobody is served before one who came earlier to the same line."""
        room, views = self.router._waiting, self.router._fleet.views
        by_line: dict[str | None, list[Pending]] = {}
        for pending in sorted(room._waiting.values(), key=lambda p: p.number):
            by_line.setdefault(pending.line, []).append(pending)
            if pending.line is None:
                assert not pending.model_id or not views, f"{pending} waits in no line, though there are replicas"
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
                held = [p for p in room._waiting.values() if view.has_loaded(p.model_id)]
                assert not held, f"{view.replica_id} is free and has the model: {held}"
        for sent in self.sent:
            passed = [p for line in (sent.replica_id, None) for p in by_line.get(line, []) if p.number < sent.number]
            assert not passed, f"{sent} was served before {passed}"

    def check_slots(self) -> None:
        """The router sends no more to a replica than it has slots, and counts right."""
        room = self.router._waiting
        for view in {id(f.view): f.view for f in self.router._flights.values()}.values():
            assert view.slots.own <= view.slots.limit, f"{view.replica_id} was sent more than it has slots"
        for view in self.router._fleet.views.values():
            running = [r for r in self.open() if r.replica_id == view.replica_id]
            assert view.slots.own == len(running) == len(view.flights), f"slots of {view.replica_id} counted wrong"
            assert view.queued == room.length(view.replica_id), f"the line of {view.replica_id} is counted wrong"

    def check_index(self) -> None:
        """The index of holders says what the views say, and bookings are the requests that run or wait there."""
        fleet = self.router._fleet
        assert set(fleet.views) == self.up, "the router and the news differ on which replicas there are"
        holders: dict[str, dict[str, ReplicaView]] = {}
        for view in fleet.views.values():
            booked: dict[str, int] = {}
            lines = (p for p in self.router._waiting._waiting.values() if p.line == view.replica_id)
            for pending in [*lines, *(f.pending for f in view.flights.values())]:
                booked[pending.model_id] = booked.get(pending.model_id, 0) + 1
            booked.pop("", None)
            bookings = {m: residence.bookings for m, residence in view.models.items() if residence.bookings}
            assert bookings == booked, f"bookings on {view.replica_id}: {bookings}, not {booked}"
            untold = sum(not residence.told for residence in view.models.values())
            assert view._untold == untold, f"{view.replica_id}: untold models counted wrong"
            loads = sum(residence.loading_since is not None for residence in view.models.values())
            assert view.loads == loads, f"{view.replica_id}: loads counted wrong"
            for model_id in view.models:
                holders.setdefault(model_id, {})[view.replica_id] = view
        indexed = {model_id: sorted(by_replica) for model_id, by_replica in fleet._holders.items()}
        seen = {model_id: sorted(by_replica) for model_id, by_replica in holders.items()}
        assert fleet._holders == holders, f"the index says {indexed}, the views say {seen}"


class World:
    """One random history."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.trace: list[str] = []
        self.models = [f"m{n}" for n in range(self.random.choice([1, 2, 5, 12]))]
        self.calm = self.random.random() < 0.5  # replicas seldom come and go
        self.sides: list[Side] = []
        for index in range(self.random.choice([1, 2])):
            queued_max = self.random.choice([UNLIMITED, UNLIMITED, 10, 2, 0])
            self.sides.append(Side(self, index, queued_max, self.random.choice([0.0, 1.0, 30.0])))
        self.replicas: dict[str, Replica] = {}
        self.replicas_max = self.random.choice([4, 4, 4, 12])
        self.preloads = self.random.choice([0.0, 0.3, 1.0])
        for _ in range(self.random.choice([0, 1, self.replicas_max - 1])):
            self.start()

    def alive(self) -> list[Replica]:
        return [replica for replica in self.replicas.values() if replica.alive]

    # Steps

    def step(self) -> None:
        steps: list[tuple[Callable[[], None], float]] = [
            (self.submit, 9),
            (self.cancel, 1),
            (self.deliver_to_router, 12),
            (self.deliver_to_replica, 10),
            (self.end_load, 4),
            (self.answer, 4),
            (self.finish, 8),
            (self.advance, 3),
            (self.retire, 0.1 if self.calm else 0.5),
            (self.die, 0.1 if self.calm else 0.7),
            (self.start, 0.3 if self.calm else 1.5),
        ]
        act = self.random.choices([s for s, _ in steps], [weight for _, weight in steps])[0]
        act()

    def submit(self) -> None:
        side = self.random.choice(self.sides)
        model_id = "" if self.random.random() < 0.15 else self.models[int(len(self.models) * self.random.random() ** 2)]
        deadline = self.now + self.random.choice([0.0, 0.5, 3.0]) if self.random.random() < 0.15 else None
        self.trace.append(f"{side.index}: submit {model_id!r} until {deadline}")
        side.submit(model_id, deadline)

    def cancel(self) -> None:
        side = self.random.choice(self.sides)
        if requests := side.open():
            request = self.random.choice(requests)
            self.trace.append(f"{side.index}: cancel {request}")
            side.cancel(request)

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
        verb, number, model_id = replica.links[router].to_replica.popleft()
        self.trace.append(f"{router}: {verb} {number} {model_id!r} reaches {replica.replica_id}")
        replica.receive(router, verb, number, model_id)

    def end_load(self) -> None:
        loads = [(replica, model_id) for replica in self.alive() for model_id in replica.loading]
        if loads:
            replica, model_id = self.random.choice(loads)
            fails = self.random.random() < 0.15
            self.trace.append(f"{replica.replica_id} ends its load of {model_id}, fails: {fails}")
            replica.end_load(model_id, fails)

    def able(self) -> list[tuple[Replica, tuple[int, int]]]:
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

    def advance(self) -> None:
        """Let time pass. A shell may tick late, or without need."""
        until = self.now + self.random.choice([0.01, 0.1, 1.0, 5.0])
        late = self.random.random() < 0.3
        for side in self.sides:
            while not late and (next_tick := side.router.next_tick) is not None and next_tick <= until:
                self.now = max(self.now, next_tick)
                self.trace.append(f"{side.index}: tick at {self.now}")
                side.tick()
                side.check()
        self.now = max(self.now, until)
        for side in self.sides:
            self.trace.append(f"{side.index}: tick at {self.now}")
            side.tick()

    def start(self) -> None:
        if len(self.alive()) < self.replicas_max:
            slots, capacity = self.random.choice([1, 1, 2, 4]), self.random.choice([1, 2, 3, None])
            replica = Replica(self, f"r{len(self.replicas)}", slots, capacity)
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

    def spread_news(self) -> None:
        for replica in self.replicas.values():
            for side, link in zip(self.sides, replica.links, strict=True):
                if replica.retiring and link.told_up and not link.told_retiring:
                    link.told_retiring = True
                    self.trace.append(f"{side.index}: news that {replica.replica_id} retires")
                    side.replica_retiring(replica.replica_id)
                    side.check()

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
            assert not side.open(), f"they wait though everything is idle: {side.open()}"
            assert side.router.next_tick is None, "a tick is asked for though nobody waits"
            assert side.router.queued == 0, "it counts requests that are not there"
            self.check_belief(side)

    def settle_once(self) -> bool:
        """Whether anything was left to do."""
        before = len(self.trace)
        self.spread_news()
        for replica in self.replicas.values():
            for side in self.sides:
                while replica.links[side.index].to_router:
                    self.deliver(replica, side)
                    side.check()
                while replica.links[side.index].to_replica:
                    self.hand_over(replica, side.index)
        for replica, key in self.able():
            if key in replica.running:
                self.trace.append(f"{replica.replica_id} finishes {key}")
                replica.finish(key)
        for replica in self.alive():
            for model_id in list(replica.loading):
                self.trace.append(f"{replica.replica_id} ends its load of {model_id}")
                replica.end_load(model_id, fails=False)
        return len(self.trace) > before

    def check_belief(self, side: Side) -> None:
        """When all has been said, the router believes what is so."""
        truth = {r.replica_id: r for r in self.alive() if not r.retiring}
        assert set(side.router.replica_ids) == set(truth), "it believes in other replicas than there are"
        for replica_id, view in side.router._fleet.views.items():
            replica = truth[replica_id]
            assert set(view.models) == set(replica.loaded), f"{replica_id} has {replica.loaded}, not {view.models}"
            assert all(map(view.has_loaded, view.models)), f"{replica_id} loads no more: {view.models}"
            assert view._room == replica.room, f"{replica_id} has room for {replica.room}, not {view._room}"
            assert view.slots.free == replica.slots, f"{replica_id} is idle and is believed busy"

    def check(self) -> None:
        for side in self.sides:
            side.check()


def play(seed: int) -> World:
    """One history from its seed to its end; says how to repeat it when it breaks."""
    world = World(seed)
    try:
        for _ in range(STEPS):
            world.step()
            world.check()
        world.settle()
    except Exception as error:
        tail = "\n".join(world.trace[-TRACE_SHOWN:])
        raise BrokenError(f"seed {seed}: {type(error).__name__}: {error}\n{tail}") from error
    return world


def play_all(seeds: Iterable[int]) -> set[str]:
    """How the requests of these histories ended."""
    return {request.over for seed in seeds for side in play(seed).sides for request in side.requests.values()}


@pytest.mark.parametrize("seed", SEEDS)
def test_what_must_hold_holds_after_every_step(seed: int) -> None:
    play(seed)


def test_the_histories_see_every_kind_of_end() -> None:
    """Otherwise they would prove little."""
    assert play_all(SEEDS[:30]) == {"finished", "cancelled", *(why.value for why in Why)}


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
            inner.setattr(Router, "_serve", lambda *_: [])
            commands: list[Command] = original(self, *args, **kwargs)
        return commands

    patch.setattr(Router, method, forgetful)


def ignored(method: str, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Router, method, lambda *_: [])


def cancelled_waiter_kept(patch: pytest.MonkeyPatch) -> None:
    original = Router.cancel

    def cancel(self: Router, number: int, now: float) -> list[Command]:
        return original(self, number, now) if number in self._flights else []

    patch.setattr(Router, "cancel", cancel)


def line_of_a_lost_replica_left(patch: pytest.MonkeyPatch) -> None:
    def strand(self: Router, replica_id: str) -> list[Pending]:
        if replica_id in self._fleet.views:
            self._fleet.leave(replica_id)
        return []

    patch.setattr(Router, "_strand", strand)


def lost_requests_placed_in_any_order(patch: pytest.MonkeyPatch) -> None:
    def place_all(self: Router, homeless: Iterable[Pending], now: float) -> list[Command]:
        return [command for pending in homeless for command in self._place(pending, now)]

    patch.setattr(Router, "_place_all", place_all)


def lost_requests_sent_again_though_answered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Router, "answered", nothing)


def newest_first(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WaitingRoom, "first", lambda self, line: max(self.all_in(line), key=lambda p: p.number, default=None))


def common_line_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Router, "_next_for", lambda self, view: self._waiting.first(view.replica_id))


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


def only_the_first_holders_weighed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Fleet, "_scored_holders", lambda self, model_id: list(self._holders.get(model_id, {}).values())[:2])


def nobody_is_ever_due(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WaitingRoom, "due", lambda *_: [])


def last_looks_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WaitingRoom, "next_look", None)


def queue_never_full(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WaitingRoom, "full", False)


def loads_never_end(patch: pytest.MonkeyPatch) -> None:
    original = ReplicaView.told_gone

    def told_gone(self: ReplicaView, model_id: str) -> None:
        if self.load_elapsed_s(model_id, float("inf")) == 0.0:  # a load that failed is missed
            original(self, model_id)

    patch.setattr(ReplicaView, "told_gone", told_gone)


PLANTED: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "no service after a finish": partial(unserved_after, "finish"),
    "no service after news of slots": partial(unserved_after, "told_ongoing"),
    "no service after a load": partial(unserved_after, "model_loaded"),
    "no service by a new replica": partial(unserved_after, "replica_up"),
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
        only_the_first_holders_weighed,
        nobody_is_ever_due,
        last_looks_forgotten,
        queue_never_full,
        loads_never_end,
    )
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTED[name](monkeypatch)
    with pytest.raises(BrokenError):
        play_all(SEEDS_TO_CATCH)
