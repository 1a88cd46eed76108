"""Files out of the system's memory, so that the next read of them is one of the disk; or into it."""

import ctypes
import mmap
import os
from pathlib import Path

from benchmarks.dataplane.processes import BenchmarkError

_PART_BYTES = 2**24
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


def drop(path: Path) -> None:
    """Raises BenchmarkError if the system keeps some of the file, such as what a process has mapped."""
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is not on the disk yet stays in memory
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if left := cached_pages(path):
        raise BenchmarkError(f"{left} pages of {path} stay in memory")


def fill(path: Path) -> None:
    """Read all of it."""
    with path.open("rb", buffering=0) as file:
        while file.read(_PART_BYTES):
            pass


def cached_pages(path: Path) -> int:
    """How many pages of a file the system has in memory."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        address = _libc.mmap(None, size_bytes, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    try:
        pages = ctypes.create_string_buffer(-(-size_bytes // mmap.PAGESIZE))
        if _libc.mincore(address, size_bytes, pages) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
        return sum(page & 1 for page in pages.raw)
    finally:
        _libc.munmap(address, size_bytes)
