"""The example of autoscaling, run as its docstring says."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_replicas_come_with_the_load_and_go_without() -> None:
    ran = subprocess.run([sys.executable, EXAMPLES / "autoscaling.py"], capture_output=True, text=True, timeout=150)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "replicas at first: 1",
        "replicas under load: 3",
        "all were answered: True",
        "replicas when nobody asks: 0",
        "and the next request waits for one: sun in the south",
    ]
