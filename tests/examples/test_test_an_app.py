"""The application with its tests, run as its docstring says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]


def run_its_tests(folder: Path, text: str) -> tuple[int, str]:
    (folder / "test_an_app.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "modelplex.pytest_plugin", "-p", "no:cacheprovider", "."]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    return ended.returncode, ended.stdout


def test_its_tests_pass(tmp_path: Path) -> None:
    code, output = run_its_tests(tmp_path, (ROOT / "examples" / "test_an_app.py").read_text())
    assert code == 0, output
    assert "5 passed" in output


def test_its_tests_find_a_mistake(tmp_path: Path) -> None:
    text = (ROOT / "examples" / "test_an_app.py").read_text()
    code, output = run_its_tests(tmp_path, text.replace("max_num_models_per_replica=2", "max_num_models_per_replica=3"))
    assert code == 1, output
    assert "1 failed, 4 passed" in output
