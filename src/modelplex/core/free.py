"""Replicas with free slots, and some that had: found without a look at all the others."""

from collections import OrderedDict
from collections.abc import Mapping
from itertools import islice

from modelplex.core.residency import ReplicaView


class FreeReplicas:
    """Those that were sent to longest ago first; the near ones among them once more.

    Args:
        views: the replicas that may be chosen.
    """

    def __init__(self, views: Mapping[str, ReplicaView]) -> None:
        self._views = views
        self._free: OrderedDict[str, ReplicaView] = OrderedDict()
        self._near: OrderedDict[str, ReplicaView] = OrderedDict()

    def __contains__(self, view: ReplicaView) -> bool:
        return view.replica_id in self._free and (not view.near or view.replica_id in self._near)

    @property
    def knows_near(self) -> bool:
        """Whether a near one may be free."""
        return bool(self._near)

    def sent(self, view: ReplicaView) -> None:
        """The replica was sent a request: others come first for a while."""
        if not view.slots.free:
            self.discard(view)
            return
        if view.replica_id in self._free:
            self._free.move_to_end(view.replica_id)
        if view.near and view.replica_id in self._near:
            self._near.move_to_end(view.replica_id)

    def freed(self, view: ReplicaView) -> None:
        """The replica may have a slot free (again)."""
        if view.replica_id in self._views:
            self._free[view.replica_id] = view
            if view.near:
                self._near[view.replica_id] = view

    def discard(self, view: ReplicaView) -> None:
        """Nothing happens if it is not there."""
        self._free.pop(view.replica_id, None)
        if view.near:
            self._near.pop(view.replica_id, None)

    def some(self, count: int) -> list[ReplicaView]:
        """So many at most that have a free slot."""
        return _some(self._free, count)

    def some_near(self, count: int) -> list[ReplicaView]:
        """So many at most that have a free slot and are near."""
        return _some(self._near, count)


def _some(views: OrderedDict[str, ReplicaView], count: int) -> list[ReplicaView]:
    while views:
        some = list(islice(views.values(), count))
        if free := [view for view in some if view.slots.free]:
            return free
        for view in some:  # others have filled them
            del views[view.replica_id]
    return []
