"""Measure Modelplex beside other servers, on this machine, in one run.

    python -m benchmarks.dataplane [--rounds 3] [--seconds 5] [--only modelplex,ray] [--replicas 1] [--measure small]

Writes `.bench/results.json` and `.bench/plot.png`; a run of everything also replaces the tables in docs/performance.md.
"""

import argparse
import os
import signal
import subprocess
import time
import urllib.request

from . import report
from .measurements import MEASUREMENTS, Figures, Measurement, Session, Target
from .processes import BenchmarkError, Running, adopt_orphans, exit_after, free_ports
from .systems import BENCH, ROOT, SYSTEMS, System, install_tools, versions

PAGE = ROOT / "docs" / "performance.md"
REPLICAS = (1, 2, 3)


def chosen(kind: str, text: str, all_names: list[str]) -> list[str]:
    names = text.split(",") if text else all_names
    if unknown := set(names) - set(all_names):
        raise BenchmarkError(f"no {kind} is called {', '.join(sorted(unknown))}; there are {', '.join(all_names)}")
    return names


def run_session(
    system: System, replicas: int, session: Session, measurements: dict[str, Measurement], seconds: int, seed: int
) -> Figures:
    """Start a system, measure, and end it."""
    figures: Figures = {}
    name = f"{system.title}, {replicas} replica{'s' * (replicas > 1)}"
    with Running(name, BENCH / f"{system.name}.log") as running:
        (port,) = free_ports(1)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{system.paths[0]}",
            data=system.body or None,
            headers={"serve_multiplexed_model_id": "m0", "content-type": "application/json"},
        )
        command = system.command(session.entry, replicas, port, running.folder)
        environment = {**system.environment(replicas, running.folder), **session.environment}
        running.start(command, environment | {"BENCH_SECONDS": str(seconds)}, request)
        target = Target(system, running, port, seconds, seed)
        for what, measurement in measurements.items():
            began = time.monotonic()
            try:
                new = measurement.measure(target)
            except (ValueError, RuntimeError, OSError, subprocess.SubprocessError, ExceptionGroup) as error:
                raise running.error(f"{what}: {error}") from error
            figures |= new
            shown = "; ".join(f"{figure} {value:.4g}" for figure, value in new.items())
            print(f"{name}: {what} ({time.monotonic() - began:.0f} s): {shown}", flush=True)
    return figures


def run_round(
    systems: list[System],
    measurements: dict[str, Measurement],
    replicas: int,
    seconds: int,
    seed: int,
    failures: list[str],
) -> dict[str, Figures]:
    """What fails is put among the failures, and the rest is measured: a run takes long."""
    figures: dict[str, Figures] = {}
    for system in systems:
        mine = {name: m for name, m in measurements.items() if m.applies_to(system, replicas)}
        for session in dict.fromkeys(m.session for m in mine.values()):
            shared = {name: m for name, m in mine.items() if m.session is session}
            try:
                new = run_session(system, replicas, session, shared, seconds, seed)
            except BenchmarkError as error:
                print(error, flush=True)
                failures.append(str(error).partition("\n")[0])
            else:
                figures.setdefault(system.name, {}).update(new)
    return figures


def run(options: argparse.Namespace) -> list[str]:
    """Measure, and write what was found. Answers what failed."""
    by_name = {system.name: system for system in SYSTEMS}
    systems = [by_name[name] for name in chosen("system", options.only, list(by_name))]
    measurements = {name: MEASUREMENTS[name] for name in chosen("measurement", options.measure, list(MEASUREMENTS))}
    numbers = [int(n) for n in chosen("number of replicas", options.replicas, [str(n) for n in REPLICAS])]
    BENCH.mkdir(exist_ok=True)
    os.environ["no_proxy"] = "127.0.0.1"  # urllib would send what is meant for this machine to a proxy
    install_tools()
    for system in systems:
        system.install()
    adopt_orphans()
    results: dict[int, list[dict[str, Figures]]] = {number: [] for number in numbers}
    described = [
        report.machine(),
        ", ".join(versions(tuple(systems))),
        f"rounds: {options.rounds}; {options.seconds} s for each run of wrk",
    ]
    failures: list[str] = []
    for seed in range(options.rounds):
        print(f"round {seed + 1} of {options.rounds}", flush=True)
        for replicas in numbers:
            results[replicas].append(run_round(systems, measurements, replicas, options.seconds, seed, failures))
        (BENCH / "results.json").write_text(report.as_json(results, described))
    described += [f"failed, and left out: {failure}" for failure in failures]
    titles = {system.name: system.title for system in systems}
    report.draw(BENCH / "plot.png", results, titles)
    text = report.markdown(results, titles, described)
    print(text)
    if not (options.only or options.measure or options.replicas):
        PAGE.write_text(report.replace_between_markers(PAGE.read_text(), text))
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"systems: {','.join(system.name for system in SYSTEMS)}")
    parser.add_argument("--measure", default="", help=f"measurements: {','.join(MEASUREMENTS)}")
    parser.add_argument("--replicas", default="", help=f"numbers of replicas: {','.join(map(str, REPLICAS))}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="for each run of wrk")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends in the same good order as Ctrl-C
    exit_after(lambda: run(parser.parse_args()))


if __name__ == "__main__":
    main()
