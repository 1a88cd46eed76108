"""A source of files in memory, whose answers a test can spoil."""

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from modelplex.errors import StoreError
from modelplex.stores.source import FileChangedError, RangesNotSupportedError, RemoteFile

# What a test may do to one answer: it gets the request's number, its first byte, and the bytes, and answers parts.
Spoil = Callable[[int, int, bytes], Iterator[bytes]]


class MemorySource:
    """Attributes:
    contents: files by their keys.
    versions: of those that are not as the content says.
    requests: the ranges that were asked for, by key.
    spoil: what becomes of an answer.
    """

    def __init__(self, contents: dict[str, bytes], *, name: str = "memory://models") -> None:
        self.name = name
        self.contents = contents
        self.versions: dict[str, str] = {}
        self.requests: list[tuple[str, int, int]] = []
        self.spoil: Spoil = lambda number, start, data: iter([data])
        self.away = False
        self.ranges = True
        self._lock = threading.Lock()

    def place(self, key: str) -> None:
        return None

    async def files(self, key: str) -> Sequence[RemoteFile]:
        if self.away:
            raise StoreError(f"{self.name} does not answer")
        if not key.endswith("/"):
            if key not in self.contents:
                raise FileNotFoundError(f"{key} does not exist")
            return [self._file(key, key.rpartition("/")[2])]
        found = sorted(k for k in self.contents if k.startswith(key))
        if not found:
            raise FileNotFoundError(f"{key} has no files")
        return [self._file(k, k.removeprefix(key)) for k in found]

    def stream(self, file: RemoteFile, start: int, end: int) -> Iterator[bytes]:
        with self._lock:
            self.requests.append((file.key, start, end))
            number = len(self.requests)
        if self._file(file.key, file.path) != file:
            raise FileChangedError(file.key)
        if not self.ranges and (start, end) != (0, file.size_bytes):
            raise RangesNotSupportedError(file.key)
        yield from self.spoil(number, start, self.contents[file.key][start:end])

    async def read(self, file: RemoteFile, start: int, end: int) -> bytes:
        return b"".join(self.stream(file, start, end))

    async def list(self, prefix: str) -> AsyncIterator[str]:
        for key in sorted(self.contents):
            if key.startswith(prefix):
                yield key

    def _file(self, key: str, path: str) -> RemoteFile:
        content = self.contents.get(key, b"")
        return RemoteFile(key, path, len(content), self.versions.get(key, f'"{hash(content)}"'))
