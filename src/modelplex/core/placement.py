"""The replicas of a deployment as one router sees them, and the best of them for a model."""

from collections.abc import Collection

from modelplex.core import rendezvous
from modelplex.core.estimates import Estimates, rest_s
from modelplex.core.residency import ReplicaView

# A load elsewhere must promise to be this many times faster than waiting, and by a margin, or copies would multiply on
# noise. The margin is about what a load costs that nobody would notice.
HYSTERESIS = 2.0
MARGIN_S = 0.1

# Replicas that are scored for a request: so many holders, so many others.
HOLDERS_SCORED = 8
OTHERS_SCORED = 2


class Fleet:
    """All replica views, and an index of who holds, loads or is booked to load which model.

    Seconds are expected values; "now" is of any clock that does not go backwards.
    """

    def __init__(self, estimates: Estimates) -> None:
        self.estimates = estimates
        self.views: dict[str, ReplicaView] = {}
        self._holders: dict[str, dict[str, ReplicaView]] = {}

    def join(self, view: ReplicaView) -> None:
        self.views[view.replica_id] = view
        for model_id in view.models:
            self.index(view, model_id)

    def leave(self, replica_id: str) -> None:
        """The replica is no longer to be chosen."""
        view = self.views.pop(replica_id)
        for model_id in view.models:
            self._forget(view, model_id)

    def book(self, view: ReplicaView, model_id: str) -> None:
        """Record a request for the model on the replica, at the moment of the decision."""
        if model_id:
            view.book(model_id)
            self.index(view, model_id)

    def unbook(self, view: ReplicaView, model_id: str) -> None:
        """That request is over, or goes elsewhere."""
        if model_id:
            view.unbook(model_id)
            self.index(view, model_id)

    def index(self, view: ReplicaView, model_id: str) -> None:
        """Bring the index up to date after the view of one model on one replica has changed."""
        if model_id not in view.models:
            self._forget(view, model_id)
        elif view.replica_id in self.views:
            self._holders.setdefault(model_id, {})[view.replica_id] = view

    def _forget(self, view: ReplicaView, model_id: str) -> None:
        holders = self._holders.get(model_id, {})
        if holders.pop(view.replica_id, None) is not None and not holders:
            del self._holders[model_id]

    def choose(self, model_id: str, now: float) -> ReplicaView | None:
        """The replica that the request should go to, or wait for; None when there is none at all."""
        if not model_id:
            return self._least_busy()
        holders = self._scored_holders(model_id)
        scores = [(self._holder_s(v, model_id, now), -v.slots.free, v.replica_id) for v in holders]
        if not scores:
            return min(self._others(model_id, self.views), key=lambda v: self._absent_s(v, model_id, now), default=None)
        wait_s, _, best_id = min(scores)
        best = self.views[best_id]
        if best.slots.free or wait_s <= MARGIN_S:
            return best
        idle = [replica_id for replica_id, v in self.views.items() if v.slots.free and model_id not in v.models]
        other = min(self._others(model_id, idle), key=lambda v: self._absent_s(v, model_id, now), default=None)
        return best if other is None or wait_s <= self._absent_s(other, model_id, now) else other

    def patience_s(self, model_id: str) -> float:
        """How long a request should wait before it is looked at again: what a load elsewhere would have cost."""
        return HYSTERESIS * self.estimates.load_s(model_id) + MARGIN_S

    def _least_busy(self) -> ReplicaView | None:
        """The replica with the most free slots; among equals, the one that was sent to longest ago."""
        return max(self.views.values(), key=lambda v: (v.slots.free / v.slots.limit, -v.sent_last), default=None)

    def _others(self, model_id: str, replica_ids: Collection[str]) -> list[ReplicaView]:
        """Those of the replicas to weigh for loading the model, in rendezvous order.

        With room if any has, and of these with a free slot if any has: nobody waits for a slot while an equal is idle.
        """
        roomy = [replica_id for replica_id in replica_ids if self.views[replica_id].has_room] or replica_ids
        idle = [replica_id for replica_id in roomy if self.views[replica_id].slots.free] or roomy
        return [self.views[r] for r in rendezvous.first(model_id, idle, OTHERS_SCORED)]

    def _holder_s(self, view: ReplicaView, model_id: str, now: float) -> float:
        """Expected seconds until the request would begin with its model, on a replica that holds or loads it."""
        return max(self.slot_s(view, now), self._load_rest_s(view, model_id, now))

    def _absent_s(self, view: ReplicaView, model_id: str, now: float) -> float:
        """Expected seconds if the model had to be loaded there, with what its load would take from others."""
        average_s = self.estimates.average_load_s
        # A load of it that has run for long elsewhere says that it takes long, whatever was expected.
        elapsed_s = max((v.load_elapsed_s(model_id, now) for v in self._scored_holders(model_id)), default=0.0)
        load_s = view.loads * average_s + max(self.estimates.load_s(model_id), elapsed_s)
        harm_s = 0.0 if view.has_room else average_s
        return self.slot_s(view, now) + HYSTERESIS * load_s + MARGIN_S + harm_s

    def slot_s(self, view: ReplicaView, now: float) -> float:
        """Expected seconds until a request that joins the replica's line now would get a slot."""
        if view.slots.free:
            return 0.0
        service_s = self.estimates.service_s
        rests = [
            max(rest_s(service_s, now - f.sent), self._load_rest_s(view, f.pending.model_id, now))
            for f in view.flights.values()
        ]
        if view.slots.others:
            # What other routers run there is not seen, only when a slot was last known to have come free.
            rests.append(rest_s(service_s, now - view.slot_freed))
        return min(rests, default=service_s) + service_s * view.queued / view.slots.limit

    def _load_rest_s(self, view: ReplicaView, model_id: str, now: float) -> float:
        residence = view.models.get(model_id)
        if residence is None or residence.loaded:
            return 0.0
        return rest_s(self.estimates.load_s(model_id), view.load_elapsed_s(model_id, now))

    def _scored_holders(self, model_id: str) -> list[ReplicaView]:
        """The holders to weigh: those with a free slot before the others, or some would never get a request."""
        holders = self._holders.get(model_id, {}).values()
        return sorted(holders, key=lambda v: not v.slots.free)[:HOLDERS_SCORED]
