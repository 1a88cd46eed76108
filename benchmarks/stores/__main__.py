"""Measure how fast models come from stores and from the disk, and how much memory they take, on this machine.

    python -m benchmarks.stores [--rounds 5] [--only fetch,load,memory,skeletons] [--size-mib 1024] [--quick]

Writes `.bench/stores.json`; a run of everything in full size also replaces the tables in docs/loading-speed.md.
"""

import argparse
import signal
import tempfile
import time
from pathlib import Path

from benchmarks.dataplane.__main__ import chosen
from benchmarks.dataplane.processes import BenchmarkError, exit_after
from benchmarks.dataplane.report import machine, replace_between_markers
from benchmarks.dataplane.systems import BENCH, ROOT

from . import fetching, loading, memory, report, switching
from .steps import MIB, Figures, Group, Sizes, Step

PAGE = ROOT / "docs" / "loading-speed.md"
GROUPS: dict[str, Group] = {
    "fetch": fetching.group,
    "load": loading.group,
    "memory": memory.group,
    "skeletons": switching.group,
}
OBJECT_MIB, OBJECT_MIB_QUICK = 1024, 64
MODEL_BYTES, MODEL_BYTES_QUICK = 500_000_000, 20_000_000
REPLICAS = 4

Rounds = dict[str, list[dict[str, Figures]]]  # by the title of the table, and then by the system


def run_rounds(steps: list[Step], rounds: int, failures: list[str]) -> Rounds:
    """All steps in turn, so often. What fails is put among the failures, and the rest is measured: a run takes long."""
    results: Rounds = {step.table: [] for step in steps}
    for number in range(rounds):
        for found in results.values():
            found.append({})
        for step in steps:
            began = time.monotonic()
            try:
                measured = step.measure()
            except BenchmarkError as error:
                failures.append(told(f"{step.table}, {step.name}", error))
                continue
            for system, figures in measured.items():
                results[step.table][number].setdefault(system, {}).update(figures)
                shown = "; ".join(f"{figure} {value:.4g}" for figure, value in figures.items())
                where = f"{number + 1}/{rounds} {step.table}: {step.name} ({time.monotonic() - began:.0f} s)"
                print(f"{where}: {system}: {shown}", flush=True)
    return results


def told(what: str, error: BenchmarkError) -> str:
    """Print an error with the end of its log. Answers its first line."""
    print(f"{what}: {error}", flush=True)
    return f"{what}: {str(error).splitlines()[0]}"


def sizes_of(options: argparse.Namespace) -> Sizes:
    object_mib = options.size_mib or (OBJECT_MIB_QUICK if options.quick else OBJECT_MIB)
    model_bytes = MODEL_BYTES_QUICK if options.quick else MODEL_BYTES
    return Sizes(object_mib * MIB, model_bytes, REPLICAS, options.quick)


def run(options: argparse.Namespace) -> list[str]:
    """Measure, and write what was found. Answers what failed."""
    groups = {name: GROUPS[name] for name in chosen("group", options.only, list(GROUPS))}
    rounds = 1 if options.quick else options.rounds
    described = [machine(), report.versions(), f"rounds: {rounds}"]
    results: Rounds = {}
    failures: list[str] = []
    BENCH.mkdir(exist_ok=True)
    for name, group in groups.items():
        # On a disk, which /tmp may not be.
        with tempfile.TemporaryDirectory(prefix="stores-", dir=BENCH) as folder:
            try:
                with group(Path(folder), sizes_of(options)) as steps:
                    results |= run_rounds(steps, rounds, failures)
            except BenchmarkError as error:  # what a group prepares failed
                failures.append(told(name, error))
        (BENCH / "stores.json").write_text(report.as_json(results, described))
    described += [f"failed, and left out: {failure}" for failure in dict.fromkeys(failures)]
    text = report.markdown(results, described)
    print(text)
    if not (options.only or options.size_mib or options.quick):
        PAGE.write_text(replace_between_markers(PAGE.read_text(), text))
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help=f"groups: {','.join(GROUPS)}")
    parser.add_argument("--size-mib", type=int, default=0, help=f"of the fetched object, {OBJECT_MIB} unless given")
    parser.add_argument("--quick", action="store_true", help="one round of small sizes: to see that it works")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends in the same good order as Ctrl-C
    exit_after(lambda: run(parser.parse_args()))


if __name__ == "__main__":
    main()
