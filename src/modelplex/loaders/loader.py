"""What a loader of one format must be."""

from pathlib import Path
from typing import Any, Protocol

from modelplex.loaded import Loaded


class FileLoader(Protocol):
    """A module-level function `load` of one module of this package; blocking, so it runs in a thread."""

    def __call__(self, path: Path, *, trusted: bool, **options: Any) -> Loaded:
        """Load the model in a file, or in a folder.

        Args:
            path: the file or folder; others may be reading it, nobody writes it.
            trusted: whether code in the file may run: whoever can write it is trusted.
            options: those of the format, each with a default.

        Raises:
            UnsafeModelFileError: the file could do harm; the message says by what, and what would be right.
            InvalidModelFileError: the file is not of this format, or damaged.
        """
        ...
