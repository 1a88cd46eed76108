"""Requests on their way: sent to a replica that has a free slot, or waiting in the line of one that will.

A request whose replica has no free slot waits here, in that replica's line, so that it can still go elsewhere. Lines
are served in the order of arrival.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice

from modelplex.core import explain
from modelplex.core.admission import Request, WaitingRoom
from modelplex.core.chooser import Choice
from modelplex.core.placement import Fleet
from modelplex.core.popularity import Demand
from modelplex.core.reasons import Journal, Numbers, Rule
from modelplex.core.residency import ReplicaView
from modelplex.core.tenant_lines import LineLimits, TenantRooms

# How often the time until the next look at a waiting request doubles, at most.
LOOKS_MAX = 16

# Of the models that requests wait for elsewhere, so many are looked at when a replica has nothing else to do.
SHARED_MAX = 64

# What is a reason to go where a model is loaded. Where it is not, it is booked or loads.
_HOLDS = (Rule.ONLY_HOLDER, Rule.BEST_HOLDER, Rule.NEAREST)

# The line of those who wait for nothing in particular because a user's class has said so; no replica has this name.
DECLINED = ""

# They are looked at again after so long, or so long for each of them if that is more: a thousand questions a second.
DECLINED_S = 0.1
DECLINED_EACH_S = 0.001


class Why(Enum):
    """Why a request was rejected."""

    QUEUE_FULL = "queue full"
    COLD = "cold"
    DEADLINE = "deadline"
    NO_REPLICA = "no replica"
    REPLICA_LOST = "replica lost"


@dataclass(slots=True)
class Send:
    """Send the request to this replica.

    Attributes:
        number: names the request.
        replica_id: the replica.
        fits: whether its model is expected to need no eviction there.
        waited: whether it had to wait for a slot.
        share: of the requests there, the part that its model is expected to have; 0 when it is loaded there.
        rule: why there.
        numbers: what decided that, if anything had to be computed.
        taken: slots that were taken there, of so many `slots`.
        warm: whether its model is loaded there, or it needs none.
    """

    number: int
    replica_id: str
    fits: bool = False
    waited: bool = False
    share: float = 0.0
    rule: Rule = field(default=Rule.BROADCAST, compare=False)
    numbers: Numbers = field(default_factory=dict, compare=False)
    taken: int = field(default=0, compare=False)
    slots: int = field(default=0, compare=False)
    warm: bool = field(default=False, compare=False)


@dataclass(slots=True)
class Reject:
    """The request is over; it will not be sent (again)."""

    number: int
    why: Why
    retry_after_s: float | None = None
    numbers: Numbers = field(default_factory=dict, compare=False)


@dataclass(slots=True)
class Prefetch:
    """Have the replica load the model, for no request: the one for it was rejected, or it is ahead of demand.

    Attributes:
        replica_id: the replica.
        model_id: the model.
        worth_s: if it is ahead of demand, only what costs less than that is to be evicted for it
            (`ModelCache.harm_s`); else None.
        share: of the requests there, the part that the model is expected to have.
        tenant: on whose behalf, if that is known.
    """

    replica_id: str
    model_id: str
    worth_s: float | None = None
    share: float = 0.0
    tenant: str = ""


Command = Send | Reject | Prefetch


class Dispatch:
    """Moves requests between lines and replicas. Every step is booked in the fleet at once.

    Args:
        waiting: those who wait.
        fleet: the replicas.
        no_replica_wait_s: how long a request waits while there is no replica at all.

    Attributes:
        choice: who chooses in place of the fleet, if anybody does.
        journal: told who waits, and why there.
    """

    def __init__(self, waiting: WaitingRoom, fleet: Fleet, no_replica_wait_s: float) -> None:
        self._waiting = waiting
        self._tenants: TenantRooms | None = None  # the same, if each tenant has its own
        self._fleet = fleet
        self.no_replica_wait_s = no_replica_wait_s
        self.demand = Demand()
        self.choice: Choice | None = None
        self.journal: Journal | None = None
        self.running: dict[int, Request] = {}

    def wait_in(self, queued_max: int, tenants: Mapping[str, LineLimits] | None) -> WaitingRoom:
        """Where requests wait from now on, those that wait already as well: so many, or of each tenant so many."""
        before, rooms = self._waiting, TenantRooms(queued_max, tenants) if tenants else None
        if rooms is None and self._tenants is None:
            before.limit = queued_max
        elif rooms is None or self._tenants is None or rooms.limits != self._tenants.limits:
            self._waiting, self._tenants = WaitingRoom(queued_max) if rooms is None else rooms, rooms
            for request in sorted(before, key=lambda r: r.number):
                self._waiting.add(request, request.line, request.look_at)
        return self._waiting

    def place(self, request: Request, now: float) -> list[Command]:
        """Send the request, or let it wait where it is expected to be served first."""
        if self.choice is None or not self._fleet.views:
            view = self._fleet.choose(request.model_id, now)
        else:
            view = self.choice.choose(request, self._fleet, now)
        return self._place_at(view, request, now)

    def _place_at(self, view: ReplicaView | None, request: Request, now: float) -> list[Command]:
        """Send the request to this replica, or let it wait there; for None, let it wait for any."""
        if view is not None and view.slots.free and (self._tenants is None or self._tenants.may_take(request, view)):
            return [self._send(request, view, now)]
        if self.journal is not None:
            chosen = self.choice is not None
            _note_wait(self.journal, self._fleet, self._waiting, request, view, chosen=chosen)
        if view is None:
            if self._fleet.views:
                self._waiting.add(request, DECLINED, now + _declined_s(self._waiting))
            else:
                self._waiting.add(request, None, now + self.no_replica_wait_s)
        elif not request.model_id and self.choice is None:
            self._waiting.add(request, None, None)
        else:
            self._fleet.book(view, request.model_id)
            view.queued += 1
            # Twice as long each time, or long queues would be looked at for ever and do nothing else.
            patience_s = self._fleet.patience_s(request.model_id) * 2**request.looks
            request.looks = min(request.looks + 1, LOOKS_MAX)
            self._waiting.add(request, view.replica_id, now + patience_s)
        return []

    def replace(self, request: Request, now: float) -> list[Command]:
        if self.choice is not None:
            return self._ask_again(self.choice, request, now)
        self.withdraw(request)
        return self.place(request, now)

    def place_all(self, homeless: Iterable[Request], now: float) -> list[Command]:
        """Place requests that wait nowhere and run nowhere, in the order of their arrival."""
        commands: list[Command] = []
        for request in sorted(homeless, key=lambda r: r.number):
            commands += self.place(request, now)
        return commands

    def follow(self, model_id: str, now: float) -> list[Command]:
        """The model loads somewhere: those who wait where it would have to be loaded as well are looked at again."""
        views = self._fleet.views
        elsewhere = [r for r in self._waiting.of_model(model_id) if r.line and not views[r.line].models[model_id].told]
        commands: list[Command] = []
        for request in sorted(elsewhere, key=lambda r: r.number):
            commands += self.replace(request, now)
        return commands

    def gone(self, view: ReplicaView, model_id: str, now: float) -> list[Command]:
        """The replica holds the model no longer: those who wait for it there are looked at again."""
        commands: list[Command] = []
        for request in sorted(self._waiting.of_model(model_id), key=lambda r: r.number):
            if request.line == view.replica_id:
                commands += self.replace(request, now)
        return commands

    def too_cold(self, request: Request, now: float) -> list[Command] | None:
        """Give up a request that has waited for a cold model for as long as it would; its load goes on. None if not."""
        if request.cold_deadline is None or now < request.cold_deadline:
            return None
        rest_s = self._fleet.cold_s(request.model_id, now)
        if rest_s is None:
            request.cold_deadline = None  # its model is loaded: what it waits for now is its turn
            return None
        line = self._fleet.views.get(request.line or "")
        told = line is None or line.models[request.model_id].told
        self.withdraw(request)
        reject = Reject(request.number, Why.COLD, rest_s, _waited(request, now))
        return [reject] if line is None or told else [_prefetch(line.replica_id, request), reject]

    def look_again(self, now: float) -> list[Command]:
        """Look again at those who have waited long."""
        commands: list[Command] = []
        for request in self._waiting.due(now):
            if request.deadline is not None and now >= request.deadline:
                self.withdraw(request)
                commands.append(Reject(request.number, Why.DEADLINE, None, _waited(request, now)))
            elif (too_cold := self.too_cold(request, now)) is not None:
                commands += too_cold
            elif not self._fleet.views:
                self.withdraw(request)
                commands.append(Reject(request.number, Why.NO_REPLICA, None, _waited(request, now)))
            else:
                commands += self.replace(request, now)
        return commands

    # Bookkeeping

    def strand(self, replica_id: str) -> list[Request]:
        """Choose the replica no more, and take out those who now wait for something else."""
        if replica_id not in self._fleet.views:
            return []
        self._fleet.leave(replica_id)
        # Without any replica, the common line waits no longer for a slot but for a replica, and from now on.
        waits_for_slot = self._fleet.views and self._tenants is None  # with shares, others may have had one
        common = [] if waits_for_slot else self.withdraw_line(None) + self.withdraw_line(DECLINED)
        return self.withdraw_line(replica_id) + common

    def withdraw_line(self, line: str | None) -> list[Request]:
        waiting = self._waiting.all_in(line)
        for request in waiting:
            self.withdraw(request)
        return waiting

    def serve(self, view: ReplicaView, now: float) -> list[Command]:
        """Fill the free slots of a replica from those who wait."""
        commands: list[Command] = []
        if not self._waiting:
            return commands
        while (
            view.replica_id in self._fleet.views and view.slots.free and (request := self._next_for(view)) is not None
        ):
            self.withdraw(request)
            is_moved = request.line is not None and request.line != view.replica_id
            self._fleet.why = Rule.SLOT_ELSEWHERE if is_moved else Rule.TURN, _waited(request, now)
            if self._tenants is not None:
                self._tenants.served(request)
            commands.append(self._send(request, view, now))
        if self.choice is not None and view.slots.free and view.replica_id in self._fleet.views:
            for request in _better_off(self._waiting, view):
                commands += self._ask_again(self.choice, request, now) if view.slots.free else ()
        return commands

    def use(self, choice: Choice | None, now: float) -> list[Command]:
        """Have another choose from now on, or the fleet: for those who wait, too."""
        self.choice = choice
        if not self._fleet.views:
            return []
        waiting = list(self._waiting)
        for request in waiting:
            self.withdraw(request)
        commands = self.place_all(waiting, now)
        for view in self._fleet.views.values():
            commands += self.serve(view, now)
        return commands

    def _ask_again(self, choice: Choice, request: Request, now: float) -> list[Command]:
        """Ask for one who waits. It keeps its place if the answer is the same."""
        view = choice.choose(request, self._fleet, now)
        if view is None and request.line == DECLINED:
            if request.look_at <= now:
                self._waiting.postpone(request, now + _declined_s(self._waiting))
            return []
        if view is not None and view.replica_id == request.line and request.look_at > now:
            return []
        self.withdraw(request)
        return self._place_at(view, request, now)

    def _next_for(self, view: ReplicaView) -> Request | None:
        """The one whose turn it is: with several tenants, of the first of them that has one."""
        if self._tenants is None:
            return self._next_in(self._waiting, view)
        found = (self._next_in(room, view) for room in self._tenants.in_turn(view))
        return next((request for request in found if request is not None), None)

    def _next_in(self, waiting: WaitingRoom, view: ReplicaView) -> Request | None:
        """The oldest request of the replica's line and the common one, else of any line for a model it has loaded."""
        firsts = [r for r in (waiting.first(view.replica_id), waiting.first(None)) if r is not None]
        if not firsts and self.choice is None:
            shared = [model_id for model_id in islice(waiting.models, SHARED_MAX) if view.has_loaded(model_id)]
            firsts = [r for model_id in shared for r in islice(waiting.of_model(model_id), SHARED_MAX)]
        return min(firsts, key=lambda r: r.number, default=None)

    def _send(self, request: Request, view: ReplicaView, now: float) -> Send:
        """Send it there; the fleet knows why."""
        slots, (rule, numbers) = view.slots, self._fleet.why
        taken = slots.limit - slots.free
        slots.take()
        view.sent_last = request.number
        self._fleet.free.sent(view)
        self._fleet.book(view, request.model_id)
        request.view, request.sent, request.answered = view, now, False
        self.running[request.number] = view.running[request.number] = request
        if view.has_loaded(request.model_id):
            number, replica_id, most = request.number, view.replica_id, slots.limit
            return Send(number, replica_id, True, request.waited, 0.0, rule, numbers, taken, most, True)
        fits, share = view.fits(request.model_id), self.share(request.model_id)
        if request.model_id and rule in _HOLDS:
            there = explain.load_there(view, request.model_id, self._fleet.costs, now)
            rule, numbers = Rule.JOINS_LOAD, {**numbers, **there}
        waited, limit, warm = request.waited, slots.limit, not request.model_id
        return Send(request.number, view.replica_id, fits, waited, share, rule, numbers, taken, limit, warm)

    def send_slotless(self, number: int, model_id: str, view: ReplicaView, now: float) -> Send:
        """Send a request to this replica, whatever runs there."""
        request = Request(number, model_id, None, slotless=True)
        request.view, request.sent = view, now
        self.running[number] = request
        return Send(number, view.replica_id)

    def share(self, model_id: str) -> float:
        """The part that the model would have of the requests of the one replica that holds it."""
        return min(1.0, self.demand.share(model_id) * len(self._fleet.views))

    def ended(self, request: Request) -> None:
        """It runs no longer."""
        if request.slotless:
            del self.running[request.number]
            return
        view = request.view
        del self.running[request.number], view.running[request.number]
        view.slots.give_back()
        self._fleet.unbook(view, request.model_id)

    def withdraw(self, request: Request) -> None:
        self._waiting.remove(request)
        if request.line is not None and (view := self._fleet.views.get(request.line)) is not None:
            view.queued -= 1
            self._fleet.unbook(view, request.model_id)


def _declined_s(waiting: WaitingRoom) -> float:
    """After how long those that wait for nothing in particular are looked at again."""
    return max(DECLINED_S, DECLINED_EACH_S * waiting.length(DECLINED))


def _better_off(waiting: WaitingRoom, view: ReplicaView) -> list[Request]:
    """Of those who wait for something else, the oldest that may now be better off at this replica."""
    models = [model_id for model_id in islice(waiting.models, SHARED_MAX) if view.has_loaded(model_id)]
    elsewhere = [r for model_id in models for r in islice(waiting.of_model(model_id), SHARED_MAX)]
    asked = {r.number: r for r in (*waiting.oldest(DECLINED, SHARED_MAX), *elsewhere)}
    return [asked[number] for number in sorted(asked)[:SHARED_MAX]]


def _waited(request: Request, now: float) -> Numbers:
    return {"waited_s": now - request.arrived}


def _note_wait(
    journal: Journal, fleet: Fleet, waiting: WaitingRoom, request: Request, view: ReplicaView | None, *, chosen: bool
) -> None:
    """Say where the request is about to wait, and why there, unless that is known."""
    (rule, numbers), line = fleet.why, None
    if view is not None and (request.model_id or chosen):
        line = view.replica_id
    elif view is None and fleet.views:
        rule, line = Rule.CHOSEN, DECLINED
    elif view is not None:
        rule = Rule.FREE_SLOTS
    if not waiting.full_for(request.tenant) and not (request.waited and request.line == line):
        journal.waits(request.number, line, rule, {**numbers, "ahead": waiting.length(line)})


def _prefetch(replica_id: str, request: Request) -> Prefetch:
    """Have the model loaded that the request no longer waits for."""
    return Prefetch(replica_id, request.model_id, tenant=request.tenant)
