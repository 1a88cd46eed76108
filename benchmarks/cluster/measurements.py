"""What is measured: requests per second, and loads. Each answers figures by name and unit, or raises BenchmarkError."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import loads
from benchmarks.dataplane import processes, wrk
from benchmarks.dataplane.processes import BenchmarkError
from modelplex.sim.bounds import belady
from modelplex.sim.trace import Trace
from modelplex.sim.workloads import Workload

from .systems import Cluster, Deployed, Served, System, ask

Figures = dict[str, float]

MODELS = 3
CONNECTIONS = (1, 16, 64)
IDLE_S = 3.0
CLIENTS = 8
IDLE = "CPU while idle, cores"


@dataclass(frozen=True)
class Sizes:
    """How long a run takes.

    Attributes:
        seconds: of each run of wrk.
        requests: whose loads are counted.
        after_s: how long requests go on after a node is lost.
    """

    seconds: int
    requests: int
    after_s: float


def idle_cores(seconds: float = IDLE_S) -> float:
    """What all processes of the cluster and of what it serves use now."""
    began_s, used_s = time.monotonic(), processes.cpu_s()
    time.sleep(seconds)
    return (processes.cpu_s() - used_s) / (time.monotonic() - began_s)


def rates(cluster: Cluster, system: System, replicas: int, sizes: Sizes, folder: Path) -> Figures:
    """Requests for three models that are loaded, through one proxy."""
    deployed = Deployed(replicas, MODELS, spread=not system.nodes, nodes=system.nodes)
    with system.serve(cluster, deployed, folder) as served:
        _check_nodes(cluster, system, replicas, served)
        _wrk(served, 16, 1)  # models are loaded, connections are there
        idle = idle_cores()
        figures: Figures = {IDLE: idle}
        for connections in CONNECTIONS:
            before_s = processes.cpu_s()
            outcome = _wrk(served, connections, sizes.seconds)
            used_s = processes.cpu_s() - before_s - idle * outcome.duration_s
            what = f"{connections} connection{'s' * (connections > 1)}"
            figures[f"{what}, requests/s"] = outcome.requests_per_s
            figures[f"{what}, p50, ms"] = outcome.p50_ms
            figures[f"{what}, p99, ms"] = outcome.p99_ms
        figures["CPU of 10,000 requests, s"] = used_s / outcome.requests * 10_000
    return figures


def _wrk(served: Served, connections: int, seconds: int) -> wrk.Outcome:
    try:
        outcome = wrk.run(served.urls[0], ("/",) * MODELS, connections, seconds)
    except ValueError as error:
        raise BenchmarkError(str(error)) from error
    if outcome.errors:
        raise BenchmarkError(f"of {outcome.requests} requests of {connections} connections failed {outcome.errors}")
    return outcome


def _check_nodes(cluster: Cluster, system: System, replicas: int, served: Served) -> None:
    """Replicas are where they are said to be."""
    if system.engine == "local" or not system.nodes:
        return
    nodes = {ask(f"{served.urls[0]}/where", f"m{number}").split()[1] for number in range(MODELS)}
    wrong = nodes - {cluster.head} if system.nodes == "head" else nodes & {cluster.head}
    if wrong or len(nodes) > replicas:
        raise BenchmarkError(f"replicas are on the nodes {nodes}, the head is {cluster.head}")


WORKLOADS: Mapping[str, tuple[int, float]] = {"12 models as popular": (12, 0.0), "40 models, Zipf 1.0": (40, 1.0)}
"""Models, and the exponent."""


def trace(workload: str, sizes: Sizes, seed: int) -> Trace:
    models, zipf_s = WORKLOADS[workload]
    return Workload(requests=sizes.requests, models=models, rate_per_s=1.0, zipf_s=zipf_s, seed=seed).trace()


def loaded(cluster: Cluster, system: System, workload: str, sizes: Sizes, seed: int, folder: Path) -> Figures:
    """How many loads the same requests cost, in the same order."""
    models = trace(workload, sizes, seed).models.tolist()
    deployed = Deployed(loads.REPLICAS, loads.MODELS_EACH, loads.LOAD_S, spread=True)
    with system.serve(cluster, deployed, folder) as served:
        began_s = time.monotonic()
        try:
            loads.replay(served.ports, models, CLIENTS)
        except RuntimeError as error:
            raise BenchmarkError(str(error)) from error
        took_s = time.monotonic() - began_s
        return {f"{workload}: loads": served.loads, f"{workload}: requests/s": len(models) / took_s}


def bounds(workload: str, sizes: Sizes, seed: int) -> dict[str, Figures]:
    """What one cache with all the room would need, which answers one request after the other."""
    found = trace(workload, sizes, seed)
    best = belady(found, loads.REPLICAS * loads.MODELS_EACH).loads
    return {
        "lru": {f"{workload}: loads": loads.lru_loads(found)},
        "belady": {f"{workload}: loads": best},
    }
