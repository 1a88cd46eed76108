"""The example of a user config and a health check, run as its docstring says."""

import subprocess
import sys
from pathlib import Path

import pytest
from served import serving

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_it_is_configured_while_it_runs_and_replaced_when_it_is_ill() -> None:
    ran = subprocess.run([sys.executable, EXAMPLES / "user_config.py"], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "first: a - day",
        "then: a plain night",
        "refused: True",
        "still: a plain night",
        "replaced: a plain night",
    ]


def test_it_answers_over_http() -> None:
    with serving("user_config:entry", EXAMPLES) as served:
        assert served.call(path="/?text=a+plain+day").body == b"a - day"
