"""Routers and replicas under a virtual clock: the core's own classes, driven by a trace instead of by sockets."""

import heapq
import itertools
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from modelplex.core import cache, routing
from modelplex.core.backoff import Backoff
from modelplex.core.budget import UNLIMITED
from modelplex.core.cache import ModelCache
from modelplex.core.estimates import Estimates
from modelplex.core.eviction import LRU, EvictionPolicy
from modelplex.core.occupancy import Occupancy
from modelplex.core.tenant_cache import TenantCache
from modelplex.core.tenants import Limits
from modelplex.sim.trace import Trace

# Requests that are taken from the arrays at a time: Python's own numbers are faster to work with one by one.
_CHUNK = 65_536

# As `runtime.replica.CORRECT_AGAIN_S`, which is not imported here.
_CORRECT_AGAIN_S = 0.005

# How often `progress` is called.
PROGRESS_REQUESTS = 10_000


class AnyRouter(Protocol):
    """What a world asks of a router: the inputs of `core.routing.Router`, which the baselines take as well."""

    @property
    def queued(self) -> int: ...
    @property
    def next_tick(self) -> float | None: ...
    @property
    def submit(self) -> Callable[..., list[routing.Command]]: ...
    @property
    def answered(self) -> Callable[..., None]: ...
    @property
    def finish(self) -> Callable[..., list[routing.Command]]: ...
    @property
    def refused(self) -> Callable[..., list[routing.Command]]: ...
    @property
    def tick(self) -> Callable[..., list[routing.Command]]: ...
    @property
    def replica_up(self) -> Callable[..., list[routing.Command]]: ...
    @property
    def model_loading(self) -> Callable[..., list[routing.Command]]: ...
    @property
    def model_loaded(self) -> Callable[..., list[routing.Command]]: ...
    @property
    def model_gone(self) -> Callable[..., list[routing.Command]]: ...
    @property
    def told_ongoing(self) -> Callable[..., list[routing.Command]]: ...


def expected_completion() -> routing.Router:
    """The router that Modelplex runs."""
    return routing.Router(UNLIMITED, 30.0, Estimates(load_s=1.0, service_s=0.05))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What is simulated.

    Attributes:
        replicas: how many.
        models_max: models that a replica may hold, or `UNLIMITED`.
        bytes_max: bytes that they may take, or `UNLIMITED`.
        max_ongoing: requests that run at a time on a replica.
        loads_max: loads that run at a time on a replica, or `UNLIMITED`.
        policy: makes the eviction policy of a replica.
        router: makes a router.
        routers: how many; requests take turns.
        residency_delay_s: how late routers hear what replicas hold.
        tenants: what each tenant may take of a replica's models; routers have to know theirs by themselves.
        tenant_of: says of a request, by its number, on whose behalf it is.
    """

    replicas: int
    models_max: int = UNLIMITED
    bytes_max: int = UNLIMITED
    max_ongoing: int = 5
    loads_max: int = UNLIMITED
    policy: Callable[[], EvictionPolicy] = LRU
    router: Callable[[], AnyRouter] = field(default=expected_completion)
    routers: int = 1
    residency_delay_s: float = 0.0
    tenants: Mapping[str, Limits] | None = None
    tenant_of: Callable[[int], str] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a trace.

    Attributes:
        latency_s: float64, from each request's arrival to its answer; NaN if it was rejected.
        cold: bool, whether the request waited for a load of its model, its own or another's.
        loads: how many.
        load_seconds: spent on loads.
    """

    latency_s: NDArray[np.float64]
    cold: NDArray[np.bool_]
    loads: int
    load_seconds: float

    @property
    def cold_ratio(self) -> float:
        """Loads for each request."""
        return self.loads / max(1, len(self.latency_s))

    def quantile_s(self, q: float) -> float:
        """A quantile of the latency of the requests that were answered; NaN if none was."""
        answered = self.latency_s[~np.isnan(self.latency_s)]
        return float(np.quantile(answered, q)) if len(answered) else float("nan")


@dataclass(slots=True, eq=False)
class _Replica:
    id: str
    cache: ModelCache
    occupancy: Occupancy[AnyRouter]
    tick_at: float | None = None  # when its cache is to be told of the time next
    correcting: bool = False  # more routers are to be told soon that it has a free slot


# What a replica says of a model: the name of an input of routers, the first of its arguments, and `harm_s`.
_Told = tuple[str, tuple[Any, ...], float]


@dataclass(slots=True, eq=False)
class _Request:
    number: int
    model_id: str
    router: AnyRouter
    arrived: float
    service_s: float
    sent: float = 0.0
    granted: float = 0.0


class World:
    """Runs one trace through one fleet, once.

    Each event calls a function at its time. Messages from replicas reach routers `residency_delay_s` later; requests,
    answers and refusals take no time.
    """

    def __init__(self, trace: Trace, fleet: Fleet) -> None:
        self._trace = trace
        self._delay_s = fleet.residency_delay_s
        self._tenant_of = fleet.tenant_of
        self._replicas: dict[str, _Replica] = {}
        self._routers = [fleet.router() for _ in range(fleet.routers)]
        self._several = fleet.routers > 1  # one alone is never mistaken about who runs where
        self._ticks: dict[AnyRouter, float] = {}
        self._events: list[tuple[float, int, Callable[..., None], Any, Any]] = []
        self._order = itertools.count()
        self._mail: deque[tuple[AnyRouter, _Told]] = deque()
        self._now = 0.0
        self._requests: dict[int, _Request] = {}
        catalog = trace.catalog
        self._models = dict(
            zip(catalog.ids, zip(catalog.load_s.tolist(), catalog.size_bytes.tolist(), strict=True), strict=True)
        )
        self._latency_s = array("d", [float("nan")]) * len(trace)
        self._cold = bytearray(len(trace))
        self.loads = 0
        self._load_seconds = 0.0
        for number in range(fleet.replicas):
            self._add_replica(f"replica-{number}", fleet)

    def _add_replica(self, replica_id: str, fleet: Fleet) -> None:
        budget, backoff = {"bytes_max": fleet.bytes_max, "loads_max": fleet.loads_max}, Backoff(1.0, 10.0)
        if fleet.tenants is None:
            models = ModelCache(fleet.models_max, fleet.policy(), backoff, **budget)
        else:
            models = TenantCache(fleet.models_max, fleet.policy, backoff, fleet.tenants, **budget)
        replica = _Replica(replica_id, models, Occupancy(fleet.max_ongoing))
        self._replicas[replica_id] = replica
        for router in self._routers:
            replica.occupancy.join(router)
            router.replica_up(replica_id, fleet.max_ongoing, models.room, (), (), 0.0, loads_max=fleet.loads_max)

    def run(self, progress: Callable[[int], None] | None = None) -> Outcome:
        """Everything that the trace brings about. `progress` is told now and then how many requests have arrived."""
        trace, ids, events, routers = self._trace, self._trace.catalog.ids, self._events, itertools.cycle(self._routers)
        number = 0
        for at in range(0, len(trace), _CHUNK):
            part = slice(at, at + _CHUNK)
            columns = (trace.arrivals_s[part].tolist(), trace.models[part].tolist(), trace.service_s[part].tolist())
            for arrived, model, service_s in zip(*columns, strict=True):
                while events and events[0][0] <= arrived:
                    self._next()
                self._now = arrived
                router = next(routers)
                self._requests[number] = _Request(number, ids[model], router, arrived, service_s)
                self._route(router, router.submit(number, ids[model], arrived, **self._on_behalf(number)))
                if self._mail:
                    self._deliver()
                number += 1
                if progress is not None and number % PROGRESS_REQUESTS == 0:
                    progress(number)
        while events:
            self._next()
        cold = np.frombuffer(self._cold, np.bool_)
        return Outcome(np.frombuffer(self._latency_s, np.float64), cold, self.loads, self._load_seconds)

    # Time

    def _at(self, when: float, call: Callable[..., None], a: Any, b: Any) -> None:
        heapq.heappush(self._events, (when, next(self._order), call, a, b))

    def _next(self) -> None:
        self._now, _, call, a, b = heapq.heappop(self._events)
        call(a, b)
        if self._mail:
            self._deliver()

    # Routers

    def _route(self, router: AnyRouter, commands: list[routing.Command]) -> None:
        for command in commands:
            if isinstance(command, routing.Send):
                self._send(self._requests[command.number], self._replicas[command.replica_id], command)
            elif isinstance(command, routing.Reject):
                del self._requests[command.number]
        if router.queued:
            self._set_tick(router)

    def _send(self, request: _Request, replica: _Replica, send: routing.Send) -> None:
        router, now = request.router, self._now
        if send.fits and not replica.cache.knows(request.model_id) and replica.cache.room == 0:
            self._refuse(request, replica, no_room=True)
            return
        if not replica.occupancy.begin(router):
            self._refuse(request, replica, no_room=False)
            return
        request.sent = now
        if request.model_id:
            commands = replica.cache.acquire(
                request.number,
                request.model_id,
                None,
                now,
                hurried=send.waited,
                share=send.share,
                **self._on_behalf(request.number),
            )
            self._perform(replica, commands)
        else:
            self._at(now + request.service_s, self._ended, replica, request)
        if self._several:
            self._correct_mistaken(replica)

    def _on_behalf(self, number: int) -> dict[str, str]:
        """The tenant of a request, as routers and caches are told of it; baselines know of none."""
        return {} if self._tenant_of is None else {"tenant": self._tenant_of(number)}

    def _refuse(self, request: _Request, replica: _Replica, *, no_room: bool) -> None:
        router, ongoing = request.router, replica.occupancy.ongoing
        replica.occupancy.told(router)
        self._route(
            router,
            router.refused(
                request.number, ongoing, self._now, no_room=no_room, holds=replica.cache.knows(request.model_id)
            ),
        )

    def _set_tick(self, router: AnyRouter) -> None:
        at = router.next_tick
        if at is not None and at < self._ticks.get(router, float("inf")):
            self._ticks[router] = at
            self._at(at, self._tick, router, at)

    def _tick(self, router: AnyRouter, at: float) -> None:
        if self._ticks.get(router) == at:
            del self._ticks[router]
            self._route(router, router.tick(self._now))
            self._set_tick(router)

    def _tell(self, what: str, replica: _Replica, model_id: str, *more: float) -> None:
        """Have every router told the same of a model, and what room there is now."""
        args = (replica.id, model_id, replica.cache.room, *more)
        harm_s = replica.cache.harm_s
        for router in self._routers:
            if self._delay_s:
                self._at(self._now + self._delay_s, self._hear, router, (what, args, harm_s))
            else:
                self._mail.append((router, (what, args, harm_s)))

    def _hear(self, router: AnyRouter, told: _Told) -> None:
        what, args, harm_s = told
        self._route(router, getattr(router, what)(*args, self._now, harm_s))

    def _deliver(self) -> None:
        while self._mail:
            self._hear(*self._mail.popleft())

    # Replicas

    def _perform(self, replica: _Replica, commands: list[cache.Command]) -> None:
        now = self._now
        for command in commands:
            match command:
                case cache.Grant():
                    request = self._requests[command.ticket]
                    request.granted = now
                    if command.start is not cache.Start.WARM:
                        self._cold[request.number] = 1
                    self._at(now + request.service_s, self._ended, replica, request)
                case cache.Load():
                    load_s, _ = self._models[command.model_id]
                    self.loads += 1
                    self._load_seconds += load_s
                    self._tell("model_loading", replica, command.model_id)
                    self._at(now + load_s, self._loaded, replica, command.model_id)
                case cache.Unload():
                    self._tell("model_gone", replica, command.model_id)
                    self._perform(replica, replica.cache.unloaded(command.model_id, now))
                case cache.Reject():
                    self._over(replica, self._requests[command.ticket])
        if replica.tick_at is None and (at := replica.cache.next_tick) is not None:
            replica.tick_at = at
            self._at(max(now, at), self._cache_tick, replica, None)

    def _cache_tick(self, replica: _Replica, _: None) -> None:
        replica.tick_at = None
        self._perform(replica, replica.cache.tick(self._now))

    def _loaded(self, replica: _Replica, model_id: str) -> None:
        load_s, size_bytes = self._models[model_id]
        commands = replica.cache.loaded(model_id, size_bytes, self._now)
        self._tell("model_loaded", replica, model_id, load_s)
        self._perform(replica, commands)

    def _ended(self, replica: _Replica, request: _Request) -> None:
        self._latency_s[request.number] = self._now - request.arrived
        if request.model_id:
            commands = replica.cache.release(request.number, self._now)
            if commands:
                self._perform(replica, commands)
        self._over(replica, request)

    def _over(self, replica: _Replica, request: _Request) -> None:
        """The request needs its slot no longer, and its router is told so."""
        router, occupancy, now = request.router, replica.occupancy, self._now
        del self._requests[request.number]
        occupancy.end(router)
        router.answered(request.number)
        load_s = max(0.0, request.granted - request.sent)
        commands = router.finish(
            request.number,
            now,
            load_s,
            occupancy.ongoing,
            replica.cache.harm_s,
            holds=replica.cache.holds(request.model_id),
        )
        if commands:
            self._route(router, commands)
        if self._several:
            self._correct_mistaken(replica)

    def _correct_mistaken(self, replica: _Replica) -> None:
        """Have those routers told who take the replica for full by mistake."""
        for router in replica.occupancy.mistaken():
            self._at(self._now, self._correct, router, (replica.id, replica.occupancy.ongoing))
        if replica.occupancy.more_mistaken and not replica.correcting:
            replica.correcting = True
            self._at(self._now + _CORRECT_AGAIN_S, self._correct_more, replica, None)

    def _correct_more(self, replica: _Replica, _: None) -> None:
        replica.correcting = False
        self._correct_mistaken(replica)

    def _correct(self, router: AnyRouter, told: tuple[str, int]) -> None:
        self._route(router, router.told_ongoing(*told, self._now))


def simulate(trace: Trace, fleet: Fleet, progress: Callable[[int], None] | None = None) -> Outcome:
    """What would come of this trace with this fleet."""
    return World(trace, fleet).run(progress)
