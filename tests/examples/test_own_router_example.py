"""The example of a request router of one's own, run as its docstring says."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_program_keeps_each_customer_on_one_replica() -> None:
    ran = subprocess.run([sys.executable, EXAMPLES / "own_router.py"], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    first, second = ran.stdout.splitlines()
    assert first == "replicas for each customer: 1"
    assert int(second.removeprefix("replicas in use: ")) > 1
    assert "request_router_class" not in ran.stderr
