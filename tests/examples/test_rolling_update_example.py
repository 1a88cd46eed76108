"""The example of a rolling update, run as its docstring says."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_no_request_is_lost_and_no_model_is_cold() -> None:
    ran = subprocess.run([sys.executable, EXAMPLES / "rolling_update.py"], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert ran.stdout.splitlines() == [
        "answers of both versions: True",
        "afterwards: two",
        "requests that met a cold model: 0",
    ]
