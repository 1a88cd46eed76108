"""Where a system that outlives its commands keeps what it is, and where those that run are found."""

import contextlib
import fcntl
import hashlib
import os
import socket
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from modelplex import errors
from modelplex.config import ADMIN, CONTROL

CONNECT_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Home:
    """The folder of a system that was started by `modelplex start`."""

    folder: Path

    @classmethod
    def of(cls, folder: Path | None = None) -> "Home":
        """The folder that was given, or `MODELPLEX_HOME`, or `modelplex` where the user's programs keep their state."""
        if folder is None and (given := os.environ.get("MODELPLEX_HOME")):
            folder = Path(given)
        if folder is None:
            folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "modelplex"
        return cls(folder.resolve())  # however it is spelled, its sockets are in one place

    @property
    def state(self) -> Path:
        """What is wanted (`runtime.desired_state`)."""
        return self.folder / "state"

    @property
    def log(self) -> Path:
        return self.folder / "controller.log"

    @property
    def sockets(self) -> Path:
        """Elsewhere, since the path of a socket has at most about a hundred characters."""
        name = hashlib.sha256(str(self.folder).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"modelplex-{os.getuid()}-{name}"

    @property
    def may_have_processes(self) -> bool:
        """Whether a controller has not ended in good order: what it has started may be there."""
        return (self.sockets / CONTROL).exists() or any(self.sockets.glob("*.sock"))

    def expect_processes(self) -> None:
        """Leave them to the next controller."""
        (self.sockets / CONTROL).touch()

    def make(self) -> None:
        """Make the folders, for this user alone. Raises `ModelplexError` if they are not."""
        for folder in (self.folder, self.sockets):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                found = folder.lstat()  # anybody may put a link where the sockets are to be
            except OSError as error:
                raise errors.ModelplexError(f"{folder} cannot be made: {error.strerror}.") from error
            if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise errors.ModelplexError(
                    f"{folder} must be this user's alone (chmod 700), since it holds code to run."
                )

    def lock(self) -> TextIO:
        """Held by the one controller that there is, until the file is closed. Raises `ModelplexError`."""
        try:
            file = (self.folder / "lock").open("w")
        except OSError as error:
            raise errors.ModelplexError(f"{self.folder / 'lock'} cannot be written: {error.strerror}.") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise errors.ModelplexError(f"A controller runs already in {self.folder}.") from error
        return file

    def lock_for_good(self) -> None:
        """Until this process has ended, so that who finds it open knows that all has gone. Raises `ModelplexError`."""
        with self.lock() as file:
            os.dup(file.fileno())  # which only the end of the process closes

    @property
    def is_locked(self) -> bool:
        """Whether there is a controller, be it one that only begins or only ends."""
        try:
            self.lock().close()
        except errors.ModelplexError:
            return True
        return False


def running() -> list[Path]:
    """The folders of the systems of this user that answer."""
    found = []
    for folder in sorted(Path(tempfile.gettempdir()).glob("modelplex-*")):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == os.getuid() and answers(folder):
                found.append(folder)
    return found


def answers(folder: Path) -> bool:
    """Whether somebody listens at the admin socket of a system."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(CONNECT_TIMEOUT_S)
        try:
            sock.connect(str(folder / ADMIN))
        except OSError:
            return False
    return True
