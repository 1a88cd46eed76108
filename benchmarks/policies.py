"""What routing and eviction are worth: Modelplex against other ways, on the same synthetic traces, in the simulator.

    python benchmarks/policies.py [--requests 50000] [--rates 20,40,60] [--seeds 2]

Eight replicas hold a tenth of the bytes of 2,000 log-normal models, asked for in bursts.
"""

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from modelplex.core.eviction import GDSF, LRU
from modelplex.sim import baselines, bounds
from modelplex.sim.trace import Trace
from modelplex.sim.workloads import Bursts, Workload
from modelplex.sim.world import AnyRouter, Fleet, expected_completion, simulate

REPLICAS = 8
MODELS = 2_000
RESIDENT = 0.1


@dataclass(frozen=True)
class Way:
    """One way to serve."""

    name: str
    router: Callable[[], AnyRouter]
    gdsf: bool = False
    by_count: bool = False  # a limit on the number of models, in which their mean size just fits
    loads_max: int = -1
    routers: int = 1
    late_s: float = 0.0


WAYS = [
    Way("Modelplex, GDSF", expected_completion, gdsf=True),
    Way("Modelplex, GDSF, 4 routers, residency 10 ms late", expected_completion, gdsf=True, routers=4, late_s=0.01),
    Way("Modelplex, LRU", expected_completion),
    Way("like Ray Serve", lambda: baselines.RayLike(random.Random(1)), by_count=True, loads_max=1),
    Way("model-blind, power of two", lambda: baselines.ModelBlind(random.Random(1))),
    Way("consistent hashing, bounded loads", lambda: baselines.BoundedConsistentHash(random.Random(1))),
]


def workload(zipf_s: float, requests: int, rate_per_s: float, seed: int) -> Workload:
    return Workload(
        requests=requests,
        models=MODELS,
        rate_per_s=rate_per_s,
        zipf_s=zipf_s,
        size_median_bytes=100e6,
        size_sigma=1.0,
        load_fixed_s=0.3,
        load_bytes_per_s=250e6,
        service_mean_s=0.01,
        bursts=Bursts(mean_requests=8.0, mean_gap_s=0.2),
        seed=seed,
    )


def fleet(way: Way, trace: Trace) -> Fleet:
    sizes = trace.catalog.size_bytes
    bytes_max = int(sizes.sum() * RESIDENT / REPLICAS)
    room = Fleet(
        replicas=REPLICAS,
        policy=GDSF if way.gdsf else LRU,
        router=way.router,
        routers=way.routers,
        residency_delay_s=way.late_s,
        loads_max=way.loads_max,
    )
    if way.by_count:
        return replace(room, models_max=int(MODELS * RESIDENT / REPLICAS))
    return replace(room, bytes_max=bytes_max)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--rates", default="20,40,60", help="requests a second")
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    rates = [float(rate) for rate in options.rates.split(",")]
    for zipf_s, rate in itertools.product((1.0, 1.3), rates):
        print(f"\nZipf {zipf_s}: {options.requests} requests at {rate:g}/s, medians of {options.seeds} seeds")
        print("| way | loads | load seconds | x Ray-like | p50 ms | p99 ms | x Ray-like | requests simulated/s |")
        print("|---|---|---|---|---|---|---|---|")
        rows = []
        traces = [workload(zipf_s, options.requests, rate, seed).trace() for seed in range(options.seeds)]
        for way in WAYS:
            began = time.perf_counter()
            outcomes = [simulate(trace, fleet(way, trace)) for trace in traces]
            per_s = options.requests * options.seeds / (time.perf_counter() - began)
            loads = statistics.median(o.loads for o in outcomes)
            load_seconds = statistics.median(o.load_seconds for o in outcomes)
            p50, p99 = (statistics.median(o.quantile_s(q) for o in outcomes) for q in (0.5, 0.99))
            rows.append((way.name, loads, load_seconds, p50, p99, per_s))
        _, _, ray_seconds, _, ray_p99, _ = next(row for row in rows if row[0] == "like Ray Serve")
        for name, loads, load_seconds, p50, p99, per_s in rows:
            figures = f"{loads:.0f} | {load_seconds:.0f} | {load_seconds / ray_seconds:.2f}"
            print(f"| {name} | {figures} | {p50 * 1e3:.1f} | {p99 * 1e3:.0f} | {p99 / ray_p99:.3f} | {per_s:.0f} |")
        best = statistics.median(
            bounds.least_loads(trace, int(trace.catalog.size_bytes.sum() * RESIDENT)).load_s for trace in traces
        )
        print(f"No policy can do with less than {best:.0f} load seconds, were all replicas one.", flush=True)


if __name__ == "__main__":
    main()
