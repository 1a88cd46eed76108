"""What a store of models must do."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a model, as its source has it now.

    Attributes:
        key: what its source calls it.
        path: where it goes in the model's folder, relative, with "/"; its name if the model is this one file.
        size_bytes: its size.
        version: changes whenever its content does: the ETag, or else the time of its last change; empty if unknown.
    """

    key: str
    path: str
    size_bytes: int
    version: str


class FileChangedError(Exception):
    """The file is no longer the version that was asked for, or is gone."""


class RangesNotSupportedError(Exception):
    """The source answers with whole files only."""


class Source(Protocol):
    """Files by their keys. A key is a path with "/" relative to the source's own root.

    Attributes:
        name: what it is called in messages and in the keys of the disk cache, without credentials; a URL.
    """

    name: str

    def place(self, key: str) -> Path | None:
        """Where that file or folder lies on this machine, if it does, so that nobody copies it; else None.

        Raises `UnsafeModelFileError` if a link leads to it from elsewhere.
        """
        ...

    async def files(self, key: str) -> Sequence[RemoteFile]:
        """The file of that key, or all those below it if it ends with "/".

        Raises FileNotFoundError if there is none, `StoreError` if the source does not answer.
        """
        ...

    def stream(self, file: RemoteFile, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to before `end`, in parts of any size, fewer if the connection ends early; blocking.

        Raises `FileChangedError`, `RangesNotSupportedError`, or `StoreError`.
        """
        ...

    async def read(self, file: RemoteFile, start: int, end: int) -> bytes:
        """The same as one, all of them, for small files."""
        ...

    def list(self, prefix: str) -> AsyncIterator[str]:
        """The keys that begin with a prefix, in no certain order. Raises `StoreConfigError` if it cannot list."""
        ...
