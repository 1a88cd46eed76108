"""The replicas of a deployment as one router sees them, and the best of them for a model."""

from bisect import bisect
from collections.abc import Iterable, Sequence
from itertools import islice
from operator import attrgetter

from modelplex.core import explain, rendezvous
from modelplex.core.admission import Request
from modelplex.core.costs import CROWDED, HYSTERESIS, MARGIN_S, Costs
from modelplex.core.disks import Disks
from modelplex.core.estimates import Estimates
from modelplex.core.free import FreeReplicas
from modelplex.core.reasons import Explanation, Rule
from modelplex.core.residency import ReplicaView
from modelplex.core.ring import Ring

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


class Fleet:
    """All replica views, and an index of who holds, loads or is booked to load which model.

    Seconds are expected values; "now" is of any clock that does not go backwards.

    Attributes:
        costs: what is expected of them.
        why: why the last choice was made.
    """

    def __init__(self, estimates: Estimates) -> None:
        self.estimates = estimates
        self.disks = Disks()
        self.views: dict[str, ReplicaView] = {}
        self.free = FreeReplicas(self.views)
        self.why: Explanation = explain.NO_REPLICA
        self.costs = Costs(estimates, self.disks)
        self._holders: dict[str, tuple[ReplicaView, ...]] = {}
        self._ring = Ring()
        self._roomy = Ring()  # those that can load one more model without evicting one
        self._machines: dict[str, Ring] = {}  # those on each machine that has a name
        self._turn = 0
        self._shared_until = 0.0  # there are other routers, as far as is known

    def join(self, view: ReplicaView) -> None:
        self.views[view.replica_id] = view
        self._ring.add(view)
        self.free.freed(view)
        if view.machine:
            self._machines.setdefault(view.machine, Ring()).add(view)
        for model_id in view.models:
            self.index(view, model_id)
        self._index_room(view)

    def leave(self, replica_id: str) -> None:
        """The replica is no longer to be chosen."""
        view = self.views.pop(replica_id)
        self._ring.discard(view)
        self._roomy.discard(view)
        self.free.discard(view)
        if (there := self._machines.get(view.machine)) is not None:
            there.discard(view)
            if not len(there):
                del self._machines[view.machine]
        for model_id in view.models:
            self._forget(view, model_id)

    def adopt(self, view: ReplicaView, request: Request) -> None:
        """A request that was sent to the same replica when another view stood for it."""
        before = request.view
        del before.running[request.number]
        before.slots.give_back()
        self.unbook(before, request.model_id)
        view.running[request.number] = request
        view.slots.own += 1
        self.book(view, request.model_id)

    def told_ongoing(self, view: ReplicaView, ongoing: int, now: float) -> None:
        """The replica has said how many requests run there, ours included."""
        view.slots.told(ongoing)
        if view.slots.others:
            self._shared_until = now + SHARED_S

    def told_file(self, view: ReplicaView, model_id: str, fetch_s: float) -> float:
        """The model's file is on the replica's machine, and was fetched for so long: answers the part told apart."""
        if not view.machine:
            return 0.0
        self.disks.told(view.machine, (model_id,))
        if fetch_s:
            self.disks.saw_fetch(fetch_s)
        return fetch_s

    def told_held(self, view: ReplicaView, model_id: str, now: float) -> None:
        """The replica has loaded the model, which is booked there."""
        view.told_coming(model_id, now)
        view.told_loaded(model_id)
        self.index(view, model_id)

    def book(self, view: ReplicaView, model_id: str) -> None:
        """Record a request for the model on the replica, at the moment of the decision."""
        if model_id and view.book(model_id):
            self._index_model(view, model_id)

    def prefetch(self, view: ReplicaView, model_id: str) -> None:
        """Record that the replica is asked to load the model ahead of demand, which nobody expects anywhere."""
        view.prefetch(model_id)
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
            return self.place_for(model_id, now)
        if len(holders) == 1 and holders[0].slots.free:
            self.why = explain.ONLY_HOLDER
            return holders[0]
        scored = self._scored(model_id)
        costs = self.costs
        scores = [(costs.holder_s(v, model_id, now), max(CROWDED, v.busy), v.far, n) for n, v in enumerate(scored)]
        wait_s, _, _, place = min(scores)
        best = scored[place]
        rule, numbers = explain.holder(scores, place, best), {"wait_s": wait_s, "holders": len(holders)}
        self.why = rule, numbers
        if best.slots.free or wait_s <= MARGIN_S:
            return best
        idle = [v for v in self._candidates(model_id, now) if v.slots.free and not v.expects(model_id)]
        other = self._best(model_id, idle or self._idle_others(model_id), now)
        if other is None:
            return best
        elapsed_s = max((v.load_elapsed_s(model_id, now) for v in self._scored(model_id)), default=0.0)
        copy_s = costs.copy_s(other, model_id, elapsed_s, now)
        is_dear = wait_s > copy_s
        self.why = Rule.COPY if is_dear else rule, {**numbers, "copy_s": copy_s}
        return other if is_dear else best

    def expects(self, model_id: str) -> bool:
        """Whether anybody holds or loads the model, or is booked to."""
        return model_id in self._holders

    def place_for(self, model_id: str, now: float) -> ReplicaView | None:
        """Where a model is to be loaded that nobody is expected to hold; None when there is no replica at all.

        The same in all routers, as far as they have heard the same, so that it is loaded once. So it does not matter
        here which machine the router itself is on.
        """
        candidates = self._candidates(model_id, now)
        best = self._best(model_id, candidates, now)
        self.why = explain.place(best, candidates, model_id, self.costs)
        return best

    def patience_s(self, model_id: str) -> float:
        """How long a request should wait before it is looked at again: what a load elsewhere would have cost."""
        return HYSTERESIS * self.estimates.load_s(model_id) + MARGIN_S

    def cold_s(self, model_id: str, now: float) -> float | None:
        """Expected seconds until the model is loaded somewhere; None when it is."""
        if any(v.has_loaded(model_id) for v in self._holders.get(model_id, ())):
            return None
        rests = [self.costs.load_rest_s(v, model_id, now) for v in self._scored(model_id)]
        return min(rests, default=self.estimates.load_s(model_id))

    # Whom to weigh

    def _least_busy(self) -> ReplicaView | None:
        """The replica with the most free slots; among equals a near one, and the one that was sent to longest ago."""
        candidates = self.free.some(SCORED_MAX) or list(islice(self.views.values(), 1))
        if self.free.knows_near:
            candidates = [*self.free.some_near(SCORED_MAX), *candidates]
        best = min(candidates, key=_business, default=None)
        self.why = explain.free(best, candidates)
        return best

    def _candidates(self, model_id: str, now: float) -> Sequence[ReplicaView]:
        """Those to weigh for loading the model.

        With room if any has, and of these with a free slot if any has: nobody waits for a slot while an equal is idle.
        """
        ring = self._roomy if len(self._roomy) else self._ring
        near = ring.near(model_id, SCORED_MAX)
        free = [v for v in near if v.slots.free]
        if not free and len(ring) > len(near):
            free = [v for v in self.free.some(SCORED_MAX) if v.has_room or ring is self._ring]
        some, is_shared = free or near, now < self._shared_until
        if is_shared:
            some = _in_order(model_id, some)
        if self.disks.in_use:
            good = [v for v in self._with_file(model_id) if v.has_room or ring is self._ring]
            if free:
                good = [v for v in good if v.slots.free]
            some = list(dict.fromkeys([*_in_order(model_id, good)[:SHARED_SCORED_MAX], *some]))
        return some[: SHARED_SCORED_MAX if ring is self._ring else 1] if is_shared else some

    def _with_file(self, model_id: str) -> list[ReplicaView]:
        """Some of those on machines that have the model's file, the same in all routers."""
        machines = [machine for machine in self.disks.machines(model_id) if machine in self._machines]
        if len(machines) > SCORED_MAX:
            machines = rendezvous.order(model_id, machines, rendezvous.point)[:SCORED_MAX]
        return [v for machine in machines for v in self._machines[machine].near(model_id, SCORED_MAX)]

    def _idle_others(self, model_id: str) -> list[ReplicaView]:
        return [v for v in self.free.some(SCORED_MAX) if not v.expects(model_id)]

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
            others = [v for v in self.free.some(FREE_MAX) if v.expects(model_id)]
            some += sorted(others, key=lambda v: not v.has_loaded(model_id))[:SCORED_MAX]
        if self.free.knows_near:
            some += [v for v in self.free.some_near(SCORED_MAX) if v.has_loaded(model_id)]
        return some

    def _best(self, model_id: str, views: Sequence[ReplicaView], now: float) -> ReplicaView | None:
        """Where a load of the model is expected to do best; among equals, the first of the rendezvous order."""
        if len(views) < 2:
            return views[0] if views else None
        scores = [self.costs.load_there_s(view, model_id, now) for view in views]
        least = min(scores)
        if scores.count(least) == 1:
            return views[scores.index(least)]
        return _in_order(model_id, (view for view, score in zip(views, scores, strict=True) if score == least))[0]


def _in_order(model_id: str, views: Iterable[ReplicaView]) -> list[ReplicaView]:
    return rendezvous.order(model_id, views, attrgetter("point"))


def _business(view: ReplicaView) -> tuple[float, bool, int]:
    return view.busy, view.far, view.sent_last
