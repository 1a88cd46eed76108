"""Which replica a request goes to, and when.

A router serves one deployment. It learns what its replicas say about themselves and books what it decides at the moment
of the decision, so that simultaneous requests for a cold model follow one another to one replica.

For a request that names a model, in this order:

1. Among the replicas that hold or load the model (or are booked to), the one that is expected to begin soonest.
2. When that one has to be waited for, and waiting costs clearly more than loading elsewhere, the best of the others.
3. When nobody holds it, a few of the others, the same in every router: those that have said that they have room for one
   more model before those that must evict, of these the one whose eviction does least harm, and among equals the first
   in the model's rendezvous order.

Among equals, a replica on the router's own machine comes first in 1, but not in 3: there all routers must choose alike,
or a model would be loaded once for each machine. Of places as good, one whose machine has the model's file on its disk
comes first in 3.

A request without a model goes to the replica with the most free slots, among equals to a near one. A request whose
replica has no free slot waits here, in that replica's line, so that it can still go elsewhere: it is looked at again
when a slot comes free anywhere that holds its model, when the replica loses the model or itself, and when it has waited
as long as a load would have taken. Lines are served in the order of arrival; with several tenants, each has lines of
its own, which are served by turns (`core.tenant_lines`).

A class of the user's may choose in place of these rules (`core.chooser`). Whom it sends nowhere, waits in a line apart.

A broadcast goes to every replica at once, whatever runs there, and is neither counted nor sent again.
"""

import itertools
from collections.abc import Iterable, Mapping

from modelplex.core.admission import UNLIMITED, Request, WaitingRoom
from modelplex.core.chooser import Choice
from modelplex.core.dispatch import Command, Dispatch, Prefetch, Reject, Send, Why
from modelplex.core.estimates import Estimates
from modelplex.core.placement import Fleet
from modelplex.core.reasons import Journal
from modelplex.core.recovery import LOSSES_MAX, Recovery
from modelplex.core.residency import ReplicaView
from modelplex.core.tenant_lines import LineLimits

__all__ = ["LOSSES_MAX", "Command", "Prefetch", "Reject", "Router", "Send", "Why"]

Tenants = Mapping[str, LineLimits] | None
Due = float | None  # a time, if there is one


class Router:
    """Decides for one deployment in one process; the shell performs what it answers.

    Args:
        queued_max: requests that may wait here at a time, or `admission.UNLIMITED`.
        no_replica_wait_s: how long a request waits while the deployment has no replica at all.
        estimates: what is expected before anything was learned.
        machine: the machine that it is on; empty if it has no name. Among equals, replicas on it are preferred.

    Times are seconds of any clock that does not go backwards. What is sent says why there (`core.reasons`).
    """

    def __init__(self, queued_max: int, no_replica_wait_s: float, estimates: Estimates, machine: str = "") -> None:
        self._machine = machine
        self._waiting = WaitingRoom(queued_max)
        self._fleet = Fleet(estimates)
        self._dispatch = Dispatch(self._waiting, self._fleet, no_replica_wait_s)
        self._recovery = Recovery(self._dispatch, self._fleet)
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

    def change(self, queued_max: int, no_replica_wait_s: float, *, retries_lost: bool, tenants: Tenants = None) -> None:
        """Other options from now on. Whoever waits goes on waiting, however many they are.

        `retries_lost` is whether a request whose replica dies before it has begun to answer goes to another one,
        `tenants` what each may take, if they have lines of their own.
        """
        self._waiting = self._dispatch.wait_in(queued_max, tenants)
        self._recovery.retries_lost, self._dispatch.no_replica_wait_s = retries_lost, no_replica_wait_s

    def use(self, choice: Choice | None, now: float) -> list[Command]:
        """Have a user's class choose the replicas from now on, or this router's own rules."""
        return self._dispatch.use(choice, now)

    def tell(self, journal: Journal) -> None:
        """Have it told who waits, and why there."""
        self._dispatch.journal = journal

    # Inputs about requests

    def number(self) -> int:
        """A name for the next request."""
        return next(self._numbers)

    def submit(
        self, number: int, model_id: str, now: float, deadline: Due = None, cold_deadline: Due = None, tenant: str = ""
    ) -> list[Command]:
        """A new request; `model_id` is empty when it names no model.

        It is given up at its `deadline`, and at its `cold_deadline` if its model is loaded nowhere by then.
        """
        request = Request(number, model_id, deadline, cold_deadline if model_id else None, now, tenant=tenant)
        if model_id:
            self._dispatch.demand.named(model_id, now)
        full = self._waiting.full_for(tenant)
        commands = self._dispatch.place(request, now)
        if full and not commands:
            self._dispatch.withdraw(request)
            return [Reject(number, Why.QUEUE_FULL, None, self._waiting.counts)]
        return commands

    def broadcast(self, model_id: str, now: float) -> list[Send]:
        """A new request for each replica that can be sent any."""
        return [self._dispatch.send_slotless(self.number(), model_id, view, now) for view in self._fleet.views.values()]

    def answered(self, number: int) -> None:
        """The first byte of the answer has come: the request can no longer be sent again."""
        self._dispatch.running[number].answered = True

    def finish(
        self,
        number: int,
        now: float,
        load_s: float = 0.0,
        ongoing: int | None = None,
        harm_s: float | None = None,
        *,
        holds: bool = False,
    ) -> list[Command]:
        """The request is over, however it ended. `load_s` is the part of its time that it waited for its model.

        `ongoing`, `harm_s` and whether it `holds` the model are what its replica said with the answer, if it did.
        """
        request = self._dispatch.running[number]
        view = request.view
        if request.slotless:
            self._dispatch.ended(request)
            return []
        if request.answered:
            self._fleet.estimates.saw_service(max(0.0, now - request.sent - load_s))
        if holds and not view.has_loaded(request.model_id):
            self._fleet.told_held(view, request.model_id, now)
        self._dispatch.ended(request)
        view.slot_freed = now
        if ongoing is not None:
            self._fleet.told_ongoing(view, ongoing, now)
        view.told_harm(harm_s)
        self._fleet.free.freed(view)
        return self._dispatch.serve(view, now)

    def refused(
        self, number: int, ongoing: int, now: float, *, no_room: bool = False, holds: bool = False
    ) -> list[Command]:
        """The replica had no slot for it after all, or `no_room` for a model that was expected to need no eviction.

        If it `holds` the model, or is about to load it, that is known here from now on.
        """
        request = self._dispatch.running[number]
        view = request.view
        if request.slotless:
            self._dispatch.ended(request)
            return [Reject(number, Why.REPLICA_LOST)]
        request.refusals += 1
        if holds:
            view.told_coming(request.model_id, now)
        elif no_room:
            view.told_no_room(request.model_id)
        if request.model_id:
            self._fleet.index(view, request.model_id)
        self._dispatch.ended(request)
        self._fleet.told_ongoing(view, ongoing, now)
        if not view.slots.free:
            view.slot_freed = max(view.slot_freed, request.sent)  # it was taken to have one until then
            return self._dispatch.place(request, now)
        self._fleet.free.freed(view)
        # Others have come to wait for the slot meanwhile.
        waiting = self._dispatch.withdraw_line(view.replica_id) + self._dispatch.withdraw_line(None)
        return self._dispatch.place_all([request, *waiting], now) + self._dispatch.serve(view, now)

    def cancel(self, number: int, now: float) -> list[Command]:
        """The caller has gone away."""
        if number in self._dispatch.running:
            return self.finish(number, now)
        if (request := self._waiting.get(number)) is not None:
            self._dispatch.withdraw(request)
        return []

    def tick(self, now: float) -> list[Command]:
        """Look again at those who have waited long."""
        return self._dispatch.look_again(now)

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
        *,
        loads_max: int = UNLIMITED,
        harm_s: float = 0.0,
        machine: str = "",
        on_disk: Iterable[str] = (),
        same_link: bool = False,
    ) -> list[Command]:
        """A replica can be sent requests; what it holds, loads and runs at this moment.

        `room`, here and below, is how many models it could load without evicting one, `harm_s` what its next eviction
        would cost (`ModelCache.harm_s`), `on_disk` whose files are on the disk of its `machine`.

        If it was up before, its link has been replaced, and what was sent by the one before is placed anew, preferably
        here, or is lost if its answer had begun. Not so by the `same_link`, if it has only not been wanted for a while.
        """
        near = bool(machine) and machine == self._machine
        view = ReplicaView(
            replica_id, max_ongoing, room, now, loads_max=loads_max, harm_s=harm_s, machine=machine, near=near
        )
        for model_id in loaded:
            view.told_loaded(model_id)
        for model_id in loading:
            view.told_loading(model_id, now)
        self._fleet.disks.told(machine, on_disk)
        return self._recovery.replica_up(view, ongoing, now, same_link=same_link)

    def replica_retiring(self, replica_id: str, now: float) -> list[Command]:
        """A replica takes no new requests; what runs there may end."""
        return self._dispatch.place_all(self._dispatch.strand(replica_id), now)

    def replica_down(self, replica_id: str, now: float) -> list[Command]:
        """A replica is gone. What ran there goes elsewhere, unless its answer had begun or it was tried too often."""
        return self._recovery.replica_down(replica_id, now)

    def model_loading(
        self, replica_id: str, model_id: str, room: int | None, now: float, harm_s: float = 0.0
    ) -> list[Command]:
        if (view := self._fleet.views.get(replica_id)) is not None:
            view.told_room(room, harm_s)
            view.told_loading(model_id, now)
            self._fleet.index(view, model_id)
            return self._dispatch.follow(model_id, now)
        return []

    def model_loaded(
        self,
        replica_id: str,
        model_id: str,
        room: int | None,
        load_s: float,
        now: float,
        harm_s: float = 0.0,
        fetch_s: float | None = None,
    ) -> list[Command]:
        """Its file was fetched for `fetch_s` of `load_s`: 0 if it was on the disk, None if no store was used."""
        if (view := self._fleet.views.get(replica_id)) is not None and fetch_s is not None:
            load_s -= self._fleet.told_file(view, model_id, fetch_s)
        self._fleet.estimates.saw_load(model_id, load_s)
        if view is None:
            return []
        view.told_room(room, harm_s)
        view.told_loaded(model_id)
        self._fleet.index(view, model_id)
        return self._dispatch.follow(model_id, now) + self._dispatch.serve(view, now)

    def model_gone(
        self, replica_id: str, model_id: str, room: int | None, now: float, harm_s: float = 0.0
    ) -> list[Command]:
        if (view := self._fleet.views.get(replica_id)) is None:
            return []
        view.told_room(room, harm_s)
        view.told_gone(model_id)
        self._fleet.index(view, model_id)
        return self._dispatch.gone(view, model_id, now)

    def told_ongoing(self, replica_id: str, ongoing: int, now: float) -> list[Command]:
        """A replica has said how many requests run on it."""
        if (view := self._fleet.views.get(replica_id)) is None:
            return []
        self._fleet.told_ongoing(view, ongoing, now)
        view.slot_freed = now
        self._fleet.free.freed(view)
        return self._dispatch.serve(view, now)
