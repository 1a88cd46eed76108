"""Which replica a request goes to, and when.

A router serves one deployment. It learns what its replicas say about themselves and books what it decides at the moment
of the decision, so that simultaneous requests for a cold model follow one another to one replica.

For a request that names a model, in this order:

1. Among the replicas that hold or load the model (or are booked to), the one that is expected to begin soonest.
2. When that one has to be waited for, and waiting costs clearly more than loading elsewhere, the best of the others.
3. When nobody holds it, the others: those with room for one more model before those that must evict, and among equals
   the first in the model's rendezvous order.

A request without a model goes to the replica with the most free slots. A request whose replica has no free slot waits
here, in that replica's line, so that it can still go elsewhere: it is looked at again when a slot comes free anywhere
that holds its model, when the replica loses the model or itself, and when it has waited as long as a load would have
taken. Lines are served in the order of arrival.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from modelplex.core.admission import Pending, WaitingRoom
from modelplex.core.estimates import Estimates
from modelplex.core.placement import Fleet
from modelplex.core.residency import Flight, ReplicaView

# A request is given up when so many replicas have died with it, since one that kills its replica would kill them all.
LOSSES_MAX = 5


class Why(Enum):
    """Why a request was rejected."""

    QUEUE_FULL = "queue full"
    DEADLINE = "deadline"
    NO_REPLICA = "no replica"
    REPLICA_LOST = "replica lost"


@dataclass(frozen=True, slots=True)
class Send:
    """Send the request to this replica."""

    number: int
    replica_id: str


@dataclass(frozen=True, slots=True)
class Reject:
    """The request is over; it will not be sent (again)."""

    number: int
    why: Why


Command = Send | Reject


class Router:
    """Decides for one deployment in one process; the shell performs what it answers.

    Args:
        queued_max: requests that may wait here at a time, or `admission.UNLIMITED`.
        no_replica_wait_s: how long a request waits while the deployment has no replica at all.
        estimates: what is expected before anything was learned.

    Times are seconds of any clock that does not go backwards.
    """

    def __init__(self, queued_max: int, no_replica_wait_s: float, estimates: Estimates) -> None:
        self._waiting = WaitingRoom(queued_max)
        self._no_replica_wait_s = no_replica_wait_s
        self._fleet = Fleet(estimates)
        self._flights: dict[int, Flight] = {}
        self._numbers = itertools.count(1)

    @property
    def replica_ids(self) -> list[str]:
        return list(self._fleet.views)

    @property
    def queued(self) -> int:
        return len(self._waiting)

    @property
    def next_tick(self) -> float | None:
        """When to call `tick`; None while nothing waits."""
        return self._waiting.next_look

    # Inputs about requests

    def number(self) -> int:
        """A name for the next request."""
        return next(self._numbers)

    def submit(self, number: int, model_id: str, now: float, deadline: float | None = None) -> list[Command]:
        """A new request; `model_id` is empty when it names no model."""
        pending = Pending(number, model_id, deadline)
        full = self._waiting.full
        commands = self._place(pending, now)
        if full and not commands:
            self._withdraw(pending)
            return [Reject(number, Why.QUEUE_FULL)]
        return commands

    def answered(self, number: int) -> None:
        """The first byte of the answer has come: the request can no longer be sent again."""
        self._flights[number].answered = True

    def finish(self, number: int, now: float, load_s: float = 0.0, ongoing: int | None = None) -> list[Command]:
        """The request is over, however it ended. `load_s` is the part of its time that it waited for its model."""
        flight = self._flights[number]
        if flight.answered:
            self._fleet.estimates.saw_service(max(0.0, now - flight.sent - load_s))
        self._land(flight)
        flight.view.slot_freed = now
        if ongoing is not None:
            flight.view.slots.told(ongoing)
        return self._serve(flight.view, now)

    def refused(self, number: int, ongoing: int, now: float) -> list[Command]:
        """The replica had no slot for it after all."""
        flight = self._flights[number]
        self._land(flight)
        flight.view.slots.told(ongoing)
        return self._place(flight.pending, now)

    def cancel(self, number: int, now: float) -> list[Command]:
        """The caller has gone away."""
        if number in self._flights:
            return self.finish(number, now)
        if (pending := self._waiting.get(number)) is not None:
            self._withdraw(pending)
        return []

    def tick(self, now: float) -> list[Command]:
        """Look again at those who have waited long."""
        commands: list[Command] = []
        for pending in self._waiting.due(now):
            if pending.deadline is not None and now >= pending.deadline:
                self._withdraw(pending)
                commands.append(Reject(pending.number, Why.DEADLINE))
            elif not self._fleet.views:
                self._withdraw(pending)
                commands.append(Reject(pending.number, Why.NO_REPLICA))
            else:
                commands += self._replace(pending, now)
        return commands

    # Inputs about replicas

    def replica_up(
        self,
        replica_id: str,
        max_ongoing: int,
        room: int | None,
        loaded: Iterable[str],
        loading: Iterable[str],
        now: float,
        ongoing: int = 0,
    ) -> list[Command]:
        """A replica can be sent requests; what it holds, loads and runs at this moment."""
        view = ReplicaView(replica_id, max_ongoing, room, now)
        view.slots.told(ongoing)
        for model_id in loaded:
            view.told_loaded(model_id)
        for model_id in loading:
            view.told_loading(model_id, now)
        self._fleet.join(view)
        return self._place_all(self._withdraw_line(None), now) + self._serve(view, now)

    def replica_retiring(self, replica_id: str, now: float) -> list[Command]:
        """A replica takes no new requests; what runs there may end."""
        return self._place_all(self._strand(replica_id), now)

    def replica_down(self, replica_id: str, now: float) -> list[Command]:
        """A replica is gone. What ran there goes elsewhere, unless its answer had begun or it was tried too often."""
        commands: list[Command] = []
        stranded = self._strand(replica_id)
        for flight in [f for f in self._flights.values() if f.view.replica_id == replica_id]:
            self._land(flight)
            flight.pending.losses += 1
            if flight.answered or flight.pending.losses >= LOSSES_MAX:
                commands.append(Reject(flight.pending.number, Why.REPLICA_LOST))
            else:
                stranded.append(flight.pending)
        return commands + self._place_all(stranded, now)

    def model_loading(self, replica_id: str, model_id: str, room: int | None, now: float) -> list[Command]:
        if (view := self._fleet.views.get(replica_id)) is not None:
            view.told_room(room)
            view.told_loading(model_id, now)
            self._fleet.index(view, model_id)
        return []

    def model_loaded(
        self, replica_id: str, model_id: str, room: int | None, load_s: float, now: float
    ) -> list[Command]:
        self._fleet.estimates.saw_load(model_id, load_s)
        if (view := self._fleet.views.get(replica_id)) is None:
            return []
        view.told_room(room)
        view.told_loaded(model_id)
        self._fleet.index(view, model_id)
        return self._serve(view, now)

    def model_gone(self, replica_id: str, model_id: str, room: int | None, now: float) -> list[Command]:
        if (view := self._fleet.views.get(replica_id)) is None:
            return []
        view.told_room(room)
        view.told_gone(model_id)
        self._fleet.index(view, model_id)
        commands: list[Command] = []
        for pending in sorted(self._waiting.of_model(model_id), key=lambda p: p.number):
            if pending.line == replica_id:
                commands += self._replace(pending, now)
        return commands

    def told_ongoing(self, replica_id: str, ongoing: int, now: float) -> list[Command]:
        """A replica has said how many requests run on it."""
        if (view := self._fleet.views.get(replica_id)) is None:
            return []
        view.slots.told(ongoing)
        view.slot_freed = now
        return self._serve(view, now)

    # Decisions

    def _place(self, pending: Pending, now: float) -> list[Command]:
        """Send the request, or let it wait where it is expected to be served first."""
        view = self._fleet.choose(pending.model_id, now)
        if view is not None and view.slots.free:
            return [self._send(pending, view, now)]
        if view is None:
            self._waiting.add(pending, None, now + self._no_replica_wait_s)
        elif not pending.model_id:
            self._waiting.add(pending, None, None)
        else:
            self._fleet.book(view, pending.model_id)
            view.queued += 1
            self._waiting.add(pending, view.replica_id, now + self._fleet.patience_s(pending.model_id))
        return []

    def _replace(self, pending: Pending, now: float) -> list[Command]:
        self._withdraw(pending)
        return self._place(pending, now)

    def _place_all(self, homeless: Iterable[Pending], now: float) -> list[Command]:
        """Place requests that wait nowhere and run nowhere, in the order of their arrival."""
        commands: list[Command] = []
        for pending in sorted(homeless, key=lambda p: p.number):
            commands += self._place(pending, now)
        return commands

    # Bookkeeping

    def _strand(self, replica_id: str) -> list[Pending]:
        """Choose the replica no more, and take out those who now wait for something else."""
        if replica_id not in self._fleet.views:
            return []
        self._fleet.leave(replica_id)
        # Without any replica, the common line waits no longer for a slot but for a replica, and from now on.
        common = [] if self._fleet.views else self._withdraw_line(None)
        return self._withdraw_line(replica_id) + common

    def _withdraw_line(self, line: str | None) -> list[Pending]:
        waiting = self._waiting.all_in(line)
        for pending in waiting:
            self._withdraw(pending)
        return waiting

    def _serve(self, view: ReplicaView, now: float) -> list[Command]:
        """Fill the free slots of a replica from those who wait."""
        commands: list[Command] = []
        while (
            view.replica_id in self._fleet.views and view.slots.free and (pending := self._next_for(view)) is not None
        ):
            self._withdraw(pending)
            commands.append(self._send(pending, view, now))
        return commands

    def _next_for(self, view: ReplicaView) -> Pending | None:
        """The oldest request of the replica's line and the common one, else of any line for a model it has loaded."""
        firsts = [p for p in (self._waiting.first(view.replica_id), self._waiting.first(None)) if p is not None]
        if not firsts:
            shared = [model_id for model_id in self._waiting.models if view.has_loaded(model_id)]
            firsts = [p for model_id in shared for p in self._waiting.of_model(model_id)]
        return min(firsts, key=lambda p: p.number, default=None)

    def _send(self, pending: Pending, view: ReplicaView, now: float) -> Send:
        view.slots.take()
        view.sent_last = pending.number
        self._fleet.book(view, pending.model_id)
        self._flights[pending.number] = view.flights[pending.number] = Flight(pending, view, now)
        return Send(pending.number, view.replica_id)

    def _land(self, flight: Flight) -> None:
        del self._flights[flight.pending.number], flight.view.flights[flight.pending.number]
        flight.view.slots.give_back()
        self._fleet.unbook(flight.view, flight.pending.model_id)

    def _withdraw(self, pending: Pending) -> None:
        self._waiting.remove(pending)
        if pending.line is not None and (view := self._fleet.views.get(pending.line)) is not None:
            view.queued -= 1
            self._fleet.unbook(view, pending.model_id)
