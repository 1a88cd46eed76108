"""Requests on their way: sent to a replica that has a free slot, or waiting in the line of one that will.

A request whose replica has no free slot waits here, in that replica's line, so that it can still go elsewhere. Lines
are served in the order of arrival.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from modelplex.core.admission import Request, WaitingRoom
from modelplex.core.chooser import Choice
from modelplex.core.placement import Fleet
from modelplex.core.popularity import Demand
from modelplex.core.residency import ReplicaView

# How often the time until the next look at a waiting request doubles, at most.
LOOKS_MAX = 16

# Of the models that requests wait for elsewhere, so many are looked at when a replica has nothing else to do.
SHARED_MAX = 64

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
    """

    number: int
    replica_id: str
    fits: bool = False
    waited: bool = False
    share: float = 0.0


@dataclass(slots=True)
class Reject:
    """The request is over; it will not be sent (again)."""

    number: int
    why: Why
    retry_after_s: float | None = None


@dataclass(slots=True)
class Prefetch:
    """Have the replica load the model, although the request for it has been rejected."""

    replica_id: str
    model_id: str


Command = Send | Reject | Prefetch


class Dispatch:
    """Moves requests between lines and replicas. Every step is booked in the fleet at once.

    Args:
        waiting: those who wait.
        fleet: the replicas.
        no_replica_wait_s: how long a request waits while there is no replica at all.

    Attributes:
        choice: who chooses in place of the fleet, if anybody does.
    """

    def __init__(self, waiting: WaitingRoom, fleet: Fleet, no_replica_wait_s: float) -> None:
        self._waiting = waiting
        self._fleet = fleet
        self.no_replica_wait_s = no_replica_wait_s
        self.demand = Demand()
        self.choice: Choice | None = None
        self.running: dict[int, Request] = {}

    def place(self, request: Request, now: float) -> list[Command]:
        """Send the request, or let it wait where it is expected to be served first."""
        if self.choice is None or not self._fleet.views:
            view = self._fleet.choose(request.model_id, now)
        else:
            view = self.choice.choose(request, self._fleet, now)
        return self._place_at(view, request, now)

    def _place_at(self, view: ReplicaView | None, request: Request, now: float) -> list[Command]:
        """Send the request to this replica, or let it wait there; for None, let it wait for any."""
        if view is not None and view.slots.free:
            return [self._send(request, view, now)]
        if view is None:
            if self._fleet.views:
                self._waiting.add(request, DECLINED, now + self._declined_s)
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

    @property
    def _declined_s(self) -> float:
        """After how long those that wait for nothing in particular are looked at again."""
        return max(DECLINED_S, DECLINED_EACH_S * self._waiting.length(DECLINED))

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
        reject = Reject(request.number, Why.COLD, rest_s)
        return [reject] if line is None or told else [Prefetch(line.replica_id, request.model_id), reject]

    # Bookkeeping

    def strand(self, replica_id: str) -> list[Request]:
        """Choose the replica no more, and take out those who now wait for something else."""
        if replica_id not in self._fleet.views:
            return []
        self._fleet.leave(replica_id)
        # Without any replica, the common line waits no longer for a slot but for a replica, and from now on.
        common = [] if self._fleet.views else self.withdraw_line(None) + self.withdraw_line(DECLINED)
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
            commands.append(self._send(request, view, now))
        if self.choice is not None and view.slots.free and view.replica_id in self._fleet.views:
            commands += self._ask_waiting(self.choice, view, now)
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

    def _ask_waiting(self, choice: Choice, view: ReplicaView, now: float) -> list[Command]:
        """The replica has a slot left: ask for the oldest of those who may now be better off than where they wait."""
        models = [model_id for model_id in islice(self._waiting.models, SHARED_MAX) if view.has_loaded(model_id)]
        elsewhere = [r for model_id in models for r in islice(self._waiting.of_model(model_id), SHARED_MAX)]
        asked = {r.number: r for r in (*self._waiting.oldest(DECLINED, SHARED_MAX), *elsewhere)}
        commands: list[Command] = []
        for number in sorted(asked)[:SHARED_MAX]:
            if not view.slots.free:
                break
            commands += self._ask_again(choice, asked[number], now)
        return commands

    def _ask_again(self, choice: Choice, request: Request, now: float) -> list[Command]:
        """Ask for one who waits. It keeps its place if the answer is the same."""
        view = choice.choose(request, self._fleet, now)
        if view is None and request.line == DECLINED:
            if request.look_at <= now:
                self._waiting.postpone(request, now + self._declined_s)
            return []
        if view is not None and view.replica_id == request.line and request.look_at > now:
            return []
        self.withdraw(request)
        return self._place_at(view, request, now)

    def _next_for(self, view: ReplicaView) -> Request | None:
        """The oldest request of the replica's line and the common one, else of any line for a model it has loaded."""
        firsts = [r for r in (self._waiting.first(view.replica_id), self._waiting.first(None)) if r is not None]
        if not firsts and self.choice is None:
            shared = [model_id for model_id in islice(self._waiting.models, SHARED_MAX) if view.has_loaded(model_id)]
            firsts = [r for model_id in shared for r in islice(self._waiting.of_model(model_id), SHARED_MAX)]
        return min(firsts, key=lambda r: r.number, default=None)

    def _send(self, request: Request, view: ReplicaView, now: float) -> Send:
        view.slots.take()
        view.sent_last = request.number
        self._fleet.sent(view)
        self._fleet.book(view, request.model_id)
        request.view, request.sent, request.answered = view, now, False
        self.running[request.number] = view.running[request.number] = request
        if view.has_loaded(request.model_id):
            return Send(request.number, view.replica_id, fits=True, waited=request.waited)
        fits, share = view.fits(request.model_id), self._share(request.model_id)
        return Send(request.number, view.replica_id, fits, request.waited, share)

    def send_slotless(self, number: int, model_id: str, view: ReplicaView, now: float) -> Send:
        """Send a request to this replica, whatever runs there."""
        request = Request(number, model_id, None, slotless=True)
        request.view, request.sent = view, now
        self.running[number] = request
        return Send(number, view.replica_id)

    def _share(self, model_id: str) -> float:
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
