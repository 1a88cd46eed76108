"""Programs in an environment that has Modelplex and Ray Serve: told lines, and answering with JSON."""

import contextlib
import json
import os
import select
import subprocess
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from benchmarks.dataplane.processes import BenchmarkError
from benchmarks.dataplane.systems import BENCH, ROOT, RayServe

PROGRAMS = Path(__file__).with_name("programs")
ENVIRONMENT = BENCH / "cluster"
REQUIREMENTS = (*RayServe.requirements, f"--editable={ROOT}")
ANSWER_TIMEOUT_S = 120.0
END_TIMEOUT_S = 60.0
LOG_TAIL_LINES = 25


class Program:
    """One of `programs`, which ends when its input does.

    Args:
        script: its file's name.
        arguments: its own.
        environment: variables besides this process's.
        folder: of its temporary files.
        log: what else it says.
    """

    def __init__(
        self, script: str, arguments: tuple[str, ...], environment: Mapping[str, str], folder: Path, log: Path
    ) -> None:
        self.log = log
        own = {
            "PYTHONPATH": str(PROGRAMS),  # Ray's workers have it from the nodes
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "RAY_TMPDIR": str(folder),
            "RAY_USAGE_STATS_ENABLED": "0",  # they go to a host outside
            "RAY_raylet_start_wait_time_s": "90",  # for a machine that is busy with other things
            **environment,
        }
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [str(ENVIRONMENT / "bin" / "python"), str(PROGRAMS / script), *arguments],
                env=os.environ | own,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                start_new_session=True,  # so that Ctrl-C reaches the benchmark alone
            )

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """The next one. Raises BenchmarkError if it does not come."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_TIMEOUT_S)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            raise self.error("it does not answer")
        return json.loads(line)

    def error(self, what: str) -> BenchmarkError:
        tail = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return BenchmarkError("\n".join([f"{what}. The end of {self.log}:", *tail]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | types.TracebackType | None) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=END_TIMEOUT_S)
            return
        self._process.kill()
        self._process.communicate()
        if kind is None:
            raise self.error(f"it has not ended within {END_TIMEOUT_S:g} s")
