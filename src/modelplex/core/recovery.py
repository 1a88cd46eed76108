"""What becomes of the requests and the models of a replica that is gone, or is back on another link."""

from heapq import nlargest

from modelplex.core.admission import Request
from modelplex.core.dispatch import Command, Dispatch, Prefetch, Reject, Why
from modelplex.core.placement import Fleet
from modelplex.core.residency import ReplicaView

# A request is given up when so many replicas have died with it, since one that kills its replica would kill them all.
LOSSES_MAX = 5

# Models of a lost replica that are loaded elsewhere ahead of demand, at most.
AHEAD_MAX = 64

# They are those for which so many requests are expected in the time that a load takes. With fewer, most of what would
# be loaded would not be asked for before a request could have had it loaded.
LIKELY_REQUESTS = 0.5


class Recovery:
    """Finds new places for what was lost.

    Args:
        dispatch: places requests.
        fleet: the replicas.

    Attributes:
        retries_lost: whether a request whose replica is lost before it has begun to answer goes to another one.
    """

    def __init__(self, dispatch: Dispatch, fleet: Fleet) -> None:
        self.retries_lost = True
        self._dispatch = dispatch
        self._fleet = fleet

    def replica_down(self, replica_id: str, now: float) -> list[Command]:
        """The replica is gone. What it held and is in demand is loaded elsewhere, unless it had retired in order."""
        view = self._fleet.views.get(replica_id)
        homeless = self._dispatch.strand(replica_id)
        again, commands = self._lost(replica_id)
        commands += self._dispatch.place_all([*homeless, *again], now)
        return commands if view is None else commands + self._ahead(view, now)

    def replica_up(self, view: ReplicaView, ongoing: int, now: float, *, same_link: bool) -> list[Command]:
        """The replica can be sent requests. What was sent there before is lost, unless it was by the `same_link`.

        Those who waited in its line are looked at again, together with what was lost, in the order of arrival.
        """
        if same_link and view.replica_id in self._fleet.views:
            return []  # it has been welcomed before, and whatever it has said since is known
        again, commands = (self._adopted(view), list[Command]()) if same_link else self._lost(view.replica_id)
        again += self._dispatch.withdraw_line(None)
        if view.replica_id in self._fleet.views:
            again += self._dispatch.withdraw_line(view.replica_id)
            self._fleet.leave(view.replica_id)
        self._fleet.told_ongoing(view, ongoing, now)
        self._fleet.join(view)
        return commands + self._dispatch.place_all(again, now) + self._dispatch.serve(view, now)

    def _adopted(self, view: ReplicaView) -> list[Request]:
        """Have what runs there known of by this view of it. Nothing is to be placed anew."""
        for request in self._dispatch.running.values():
            if request.view.replica_id == view.replica_id:
                if not request.slotless:
                    self._fleet.adopt(view, request)
                request.view = view
        return []

    def _lost(self, replica_id: str) -> tuple[list[Request], list[Command]]:
        """End what was sent there: what is to be placed anew, and what is given up."""
        again: list[Request] = []
        commands: list[Command] = []
        for request in [r for r in self._dispatch.running.values() if r.view.replica_id == replica_id]:
            self._dispatch.ended(request)
            request.losses += 1
            given_up = request.answered or request.slotless or not self.retries_lost
            if given_up or request.losses >= LOSSES_MAX:
                commands.append(Reject(request.number, Why.REPLICA_LOST, None, {"losses": request.losses}))
            else:
                again.append(request)
        return again, commands

    def _ahead(self, lost: ReplicaView, now: float) -> list[Command]:
        """Have those of the lost models loaded that will be asked for before long, and that nobody loads yet.

        Each where a request for it would have it loaded, the hottest first, unless something hotter had to go for it.
        """
        fleet, demand = self._fleet, self._dispatch.demand
        if not fleet.views or self._dispatch.choice is not None:
            return []
        per_s, commands = demand.per_s(now), list[Command]()
        # Not what it was loading: that may be what killed it, and would kill the next one.
        gone = [m for m, r in lost.models.items() if (r.loaded or r.ahead) and not fleet.expects(m)]
        for model_id in nlargest(AHEAD_MAX, gone, key=demand.share):
            load_s, share = fleet.estimates.load_s(model_id), self._dispatch.share(model_id)
            if demand.share(model_id) * per_s * load_s < LIKELY_REQUESTS:
                continue
            view = fleet.place_for(model_id, now)
            assert view is not None, "there are replicas"
            worth_s = load_s * share * (1 + len(view.models))
            if view.takes(worth_s):
                fleet.prefetch(view, model_id)
                commands.append(Prefetch(view.replica_id, model_id, worth_s, share))
        return commands
