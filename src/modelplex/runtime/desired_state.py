"""What is wanted, on disk: the next controller goes on from it when one has died."""

import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modelplex import errors
from modelplex.config import HTTPOptions
from modelplex.runtime import payload
from modelplex.runtime.app_spec import AppSpec


@dataclass(frozen=True)
class SavedApp:
    """One application.

    Attributes:
        spec: what it is to be.
        before: what it was, while it is being changed.
        changing: whether it has not come to be that yet.
        counts: how many replicas each deployment is to have.
    """

    spec: AppSpec
    before: AppSpec | None
    changing: bool
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Saved:
    """Everything."""

    http: HTTPOptions
    apps: Sequence[SavedApp]


class DesiredState(Protocol):
    """Where it is kept."""

    def save(self, apps: Sequence[SavedApp]) -> None:
        """These are all."""


class NotKept:
    """For a controller that nobody goes on for."""

    def save(self, apps: Sequence[SavedApp]) -> None:
        pass


class StateFile:
    """One file, which has always been written completely: it is written beside, and renamed.

    Args:
        path: of the file. Its folder must be this user's alone, since it is a pickle.
        http: kept with it.
    """

    def __init__(self, path: Path, http: HTTPOptions) -> None:
        self._path = path
        self._http = http
        self._written: list[SavedApp] | None = None

    def save(self, apps: Sequence[SavedApp]) -> None:
        if self._written == list(apps):
            return
        data = payload.dumps(Saved(self._http, list(apps)))
        handle, name = tempfile.mkstemp(prefix=self._path.name, dir=self._path.parent)
        try:
            with open(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self._path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        self._written = list(apps)

    @staticmethod
    def read(path: Path) -> Saved | None:
        """What was saved; None if nothing was. Raises `ModelplexError` if it cannot be read."""
        try:
            saved = payload.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except Exception as error:
            raise errors.ModelplexError(
                f"{path} cannot be read: {error!r}. Remove it to start with nothing."
            ) from error
        if not isinstance(saved, Saved):
            raise errors.ModelplexError(f"{path} is not a state file. Remove it to start with nothing.")
        return saved
