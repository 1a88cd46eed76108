"""Measure what many replicas and many proxies cost, on this machine.

    python -m benchmarks.scale [--only table,state,links,load,simulated] [--replicas 500] [--routers 4] [--quick]

Writes `.bench/scale.json` and prints tables; docs/cluster-scale.md says what they mean.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator

from benchmarks.dataplane.__main__ import chosen
from benchmarks.dataplane.figures import number
from benchmarks.dataplane.processes import exit_after
from benchmarks.dataplane.report import machine
from benchmarks.dataplane.systems import BENCH

from . import simulated, state, table
from .processes import ask_all, fleet
from .sizes import sizes

Rows = Iterator[tuple[str, dict[str, float]]]

FEW = 10  # replicas
MODELS = [f"model-{number:08d}" for number in range(80)]
CLIENTS = 32  # of each router
SECONDS = 5.0
LOAD_S = 0.05
COLD_PER_S = (0.0, 10.0, 30.0, 100.0, 200.0)  # at each router


def tables(options: argparse.Namespace) -> Rows:
    """Bytes that the controller sends."""
    for replicas, proxies in ((100, 10), (1000, 100))[: 1 if options.quick else 2]:
        for gap_s in (0.01, 0.1):
            title = f"{replicas} replicas, {proxies} proxies, one each {gap_s * 1e3:.0f} ms"
            yield title, table.figures(replicas, proxies, gap_s)


def states(options: argparse.Namespace) -> Rows:
    """What a router knows."""
    for replicas in (10, 100, 1000):
        yield f"{replicas} replicas of 10 models", state.figures(replicas)


def links(options: argparse.Namespace) -> Rows:
    """Real links, and requests for warm models."""
    for replicas in (FEW, options.replicas):
        with fleet(replicas, options.routers, LOAD_S) as (routing, infos):
            linked = ask_all(routing, "link", infos)
            ask_all(routing, "run", 1.0, CLIENTS, MODELS, 0.0)  # loads them
            ran = ask_all(routing, "run", options.seconds, CLIENTS, MODELS, 0.0)
        figures = {
            "all are linked after, s": max(each["met_s"] for each in linked),
            "memory of a link in the router, bytes": sum(each["link_bytes"] for each in linked) / len(linked),
            "requests/s of all": sum(each["requests"] for each in ran),
            "messages per request": sum(each["messages"] for each in ran) / sum(each["requests"] for each in ran),
            "CPU of a router per request, us": sum(each["cpu"] for each in ran) / sum(e["requests"] for e in ran) * 1e6,
            "loads/s": max(each["loads"] for each in ran),
        }
        yield f"{replicas} replicas, {options.routers} routers", figures


def load(options: argparse.Namespace) -> Rows:
    """What models that come and go cost each router."""
    with fleet(options.replicas, options.routers, LOAD_S) as (routing, infos):
        ask_all(routing, "link", infos)
        ask_all(routing, "run", 1.0, CLIENTS, MODELS, 0.0)
        for cold_per_s in COLD_PER_S:
            ran = ask_all(routing, "run", options.seconds, 2, MODELS, cold_per_s)
            mean = {what: sum(each[what] for each in ran) / len(ran) for what in ran[0]}
            news = mean["messages"] - 2 * mean["requests"]
            yield (
                f"{cold_per_s * options.routers:.0f} cold requests/s",
                {
                    "loads/s": mean["loads"],
                    "requests/s": mean["requests"],
                    "messages/s": mean["messages"],
                    "of these not a request or its answer": news,
                    "KiB/s": mean["bytes"] / 1024,
                    "refusals/s": mean["refused"],
                    "`Ongoing`/s": mean["ongoing"],
                    "CPU of the router": mean["cpu"],
                },
            )


def simulations(options: argparse.Namespace) -> Rows:
    """Many more than fit this machine."""
    scenarios = [simulated.Scenario(replicas=100, routers=10, models=2000, rate_per_s=5000.0, requests=40_000)]
    if not options.quick:
        scenarios = [simulated.Scenario(), simulated.Scenario(zipf_s=1.2, service_s=0.02)]
    for scenario in scenarios:
        many, popular = f"{scenario.replicas} replicas, {scenario.routers} routers", f"Zipf {scenario.zipf_s:g}"
        title = f"{many}, {popular}, {scenario.service_s * 1e3:g} ms each"
        yield title, simulated.simulate(scenario)


GROUPS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "table": tables,
    "state": states,
    "links": links,
    "load": load,
    "simulated": simulations,
}


def markdown(columns: dict[str, dict[str, float]]) -> str:
    """A row for each figure, a column for each case."""
    names = list(dict.fromkeys(name for figures in columns.values() for name in figures))
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name in names:
        cells = (number(figures[name]) if name in figures else "" for figures in columns.values())
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def run(options: argparse.Namespace) -> None:
    """Measure, print, and write."""
    results: dict[str, dict[str, dict[str, float]]] = {"sizes": {"bytes": {k: float(v) for k, v in sizes().items()}}}
    BENCH.mkdir(exist_ok=True)
    print("\n".join(["- " + machine(), "", markdown(results["sizes"])]), flush=True)
    for name in chosen("group", options.only, list(GROUPS)):
        began = time.monotonic()
        results[name] = dict(GROUPS[name](options))
        print(f"\n{name} ({time.monotonic() - began:.0f} s)\n\n{markdown(results[name])}", flush=True)
        (BENCH / "scale.json").write_text(json.dumps({"described": [machine()], "tables": results}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"groups: {','.join(GROUPS)}")
    parser.add_argument("--replicas", type=int, default=500)
    parser.add_argument("--routers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each run of requests")
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that it works")
    options = parser.parse_args()
    if options.quick:
        options.replicas, options.routers, options.seconds = 50, 2, 1.0
    exit_after(lambda: run(options))


if __name__ == "__main__":
    main()
