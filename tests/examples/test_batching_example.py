"""The example of batches, run as its docstring says."""

import subprocess
import sys
from pathlib import Path

import pytest
from served import serving

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_each_model_has_whole_batches_of_its_own() -> None:
    ran = subprocess.run([sys.executable, EXAMPLES / "batching.py"], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["right: True", "batches: 2 of 8 for 2; 2 of 8 for 3"]


def test_a_request_alone_is_a_batch_too() -> None:
    with serving("batching:entry", EXAMPLES) as served:
        assert served.call("3", "/?number=5").body == b"15"
