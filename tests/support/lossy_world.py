"""Routers and replicas under a virtual clock, on machines, of which some replicas are lost."""

from collections.abc import Callable, Mapping
from typing import Any

from modelplex.core import cache, routing
from modelplex.core.admission import UNLIMITED
from modelplex.core.estimates import Estimates
from modelplex.core.recovery import Recovery
from modelplex.core.routing import Router
from modelplex.sim.trace import Trace
from modelplex.sim.world import AnyRouter, Fleet, World


class LossyWorld(World):
    """The simulator's world, with what it leaves out.

    Args:
        trace, fleet: as for `World`.
        machines: over so many, replicas and routers are spread in turn; 0 for machines without names.
        losses: when which replicas are lost, by their numbers.
    """

    def __init__(
        self, trace: Trace, fleet: Fleet, machines: int = 0, losses: Mapping[int, float] | None = None
    ) -> None:
        self._machines = machines
        self._lost: set[str] = set()
        self.prefetched: list[tuple[str, str]] = []
        self.loads_began: list[tuple[float, str]] = []
        super().__init__(trace, fleet)
        for number, router in enumerate(self._routers):
            assert isinstance(router, Router)
            router._machine = self._machine(number)
        for replica_id in self._replicas:
            self._up(replica_id, fleet)
        for number, at in (losses or {}).items():
            self._at(at, self._lose, f"replica-{number}", None)

    def _machine(self, number: int) -> str:
        return f"machine-{number % self._machines}" if self._machines else ""

    def _add_replica(self, replica_id: str, fleet: Fleet) -> None:
        routers, self._routers = self._routers, []
        super()._add_replica(replica_id, fleet)
        self._routers = routers

    def _up(self, replica_id: str, fleet: Fleet) -> None:
        machine = self._machine(int(replica_id.rpartition("-")[2]))
        replica = self._replicas[replica_id]
        for router in self._routers:
            replica.occupancy.join(router)
            router.replica_up(
                replica_id,
                fleet.max_ongoing,
                replica.cache.room,
                (),
                (),
                0.0,
                loads_max=fleet.loads_max,
                machine=machine,
            )

    def _lose(self, replica_id: str, _: None) -> None:
        self._lost.add(replica_id)
        for router in self._routers:
            assert isinstance(router, Router)
            self._route(router, router.replica_down(replica_id, self._now))

    def _route(self, router: AnyRouter, commands: list[routing.Command]) -> None:
        super()._route(router, commands)
        for command in commands:
            if isinstance(command, routing.Prefetch):
                self._prefetch(command)

    def _prefetch(self, asked: routing.Prefetch) -> None:
        self.prefetched.append((asked.replica_id, asked.model_id))
        replica, model_id = self._replicas[asked.replica_id], asked.model_id
        if replica.cache.knows(model_id):
            return
        assert asked.worth_s is not None
        if replica.cache.room == 0 and replica.cache.harm_s >= asked.worth_s:
            self._tell("model_gone", replica, model_id)
        else:
            ticket = -len(self.prefetched)
            self._perform(replica, replica.cache.acquire(ticket, model_id, None, self._now, share=asked.share))

    def _perform(self, replica: Any, commands: list[cache.Command]) -> None:
        for command in commands:
            if isinstance(command, cache.Load):
                self.loads_began.append((self._now, command.model_id))
            if isinstance(command, cache.Grant) and command.ticket < 0:
                super()._perform(replica, replica.cache.release(command.ticket, self._now))
            else:
                super()._perform(replica, [command])

    # What is lost does nothing any more

    def _cache_tick(self, replica: Any, _: None) -> None:
        if replica.id not in self._lost:
            super()._cache_tick(replica, None)

    def _loaded(self, replica: Any, model_id: str) -> None:
        if replica.id not in self._lost:
            super()._loaded(replica, model_id)

    def _ended(self, replica: Any, request: Any) -> None:
        if replica.id not in self._lost:
            super()._ended(replica, request)


def router() -> Router:
    return Router(UNLIMITED, 30.0, Estimates(load_s=1.0, service_s=0.05))


def without_loads_ahead(patch: Callable[[object, str, object], None]) -> None:
    """Have models come back by demand alone."""
    patch(Recovery, "_ahead", lambda *_: [])
