"""Files out of the system's memory and into it."""

import mmap
import subprocess
from pathlib import Path

import pytest

from benchmarks.dataplane.processes import BenchmarkError
from benchmarks.stores.page_cache import cached_pages, drop, fill

PAGES = 100


@pytest.fixture
def file(tmp_path: Path) -> Path:
    kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True).stdout
    if kind.strip() == "tmpfs":
        pytest.skip("temporary files are kept in memory")
    path = tmp_path / "file"
    path.write_bytes(b"x" * (PAGES * mmap.PAGESIZE - 1))
    return path


def test_a_file_is_dropped_and_comes_back(file: Path) -> None:
    drop(file)
    assert cached_pages(file) == 0
    fill(file)
    assert cached_pages(file) == PAGES


def test_what_somebody_has_mapped_and_read_cannot_be_dropped(file: Path) -> None:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[0] == ord("x")
        with pytest.raises(BenchmarkError, match="stay in memory"):
            drop(file)
