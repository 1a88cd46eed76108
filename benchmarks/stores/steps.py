"""What is measured, in steps that take turns; each runs in a process of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.dataplane.processes import BenchmarkError
from benchmarks.dataplane.systems import ROOT

Figures = dict[str, float]

MIB = 2**20
TIMEOUT_S = 1800.0
LOG_TAIL_LINES = 25


@dataclass(frozen=True)
class Sizes:
    """How large what is measured is. `replicas` share one model; `is_quick` leaves cases out."""

    object_bytes: int
    model_bytes: int
    replicas: int
    is_quick: bool = False


@dataclass(frozen=True)
class Step:
    """One measurement: the title of the table that it is for, and what answers its figures, by system."""

    table: str
    name: str
    measure: Callable[[], Mapping[str, Figures]]


Group = Callable[[Path, Sizes], AbstractContextManager[list[Step]]]
"""Prepares what its steps need, in a folder that is gone later, and ends it."""


class Stopwatch:
    """Wall and CPU seconds since it was made. The CPU's are those of all threads of this process."""

    def __init__(self) -> None:
        self._began_s = time.perf_counter()
        self._cpu_s = time.process_time()

    def figures(self, what: str) -> Figures:
        return {
            f"{what}, s": time.perf_counter() - self._began_s,
            f"{what}, CPU s": time.process_time() - self._cpu_s,
        }


def in_process(target: str, *arguments: Any, environment: Mapping[str, str] | None = None) -> Any:
    """Call `module:function` of this package in a fresh process. Arguments and the answer are such as JSON has.

    Raises BenchmarkError with the end of what the process wrote, if it fails.
    """
    variables = dict(os.environ if environment is None else environment)
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), *(path for path in sys.path if path)])
    command = [sys.executable, "-m", "benchmarks.stores.in_process", target, json.dumps(arguments)]
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"{target} {arguments} took more than {TIMEOUT_S:g} s") from error
    if done.returncode != 0:
        tail = done.stderr.splitlines()[-LOG_TAIL_LINES:]
        raise BenchmarkError("\n".join([f"{target} {arguments} ended with {done.returncode}:", *tail]))
    return json.loads(done.stdout.splitlines()[-1])
