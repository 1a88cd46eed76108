"""The token that requests to the admin interface show over TCP."""

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path

from modelplex.errors import CredentialsError

TOKEN_BYTES_MIN = 20
TOKEN_BYTES_MAX = 1024

_TOKEN = re.compile(r"[\x21-\x7e]+")


def read_token(path: str | Path) -> str:
    """What the file has, in one line; if there is no file, it is made, for this user alone, with a random one.

    Raises `CredentialsError` if others could read or change it, or what it has is no token.
    """
    with contextlib.suppress(FileExistsError):
        _make(path)
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise CredentialsError(f"The token file {path} cannot be read: {error.strerror}.") from error
    try:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            raise CredentialsError(f"The token file {path} must be a plain file.")
        if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise CredentialsError(f"The token file {path} must be this user's alone (chmod 600).")
        token = os.read(opened, TOKEN_BYTES_MAX + 2).decode("latin-1").strip()
    finally:
        os.close(opened)
    if _TOKEN.fullmatch(token) is None or not TOKEN_BYTES_MIN <= len(token) <= TOKEN_BYTES_MAX:
        raise CredentialsError(
            f"The token file {path} must have one line of {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} letters, digits or "
            "signs. Without the file one is made."
        )
    return token


def _make(path: str | Path) -> None:
    """Raises FileExistsError, or `CredentialsError`."""
    try:
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise
    except OSError as error:
        raise CredentialsError(f"The token file {path} cannot be made: {error.strerror}.") from error
    with os.fdopen(opened, "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
