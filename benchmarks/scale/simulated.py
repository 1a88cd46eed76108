"""1,000 replicas and 100 routers in the simulator: how many messages go to and from each router, and what they take."""

from dataclasses import dataclass

import numpy as np

from modelplex.core import routing
from modelplex.core.admission import UNLIMITED
from modelplex.core.estimates import Estimates
from modelplex.sim.trace import Trace
from modelplex.sim.traffic import CountingWorld
from modelplex.sim.workloads import Workload
from modelplex.sim.world import Fleet

from .sizes import sizes

# In the first part of a workload popular models get their copies; it is not counted.
SETTLE_PART = 0.4


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is simulated.

    Attributes:
        rate_per_s: requests a second, of all clients.
        requests: how many.
        zipf_s: exponent of the models' popularity.
    """

    replicas: int = 1000
    routers: int = 100
    models: int = 20_000
    models_max: int = 10
    rate_per_s: float = 50_000.0
    requests: int = 150_000
    zipf_s: float = 1.0
    service_s: float = 0.002
    load_s: float = 0.5
    max_ongoing: int = 16


def _router() -> routing.Router:
    return routing.Router(UNLIMITED, 30.0, Estimates(load_s=1.0, service_s=0.05))


def _trace(scenario: Scenario) -> tuple[Trace, int]:
    """Requests for the most popular models, one for each, that fill the caches, and then the workload's.

    Answers how many of them are not counted.
    """
    workload = Workload(
        requests=scenario.requests,
        models=scenario.models,
        rate_per_s=scenario.rate_per_s,
        zipf_s=scenario.zipf_s,
        load_fixed_s=scenario.load_s,
        load_bytes_per_s=1e15,
        service_mean_s=scenario.service_s,
    )
    after = workload.trace()
    places = min(scenario.models, scenario.replicas * scenario.models_max)
    first = np.argsort(-np.bincount(after.models, minlength=scenario.models), kind="stable")[:places]
    gap_s = scenario.load_s / scenario.replicas
    arrivals_s = np.arange(places) * gap_s
    trace = Trace(
        np.concatenate([arrivals_s, after.arrivals_s + arrivals_s[-1] + 5 * scenario.load_s]),
        np.concatenate([first.astype(after.models.dtype), after.models]),
        np.concatenate([np.full(places, scenario.service_s), after.service_s]),
        after.catalog,
    )
    return trace, places + int(scenario.requests * SETTLE_PART)


def simulate(scenario: Scenario) -> dict[str, float]:
    """Figures of the second part, for each router and second."""
    fleet = Fleet(
        replicas=scenario.replicas,
        models_max=scenario.models_max,
        max_ongoing=scenario.max_ongoing,
        routers=scenario.routers,
        router=_router,
        residency_delay_s=0.001,
    )
    trace, uncounted = _trace(scenario)
    world = CountingWorld(trace, fleet)
    began = [0.0, 0]

    def progress(number: int) -> None:
        if not began[0] and number >= uncounted:
            began[:] = [float(trace.arrivals_s[number - 1]), world.loads]
            world.sent.clear()

    outcome = world.run(progress)
    latency_s = outcome.latency_s[uncounted:]
    seconds = (float(trace.arrivals_s[-1]) - began[0]) * scenario.routers
    bytes_of = sizes()
    figures = {
        "requests/s": scenario.rate_per_s,
        "loads/s": (outcome.loads - began[1]) / seconds * scenario.routers,
        "latency, median, ms": float(np.nanquantile(latency_s, 0.5)) * 1e3,
        "latency, 99th, ms": float(np.nanquantile(latency_s, 0.99)) * 1e3,
    }
    for kind, count in sorted(world.sent.items(), key=lambda item: -item[1]):
        figures[f"{kind} per router/s"] = count / seconds
    figures["messages per router/s"] = sum(world.sent.values()) / seconds
    figures["KiB per router/s"] = sum(count * bytes_of[kind] for kind, count in world.sent.items()) / seconds / 1024
    return figures
