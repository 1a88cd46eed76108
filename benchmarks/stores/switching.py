"""From one model to the next of the same architecture: what benchmarks/skeletons.py measures, in rounds."""

import contextlib
import functools
import importlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .steps import Figures, Sizes, Step, in_process

RUNS, RUNS_QUICK = 15, 3
_MODULE = "benchmarks.skeletons"


@contextlib.contextmanager
def group(folder: Path, sizes: Sizes) -> Iterator[list[Step]]:
    names = in_process("switching:cases")
    runs = RUNS_QUICK if sizes.is_quick else RUNS
    yield [
        Step(
            "Switching between models of one architecture",
            name,
            functools.partial(in_process, "switching:measure", name, runs),
        )
        for name in (names[:1] if sizes.is_quick else names)
    ]


def cases() -> list[str]:
    return list(importlib.import_module(_MODULE).CASES)


def measure(case: str, runs: int) -> dict[str, Figures]:
    """Both ways in turns, in this process: medians of the runs."""
    skeletons = importlib.import_module(_MODULE)
    with tempfile.TemporaryDirectory() as folder:
        size_mb, constructed_ms, switched_ms = skeletons.measure(skeletons.CASES[case], Path(folder), runs)
    what = f"{case}, {size_mb:.3g} MB, ms"
    return {"modelplex": {what: switched_ms}, "constructed": {what: constructed_ms}}
