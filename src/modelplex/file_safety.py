"""What could do harm in a model's file before one byte of it is loaded: zip bombs, and links that leave its folder."""

import zipfile
from pathlib import Path

from modelplex.errors import InvalidModelFileError, UnsafeModelFileError

# An archive is refused if it unpacks to more than this many times its own size, unless that is little anyhow. Weights
# hardly shrink: those of a large forest do to a fifth. A bomb is a thousand times its size, or more with overlaps.
ZIP_RATIO_MAX = 20
ZIP_HARMLESS_BYTES = 64 * 2**20
ZIP_MEMBERS_MAX = 200_000

TRUST = "If you trust whoever can write it, load it with trusted=True."


def zip_members(path: Path, *, trusted: bool, advice: str = TRUST) -> list[str]:
    """The names in a zip archive, which is found harmless. `UnsafeModelFileError` if it is not, or no zip archive.

    `advice` is what else can be done about it.
    What an archive says of its sizes is what every reader of it allocates and stops at.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise InvalidModelFileError(f"'{path.name}' is no zip archive, or damaged: {error}.") from error
    if not trusted:
        if len(members) > ZIP_MEMBERS_MAX:
            raise UnsafeModelFileError(
                f"'{path.name}' has {len(members)} members, more than {ZIP_MEMBERS_MAX}, like a zip bomb. {advice}"
            )
        # Not what the members say that they take packed: those of a bomb may overlap.
        packed, unpacked = path.stat().st_size, sum(member.file_size for member in members)
        if unpacked > max(ZIP_HARMLESS_BYTES, ZIP_RATIO_MAX * packed):
            raise UnsafeModelFileError(
                f"'{path.name}' has {packed} bytes and unpacks to {unpacked}, more than {ZIP_RATIO_MAX} times as many, "
                f"like a zip bomb. Save it without compression. {advice}"
            )
    return [member.filename for member in members]


def check_links(folder: Path, *, trusted: bool) -> None:
    """Raise `UnsafeModelFileError` if a symbolic link in a model's folder leads out of it."""
    if trusted:
        return
    root = folder.resolve()
    for path in folder.rglob("*"):  # which follows no links to folders
        if path.is_symlink() and not _target(path).is_relative_to(root):
            raise UnsafeModelFileError(
                f"'{path.relative_to(folder)}' in '{folder.name}' is a link that leads out of the model's folder. "
                f"Put the file itself in its place. {TRUST}"
            )


def inside(folder: Path, name: str, what: str, *, trusted: bool) -> Path:
    """The file of a model's folder that a file in it names. `UnsafeModelFileError` if it lies elsewhere."""
    path = folder / name
    if not name or "\0" in name or not (trusted or _target(path).is_relative_to(folder.resolve())):
        raise UnsafeModelFileError(f"{what} names the file {name!r}, which is not in the model's folder. {TRUST}")
    if not path.is_file():
        raise InvalidModelFileError(f"{what} names the file {name!r}, which is not there.")
    return path


def _target(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a circle of links leads nowhere
        return Path("/")
