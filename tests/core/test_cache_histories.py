"""Random histories against the model cache.

`Shell` plays the shell round a cache and keeps a model of its own of what has happened, from the inputs that it gave
and the commands that it got, never from the inside of the cache. After every step it checks what the cache promises.
Hypothesis drives it, and so does a seeded generator, which also shows that each of a list of planted bugs is caught.
"""

import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from enum import Enum

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from modelplex.core import cache as cache_module
from modelplex.core.backoff import Backoff
from modelplex.core.cache import (
    UNLIMITED,
    Command,
    Grant,
    Load,
    ModelCache,
    Phase,
    Reject,
    Start,
    Unload,
    Why,
    _Entry,
)
from modelplex.core.eviction import LRU, EvictionPolicy, IdleModel

BACKOFF = Backoff(base_s=1.0, max_s=8.0)
MODELS = "abcdef"
OWNERS = "ABCDE"

# Small, so that short histories meet the bound.
OVERTAKES_MAX = 3

HISTORIES = 600

MakeCache = Callable[[int, EvictionPolicy, Backoff], ModelCache]


@pytest.fixture(autouse=True)
def _few_overtakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "OVERTAKES_MAX", OVERTAKES_MAX)


class InvariantError(AssertionError):
    """The cache broke a promise."""


def must(holds: bool, promise: str) -> None:
    if not holds:
        raise InvariantError(promise)


class Held(Enum):
    """Why a model takes up room."""

    LOADING = "loading"
    RESIDENT = "resident"
    UNLOADING = "unloading"


@dataclass(frozen=True)
class Ask:
    model_id: str
    owner: Hashable
    at_once: bool  # the shell gives the lease back as soon as it has it


@dataclass(frozen=True)
class Failure:
    error: object
    count: int
    retry_at: float


@dataclass(frozen=True)
class Event:
    """The input that is being answered."""

    name: str
    model_id: str | None = None
    ticket: int | None = None


class Shell:
    """Gives a cache its inputs, obeys its commands, and checks every promise after every step."""

    def __init__(self, models_max: int, make: MakeCache = ModelCache) -> None:
        self.cache = make(models_max, LRU(), BACKOFF)
        self.models_max = models_max
        self.now = 0.0
        self.closed = False
        self.waiting: dict[int, Ask] = {}
        self.leased: dict[int, Ask] = {}
        self.held: dict[str, Held] = {}
        self.queue: list[str] = []  # models that wait for room, in the order in which they began to
        self._asked = 0
        self._answers: Counter[int] = Counter()
        self._withdrawn: set[int] = set()
        self._openers: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._failures: dict[str, Failure] = {}
        self._loads: Counter[str] = Counter()
        self._unloads: Counter[str] = Counter()
        self._event = Event("start")
        # Bounded overtaking
        self._head: str | None = None
        self._overtaken = 0
        self._chosen = False  # a model has had to be chosen that takes no new leases
        self._late: set[int] = set()  # leases that began after that
        self._may_drain = False

    # Inputs

    def acquire(self, model_id: str, owner: Hashable, *, at_once: bool = False) -> None:
        self._asked += 1
        ticket = self._asked
        failure = self._failures.get(model_id)
        unknown = model_id not in self.held and model_id not in self.queue
        expected: list[Command] | None = None
        if self.closed:
            expected = [Reject(ticket, model_id, Why.CLOSED)]
        elif unknown and failure is not None and self.now < failure.retry_at:
            wait_s = failure.retry_at - self.now
            expected = [Reject(ticket, model_id, Why.FAILED_RECENTLY, failure.error, wait_s)]
        elif unknown:
            self.queue.append(model_id)
            self._openers[model_id] = ticket
        self.waiting[ticket] = Ask(model_id, owner, at_once)
        commands = self.cache.acquire(ticket, model_id, owner, self.now)
        if expected is not None:
            must(
                commands == expected,
                "7. an acquire of what failed recently is refused at once, with the error and when to try again, and "
                "costs nothing; so is one after close",
            )
        self._obey(Event("acquire", model_id, ticket), commands)

    def withdraw(self, ticket: int) -> None:
        """The caller of an unanswered acquire leaves."""
        self._leave(ticket)
        self._withdrawn.add(ticket)
        commands = self.cache.release(ticket, self.now)
        must(all(isinstance(c, Grant) for c in commands), "3. one who leaves disturbs nobody else")
        self._obey(Event("withdraw"), commands)

    def release(self, ticket: int) -> None:
        """A lease ends."""
        del self.leased[ticket]
        self._late.discard(ticket)
        self._obey(Event("release"), self.cache.release(ticket, self.now))

    def loaded(self, model_id: str, size_bytes: int) -> None:
        self.held[model_id] = Held.RESIDENT
        self._sizes[model_id] = size_bytes
        self._loads[model_id] += 1
        self._failures.pop(model_id, None)
        self._obey(Event("loaded", model_id), self.cache.loaded(model_id, size_bytes, self.now))

    def load_failed(self, model_id: str) -> None:
        del self.held[model_id]
        before = self._failures.get(model_id)
        count = before.count + 1 if before else 1
        failure = Failure(f"error {count} of {model_id}", count, self.now + BACKOFF.delay_s(count))
        self._failures[model_id] = failure
        self._obey(Event("load_failed", model_id), self.cache.load_failed(model_id, failure.error, self.now))

    def unloaded(self, model_id: str) -> None:
        del self.held[model_id]
        self._unloads[model_id] += 1
        first = next((ticket for ticket, ask in self.waiting.items() if ask.model_id == model_id), None)
        if first is not None:
            self.queue.append(model_id)
            self._openers[model_id] = first
        self._obey(Event("unloaded", model_id), self.cache.unloaded(model_id, self.now))

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def close(self) -> None:
        self.closed = True
        self._obey(Event("close"), self.cache.close(self.now))

    def settle(self) -> None:
        """Every load and unload ends well and every lease ends: then everybody has had an answer."""
        while True:
            if unloading := self.models(Held.UNLOADING):
                self.unloaded(unloading[0])
            elif loading := self.models(Held.LOADING):
                self.loaded(loading[0], 1)
            elif self.leased:
                self.release(next(iter(self.leased)))
            else:
                break
        must(not self.waiting, "4. nobody waits for ever: there was a lost wake-up")
        for ticket in range(1, self._asked + 1):
            must(
                self._answers[ticket] == (ticket not in self._withdrawn),
                "4. every acquire gets exactly one answer, unless it is released first",
            )

    def end(self) -> None:
        """Settle, then close: nothing stays, and each load that ended well has had its one unload."""
        self.settle()
        self.close()
        self.settle()
        must(not self.held, "a closed cache holds nothing in the end")
        must(self._loads == self._unloads, "6. each loaded model is unloaded exactly once")

    # What the history says

    def models(self, held: Held) -> list[str]:
        return [model_id for model_id, how in self.held.items() if how is held]

    def _leases(self, model_id: str) -> set[int]:
        return {ticket for ticket, ask in self.leased.items() if ask.model_id == model_id}

    def _owners(self, model_id: str) -> set[Hashable]:
        """Whoever has to end before this model can make room: its lessees, and those its load will make lessees."""
        asks = [*self.leased.values(), *(self.waiting.values() if self.held[model_id] is Held.LOADING else ())]
        return {ask.owner for ask in asks if ask.model_id == model_id}

    def _stuck(self) -> set[Hashable]:
        """Owners that wait for something else than a load that has begun."""
        asks = self.waiting.values()
        return {ask.owner for ask in asks if self.held.get(ask.model_id) is not Held.LOADING} - {None}

    def _leave(self, ticket: int) -> Ask:
        ask = self.waiting.pop(ticket)
        if ask.model_id in self.queue and all(other.model_id != ask.model_id for other in self.waiting.values()):
            self.queue.remove(ask.model_id)
        return ask

    # Commands

    def _obey(self, event: Event, commands: list[Command]) -> None:
        self._event = event
        for command in commands:
            match command:
                case Load(model_id):
                    self._on_load(model_id)
                case Unload(model_id):
                    self._on_unload(model_id)
                case Grant():
                    self._on_grant(command)
                case Reject():
                    self._on_reject(command)
        self._watch_the_head()
        self._check()
        for command in commands:
            if isinstance(command, Grant) and command.ticket in self.leased and self.leased[command.ticket].at_once:
                self.release(command.ticket)

    def _on_load(self, model_id: str) -> None:
        must(not self.closed, "a closed cache loads nothing")
        must(model_id not in self.held, "3. at most one load of a model at a time, and none of one that is here")
        must(self.queue[:1] == [model_id], "4. models wait for room in the order in which they began to")
        self.queue.pop(0)
        self.held[model_id] = Held.LOADING
        must(
            self.models_max == UNLIMITED or len(self.held) <= self.models_max,
            "1. models loading, resident and unloading together stay within the budget",
        )

    def _on_unload(self, model_id: str) -> None:
        must(self.held.get(model_id) is Held.RESIDENT, "6. each loaded model is unloaded exactly once")
        must(not self._leases(model_id), "2. nothing leased is unloaded")
        must(bool(self.queue) or self.closed, "a model is evicted only for one that waits for its room")
        self.held[model_id] = Held.UNLOADING

    def _on_grant(self, grant: Grant) -> None:
        ask = self._answer(grant.ticket, grant.model_id)
        must(self.held.get(grant.model_id) is Held.RESIDENT, "a lease is of a resident model")
        start = Start.WARM
        if self._event == Event("loaded", grant.model_id):
            start = Start.COLD if grant.ticket == self._openers[grant.model_id] else Start.JOINED
        must(grant.start is start, "a grant says how the request met its model")
        self._count_overtaking(grant, ask)
        self.leased[grant.ticket] = ask

    def _on_reject(self, reject: Reject) -> None:
        if reject.why is Why.OVERCOMMITTED:
            self._check_overcommitted(reject)
        self._answer(reject.ticket, reject.model_id)
        match reject.why:
            case Why.LOAD_FAILED:
                must(
                    self._event == Event("load_failed", reject.model_id), "3. only a model's own load fails its waiters"
                )
                failure = self._failures[reject.model_id]
                told = (reject.error, reject.retry_after_s)
                must(told == (failure.error, BACKOFF.delay_s(failure.count)), "a failed load is told with its error")
            case Why.FAILED_RECENTLY:
                asked = Event("acquire", reject.model_id, reject.ticket)
                must(self._event == asked, "7. who asks for what failed recently is refused at once or not at all")
                must(
                    self.now < self._failures[reject.model_id].retry_at,
                    "7. a failure is held against a model for a while",
                )
            case Why.CLOSED:
                must(self.closed, "only a closed cache says that it is closed")

    def _answer(self, ticket: int, model_id: str) -> Ask:
        must(ticket in self.waiting, "4. every acquire gets exactly one answer, and none after it was released")
        must(self.waiting[ticket].model_id == model_id, "an answer names the model that was asked for")
        self._answers[ticket] += 1
        return self._leave(ticket)

    def _check_overcommitted(self, reject: Reject) -> None:
        must(reject.ticket in self.waiting, "4. every acquire gets exactly one answer, and none after it was released")
        must(len(self.held) == self.models_max, "nobody is rejected for want of room while there is room")
        must(not self.models(Held.UNLOADING), "nobody is rejected for want of room while room is on its way")
        blocked = {ask.owner for ask in self.waiting.values() if ask.model_id in self.queue} - {None}
        owners = [self._owners(model_id) for model_id in self.held]
        must(
            all(not blocked.isdisjoint(some) for some in owners),
            "nobody is rejected for want of room while a model is held by owners that all can go on",
        )
        lessees = blocked.intersection(set().union(*owners))
        tickets = [t for t, ask in self.waiting.items() if ask.model_id in self.queue and ask.owner in lessees]
        must(reject.ticket == max(tickets), "when lessees wait for each other's room, the newest acquire is rejected")

    # Bounded overtaking

    def _count_overtaking(self, grant: Grant, ask: Ask) -> None:
        overtakes = self._event.name == "acquire" and bool(self.queue)
        self._overtaken += overtakes
        holds = {t for t in self._leases(ask.model_id) if self.leased[t].owner == ask.owner is not None}
        if self._chosen and not holds - self._late:
            # One that holds the model may have it again: it could not end otherwise. Everyone else is late.
            self._late.add(grant.ticket)

    def _watch_the_head(self) -> None:
        head = self.queue[0] if self.queue else None
        if head != self._head:
            self._head, self._overtaken = head, 0
        queueing = {ask.owner for ask in self.waiting.values() if ask.model_id in self.queue} - {None}
        lessees = {ask.owner for ask in self.leased.values()}
        # A lessee that itself waits for room does not end, so another model may yet have to be chosen.
        self._chosen = self._overtaken >= OVERTAKES_MAX and bool(lessees) and queueing.isdisjoint(lessees)
        self._may_drain = head is not None and (self._may_drain or self._overtaken >= OVERTAKES_MAX)
        if not self._chosen:
            self._late.clear()

    # What holds after every step

    def _check(self) -> None:
        self._check_books()
        self._check_everyone_is_seen_to()
        self._check_someone_can_go_on()
        self._check_overtaking_is_bounded()
        if self.closed:
            must(not self.waiting, "nobody waits for a closed cache")
            idle = [m for m in self.models(Held.RESIDENT) if not self._leases(m)]
            must(not idle, "a closed cache unloads what is idle at once")

    def _check_books(self) -> None:
        """5. What it advertises is what it holds and what it is loading, and the room that nobody has a claim to."""
        must(sorted(self.cache.resident) == sorted(self.models(Held.RESIDENT)), "5. `resident` is what it holds")
        must(sorted(self.cache.loading) == sorted(self.models(Held.LOADING)), "5. `loading` is what it is loading")
        room = None if self.models_max == UNLIMITED else max(0, self.models_max - len(self.held) - len(self.queue))
        must(self.cache.room == room, "5. `room` is what nothing takes up, an unloading model included, or waits for")
        for ticket in range(1, self._asked + 1):
            open_still = ticket in self.waiting or ticket in self.leased
            must((ticket in self.cache) == open_still, "4. a ticket is known until it is rejected or released")
        for model_id in self.models(Held.RESIDENT):
            must(self.cache.size_bytes(model_id) == self._sizes[model_id], "5. a size is what `loaded` said")

    def _check_everyone_is_seen_to(self) -> None:
        """4. Whoever waits, waits for something that is on its way, or for room that somebody still uses."""
        wanted = {ask.model_id for ask in self.waiting.values()}
        must(wanted <= self.held.keys() | set(self.queue), "4. nobody waits for a model that the cache has forgotten")
        unloading = len(self.models(Held.UNLOADING))
        missing = len(self.queue) - unloading
        if self.queue:
            must(len(self.held) == self.models_max, "4. nothing waits for room while there is room")
        idle = [m for m in self.models(Held.RESIDENT) if not self._leases(m)]
        must(missing <= 0 or not idle, "4. nothing waits for the room of an idle model that is not being unloaded")
        drained = wanted.intersection(self.models(Held.RESIDENT))
        must(len(drained) <= 1, "at most one resident model at a time takes no new leases")
        must(
            not drained or self._may_drain, "4. a resident model is granted at once, unless a model has waited too long"
        )
        must(not drained or missing > 0, "4. nobody waits for a resident model when the room is on its way")
        must(drained.isdisjoint(idle), "4. nobody waits for a resident model that is idle")

    def _check_someone_can_go_on(self) -> None:
        """4. If room is wanted and none is on its way, some model's owners all can go on, and so end."""
        if self.queue and not self.models(Held.UNLOADING):
            stuck = self._stuck()
            can_end = [m for m in self.held if stuck.isdisjoint(self._owners(m))]
            must(bool(can_end), "4. owners that wait for each other's room do not wait for ever")

    def _check_overtaking_is_bounded(self) -> None:
        """4. Once the first in the queue was overtaken too often, some model takes no new leases, so it runs dry."""
        if self._chosen and not self.models(Held.UNLOADING):
            leases = [self._leases(m) for m in self.models(Held.RESIDENT)]
            running_dry = [some for some in leases if some and some.isdisjoint(self._late)]
            must(bool(running_dry), "4. what waits for room is overtaken a bounded number of times")


# Driven by a seeded generator


def play(seed: int, make: MakeCache = ModelCache, steps: int = 150) -> None:
    """One random history. Its shape, too, depends on the seed: how many models fit, how long leases last."""
    rng = random.Random(seed)
    shell = Shell(rng.choice([1, 2, 2, 3, 4, UNLIMITED]), make)
    models = MODELS[: rng.randint(2, len(MODELS))]
    owners = OWNERS if rng.random() < 0.5 else None  # None: each acquire is of a new owner, so that none waits twice
    weights = {
        "acquire": rng.choice([4, 8]),
        "release": rng.choice([2, 4]),
        "withdraw": rng.choice([0, 1]),
        "loaded": 3,
        "load_failed": rng.choice([0, 1]),
        "unloaded": rng.choice([1, 3]),
        "advance": 1,
    }
    closes_at = rng.choice([None, rng.randrange(steps)])
    try:
        for step in range(steps):
            if step == closes_at:
                shell.close()
            action = rng.choices(list(weights), list(weights.values()))[0]
            one_step(shell, rng, action, models, owners, step)
        shell.end()
    except Exception as error:
        error.add_note(f"seed {seed}")
        raise


def one_step(shell: Shell, rng: random.Random, action: str, models: str, owners: str | None, step: int) -> None:
    loading, unloading = shell.models(Held.LOADING), shell.models(Held.UNLOADING)
    if action == "acquire":
        owner: Hashable = rng.choice(owners) if owners else f"request {step}"
        if rng.random() < 0.2:
            shell.acquire(rng.choice(models), None, at_once=rng.random() < 0.5)
        else:
            shell.acquire(rng.choice(models), owner)
    elif action == "release" and shell.leased:
        shell.release(rng.choice(list(shell.leased)))
    elif action == "withdraw" and shell.waiting:
        shell.withdraw(rng.choice(list(shell.waiting)))
    elif action == "loaded" and loading:
        shell.loaded(rng.choice(loading), rng.randrange(1000))
    elif action == "load_failed" and loading:
        shell.load_failed(rng.choice(loading))
    elif action == "unloaded" and unloading:
        shell.unloaded(rng.choice(unloading))
    elif action == "advance":
        shell.advance(rng.choice([0.1, 1.0, 5.0]))


def play_many(seeds: Iterable[int], make: MakeCache = ModelCache) -> None:
    for seed in seeds:
        play(seed, make)


def test_random_histories_keep_every_promise() -> None:
    play_many(range(HISTORIES))


# Driven by Hypothesis, which makes a short history of a long one


class Histories(RuleBasedStateMachine):
    shell: Shell

    @initialize(models_max=st.sampled_from([1, 2, 3, UNLIMITED]))
    def start(self, models_max: int) -> None:
        self.shell = Shell(models_max)

    @rule(model_id=st.sampled_from(MODELS[:5]), owner=st.sampled_from(OWNERS))
    def acquire(self, model_id: str, owner: str) -> None:
        self.shell.acquire(model_id, owner)

    @rule(model_id=st.sampled_from(MODELS[:5]), at_once=st.booleans())
    def acquire_without_owner(self, model_id: str, at_once: bool) -> None:
        self.shell.acquire(model_id, None, at_once=at_once)

    @precondition(lambda self: self.shell.leased)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.shell.release(data.draw(st.sampled_from(sorted(self.shell.leased))))

    @precondition(lambda self: self.shell.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        self.shell.withdraw(data.draw(st.sampled_from(sorted(self.shell.waiting))))

    @precondition(lambda self: self.shell.models(Held.LOADING))
    @rule(data=st.data(), size_bytes=st.integers(0, 1 << 40))
    def loaded(self, data: st.DataObject, size_bytes: int) -> None:
        self.shell.loaded(data.draw(st.sampled_from(self.shell.models(Held.LOADING))), size_bytes)

    @precondition(lambda self: self.shell.models(Held.LOADING))
    @rule(data=st.data())
    def load_failed(self, data: st.DataObject) -> None:
        self.shell.load_failed(data.draw(st.sampled_from(self.shell.models(Held.LOADING))))

    @precondition(lambda self: self.shell.models(Held.UNLOADING))
    @rule(data=st.data())
    def unloaded(self, data: st.DataObject) -> None:
        self.shell.unloaded(data.draw(st.sampled_from(self.shell.models(Held.UNLOADING))))

    @rule(seconds=st.sampled_from([0.5, 1.0, 10.0]))
    def advance(self, seconds: float) -> None:
        self.shell.advance(seconds)

    @precondition(lambda self: not self.shell.closed and self.shell.now > 5.0)  # late, for little happens after it
    @rule()
    def close(self) -> None:
        self.shell.close()

    def teardown(self) -> None:
        if hasattr(self, "shell"):
            self.shell.end()


def test_histories_of_hypothesis_keep_every_promise() -> None:
    slow_is_fine = settings(
        max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    run_state_machine_as_test(Histories, settings=slow_is_fine)


# Planted bugs: the checks above are worth what they catch


class EvictsTheLeased(ModelCache):
    def _grant(self, entry: _Entry, ticket: int, owner: Hashable, start: Start, now: float) -> Grant:
        grant = super()._grant(entry, ticket, owner, start, now)
        if len(entry.leases) == 1:
            self._policy.add(IdleModel(entry.model_id, 0, 0.0, 0))
        return grant

    def _becomes_idle(self, entry: _Entry) -> None:
        if entry.model_id not in self._policy._idle:  # type: ignore[attr-defined]
            super()._becomes_idle(entry)


class UnloadsTwice(ModelCache):
    def _make_room(self, now: float) -> list[Command]:
        commands = super()._make_room(now)
        return commands + [command for command in commands if isinstance(command, Unload)]


class LoadsTwice(ModelCache):
    def acquire(self, ticket: int, model_id: str, owner: Hashable, now: float) -> list[Command]:
        commands = super().acquire(ticket, model_id, owner, now)
        return commands or [Load(model_id) for loading in self.loading if loading == model_id]


class SkipsTheRoomCheck(ModelCache):
    def _make_room(self, now: float) -> list[Command]:
        extra = [self._load(entry, now) for entry in list(self._queue.values())[:1]]
        return [*extra, *super()._make_room(now)]


class CountsUnloadingAsRoom(ModelCache):
    def _evict(self, model_id: str) -> Unload:
        self._occupied -= 1
        return super()._evict(model_id)

    def unloaded(self, model_id: str, now: float) -> list[Command]:
        self._occupied += 1
        return super().unloaded(model_id, now)


class ForgetsTheWaitersOfAFailedLoad(ModelCache):
    def load_failed(self, model_id: str, error: object, now: float) -> list[Command]:
        self._entries[model_id].waiters.clear()
        return super().load_failed(model_id, error, now)


class ForgetsTheFailure(ModelCache):
    def load_failed(self, model_id: str, error: object, now: float) -> list[Command]:
        commands = super().load_failed(model_id, error, now)
        self._failures.clear()
        return commands


class AnswersOneWhoHasLeft(ModelCache):
    def _drop_waiter(self, entry: _Entry, ticket: int) -> None:
        if entry.phase is Phase.WAITING:
            super()._drop_waiter(entry, ticket)


class OneWhoLeavesTakesTheOthersAlong(ModelCache):
    def release(self, ticket: int, now: float) -> list[Command]:
        entry = self._tickets[ticket]
        leaves = ticket in entry.waiters
        commands = super().release(ticket, now)
        others = list(entry.waiters) if leaves else []
        return commands + [self._reject(other, Why.LOAD_FAILED) for other in others]


class Sleeps(ModelCache):
    asleep = False

    def _make_room(self, now: float) -> list[Command]:
        return [] if self.asleep else super()._make_room(now)


class SleepsThroughARelease(Sleeps):
    def release(self, ticket: int, now: float) -> list[Command]:
        self.asleep = True
        commands = super().release(ticket, now)
        self.asleep = False
        return commands


class SleepsThroughAnUnload(Sleeps):
    def unloaded(self, model_id: str, now: float) -> list[Command]:
        self.asleep = True
        commands = super().unloaded(model_id, now)
        self.asleep = False
        return commands


class LosesTheWaitersOfAnUnloadingModel(ModelCache):
    def unloaded(self, model_id: str, now: float) -> list[Command]:
        self._entries[model_id].waiters.clear()
        return super().unloaded(model_id, now)


class ServesTheNewestFirst(ModelCache):
    def _make_room(self, now: float) -> list[Command]:
        if self._queue:
            self._queue.move_to_end(next(reversed(self._queue)), last=False)
        return super()._make_room(now)


class NeverDrains(ModelCache):
    def _start_draining(self) -> None:
        pass


class ForgetsThatItDrains(ModelCache):
    def _stop_draining(self, now: float) -> list[Command]:
        self._draining = None
        return []


class GrantsTheUnownedWhatDrains(ModelCache):
    def acquire(self, ticket: int, model_id: str, owner: Hashable, now: float) -> list[Command]:
        if owner is None and self._draining and model_id == self._draining.model_id:
            self._tickets[ticket] = self._draining
            return [self._grant(self._draining, ticket, owner, Start.WARM, now)]
        return super().acquire(ticket, model_id, owner, now)


class LetsLesseesWaitForEachOther(ModelCache):
    def _deadlocked(self) -> int | None:
        return None


class IsOvercommittedTooSoon(ModelCache):
    def _deadlocked(self) -> int | None:
        return max((ticket for entry in self._queue.values() for ticket in entry.waiters), default=None)


class AdvertisesPhantoms(ModelCache):
    @property
    def resident(self) -> list[str]:
        return [model_id for model_id, entry in self._entries.items() if entry.load_s or entry.phase is Phase.RESIDENT]


class KeepsModelsAfterClose(ModelCache):
    def close(self, now: float) -> list[Command]:
        commands = super().close(now)
        self._closed = False
        return commands


BUGS: list[MakeCache] = [
    EvictsTheLeased,
    UnloadsTwice,
    LoadsTwice,
    SkipsTheRoomCheck,
    CountsUnloadingAsRoom,
    ForgetsTheWaitersOfAFailedLoad,
    ForgetsTheFailure,
    AnswersOneWhoHasLeft,
    OneWhoLeavesTakesTheOthersAlong,
    SleepsThroughARelease,
    SleepsThroughAnUnload,
    LosesTheWaitersOfAnUnloadingModel,
    ServesTheNewestFirst,
    NeverDrains,
    ForgetsThatItDrains,
    GrantsTheUnownedWhatDrains,
    LetsLesseesWaitForEachOther,
    IsOvercommittedTooSoon,
    AdvertisesPhantoms,
    KeepsModelsAfterClose,
]


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(bug: MakeCache) -> None:
    with pytest.raises(InvariantError):
        play_many(range(HISTORIES), bug)
