"""The processes of the one system that runs: started, found, measured and ended.

Servers make daemons and rename their processes, so neither a group, a session nor a mark in the environment finds all
of them. Instead this process adopts their orphans: whatever stands below it belongs to the system.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

_PR_SET_CHILD_SUBREAPER = 36
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_POLL_S = 0.005
START_TIMEOUT_S = 120.0
END_TIMEOUT_S = 20.0
LOG_TAIL_LINES = 25


class BenchmarkError(Exception):
    """A measurement that is not valid. Its text says of which system, and has the end of its log."""


def exit_after(run: Callable[[], Sequence[str] | None]) -> None:
    """Measure, and end the program with what failed of it, if anything did."""
    try:
        if failures := run():
            sys.exit("\n".join(["some measurements failed:", *failures]))
    except BenchmarkError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def adopt_orphans() -> None:
    """From now on, descendants whose parents end become children of this process (Linux's prctl)."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from its third field on, the state; the second may have blanks in it. Empty if there is none."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def descendants() -> list[int]:
    """The process ids of all that stand below this process."""
    parents = {int(name): stat[1] for name in os.listdir("/proc") if name.isdecimal() and (stat := _stat(int(name)))}
    below = {str(os.getpid())}
    while more := {str(pid) for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return [int(pid) for pid in below if int(pid) != os.getpid()]


def cpu_s() -> float:
    """Seconds of CPU that the system's living processes have used, in user code and in the kernel."""
    return sum(int(stat[11]) + int(stat[12]) for pid in descendants() if (stat := _stat(pid))) / _TICKS_PER_S


def memory_bytes(field: str) -> dict[int, int]:
    """By process id, a field of smaps_rollup: `Pss` shares common pages among those that map them, `Rss` does not."""
    found = {}
    for pid in descendants():
        with suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(f"{field}:"):
                    found[pid] = int(line.split()[1]) * 1024
    return found


def end_all() -> None:
    """Kill and reap all that stand below this process. Raises BenchmarkError if some stay."""
    deadline = time.monotonic() + END_TIMEOUT_S
    while pids := descendants():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"processes that do not end: {pids}")
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(_POLL_S)


class Running:
    """A system that was started in a folder of its own, with the time in seconds until its first answer.

    As a context manager it leaves neither processes nor files behind, whatever ends it.
    """

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))  # short: Unix sockets are made in it
        self.first_answer_s = 0.0
        self._log = log

    def start(self, command: list[str], environment: dict[str, str], request: urllib.request.Request) -> None:
        """Return at the first 200. Raises BenchmarkError if the command ends, or START_TIMEOUT_S pass, without one."""
        # Temporary files and what is written to the home folder go away with the folder.
        own = {"TMPDIR": str(self.folder), "HOME": str(self.folder), **environment}
        began = time.monotonic()
        with self._log.open("w") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=os.environ | own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C reaches this process alone
            )
        while not _answers(request):
            if process.poll() is not None:
                raise self.error(f"{command[0]} ended with exit code {process.returncode}")
            if time.monotonic() - began > START_TIMEOUT_S:
                raise self.error(f"no 200 within {START_TIMEOUT_S:g} s")
            time.sleep(_POLL_S)
        self.first_answer_s = time.monotonic() - began

    def error(self, what: str) -> BenchmarkError:
        tail = self._log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:] if self._log.exists() else []
        return BenchmarkError("\n".join([f"{self.name}: {what}. The end of {self._log}:", *tail]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | types.TracebackType | None) -> None:
        end_all()
        shutil.rmtree(self.folder, ignore_errors=True)


def _answers(request: urllib.request.Request) -> bool:
    try:
        with urllib.request.urlopen(request, timeout=START_TIMEOUT_S) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):  # refused, reset, or any status but 200
        return False
