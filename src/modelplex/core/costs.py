"""What a router expects of replicas, in seconds: when a request would begin there, what a load would cost there."""

from itertools import islice

from modelplex.core.disks import Disks
from modelplex.core.estimates import Estimates, rest_s
from modelplex.core.residency import ReplicaView

# A load elsewhere must promise to be this many times faster than waiting, and by a margin, or copies would multiply on
# noise. The margin is about what a load costs that nobody would notice.
HYSTERESIS = 2.0
MARGIN_S = 0.1

# Of several holders, the first of the model's order is used until so much of its slots is taken: copies that are not
# needed become idle, and make room.
CROWDED = 0.5

# What an eviction does harm counts so many times against that. Measured with the simulator: at 1 a fleet under pressure
# loads 3% more, because the replica that loads nothing at the moment is preferred to the one with the least to lose.
HARM_WEIGHT = 10.0

# Requests and loads of a replica that are looked at to say when one of its slots comes free.
LOOKED_AT_MAX = 6


class Costs:
    """Expected seconds. "now" is of any clock that does not go backwards.

    Args:
        estimates: of loads, without what fetching their files took where that is told apart, and of service.
        disks: whose files need not be fetched.
    """

    def __init__(self, estimates: Estimates, disks: Disks) -> None:
        self.estimates = estimates
        self.disks = disks

    def load_s(self, view: ReplicaView, model_id: str) -> float:
        """What a load of the model takes there."""
        load_s = self.estimates.load_s(model_id)
        return load_s + self.disks.fetch_s(view.machine, model_id) if self.disks.in_use else load_s

    def holder_s(self, view: ReplicaView, model_id: str, now: float) -> float:
        """Until the request would begin with its model, on a replica that holds or loads it."""
        return max(self.slot_s(view, now), self.load_rest_s(view, model_id, now))

    def load_there_s(self, view: ReplicaView, model_id: str, now: float) -> float:
        """How bad a load there would be besides itself: waiting, other loads, a fetch, what must be evicted."""
        begin_s = self._begin_s(view, now)
        if self.disks.in_use:
            begin_s += self.disks.fetch_s(view.machine, model_id)
        if view.has_room:
            return begin_s  # as far as possible the same in all routers, or one model would take room in two places
        # A load keeps a slot from others for as long as it takes.
        crowded_s = max(CROWDED, view.busy) * self.estimates.average_load_s
        return begin_s + crowded_s + HARM_WEIGHT * view.harm_s

    def copy_s(self, view: ReplicaView, model_id: str, elapsed_s: float, now: float) -> float:
        """If a copy of the model were loaded there, with what its load would take from others.

        `elapsed_s` is how long it has been loading elsewhere: that says that it takes long, whatever was expected.
        """
        load_s = max(self.load_s(view, model_id), elapsed_s)
        harm_s = 0.0 if view.has_room else self.estimates.average_load_s
        return self._begin_s(view, now) + HYSTERESIS * load_s + MARGIN_S + harm_s

    def slot_s(self, view: ReplicaView, now: float) -> float:
        """Until a request that joins the replica's line now would get a slot."""
        if view.slots.free:
            return 0.0
        service_s = self.estimates.service_s
        rests: list[float] = []
        for request in islice(reversed(view.running.values()), LOOKED_AT_MAX):
            rest = rest_s(service_s, now - request.sent)
            if view.loads:
                rest = max(rest, self.load_rest_s(view, request.model_id, now))
            rests.append(rest)
        if view.slots.others:
            # What other routers run there is not seen, only when a slot was last known to have come free, and that
            # models load, for which they may wait.
            rests.append(rest_s(service_s, now - view.slot_freed))
            loading = islice(view.loading, LOOKED_AT_MAX)
            rests.extend(self.load_rest_s(view, model_id, now) + service_s for model_id in loading)
        return min(rests, default=service_s) + service_s * view.queued / view.slots.limit

    def load_rest_s(self, view: ReplicaView, model_id: str, now: float) -> float:
        """Until the model is loaded there, if it is loading, or about to."""
        residence = view.models.get(model_id)
        if residence is None or residence.loaded:
            return 0.0
        return rest_s(self.load_s(view, model_id), view.load_elapsed_s(model_id, now))

    def _begin_s(self, view: ReplicaView, now: float) -> float:
        """Until a load there would begin."""
        slot_s = 0.0 if view.slots.free else self.slot_s(view, now)
        return slot_s + view.backlog * self.estimates.average_load_s
