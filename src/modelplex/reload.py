"""`modelplex run --reload`: runs the same command without it, again each time that a Python file changes."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

POLL_S = 0.5

# Set for the command that is run over and over: its standard input closes when the process that watches files has died.
LIFELINE = "MODELPLEX_LIFELINE"


def run_reloading(arguments: list[str], folder: Path) -> int:
    """Run `modelplex` with these arguments over and over. Returns its exit code after Ctrl-C or SIGTERM.

    Args:
        arguments: the command line without `--reload`.
        folder: the Python files below it are watched.
    """
    while True:
        seen = modified(folder)
        environment = {**os.environ, LIFELINE: "stdin"}
        command = [sys.executable, "-m", "modelplex.cli", *arguments]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0, env=environment)
        try:
            while modified(folder) == seen:
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
            return child.wait()
        print("A file has changed; starting over.", file=sys.stderr)
        child.send_signal(signal.SIGINT)
        child.wait()


def end_with_parent() -> None:
    """In the command that is run over and over: interrupt it when the process that started it is gone."""
    if os.environ.pop(LIFELINE, None) is not None:
        threading.Thread(target=_interrupt_at_end_of_input, daemon=True).start()


def _interrupt_at_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGINT)


def modified(folder: Path) -> dict[Path, float]:
    """When each Python file below the folder was changed last; hidden folders, such as environments, left out."""
    found = {}
    for path in folder.rglob("*.py"):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        try:
            found[path] = path.stat().st_mtime
        except FileNotFoundError:
            continue  # an editor replaces files by renaming others
    return found
