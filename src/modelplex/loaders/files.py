"""What loaders have in common: the file of a model in its folder, libraries that may be missing, damaged files."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from modelplex.errors import InvalidModelFileError, ModelplexError
from modelplex.file_safety import check_links


def model_file(path: Path, *endings: str, trusted: bool) -> Path:
    """The file to load: the path itself, or in a folder the one called `model` or the only one, of these endings.

    Raises:
        FileNotFoundError: there is nothing at this path.
        InvalidModelFileError: the folder has no such file, or several.
        UnsafeModelFileError: a link in the folder leads out of it.
    """
    if not path.is_dir():
        path.stat()
        return path
    check_links(path, trusted=trusted)
    found = sorted(p for p in path.iterdir() if p.suffix in endings and p.is_file())
    named = [p for p in found if p.stem == "model"]
    if len(chosen := named or found) != 1:
        what = " or ".join(f"*{ending}" for ending in endings)
        there = ", ".join(p.name for p in found) or "none"
        raise InvalidModelFileError(
            f"The folder '{path.name}' must have one file {what}, or one whose name is 'model', to be a model; it has "
            f"{there}."
        )
    return chosen[0]


@contextlib.contextmanager
def needs(extra: str, *packages: str) -> Iterator[None]:
    """Round imports: says what to install where one is missing, the extra and packages that it does not include."""
    try:
        yield
    except ModuleNotFoundError as error:
        what = " ".join([f'"modelplex[{extra}]"', *packages])
        raise ImportError(f"Loading this model needs {error.name}: pip install {what}", name=error.name) from error


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Round the call of a library that reads a file: what it raises for a damaged one is seldom written down."""
    try:
        yield
    except (ModelplexError, OSError, MemoryError, ImportError):
        raise  # of a file that is not there, or no room, or what a trusted pickle imports: the file is no worse for it
    except Exception as error:
        raise InvalidModelFileError(f"'{path.name}' is not {what}, or it is damaged: {_first_line(error)}") from error


def one_of(option: str, value: str, allowed: Sequence[str]) -> str:
    """Answer the value of an option, or raise ValueError that says which there are."""
    if value not in allowed:
        raise ValueError(f"{option} must be one of {', '.join(allowed)}, got {value!r}.")
    return value


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
