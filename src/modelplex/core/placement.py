"""The replicas of a deployment as one router sees them, and the best of them for a model."""

from bisect import bisect
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import islice
from operator import attrgetter

from modelplex.core import rendezvous
from modelplex.core.estimates import Estimates, rest_s
from modelplex.core.residency import ReplicaView
from modelplex.core.ring import Ring

# A load elsewhere must promise to be this many times faster than waiting, and by a margin, or copies would multiply on
# noise. The margin is about what a load costs that nobody would notice.
HYSTERESIS = 2.0
MARGIN_S = 0.1

# Replicas that are looked at for a decision, at most so many of each kind: holders, candidates to load a model, and
# those with free slots. So a decision costs the same with ten replicas and with ten thousand.
SCORED_MAX = 6

# When none of these holders is ready at once, so many replicas that have one are asked whether they hold the model.
FREE_MAX = 64

# Where other routers send requests as well, only so many candidates are weighed, the first of the model's order: what
# two routers have heard may differ, and with it their choice. So a model that is cold for all is loaded twice at most.
SHARED_SCORED_MAX = 2

# Others are taken to be there for so long after one of their requests was last heard of.
SHARED_S = 60.0

# Of several holders, the first of the model's order is used until so much of its slots is taken: copies that are not
# needed become idle, and make room.
CROWDED = 0.5

# What an eviction does harm counts so many times against that. Measured with the simulator: at 1 a fleet under pressure
# loads 3% more, because the replica that loads nothing at the moment is preferred to the one with the least to lose.
HARM_WEIGHT = 10.0


class Fleet:
    """All replica views, and an index of who holds, loads or is booked to load which model.

    Seconds are expected values; "now" is of any clock that does not go backwards.
    """

    def __init__(self, estimates: Estimates) -> None:
        self.estimates = estimates
        self.views: dict[str, ReplicaView] = {}
        self._holders: dict[str, tuple[ReplicaView, ...]] = {}
        self._ring = Ring()
        self._roomy = Ring()  # those that can load one more model without evicting one
        self._free: OrderedDict[str, ReplicaView] = OrderedDict()  # those with free slots, and some that had
        self._turn = 0
        self._shared_until = 0.0  # there are other routers, as far as is known

    def join(self, view: ReplicaView) -> None:
        self.views[view.replica_id] = view
        self._ring.add(view)
        self._free[view.replica_id] = view
        for model_id in view.models:
            self.index(view, model_id)
        self._index_room(view)

    def leave(self, replica_id: str) -> None:
        """The replica is no longer to be chosen."""
        view = self.views.pop(replica_id)
        self._ring.discard(view)
        self._roomy.discard(view)
        self._free.pop(replica_id, None)
        for model_id in view.models:
            self._forget(view, model_id)

    def sent(self, view: ReplicaView) -> None:
        """The replica was sent a request: others come first for a while."""
        if not view.slots.free:
            self._free.pop(view.replica_id, None)
        elif view.replica_id in self._free:
            self._free.move_to_end(view.replica_id)

    def freed(self, view: ReplicaView) -> None:
        """The replica may have a slot free again."""
        if view.replica_id in self.views:
            self._free[view.replica_id] = view

    def told_ongoing(self, view: ReplicaView, ongoing: int, now: float) -> None:
        """The replica has said how many requests run there, ours included."""
        view.slots.told(ongoing)
        if view.slots.others:
            self._shared_until = now + SHARED_S

    def told_held(self, view: ReplicaView, model_id: str, now: float) -> None:
        """The replica has loaded the model, which is booked there."""
        view.told_coming(model_id, now)
        view.told_loaded(model_id)
        self.index(view, model_id)

    def book(self, view: ReplicaView, model_id: str) -> None:
        """Record a request for the model on the replica, at the moment of the decision."""
        if model_id and view.book(model_id):
            self._index_model(view, model_id)

    def unbook(self, view: ReplicaView, model_id: str) -> None:
        """That request is over, or goes elsewhere."""
        if model_id and view.unbook(model_id):
            self._index_model(view, model_id)

    def index(self, view: ReplicaView, model_id: str) -> None:
        """Bring the index up to date after the replica has spoken of its room and of one model."""
        if view.replica_id in self.views:
            self._index_room(view)
        self._index_model(view, model_id)

    def _index_model(self, view: ReplicaView, model_id: str) -> None:
        if not view.expects(model_id):
            self._forget(view, model_id)
        elif view.replica_id in self.views:
            holders = self._holders.get(model_id)
            if holders is None:
                self._holders[model_id] = (view,)
            elif view not in holders:
                model_point = rendezvous.point(model_id)
                lightness = -rendezvous.weight(model_point, view.point)
                at = bisect(holders, lightness, key=lambda v: -rendezvous.weight(model_point, v.point))
                self._holders[model_id] = (*holders[:at], view, *holders[at:])

    def _index_room(self, view: ReplicaView) -> None:
        if view.has_room:
            self._roomy.add(view)
        else:
            self._roomy.discard(view)

    def _forget(self, view: ReplicaView, model_id: str) -> None:
        holders = self._holders.get(model_id, ())
        if view in holders:
            left = tuple(v for v in holders if v is not view)
            if left:
                self._holders[model_id] = left
            else:
                del self._holders[model_id]

    def choose(self, model_id: str, now: float) -> ReplicaView | None:
        """The replica that the request should go to, or wait for; None when there is none at all."""
        if not model_id:
            return self._least_busy()
        holders = self._holders.get(model_id)
        if holders is None:
            return self._best(model_id, self._candidates(model_id, now), now)
        if len(holders) == 1 and holders[0].slots.free:
            return holders[0]
        scored = self._scored(model_id)
        scores = [(self._holder_s(v, model_id, now), max(CROWDED, v.busy), n) for n, v in enumerate(scored)]
        wait_s, _, place = min(scores)
        best = scored[place]
        if best.slots.free or wait_s <= MARGIN_S:
            return best
        idle = [v for v in self._candidates(model_id, now) if v.slots.free and not v.expects(model_id)]
        other = self._best(model_id, idle or self._idle_others(model_id), now)
        return best if other is None or wait_s <= self._copy_s(other, model_id, now) else other

    def patience_s(self, model_id: str) -> float:
        """How long a request should wait before it is looked at again: what a load elsewhere would have cost."""
        return HYSTERESIS * self.estimates.load_s(model_id) + MARGIN_S

    def cold_s(self, model_id: str, now: float) -> float | None:
        """Expected seconds until the model is loaded somewhere; None when it is."""
        if any(v.has_loaded(model_id) for v in self._holders.get(model_id, ())):
            return None
        rests = [self._load_rest_s(v, model_id, now) for v in self._scored(model_id)]
        return min(rests, default=self.estimates.load_s(model_id))

    # Whom to weigh

    def _some_free(self, count: int = SCORED_MAX) -> list[ReplicaView]:
        """Replicas with free slots, those that were sent to longest ago first."""
        while self._free:
            some = list(islice(self._free.values(), count))
            if free := [view for view in some if view.slots.free]:
                return free
            for view in some:  # others have filled them
                del self._free[view.replica_id]
        return []

    def _least_busy(self) -> ReplicaView | None:
        """The replica with the most free slots; among equals, the one that was sent to longest ago."""
        free = self._some_free() or islice(self.views.values(), 1)
        return min(free, key=lambda v: (v.busy, v.sent_last), default=None)

    def _candidates(self, model_id: str, now: float) -> Sequence[ReplicaView]:
        """Those to weigh for loading the model.

        With room if any has, and of these with a free slot if any has: nobody waits for a slot while an equal is idle.
        """
        ring = self._roomy if len(self._roomy) else self._ring
        near = ring.near(model_id, SCORED_MAX)
        free = [v for v in near if v.slots.free]
        if not free and len(ring) > len(near):
            free = [v for v in self._some_free() if v.has_room or ring is self._ring]
        some = free or near
        if now >= self._shared_until:
            return some
        return _in_order(model_id, some)[: SHARED_SCORED_MAX if ring is self._ring else 1]

    def _idle_others(self, model_id: str) -> list[ReplicaView]:
        return [v for v in self._some_free() if not v.expects(model_id)]

    def _scored(self, model_id: str) -> Sequence[ReplicaView]:
        """The holders to weigh: of many, some in turn, and one with a free slot if that is found soon."""
        holders = self._holders.get(model_id, ())
        if len(holders) <= SCORED_MAX:
            return holders
        self._turn = (self._turn + SCORED_MAX) % len(holders)
        some = [
            *holders[self._turn : self._turn + SCORED_MAX],
            *holders[: max(0, self._turn + SCORED_MAX - len(holders))],
        ]
        if not any(v.slots.free and v.has_loaded(model_id) for v in some):
            others = [v for v in self._some_free(FREE_MAX) if v.expects(model_id)]
            some += sorted(others, key=lambda v: not v.has_loaded(model_id))[:SCORED_MAX]
        return some

    def _best(self, model_id: str, views: Sequence[ReplicaView], now: float) -> ReplicaView | None:
        """Where a load of the model is expected to do best; among equals, the first of the rendezvous order."""
        if len(views) < 2:
            return views[0] if views else None
        scores = [self._load_there_s(view, now) for view in views]
        least = min(scores)
        if scores.count(least) == 1:
            return views[scores.index(least)]
        return _in_order(model_id, (view for view, score in zip(views, scores, strict=True) if score == least))[0]

    # Expected times

    def _holder_s(self, view: ReplicaView, model_id: str, now: float) -> float:
        """Expected seconds until the request would begin with its model, on a replica that holds or loads it."""
        return max(self.slot_s(view, now), self._load_rest_s(view, model_id, now))

    def _load_there_s(self, view: ReplicaView, now: float) -> float:
        """How bad a load there would be besides the load itself: waiting, other loads, what must be evicted."""
        begin_s = self._begin_s(view, now)
        if view.has_room:
            return begin_s  # as far as possible the same in all routers, or one model would take room in two places
        # A load keeps a slot from others for as long as it takes.
        crowded_s = max(CROWDED, view.busy) * self.estimates.average_load_s
        return begin_s + crowded_s + HARM_WEIGHT * view.harm_s

    def _begin_s(self, view: ReplicaView, now: float) -> float:
        """Expected seconds until a load there would begin."""
        slot_s = 0.0 if view.slots.free else self.slot_s(view, now)
        return slot_s + view.backlog * self.estimates.average_load_s

    def _copy_s(self, view: ReplicaView, model_id: str, now: float) -> float:
        """Expected seconds if a copy of the model were loaded there, with what its load would take from others."""
        # A load of it that has run for long elsewhere says that it takes long, whatever was expected.
        elapsed_s = max((v.load_elapsed_s(model_id, now) for v in self._scored(model_id)), default=0.0)
        load_s = max(self.estimates.load_s(model_id), elapsed_s)
        harm_s = 0.0 if view.has_room else self.estimates.average_load_s
        return self._begin_s(view, now) + HYSTERESIS * load_s + MARGIN_S + harm_s

    def slot_s(self, view: ReplicaView, now: float) -> float:
        """Expected seconds until a request that joins the replica's line now would get a slot."""
        if view.slots.free:
            return 0.0
        service_s = self.estimates.service_s
        rests: list[float] = []
        for request in islice(reversed(view.running.values()), SCORED_MAX):
            rest = rest_s(service_s, now - request.sent)
            if view.loads:
                rest = max(rest, self._load_rest_s(view, request.model_id, now))
            rests.append(rest)
        if view.slots.others:
            # What other routers run there is not seen, only when a slot was last known to have come free, and that
            # models load, for which they may wait.
            rests.append(rest_s(service_s, now - view.slot_freed))
            loading = islice(view.loading, SCORED_MAX)
            rests.extend(self._load_rest_s(view, model_id, now) + service_s for model_id in loading)
        return min(rests, default=service_s) + service_s * view.queued / view.slots.limit

    def _load_rest_s(self, view: ReplicaView, model_id: str, now: float) -> float:
        residence = view.models.get(model_id)
        if residence is None or residence.loaded:
            return 0.0
        return rest_s(self.estimates.load_s(model_id), view.load_elapsed_s(model_id, now))


def _in_order(model_id: str, views: Iterable[ReplicaView]) -> list[ReplicaView]:
    return rendezvous.order(model_id, views, attrgetter("point"))
