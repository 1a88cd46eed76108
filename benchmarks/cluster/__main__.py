"""Measure Modelplex on a Ray cluster of three nodes, beside one machine and beside Ray Serve, in one run.

    python -m benchmarks.cluster [--only rates,loads,loss] [--systems modelplex,ray] [--rounds 3] [--quick]

Writes `.bench/cluster.json` and prints tables; docs/cluster-performance.md says what they mean.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.dataplane.__main__ import chosen
from benchmarks.dataplane.figures import summarize
from benchmarks.dataplane.processes import BenchmarkError, adopt_orphans, end_all, exit_after
from benchmarks.dataplane.report import machine, table
from benchmarks.dataplane.systems import BENCH, install_tools, make_environment, versions
from benchmarks.dataplane.systems import RayServe as RayServeAlone

from . import loss, measurements
from .measurements import IDLE, WORKLOADS, Figures, Sizes
from .processes import ENVIRONMENT, REQUIREMENTS
from .systems import Cluster, System, cluster

NODES = 3
LOCAL = System("modelplex", "Modelplex, one machine", "local")
ON_RAY = System("cluster", "Modelplex, cluster", "ray")
EACH_NODE = System("cluster-3p", "Modelplex, cluster, 3 proxies", "ray", proxies=3)
RAY_SERVE = System("ray", "Ray Serve, cluster", "rayserve")
RAY_FAST = System("ray-fast", "Ray Serve, cluster, fastest mode", "rayserve", fast=True)

Rounds = list[dict[str, Figures]]


def at(system: System, nodes: str, title: str) -> System:
    """One whose replicas are there."""
    return replace(system, name=f"{system.name}-{nodes}", title=f"{system.title}, {title}", nodes=nodes)


QUIET = replace(ON_RAY, name="cluster-quiet", title="Modelplex, cluster, console off", console=False)
ONE_REPLICA = (
    LOCAL,
    at(ON_RAY, "head", "same node"),
    at(ON_RAY, "other", "other node"),
    at(QUIET, "other", "other node"),
    at(RAY_SERVE, "other", "other node"),
    at(RAY_FAST, "other", "other node"),
)
SYSTEMS = {
    "loads": (LOCAL, ON_RAY, EACH_NODE, RAY_SERVE),
    "loss": (ON_RAY, RAY_SERVE),
    "rates, 1 replica": ONE_REPLICA,
    "rates, 3 replicas": (LOCAL, ON_RAY, RAY_SERVE, RAY_FAST),
}
NO_SYSTEMS = {"idle": "the cluster alone", "lru": "one LRU cache", "belady": "Belady"}


class Run:
    """All rounds of all groups, on one cluster."""

    def __init__(self, nodes: Cluster, options: argparse.Namespace, folder: Path, described: list[str]) -> None:
        self._cluster, self._options, self._folder, self._described = nodes, options, folder, described
        self._sizes = Sizes(options.seconds, options.requests, options.after)
        self.results: dict[str, Rounds] = {}
        self.failures: list[str] = []

    def all_rounds(self) -> None:
        groups = chosen("group", self._options.only, ["rates", "loads", "loss"])
        for name in (name for name in SYSTEMS if name.partition(",")[0] in groups):
            for seed in range(self._options.rounds):
                self.results.setdefault(name, []).append(self._round(name, seed))
                written = {"described": self._described, "failures": self.failures, "rounds": self.results}
                (BENCH / "cluster.json").write_text(json.dumps(written, indent=1))

    def _round(self, group: str, seed: int) -> dict[str, Figures]:
        """Systems take turns, and each is ended before the next one."""
        print(f"{group}, round {seed + 1}; load average {os.getloadavg()[0]:.1f}", flush=True)
        found: dict[str, Figures] = {}
        if group.startswith("rates"):
            found["idle"] = {IDLE: measurements.idle_cores()}
        for what in WORKLOADS if group == "loads" else ():
            for name, figures in measurements.bounds(what, self._sizes, seed).items():
                found.setdefault(name, {}).update(figures)
        for system in SYSTEMS[group]:
            wanted = self._options.systems.split(",") if self._options.systems else [system.name]
            if system.name in wanted:
                for measure in self._measurements(group, system, seed):
                    found.setdefault(system.name, {}).update(self._measured(group, system, measure))
        return found

    def _measurements(self, group: str, system: System, seed: int) -> list[Callable[[], Figures]]:
        nodes, sizes, folder = self._cluster, self._sizes, self._folder
        if group == "loads":
            return [
                lambda what=what: measurements.loaded(nodes, system, what, sizes, seed, folder)  # type: ignore[misc]
                for what in WORKLOADS
            ]
        if group == "loss":
            return [lambda: loss.lose(nodes, system, sizes, seed, folder)]
        replicas = 1 if "1 replica" in group else 3
        return [lambda: measurements.rates(nodes, system, replicas, sizes, folder)]

    def _measured(self, group: str, system: System, measure: Callable[[], Figures]) -> Figures:
        """What fails is put among the failures, and the rest is measured: a run takes long."""
        began_s = time.monotonic()
        try:
            figures = measure()
        except (BenchmarkError, OSError) as error:
            print(f"{system.title}: {error}", flush=True)
            self.failures.append(f"{group}, {system.title}: {str(error).partition(chr(10))[0]}")
            return {}
        shown = "; ".join(f"{figure} {value:.4g}" for figure, value in figures.items())
        print(f"{system.title} ({time.monotonic() - began_s:.0f} s): {shown}", flush=True)
        return figures


def markdown(results: dict[str, Rounds], described: list[str]) -> str:
    parts = ["\n".join(f"- {line}" for line in described)]
    for group, rounds in results.items():
        titles = {system.name: system.title for system in SYSTEMS[group]} | NO_SYSTEMS
        parts += [f"### {group}", table(summarize(rounds), titles)]
    return "\n\n".join(parts)


def run(options: argparse.Namespace) -> list[str]:
    """Measure, and write what was found. Answers what failed."""
    BENCH.mkdir(exist_ok=True)
    os.environ["no_proxy"] = "127.0.0.1"  # urllib would send what is meant for this machine to a proxy
    install_tools()
    make_environment(ENVIRONMENT, REQUIREMENTS)
    adopt_orphans()
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))  # short: Unix sockets are made in it
    described = [machine(), ", ".join(versions((RayServeAlone(),)))]
    described.append(f"rounds: {options.rounds}; {options.seconds} s for each run of wrk; {NODES} nodes, one machine")
    try:
        with cluster(NODES, folder) as nodes:
            work = Run(nodes, options, folder, described)
            work.all_rounds()
    finally:
        end_all()
        shutil.rmtree(folder, ignore_errors=True)
    described += [f"failed, and left out: {failure}" for failure in work.failures]
    print(markdown(work.results, described))
    return work.failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="groups: rates,loads,loss")
    parser.add_argument(
        "--systems", default="", help=", ".join(dict.fromkeys(s.name for g in SYSTEMS.values() for s in g))
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="for each run of wrk")
    parser.add_argument("--requests", type=int, default=3_000, help="whose loads are counted")
    parser.add_argument("--after", type=float, default=20.0, help="seconds of requests after the loss of a node")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: to see that it works")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.requests = 1, 1, 300
    exit_after(lambda: run(options))


if __name__ == "__main__":
    main()
