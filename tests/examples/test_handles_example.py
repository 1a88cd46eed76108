"""The example of handles, run as its docstring says."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_program_prints_what_it_has_done() -> None:
    ran = subprocess.run([sys.executable, EXAMPLES / "handles.py"], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "one result: eins",
        "a stream: z w e i",
        "of fifty at a time, some were refused: True",
        "all replicas have answered what was not: True",
    ]
