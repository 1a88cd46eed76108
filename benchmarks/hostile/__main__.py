"""Measure what hostile clients cost the others, on this machine.

    python -m benchmarks.hostile [--only slow-heads,malformed] [--seconds 10] [--rate 400] [--rounds 3]

Warm traffic is offered at one rate, alone and beside each attack in turn, in the same run. Writes `.bench/hostile.json`
and prints a table: the part of the rate and the times the p99 that are left, and what memory has grown by. The targets:
at least 80% of the rate, at most 3 times the p99. Attackers take CPU, too: each is one process, and its rate is stated.
"""

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Any

from .attacks import ATTACKS
from .processes import attacked, resident_bytes, served
from .program import MODELS
from .warm import Figures, measure

OUT = Path(__file__).parents[2] / ".bench" / "hostile.json"
RATE_MIN, P99_MAX = 0.8, 3.0
BEGIN_S = 3.0  # for an attack to have all its connections


def beside(name: str, port: int, parent: int, options: argparse.Namespace) -> dict[str, float]:
    """Warm traffic alone and beside an attack, some times in turn."""
    alone: list[Figures] = []
    under: list[Figures] = []
    before = sum(resident_bytes(parent).values())
    peak = before
    for _ in range(options.rounds):
        alone.append(asyncio.run(measure(port, MODELS, options.rate, options.seconds)))
        with attacked(name, port):
            time.sleep(BEGIN_S)
            under.append(asyncio.run(measure(port, MODELS, options.rate, options.seconds)))
            peak = max(peak, sum(resident_bytes(parent).values()))
        time.sleep(1.0)
    return {
        "rate_alone": statistics.median(f.per_s for f in alone),
        "rate_beside": statistics.median(f.per_s for f in under),
        "rate_ratio": statistics.median(u.per_s / a.per_s for a, u in zip(alone, under, strict=True)),
        "p99_alone_ms": statistics.median(f.p99_ms for f in alone),
        "p99_beside_ms": statistics.median(f.p99_ms for f in under),
        "p99_ratio": statistics.median(u.p99_ms / a.p99_ms for a, u in zip(alone, under, strict=True)),
        "failed": float(sum(f.failed for f in under)),
        "grown_mib": (peak - before) / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(ATTACKS), help="Attacks, with commas between them.")
    parser.add_argument("--seconds", type=float, default=10.0, help="Of warm traffic, each time.")
    parser.add_argument("--rate", type=float, default=400.0, help="Warm requests a second that are offered.")
    parser.add_argument("--rounds", type=int, default=3, help="Times that each is measured; medians are shown.")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    print(f"{'attack':14} {'rate':>6} {'p99':>6} {'alone':>16} {'beside':>16} {'failed':>7} {'grown':>9}")
    with served() as (port, parent):
        asyncio.run(measure(port, MODELS, options.rate, 3.0))  # loads the models
        for name in options.only.split(","):
            figures = found[name] = beside(name, port, parent, options)
            good = figures["rate_ratio"] >= RATE_MIN and figures["p99_ratio"] <= P99_MAX
            print(
                f"{name:14} {figures['rate_ratio']:6.2f} {figures['p99_ratio']:6.2f} "
                f"{figures['rate_alone']:6.0f}/s {figures['p99_alone_ms']:5.1f}ms "
                f"{figures['rate_beside']:6.0f}/s {figures['p99_beside_ms']:5.1f}ms "
                f"{figures['failed']:7.0f} {figures['grown_mib']:5.1f} MiB  {'ok' if good else 'TOO MUCH'}",
                flush=True,
            )
            print(f"{'':14} {' '.join((ATTACKS[name].__doc__ or '').split())}", flush=True)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"options": vars(options), "attacks": found}, indent=1))


if __name__ == "__main__":
    main()
