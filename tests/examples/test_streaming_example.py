"""The example of streams, run as its docstring says."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from served import serving

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_streams_come_word_by_word_over_http() -> None:
    with serving("streaming:entry", EXAMPLES) as served:
        address = f"http://127.0.0.1:{served.port}/?words=6"
        with httpx.stream("GET", address, headers={"serve-multiplexed-model-id": "sea"}, trust_env=False) as answer:
            assert list(answer.iter_text()) == ["the ", "sea ", "is ", "wide ", "and ", "the "]
        assert served.call("war").status == 404


def test_the_program_streams_by_handles() -> None:
    ran = subprocess.run([sys.executable, EXAMPLES / "streaming.py"], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["the snow falls softly and ", "the sea "]
