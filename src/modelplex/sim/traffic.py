"""What routers and replicas say to each other while a trace is simulated: how many messages of which kind."""

from collections import Counter

from modelplex.core import routing
from modelplex.sim.trace import Trace
from modelplex.sim.world import AnyRouter, Fleet, World, _Replica, _Request

_KINDS = {"model_loading": "ModelLoading", "model_loaded": "ModelLoaded", "model_gone": "ModelGone"}


class CountingWorld(World):
    """A world that counts messages; others are as fast as if there were none that does.

    Attributes:
        sent: how many there were of each kind in `wire.messages`. What every router is told counts once for each.
            May be cleared at any time, for instance by `run`'s `progress` when the caches are full.
    """

    def __init__(self, trace: Trace, fleet: Fleet) -> None:
        self.sent: Counter[str] = Counter()
        super().__init__(trace, fleet)

    def _send(self, request: _Request, replica: _Replica, send: routing.Send) -> None:
        self.sent["Begin"] += 1
        super()._send(request, replica, send)

    def _refuse(self, request: _Request, replica: _Replica, *, no_room: bool) -> None:
        self.sent["Refuse"] += 1
        super()._refuse(request, replica, no_room=no_room)

    def _over(self, replica: _Replica, request: _Request) -> None:
        self.sent["Answer"] += 1
        super()._over(replica, request)

    def _tell(self, what: str, replica: _Replica, model_id: str, *more: float) -> None:
        self.sent[_KINDS[what]] += len(self._routers)
        super()._tell(what, replica, model_id, *more)

    def _correct(self, router: AnyRouter, told: tuple[str, int]) -> None:
        self.sent["Ongoing"] += 1
        super()._correct(router, told)
