"""A folder on this machine, or one that is mounted: its files are used where they lie."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path, PurePosixPath

from modelplex.errors import StoreError, UnsafeModelFileError
from modelplex.stores.source import FileChangedError, RemoteFile

_PART_BYTES = 4 * 2**20


class FolderSource:
    """Files below a folder. Links may point anywhere inside of it, and nowhere else."""

    def __init__(self, folder: str | Path) -> None:
        self._root = Path(folder).expanduser().absolute()
        self.name = self._root.as_uri()

    async def files(self, key: str) -> Sequence[RemoteFile]:
        return await asyncio.to_thread(self._files, key)

    def _files(self, key: str) -> list[RemoteFile]:
        path = self.place(key)
        if not key.endswith("/"):
            if not path.is_file():
                raise FileNotFoundError(f"{path} does not exist")
            return [_remote_file(key, path.name, path)]
        below = (p for p in sorted(path.rglob("*")) if p.is_file())
        names = [p.relative_to(path).as_posix() for p in below]
        if not names:
            raise FileNotFoundError(f"{path} has no files")
        return [_remote_file(key + name, name, self.place(key + name)) for name in names]

    def stream(self, file: RemoteFile, start: int, end: int) -> Iterator[bytes]:
        path = self.place(file.key)
        for at in range(start, end, _PART_BYTES):
            yield _part(path, file, at, min(end, at + _PART_BYTES))

    async def read(self, file: RemoteFile, start: int, end: int) -> bytes:
        return b"".join(await asyncio.to_thread(lambda: list(self.stream(file, start, end))))

    async def list(self, prefix: str) -> AsyncIterator[str]:
        folder = prefix.rpartition("/")[0]
        for key in await asyncio.to_thread(self._keys, folder):
            if key.startswith(prefix):
                yield key

    def _keys(self, folder: str) -> Sequence[str]:
        keys = []
        for place, _, names in os.walk(self.place(folder)):
            inside = PurePosixPath(Path(place).relative_to(self._root).as_posix())
            keys += [(inside / name).as_posix() for name in names]
        return keys

    def write(self, key: str, data: bytes) -> None:
        """Put a small file in place of the one that is there, as a whole; blocking. Its folder must be there.

        Raises `UnsafeModelFileError` if a link leads out of this folder, `StoreError` if it cannot be written.
        """
        path = self.place(key).resolve()
        beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.new")
        try:
            try:
                beside.write_bytes(data)
                os.replace(beside, path)
            finally:
                beside.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}") from error

    def place(self, key: str) -> Path:
        """Where a file or folder lies. `UnsafeModelFileError` if a link leads out of this folder."""
        path = self._root / key
        if not path.resolve().is_relative_to(self._root.resolve()):
            raise UnsafeModelFileError(f"{path} leads out of {self._root}: links may only point inside of it.")
        return path


def _remote_file(key: str, name: str, path: Path) -> RemoteFile:
    stat = path.stat()
    return RemoteFile(key, name, stat.st_size, f"{stat.st_mtime_ns}-{stat.st_ino}")


def _part(path: Path, file: RemoteFile, start: int, end: int) -> bytes:
    try:
        with path.open("rb") as opened:
            stat = os.fstat(opened.fileno())
            if f"{stat.st_mtime_ns}-{stat.st_ino}" != file.version:
                raise FileChangedError(str(path))
            return os.pread(opened.fileno(), end - start, start)
    except FileNotFoundError as error:
        raise FileChangedError(str(path)) from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
