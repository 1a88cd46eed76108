"""The files of models on this machine's disk, shared by all its processes: fetched once, bounded, right after a crash.

There is no index and no server. What there is, and how much room it takes, is what a listing of the folder says; who
fills, uses or removes an entry is what the kernel's locks say, which end with their process. `stores/entry.py` has one
entry.
"""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import shutil
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from modelplex.errors import DiskCacheFullError, StoreError, UnsafeModelFileError
from modelplex.stores import entry as entries
from modelplex.stores.entry import Entry
from modelplex.stores.source import FileChangedError, RemoteFile
from modelplex.threads import in_thread

log = logging.getLogger(__name__)

T = TypeVar("T")

# How often it is looked whether another process is done with an entry.
POLL_S = 0.02
POLL_MAX_S = 0.2

# How long to wait for somebody to stop using an entry, if all room is in use.
ROOM_WAIT_S = 15.0

# Another process that fills an entry, and that has brought nothing for so long, is not waited for any longer.
STALLED_S = 300.0

# Room is decided on in no time; whoever takes so long for it is stuck.
DECIDE_S = 60.0

_TRASH = "trash-"

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

# For all caches of this process; what they do in them is short, or writes a few MiB.
_threads = ThreadPoolExecutor(16, thread_name_prefix="modelplex-store")


class CachedPath(type(Path())):  # type: ignore[misc] # before Python 3.12, Path itself has no subclasses
    """The path of a file or folder in the cache, which stays there for as long as this object lives.

    On Linux also for as long as anybody has one of its files open or mapped. Paths that are made of it, such as
    `path / "name"`, hold nothing.

    Attributes:
        entry: the name of its entry in the cache.
        fetch_s: how long it took until it was there, whoever fetched it; 0 if it was there already.
    """

    entry: str = ""
    fetch_s: float = 0.0


@dataclass(frozen=True, slots=True)
class DiskUse:
    """What a cache holds.

    Attributes:
        models: the number of models, those on their way included.
        size_bytes: the room that they take.
    """

    models: int
    size_bytes: int


class DiskCache:
    """A folder of models, each fetched once for all processes that use it, bounded in bytes.

    Args:
        folder: its place; made if it does not exist.
        bytes_max: the room that its files may take. When it is full, the least recently used one that nobody uses goes.
    """

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self.folder = folder
        self.bytes_max = bytes_max

    async def get(
        self, source: str, key: str, files: Sequence[RemoteFile], fill: Callable[[Entry], Awaitable[None]]
    ) -> CachedPath:
        """The path of a model, which `fill` brings if it is not there; a folder if the key ends with "/".

        Args:
            source, key: whose files they are.
            files: what they have to be.
            fill: completes an entry; awaited by one process at a time.

        Raises:
            DiskCacheFullError: there is no room.
            UnsafeModelFileError: somebody has put a link into the cache.
            StoreError: another process is stuck.
            others: what `fill` raises.
        """
        path = self.folder / entries.name_of(source, key, files)
        waiting, began, is_there = _Waiting(path), time.monotonic(), True
        while True:
            entry = await self._taken(path)
            if entry is None:
                if not await self._in_thread(lambda: self._reserve(path)):
                    await waiting.for_room(self)
            elif isinstance(entry, _Busy):
                await waiting.for_others()
            elif entry.complete:
                return _cached_path(entry, key, 0.0 if is_there else time.monotonic() - began)
            else:
                try:
                    await fill(entry)
                    if entry.share():
                        return _cached_path(entry, key, time.monotonic() - began)
                except FileChangedError:
                    await self._in_thread(lambda: self._remove(path))
                    raise
                except OSError as error:
                    if error.errno not in _DISK_FULL:
                        raise
                    await self._make_room_on_disk(entry, error)
                finally:
                    entry.close()
            is_there = False

    async def newest(self, source: str, key: str) -> CachedPath | None:
        """The version of a model that was fetched last, if there is one; for when the source cannot be asked."""

        def find() -> CachedPath | None:
            versions = self.folder.glob(f"{entries.key_of(source, key)}-*-*")
            complete = [path for path in versions if (path / entries.FILES).is_dir()]
            for path in sorted(complete, key=lambda p: (p / entries.FILES).stat().st_ctime_ns, reverse=True):
                entry = self._take(path)
                if isinstance(entry, Entry) and entry.complete:
                    return _cached_path(entry, key)
                if isinstance(entry, Entry):
                    entry.close()
            return None

        return await self._in_thread(find)

    async def drop_if_damaged(self, path: CachedPath) -> bool:
        """Read a model's files again, and drop them if they are not what was fetched. Answers whether they were."""

        def check() -> bool:
            place = self.folder / path.entry
            with contextlib.suppress(FileNotFoundError):
                entry = Entry.open(place)
                if entry is None:
                    return False
                with contextlib.closing(entry):
                    if entry.matches():
                        return False
                    self._drop(entry)
            return True

        return await self._in_thread(check)

    def use(self) -> DiskUse:
        """What it holds now."""
        held = [size for _, _, size in self._listing()] if self.folder.is_dir() else []
        return DiskUse(len(held), sum(held))

    async def _taken(self, path: Path) -> "Entry | _Busy | None":
        """The same as `_take`. Who is cancelled while it runs leaves no lock behind."""
        taken: list[Entry | _Busy | None] = []
        try:
            await self._in_thread(lambda: taken.append(self._take(path)))
        except asyncio.CancelledError:
            for entry in taken:
                if isinstance(entry, Entry):
                    entry.close()
            raise
        return taken[0]

    # Entries; in a thread

    def _take(self, path: Path) -> "Entry | _Busy | None":
        """The entry, locked: shared if it is whole, else exclusively; None if there is none."""
        try:
            entry = Entry.open(path)
            if entry is None:
                return _Busy()
        except FileNotFoundError:
            return None
        try:
            if entry.complete and entry.is_whole():
                entry.touch()
                return entry
            if entry.complete:
                self._drop(entry)
                entry.close()
                return None
            if entry.lock_exclusively() and not entry.complete:
                return entry
        except BaseException:
            entry.close()
            raise
        entry.close()
        return _Busy()

    def _reserve(self, path: Path) -> bool:
        """Make an empty entry, and room for it. False if all is in use. `DiskCacheFullError` if it can never fit."""
        wanted_bytes = entries.reserved_bytes(path.name) or 0
        if wanted_bytes > self.bytes_max:
            raise DiskCacheFullError(
                f"A model of {wanted_bytes:,} bytes does not fit into cache_bytes={self.bytes_max:,} of {self.folder}."
            )
        with self._deciding():
            if path.exists():
                return True
            held_bytes = sum(size for _, _, size in self._listing())
            if not self._evict(held_bytes + wanted_bytes - self.bytes_max):
                return False
            self._make(path, wanted_bytes)
        return True

    def _make(self, path: Path, wanted_bytes: int) -> None:
        for evicts in (True, False):
            try:
                path.mkdir(0o755)
                return
            except OSError as error:
                if error.errno not in _DISK_FULL:
                    raise
                if not evicts or not self._evict(wanted_bytes):
                    raise _disk_is_full(self.folder, wanted_bytes, error) from error

    def _evict(self, excess_bytes: int, *, as_many_as_can: bool = False) -> bool:
        """Remove models that nobody uses, the least recently used first, until so much is free. Whether that is so.

        If it cannot be, none goes in vain, unless `as_many_as_can`.
        """
        listing = sorted(self._listing())
        if not as_many_as_can:
            idle_bytes = 0
            for _, path, size_bytes in listing:
                if idle_bytes >= excess_bytes:
                    break
                with _locked(path) as is_idle:
                    idle_bytes += size_bytes if is_idle else 0
            if idle_bytes < excess_bytes:
                return False
        for _, path, size_bytes in listing:
            if excess_bytes <= 0:
                break
            with _locked(path) as is_idle:
                if is_idle:
                    log.info("Evicted %s from the disk cache: %d bytes.", path, size_bytes)
                    self._remove(path)
                    excess_bytes -= size_bytes
        return excess_bytes <= 0

    def _drop(self, entry: Entry) -> None:
        """Remove an entry that is damaged. Others have it as well, and may have fetched it anew by now."""
        with self._deciding():
            if entry.is_there():
                log.warning("Dropped %s from the disk cache: its content has changed since it was fetched.", entry.path)
                self._remove(entry.path)

    def _remove(self, path: Path) -> None:
        """Take an entry away, in one step for everybody else."""
        trash = path.with_name(f"{_TRASH}{time.monotonic_ns()}-{path.name}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, trash)
            shutil.rmtree(trash, ignore_errors=True)

    def _listing(self) -> list[tuple[int, Path, int]]:
        """All entries: when each was last used, its path, the room that it takes. What a crash has left goes."""
        found = []
        for item in os.scandir(self.folder):
            if item.name.startswith(_TRASH):
                shutil.rmtree(item.path, ignore_errors=True)
            elif (size_bytes := entries.reserved_bytes(item.name)) is not None:
                with contextlib.suppress(FileNotFoundError):
                    if not item.is_dir(follow_symlinks=False):
                        continue  # nobody's entry, whatever its name
                    used = item.stat(follow_symlinks=False).st_mtime_ns
                    found.append((used, Path(item.path), size_bytes))
        return found

    @contextlib.contextmanager
    def _deciding(self) -> Iterator[None]:
        """One process at a time decides who gets room."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        deadline = time.monotonic() + DECIDE_S
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StoreError(
                            f"{self.folder} has been locked by another process for {DECIDE_S} s."
                        ) from None
                    time.sleep(0.002)
            yield
        finally:
            os.close(fd)

    async def _make_room_on_disk(self, entry: Entry, error: OSError) -> None:
        """The disk is full before the cache is. Evict as much as the entry takes, or give up."""
        needed_bytes = entries.reserved_bytes(entry.path.name) or 0
        before = self.use().size_bytes

        def evict() -> int:
            with self._deciding():
                self._evict(needed_bytes, as_many_as_can=True)
                return before - self.use().size_bytes

        if await self._in_thread(evict) <= 0:
            await self._in_thread(lambda: self._remove(entry.path))
            raise _disk_is_full(self.folder, needed_bytes, error) from error

    async def _in_thread(self, call: Callable[[], T]) -> T:
        result: T = await in_thread(_threads, call)
        return result


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock an entry for the block, if nobody uses it. Answers whether that is so."""
    entry = None
    with contextlib.suppress(FileNotFoundError, UnsafeModelFileError):
        entry = Entry.open(path, exclusively=True)
    if entry is None:
        yield False
        return
    with contextlib.closing(entry):
        yield entry.is_idle()


def _disk_is_full(folder: Path, needed_bytes: int, error: OSError) -> DiskCacheFullError:
    return DiskCacheFullError(
        f"The disk of {folder} is full: {needed_bytes:,} bytes for a model are not to be had, and nothing "
        f"else in the cache can go. ({error})",
        retry_after_s=ROOM_WAIT_S,
    )


class _Busy:
    """Somebody else fills or removes the entry."""


class _Waiting:
    """Waits for other processes, each time a little longer, and not for ever."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began = time.monotonic()
        self._poll_s = POLL_S

    async def for_others(self) -> None:
        if time.monotonic() - self._began > STALLED_S and time.time() - self._last_change() > STALLED_S:
            raise StoreError(f"Another process has been filling {self._path} for long and brings nothing.")
        await self._sleep()

    async def for_room(self, cache: DiskCache) -> None:
        if time.monotonic() - self._began > ROOM_WAIT_S:
            raise DiskCacheFullError(
                f"All of {cache.folder} is in use, {cache.use().size_bytes:,} of cache_bytes={cache.bytes_max:,}: "
                "there is no room for another model. A replica uses the files of the models that it maps.",
                retry_after_s=ROOM_WAIT_S,
            )
        await self._sleep()

    async def _sleep(self) -> None:
        await asyncio.sleep(self._poll_s)
        self._poll_s = min(POLL_MAX_S, 1.3 * self._poll_s)

    def _last_change(self) -> float:
        with contextlib.suppress(FileNotFoundError):
            return max(item.stat().st_mtime for item in [self._path, *self._path.iterdir()])
        return time.time()


def _cached_path(entry: Entry, key: str, fetch_s: float = 0.0) -> CachedPath:
    folder = entry.path / entries.FILES
    name = "" if key.endswith("/") else key.rpartition("/")[2]
    path = CachedPath(folder / name)
    path.entry, path.fetch_s = entry.path.name, fetch_s
    weakref.finalize(path, os.close, entry.take_fd()).atexit = False
    return path
