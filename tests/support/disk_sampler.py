"""What there is in a folder, and how much room it takes while something goes on in it."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

PAUSE_S = 0.02


def there(*paths: Path) -> list[bool]:
    """Which of these exist."""
    return [path.exists() for path in paths]


def room_bytes(folder: Path) -> int:
    """What its files and folders take on the disk; those that go meanwhile count for nothing."""
    total = 0
    with contextlib.suppress(FileNotFoundError):
        for item in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):
                total += item.stat(follow_symlinks=False).st_blocks * 512
                if item.is_dir(follow_symlinks=False):
                    total += room_bytes(Path(item.path))
    return total


class Samples(list[int]):
    """The room in bytes, again and again."""


@contextlib.contextmanager
def sampling(folder: Path) -> Iterator[Samples]:
    """Look at the folder until the end of the block."""
    samples, over = Samples(), threading.Event()

    def look() -> None:
        while not over.wait(PAUSE_S):
            samples.append(room_bytes(folder))

    thread = threading.Thread(target=look, name="disk sampler", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join(10.0)
