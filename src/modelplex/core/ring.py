"""Replicas on a circle, to find a few that all routers would find for a model, however many there are.

For each model there are `PROBES` points on the circle, and the replicas that follow them are its candidates: the same
in every process that knows the same replicas. Several points for each model instead of several for each replica are
after Appleton and O'Reilly, "Multi-probe consistent hashing", 2015: the load is as even, the circle smaller.
"""

from bisect import bisect, bisect_left, insort

from modelplex.core import rendezvous
from modelplex.core.residency import ReplicaView

PROBES = 3


class Ring:
    """Some of the replicas of a deployment."""

    def __init__(self) -> None:
        self._points: list[int] = []
        self._views: dict[int, ReplicaView] = {}

    def __len__(self) -> int:
        return len(self._points)

    def add(self, view: ReplicaView) -> None:
        """Nothing happens if it is there already."""
        if view.point not in self._views:
            self._views[view.point] = view
            insort(self._points, view.point)

    def discard(self, view: ReplicaView) -> None:
        """Nothing happens if it is not there."""
        if self._views.pop(view.point, None) is not None:
            del self._points[bisect_left(self._points, view.point)]

    def near(self, model_id: str, count: int) -> list[ReplicaView]:
        """Candidates for the model: all replicas if they are no more than `count`, else at most as many."""
        points, views = self._points, self._views
        if len(points) <= count:
            return list(views.values())
        found: dict[int, ReplicaView] = {}
        probe, each = rendezvous.mix(rendezvous.point(model_id)), count // PROBES
        for _ in range(PROBES):
            at = bisect(points, probe)
            for point in points[at : at + each] or points[:each]:
                found[point] = views[point]
            probe = rendezvous.mix(probe)
        return list(found.values())
