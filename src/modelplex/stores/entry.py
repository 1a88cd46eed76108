"""One model's files in the disk cache: a folder whose state is right after any crash.

    <cache>/<key>-<content>-<bytes>/     locked with flock: exclusively to fill or remove it, shared to use it
        partial/ …                       the files while they arrive
        blocks-<bytes>-<boot>            which blocks of that size have arrived since the machine started, a line each
        checks.json                      what the files have to be, written before the next step
        files/ …                         `partial/`, renamed: from here on the entry is complete

The name has the room that it takes, so that what is reserved is known from a listing of names; its `content` changes
with every version, so that a file is never replaced by another one. The kernel ends a lock with its process.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import stat
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from modelplex.errors import UnsafeModelFileError
from modelplex.stores.source import RemoteFile

BLOCK_BYTES = 2 * 2**20

# Files and folders take room in units of this on the usual file systems.
_UNIT_BYTES = 4096

_NAME = re.compile(r"([0-9a-f]{24})-([0-9a-f]{24})-(\d+)")
# Begins a line itself, and has an end: one that was cut off counts for nothing, and spoils none that follows.
_LINE = re.compile(r"(\d+) (\d+) (\d+);")

FILES = "files"
_PARTIAL = "partial"
_BLOCKS = "blocks-"
_CHECKS = "checks.json"


def key_of(source: str, key: str) -> str:
    """The part of an entry's name that all versions of a model have in common."""
    return hashlib.sha256(f"{source}\n{key}".encode()).hexdigest()[:24]


def name_of(source: str, key: str, files: Sequence[RemoteFile]) -> str:
    """The name of the entry for these files."""
    content = hashlib.sha256(json.dumps([(f.path, f.size_bytes, f.version) for f in files]).encode()).hexdigest()[:24]
    return f"{key_of(source, key)}-{content}-{_reserved_bytes(files)}"


def reserved_bytes(name: str) -> int | None:
    """The room that an entry of this name takes; None if it is no entry's name."""
    found = _NAME.fullmatch(name)
    return None if found is None else int(found[3])


def _reserved_bytes(files: Sequence[RemoteFile]) -> int:
    data = sum(-(-f.size_bytes // _UNIT_BYTES) for f in files)
    lines = sum(_blocks(f) * 40 for f in files) + sum(len(f.path) + len(f.version) + 100 for f in files)
    folders = {parent for f in files for parent in PurePosixPath(f.path).parents}
    return (data + 2 * -(-lines // _UNIT_BYTES) + len(folders) + 2) * _UNIT_BYTES


def _blocks(file: RemoteFile) -> int:
    return -(-file.size_bytes // BLOCK_BYTES)


class Entry:
    """An entry that this process has locked: shared, or exclusively. `close` ends the lock."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._holds = 0
        self._closed = False
        self._holding = threading.Lock()

    @classmethod
    def open(cls, path: Path, *, exclusively: bool = False) -> "Entry | None":
        """The entry; None if somebody has it locked otherwise.

        Raises FileNotFoundError if there is none, `UnsafeModelFileError` if somebody else has put something there.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise UnsafeModelFileError(
                f"{path} is a link, or no folder: somebody else writes into this cache."
            ) from error
        entry = cls(path, fd)
        found = os.fstat(fd)
        if found.st_uid not in (os.geteuid(), 0) or found.st_mode & stat.S_IWOTH:
            entry.close()
            raise UnsafeModelFileError(f"{path} belongs to another user, or anybody may write there.")
        if entry._lock(fcntl.LOCK_EX if exclusively else fcntl.LOCK_SH):
            return entry
        entry.close()
        return None

    def lock_exclusively(self) -> bool:
        """Turn a shared lock into an exclusive one. If that cannot be at once, the shared one may be lost as well."""
        return self._lock(fcntl.LOCK_EX)

    def share(self) -> bool:
        """Turn an exclusive lock into a shared one. It may be lost on the way."""
        return self._lock(fcntl.LOCK_SH)

    def _lock(self, kind: int) -> bool:
        try:
            fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return self.is_there()

    def is_there(self) -> bool:
        """Whether this is what its path leads to; it may have been removed, and made anew."""
        with contextlib.suppress(FileNotFoundError):
            mine, there = os.fstat(self._fd), os.stat(self.path, follow_symlinks=False)
            return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)
        return False

    def take_fd(self) -> int:
        """The descriptor that holds the lock; whoever takes it closes it."""
        fd, self._fd = self._fd, -1
        return fd

    def hold(self) -> None:
        """Keep the lock until `release`, even if it is closed before: somebody may still write."""
        with self._holding:
            self._holds += 1

    def release(self) -> None:
        with self._holding:
            self._holds -= 1
            self._close_if_over()

    def close(self) -> None:
        with self._holding:
            self._closed = True
            self._close_if_over()

    def _close_if_over(self) -> None:
        if self._closed and not self._holds and self._fd >= 0:
            os.close(self.take_fd())

    # What is in it

    @property
    def complete(self) -> bool:
        return (self.path / FILES).is_dir()

    def touch(self) -> None:
        """It is used: of all entries the one whose last use is longest ago goes first."""
        with contextlib.suppress(OSError):  # a disk that is only for reading: nothing goes there
            os.utime(self._fd)

    def is_whole(self) -> bool:
        """Whether the files of a complete entry are what was fetched; read anew if they seem to have been touched.

        Raises `UnsafeModelFileError` if there is a link where a file should be.
        """
        try:
            checks = json.loads((self.path / _CHECKS).read_bytes())
            files = [(str(f["path"]), int(f["size_bytes"]), list(f["crc32"]), f["seen"]) for f in checks["files"]]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        if not files:
            return False
        touched = [(p, size, crcs) for p, size, crcs, seen in files if self._seen(p) != seen]
        if checks.get("boot") != boot_id():  # a crash of the machine may have lost what was not written to the disk yet
            touched = [(p, size, crcs) for p, size, crcs, _ in files]
        if not touched:
            return True
        if not all(self._matches(path, size, crcs) for path, size, crcs in touched):
            return False
        with contextlib.suppress(OSError):  # a disk that is only for reading: they are read each time
            self._write_checks([(path, size, crcs) for path, size, crcs, _ in files], FILES)
        return True

    def matches(self) -> bool:
        """Whether the files are what was fetched, every byte of them."""
        try:
            checks = json.loads((self.path / _CHECKS).read_bytes())
            return all(self._matches(f["path"], f["size_bytes"], f["crc32"]) for f in checks["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _matches(self, path: str, size_bytes: int, crcs: list[int]) -> bool:
        try:
            with self._open(FILES, path) as fd:
                if os.fstat(fd).st_size != size_bytes:
                    return False
                return list(_crcs(fd, size_bytes)) == crcs
        except FileNotFoundError:
            return False

    def _seen(self, path: str, below: str = FILES) -> list[int] | None:
        try:
            with self._open(below, path) as fd:
                found = os.fstat(fd)
        except FileNotFoundError:
            return None
        return [found.st_size, found.st_mtime_ns, found.st_ino]

    # Filling it

    def partial(self, file: RemoteFile) -> Path:
        """Where a file is written while it arrives; its folder exists from now on."""
        path = self._inside(_PARTIAL, file.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def make_partial(self, file: RemoteFile) -> bool:
        """Make the file that is to be filled, unless it is there from an earlier try. Answers whether it was not.

        Raises OSError(ENOSPC) if there is no room for all of it.
        """
        fd = os.open(self.partial(file), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fresh = os.fstat(fd).st_size != file.size_bytes
            if fresh:
                os.ftruncate(fd, 0)
                _allocate(fd, file.size_bytes)
        finally:
            os.close(fd)
        return fresh

    @contextlib.contextmanager
    def writing(self, file: RemoteFile, number: int) -> Iterator["Writer"]:
        """Write parts of a file; by any number of threads at a time."""
        flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self.partial(file), flags)
        try:
            blocks_fd = os.open(self._blocks_file, flags | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                yield Writer(fd, blocks_fd, number, file.size_bytes)
            finally:
                os.close(blocks_fd)
        finally:
            os.close(fd)

    def arrived(self) -> dict[int, dict[int, int]]:
        """The checksums of the blocks that have arrived, by block, by number of the file."""
        arrived: dict[int, dict[int, int]] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in self._blocks_file.read_text(errors="replace").splitlines():
                if found := _LINE.fullmatch(line):
                    number, block, crc = map(int, found.groups())
                    arrived.setdefault(number, {})[block] = crc
        return arrived

    @property
    def _blocks_file(self) -> Path:
        return self.path / f"{_BLOCKS}{BLOCK_BYTES}-{boot_id()}"

    def finish(self, files: Sequence[RemoteFile]) -> None:
        """All files have arrived: from now on the entry is complete."""
        arrived = self.arrived()
        for file in files:
            os.chmod(self.partial(file), 0o444)
        checks = [
            (file.path, file.size_bytes, [arrived.get(number, {})[block] for block in range(_blocks(file))])
            for number, file in enumerate(files)
        ]
        self._write_checks(checks, _PARTIAL)
        os.rename(self.path / _PARTIAL, self.path / FILES)
        self._forget_blocks()

    def _write_checks(self, files: Iterable[tuple[str, int, list[int]]], below: str) -> None:
        known: list[dict[str, Any]] = [
            {"path": path, "size_bytes": size, "crc32": crcs, "seen": self._seen(path, below)}
            for path, size, crcs in files
        ]
        beside = self.path / f"{_CHECKS}.{os.getpid()}.{threading.get_ident()}"
        beside.write_text(json.dumps({"boot": boot_id(), "files": known}))
        os.replace(beside, self.path / _CHECKS)

    def _forget_blocks(self) -> None:
        for noted in self.path.glob(f"{_BLOCKS}*"):
            noted.unlink(missing_ok=True)

    # Removing it

    def is_idle(self) -> bool:
        """Whether nobody has one of its files open or mapped, as far as the system tells (Linux)."""
        return all(_nobody_has(path) for path in (self.path / FILES).rglob("*") if path.is_file())

    @contextlib.contextmanager
    def _open(self, below: str, path: str) -> Iterator[int]:
        """A descriptor of one of the files. `UnsafeModelFileError` if a link is on the way."""
        fd = os.open(self._inside(below, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    def _inside(self, below: str, path: str) -> Path:
        place = self.path
        for part in (below, *PurePosixPath(path).parts):
            place = place / part
            if place.is_symlink():
                raise UnsafeModelFileError(f"{place} is a symbolic link: somebody else writes into this cache.")
        return place


class Writer:
    """Writes what one request brings, which begins with a block, and notes each block when it is written."""

    def __init__(self, fd: int, blocks_fd: int, number: int, size_bytes: int) -> None:
        self._fd = fd
        self._blocks_fd = blocks_fd
        self._number = number
        self._size_bytes = size_bytes
        self._crc = 0

    def write(self, at: int, part: bytes) -> Iterator[int]:
        """Write a part that follows the last one. Answers the blocks that are complete with it."""
        left = memoryview(part)
        while left:
            block = at // BLOCK_BYTES
            block_end = min(self._size_bytes, (block + 1) * BLOCK_BYTES)
            piece, left = left[: block_end - at], left[block_end - at :]
            self._crc = zlib.crc32(piece, self._crc)
            while piece:
                written = os.pwrite(self._fd, piece, at)
                piece, at = piece[written:], at + written
            if at == block_end:
                line = b"\n%d %d %d;" % (self._number, block, self._crc)
                if os.write(self._blocks_fd, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._crc = 0
                yield block


def _allocate(fd: int, size_bytes: int) -> None:
    if size_bytes and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size_bytes)
    else:
        os.ftruncate(fd, size_bytes)


def _crcs(fd: int, size_bytes: int) -> Iterator[int]:
    for start in range(0, size_bytes, BLOCK_BYTES):
        yield zlib.crc32(os.pread(fd, min(BLOCK_BYTES, size_bytes - start), start))


def _nobody_has(path: Path) -> bool:
    """Linux grants a write lease only on a file that nobody has open or mapped; elsewhere the locks have to do."""
    if not hasattr(fcntl, "F_SETLEASE"):
        return True
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return False
    except OSError:  # a file system without leases, or another user's file
        return True
    finally:
        os.close(fd)
    return True


def boot_id() -> str:
    """Changes with each start of the machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
