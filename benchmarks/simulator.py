"""How many requests the simulator works through in a second, on one core.

    python benchmarks/simulator.py [--large]

`--large` is 1,000 replicas, 1,000,000 models and 10,000,000 requests; it takes some ten minutes and some gigabytes.
"""

import argparse
import resource
import time

from modelplex.sim.workloads import Workload
from modelplex.sim.world import Fleet, simulate


def measure(name: str, workload: Workload, fleet: Fleet) -> None:
    trace = workload.trace()
    began = time.perf_counter()
    outcome = simulate(trace, fleet)
    elapsed_s = time.perf_counter() - began
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{name}: {len(trace) / elapsed_s:.0f} requests/s ({elapsed_s:.1f} s), {outcome.cold_ratio:.1%} cold, "
        f"p99 {outcome.quantile_s(0.99) * 1e3:.0f} ms, at most {peak_gb:.1f} GB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    if parser.parse_args().large:
        large = Workload(
            requests=10_000_000,
            models=1_000_000,
            rate_per_s=20_000.0,
            load_bytes_per_s=1e10,
            service_mean_s=0.02,
        )
        measure("1,000 replicas of 500 models", large, Fleet(replicas=1_000, models_max=500, max_ongoing=16))
        return
    workload = Workload(
        requests=300_000,
        models=1_000,
        rate_per_s=1_000.0,
        zipf_s=1.3,
        load_fixed_s=0.05,
        load_bytes_per_s=1e12,
        service_mean_s=0.002,
    )
    for models_max in (250, 25):
        measure(f"8 replicas of {models_max} models", workload, Fleet(replicas=8, models_max=models_max))


if __name__ == "__main__":
    main()
