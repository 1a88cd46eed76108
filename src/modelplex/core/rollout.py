"""Which processes of one kind to start and to end, so that as many as wanted run, of the version that is wanted.

The inputs of `Rollout` say what is wanted and what has happened, and answer with `Start` and `Retire`, which are booked
already. What holds after every step, whatever the history:

1. Nobody notices a change: no process of an old version is retired before one of the new version has been ready for the
   handover in its place, so that as many serve as were wanted before or are wanted now, whichever is less. With
   `surge_max` 0 up to `step` fewer serve, since an old one has to end before a new one may start.
2. No more are alive than wanted plus `surge_max`, but for those that replace others which died while some still end.
3. One that dies or cannot start is replaced: the first time at once, then later each time.
4. A version that fails `failures_max` times before all of its processes have been ready once is given up. The last
   version that was complete takes its place again; if there is none, nothing is wanted any more. One that has been
   complete is never given up; when more of it are wanted and so many starts fail, that is told.
5. What is wanted is reached and then nothing changes, unless something happens.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from modelplex.core.backoff import Backoff


@dataclass(frozen=True, slots=True)
class Start:
    """Start one more, which is to do the work of `in_place_of` when there is one."""

    number: int
    version: str
    in_place_of: int | None


@dataclass(frozen=True, slots=True)
class Retire:
    """Have one take no more work, end what it does, and exit."""

    number: int


@dataclass(frozen=True, slots=True)
class Complete:
    """All that are wanted are of this version, and have been ready together."""

    version: str


@dataclass(frozen=True, slots=True)
class GivenUp:
    """This version could not be brought to run; `instead` is wanted again, None if there is nothing to go back to."""

    version: str
    why: str
    instead: str | None


@dataclass(frozen=True, slots=True)
class Failing:
    """No more of this version can be started for now. It has been complete before, so it is tried on and on."""

    version: str
    why: str


Command = Start | Retire | Complete | GivenUp | Failing


@dataclass(frozen=True, slots=True)
class Goal:
    """What is wanted.

    Attributes:
        version: names it.
        count: how many.
        step: how many are replaced at a time.
        surge_max: how many more than `count` may be alive meanwhile.
        failures_max: failed starts after which a version that has never been complete is given up.
    """

    version: str
    count: int
    step: int = 1
    surge_max: int = 1
    failures_max: int = 3


class _Phase(Enum):
    STARTING = "STARTING"
    READY = "READY"
    RETIRING = "RETIRING"


@dataclass(slots=True, eq=False)
class _Member:
    """One process, until it has exited."""

    number: int
    version: str
    phase: _Phase = _Phase.STARTING
    ready_at: float = 0.0
    outdated: bool = False  # to be replaced, although its version is the one that is wanted
    succeeded: bool = False  # retired since another one has its place


@dataclass(slots=True, eq=False)
class _Place:
    """One process that is wanted: the one that has the place, one that is to have it, and how long they lasted.

    `short_lives` counts those in a row that did not last.
    """

    current: _Member | None = None
    successor: _Member | None = None
    began: float | None = None
    short_lives: int = 0
    not_before: float = 0.0
    delayed: bool = False  # the present outdated one has been counted among the short lives

    @property
    def members(self) -> list[_Member]:
        return [m for m in (self.current, self.successor) if m is not None]

    def runs(self, version: str) -> bool:
        """Whether the place has a process of this version that serves, and is to have no other."""
        ready = self.current is not None and self.current.phase is _Phase.READY and self.current.version == version
        return ready and self.successor is None

    def forget(self) -> None:
        """Of the version before; but not that it waits for one to be adopted."""
        if self.began is not None:
            self.began, self.short_lives, self.not_before, self.delayed = None, 0, 0.0, False

    def leave(self, member: _Member) -> None:
        if self.current is member:
            self.current, self.delayed = None, False
        else:
            self.successor = None

    def delay(self, now: float, backoff: Backoff, forget_s: float) -> None:
        """The next one in this place comes later, if the last ones did not last."""
        if self.began is not None:
            self.short_lives = 1 if now - self.began > forget_s else self.short_lives + 1
            pause_s = backoff.delay_s(self.short_lives - 1) if self.short_lives > 1 else 0.0
            self.not_before = max(self.not_before, now + pause_s)


class Rollout:
    """Decides for the processes of one kind.

    Args:
        handover_s: how long a new one is ready before an old one is retired, so that all callers have met it.
        backoff: the delays after lives that were short.
        forget_s: one that lived longer did not live shortly.
        stop_order: of the numbers of those that serve, which are to go first when there are too many.
    """

    def __init__(
        self,
        handover_s: float,
        backoff: Backoff,
        forget_s: float,
        stop_order: Callable[[list[int]], Iterable[int]] = lambda numbers: numbers[::-1],
    ) -> None:
        self._handover_s = handover_s
        self._backoff = backoff
        self._forget_s = forget_s
        self._stop_order = stop_order
        self._members: dict[int, _Member] = {}
        self._places: list[_Place] = []
        self._numbers = itertools.count()
        self._failures = 0
        self.goal: Goal | None = None
        self.fallback: Goal | None = None  # the last one that was complete
        self.is_complete = False
        self.next_tick: float | None = None

    # What happens

    def want(self, goal: Goal, now: float) -> list[Command]:
        """This is wanted from now on."""
        self.is_complete = False
        if goal.version != self._version:
            self._failures = 0
            for place in self._places:
                place.forget()
        elif self._is_proven:
            self._failures, self.fallback = 0, goal
        self.goal = goal
        return self._decide(now)

    def recover(self, goal: Goal, fallback: Goal | None, not_before: float, now: float) -> list[Command]:
        """This was wanted before; what runs is about to be adopted, and nothing else is started until `not_before`."""
        self.goal, self.fallback = goal, fallback
        self._places = [_Place(not_before=not_before) for _ in range(goal.count)]
        return self._decide(now)

    def adopt(self, version: str, now: float) -> tuple[int, list[Command]]:
        """One runs that was not started here. Answers its number, and what is to be done."""
        number = next(self._numbers)
        member = self._members[number] = _Member(number, version, _Phase.READY, now - self._handover_s)
        for place in self._places:
            if place.current is None:
                place.current = member
                if not self._is_old(member):
                    place.not_before = now  # nobody else is about to come for it
                break
            if place.successor is None and self._is_old(place.current) != self._is_old(member):
                old, new = (place.current, member) if self._is_old(place.current) else (member, place.current)
                place.current, place.successor = old, new
                break
        else:
            self._places.append(_Place(current=member))  # one too many, for the decision to find
        return number, self._decide(now)

    def ready(self, number: int, now: float) -> list[Command]:
        member = self._members[number]
        if member.phase is _Phase.STARTING:
            member.phase, member.ready_at = _Phase.READY, now
        return self._decide(now)

    def exited(self, number: int, why: str, now: float) -> list[Command]:
        """It has ended, of itself or because it was retired; or it could not start."""
        member = self._members.pop(number, None)
        if member is None:
            return []
        return [*self._lost(member, why, now), *self._decide(now)]

    def unwell(self, number: int, why: str, now: float) -> list[Command]:
        """It is of no more use: it is retired at once, and another one started."""
        member = self._members.get(number)
        if member is None or member.phase is _Phase.RETIRING:
            return []
        commands = self._lost(member, why, now)
        return [*self._retire(member), *commands, *self._decide(now)]

    def replace(self, number: int, now: float) -> list[Command]:
        """Have another one take its place, without a gap, when as many run as are wanted."""
        if (member := self._members.get(number)) is not None:
            member.outdated = True
        return self._decide(now)

    def give_up(self, why: str, now: float) -> list[Command]:
        """Go back to the last version that was complete. Nothing happens if the present one is."""
        return [] if self.goal is None or self._is_proven else [self._give_up(self.goal, why), *self._decide(now)]

    def tick(self, now: float) -> list[Command]:
        """Time has passed; to be called at `next_tick`."""
        return self._decide(now)

    # Rules

    def _is_old(self, member: _Member) -> bool:
        return member.outdated or self.goal is None or member.version != self.goal.version

    def _decide(self, now: float) -> list[Command]:
        self.next_tick = None
        goal = self.goal
        if goal is None:
            return []
        commands = self._fit_places(goal)
        for place in self._places:
            commands += self._hand_over(place, now)
        for place in self._places:
            if place.current is None:
                commands += self._fill(place, goal, now)
        commands += self._renew_some(goal, now)
        if not self.is_complete and all(place.runs(goal.version) for place in self._places):
            self.is_complete, self.fallback, self._failures = True, goal, 0
            commands.append(Complete(goal.version))
            commands += self._decide(now)  # what is outdated has waited for this
        return commands

    def _fit_places(self, goal: Goal) -> list[Command]:
        """As many places as are wanted; of those that are too many, the ones go first that serve nobody yet."""
        commands: list[Command] = []
        self._places += [_Place() for _ in range(goal.count - len(self._places))]
        if (surplus := len(self._places) - goal.count) <= 0:
            return commands
        serving = {p.current.number: p for p in self._places if p.current and p.current.phase is _Phase.READY}
        order = [p for p in reversed(self._places) if p not in serving.values()]
        order += [serving[number] for number in self._stop_order(list(serving))]
        for place in order[:surplus]:
            self._places.remove(place)
            for member in place.members:
                commands += self._retire(member)
        return commands

    def _hand_over(self, place: _Place, now: float) -> list[Command]:
        """Let a successor that callers have met have the place, and nobody that is not wanted and has not begun."""
        commands: list[Command] = []
        for member in place.members:
            if member.version != self._version and (member.phase is _Phase.STARTING or member is place.successor):
                commands += self._retire(member)
                place.leave(member)
        if place.current is None:
            place.current, place.successor = place.successor, None
        current, successor = place.current, place.successor
        if current is None or successor is None:
            return commands
        if not self._is_old(current):  # what was wanted has changed back
            place.successor = None
            return [*commands, *self._retire(successor)]
        if successor.phase is _Phase.READY:
            if successor.ready_at + self._handover_s <= now:
                current.succeeded = True
                place.current, place.successor, place.delayed = successor, None, False
                return [*commands, *self._retire(current)]
            self._wake(successor.ready_at + self._handover_s)
        return commands

    def _fill(self, place: _Place, goal: Goal, now: float) -> list[Command]:
        """Start one for a place that nobody has."""
        if goal.surge_max == 0 and len(self._members) >= goal.count:
            return []  # until one has exited
        if place.not_before > now:
            self._wake(place.not_before)
            return []
        place.current = self._new_member(place, goal, now)
        return [Start(place.current.number, goal.version, None)]

    def _in_turn(self) -> list[_Place]:
        """The places whose processes are to be replaced. What is merely outdated waits until all run."""
        old = [p for p in self._places if p.current is not None and p.successor is None and self._is_old(p.current)]
        return [p for p in old if p.current is not None and (self.is_complete or p.current.version != self._version)]

    def _renew_some(self, goal: Goal, now: float) -> list[Command]:
        """Begin to replace processes, until as many are being replaced as may be at a time."""
        commands: list[Command] = []
        free = max(1, min(goal.step, goal.surge_max or goal.step))
        free -= _replaced(self._places, self._members.values(), goal)
        for place in self._in_turn():
            if free > 0 and (begun := self._renew(place, goal, now)):
                free, commands = free - 1, commands + begun
        return commands

    def _renew(self, place: _Place, goal: Goal, now: float) -> list[Command]:
        """Begin to replace the process of a place, unless it is to wait."""
        assert place.current is not None
        if place.current.outdated and not place.delayed:
            place.delayed = True
            place.delay(now, self._backoff, self._forget_s)
        if place.not_before > now:
            self._wake(place.not_before)
            return []
        if goal.surge_max == 0:
            before, place.current, place.delayed = place.current, None, False
            return [*self._retire(before), *self._fill(place, goal, now)]
        place.successor = self._new_member(place, goal, now)
        return [Start(place.successor.number, goal.version, place.current.number)]

    def _new_member(self, place: _Place, goal: Goal, now: float) -> _Member:
        place.began, number = now, next(self._numbers)
        return self._members.setdefault(number, _Member(number, goal.version))

    def _retire(self, member: _Member) -> list[Command]:
        if member.phase is _Phase.RETIRING:
            return []
        member.phase = _Phase.RETIRING
        return [Retire(member.number)]

    def _lost(self, member: _Member, why: str, now: float) -> list[Command]:
        """Its place has one less."""
        place = next((p for p in self._places if member in p.members), None)
        if place is None:
            return []
        place.leave(member)
        place.delay(now, self._backoff, self._forget_s)
        goal = self.goal
        counts = not self._is_proven or member.phase is _Phase.STARTING
        if goal is None or self.is_complete or member.version != goal.version or not counts:
            return []
        self._failures += 1
        if self._failures < goal.failures_max:
            return []
        self._failures = 0
        return [Failing(goal.version, why) if self._is_proven else self._give_up(goal, why)]

    def _give_up(self, goal: Goal, why: str) -> Command:
        fallback = self.fallback
        self.goal = Goal(goal.version, 0) if fallback is None else fallback
        self.is_complete = fallback is None
        for place in self._places:
            place.not_before, place.short_lives = 0.0, 0
        return GivenUp(goal.version, why, None if fallback is None else fallback.version)

    @property
    def _is_proven(self) -> bool:
        """Whether the version that is wanted has been complete."""
        return self.goal is not None and self.fallback is not None and self.fallback.version == self.goal.version

    @property
    def _version(self) -> str:
        return "" if self.goal is None else self.goal.version

    def _wake(self, at: float) -> None:
        self.next_tick = at if self.next_tick is None else min(at, self.next_tick)


def _replaced(places: Sequence[_Place], members: Iterable[_Member], goal: Goal) -> int:
    """How many are being replaced, or have been and are not gone yet."""
    count = sum(place.successor is not None for place in places) + sum(member.succeeded for member in members)
    if goal.surge_max == 0:
        count += sum(place.current is None or place.current.phase is _Phase.STARTING for place in places)
    return count
