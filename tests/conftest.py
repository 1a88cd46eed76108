"""What lets several processes run tests side by side."""

import os
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest


def pytest_configure() -> None:
    """Each has a folder for temporary files of its own: what runs on a machine is found by its folder there."""
    if (worker := os.environ.get("PYTEST_XDIST_WORKER")) is not None:
        folder = Path(tempfile.gettempdir()) / f"mp{os.getuid()}{worker}"  # short: sockets are in it
        folder.mkdir(mode=0o700, exist_ok=True)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """A report travels between processes; what tests have logged may be no Unicode."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report
