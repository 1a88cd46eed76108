"""The system that is attacked, and its attackers, as processes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def served(import_path: str = "benchmarks.hostile.program:app") -> Iterator[tuple[int, int]]:
    """Serve an application; answers the port, and the process that is the parent of all the others."""
    command = [sys.executable, "-m", "modelplex.cli", "run", import_path, "--app-dir", str(ROOT), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert found is not None, "it did not start"
        yield int(found[1]), process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
        assert process.stdout is not None
        process.stdout.close()


@contextlib.contextmanager
def attacked(name: str, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Attack the port until the end of the block."""
    command = [sys.executable, "-m", "benchmarks.hostile.attacks", name, str(port)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT)
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=30)


def resident_bytes(parent: int) -> dict[int, int]:
    """What a process and its children have in memory, each."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,rss="], capture_output=True, text=True, check=True).stdout
    rows = [[int(word) for word in line.split()] for line in listed.splitlines()]
    return {pid: rss * 1024 for pid, ppid, rss in rows if parent in (pid, ppid)}


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
