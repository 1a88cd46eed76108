"""Brings the files of one model from their source to the disk: the shell round `core/transfer.py`."""

import asyncio
import contextlib
import functools
import os
import time
import zlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from modelplex.core.transfer import BACKOFF, TRIES_MAX, Read, Transfer
from modelplex.errors import StoreConfigError, StoreError
from modelplex.stores.entry import BLOCK_BYTES, Entry
from modelplex.stores.source import RangesNotSupportedError, RemoteFile, Source
from modelplex.threads import in_thread

# Requests for one file at a time, and files of one model at a time.
REQUESTS_MAX = 8
FILES_MAX = 4

# How often it is looked whether further requests pay.
TICK_S = 0.2


async def download(
    source: Source, files: Sequence[RemoteFile], entry: Entry, threads: Executor, told: Callable[[int], None]
) -> None:
    """Fill an entry. What has arrived stays there if this is broken off, and is not read again.

    Args:
        source: where from.
        files: what.
        entry: where to, locked exclusively; complete when this returns.
        threads: where files are written.
        told: called on the event loop with the number of bytes that are there, now and then.

    Raises:
        FileChangedError: the source has another version by now.
        StoreError: it does not answer, or not with whole files, after several tries.
        OSError: the disk is full, or cannot be written.
    """
    arrived = entry.arrived()
    progress = _Progress(told)
    blocks_fd = entry.open_blocks()
    few = asyncio.Semaphore(FILES_MAX)

    async def fetch(number: int, file: RemoteFile) -> None:
        async with few:
            # Closed also if this is cancelled while the thread opens it.
            with contextlib.ExitStack() as opened:

                def open_partial() -> tuple[int, bool]:
                    fd, fresh = entry.open_partial(file)
                    opened.callback(os.close, fd)
                    return fd, fresh

                fd, fresh = await in_thread(threads, open_partial)
                there = {} if fresh else arrived.get(number, {})
                await _fetch(
                    _Target(file, fd, lambda block, crc: entry.note_block(blocks_fd, number, block, crc)), there
                )

    async def _fetch(target: "_Target", there: Iterable[int]) -> None:
        # Without a version, nobody could say whether two answers are of one file: then one answer has all of it.
        ranges = bool(target.file.version)
        for failures in range(TRIES_MAX):
            if failures > 1:  # the first one may be that there are no ranges
                await asyncio.sleep(BACKOFF.delay_s(failures))
            try:
                return await _FileDownload(source, target, there if ranges else (), ranges, threads, progress).run()
            except RangesNotSupportedError as error:
                ranges, why = False, error.__cause__
        name = f"{source.name}/{target.file.key}"
        raise StoreError(f"{name} could not be read in one answer, in several tries: {why}") from why

    try:
        await _all(fetch(number, file) for number, file in enumerate(files))
    finally:
        os.close(blocks_fd)
    await in_thread(threads, lambda: entry.finish(files))


class _Progress:
    """Bytes that are there, of all files together."""

    def __init__(self, told: Callable[[int], None]) -> None:
        self._told = told
        self._bytes = 0

    def add(self, size_bytes: int) -> None:
        self._bytes += size_bytes
        self._told(self._bytes)


@dataclass(frozen=True, slots=True)
class _Target:
    """Where one file is written.

    Attributes:
        file: the file.
        fd: open for writing, as large as the file.
        note: told of each block that has been written, with its checksum; in a thread.
    """

    file: RemoteFile
    fd: int
    note: Callable[[int, int], None]

    def block_bytes(self, block: int) -> int:
        return min(BLOCK_BYTES, self.file.size_bytes - block * BLOCK_BYTES)


class _FileDownload:
    """One file on its way, by as many requests at a time as pay; by one for all of it if it has no `ranges`."""

    def __init__(
        self,
        source: Source,
        target: _Target,
        arrived: Iterable[int],
        ranges: bool,
        threads: Executor,
        progress: _Progress,
    ) -> None:
        self._source = source
        self._target = target
        self._threads = threads
        self._progress = progress
        self._ranges = ranges
        size_bytes, there = target.file.size_bytes, set(arrived)
        self._transfer = Transfer(size_bytes, BLOCK_BYTES, there, REQUESTS_MAX if ranges else 1, time.monotonic())
        self._progress.add(sum(map(target.block_bytes, there)))
        self._requests: dict[asyncio.Task[None], int] = {}

    async def run(self) -> None:
        self._begin(self._transfer.start())
        try:
            while self._requests:
                ended, _ = await asyncio.wait(self._requests, timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    self._ended(task, self._requests.pop(task))
                self._begin(self._transfer.tick(time.monotonic()))
        finally:
            await _cancel(self._requests)

    def _begin(self, reads: list[Read]) -> None:
        for read in reads:
            self._requests[asyncio.create_task(self._request(read))] = read.request

    def _ended(self, task: asyncio.Task[None], request: int) -> None:
        error = task.exception()
        if error is not None and (isinstance(error, StoreConfigError) or not isinstance(error, StoreError)):
            raise error
        if error is not None and not self._ranges:
            raise RangesNotSupportedError from error  # to begin again where it broke off
        reads = self._transfer.over(request)
        if reads is None:
            raise StoreError(f"{self._name} could not be read, in several tries: {error}") from error
        self._begin(reads)

    async def _request(self, read: Read) -> None:
        await asyncio.sleep(read.delay_s)
        writer = _Writer(self._target, read.start)
        source = self._source.stream(self._target.file, read.start, read.end)
        async with contextlib.aclosing(source), contextlib.aclosing(_one_ahead(source)) as parts:
            async for part in parts:
                for block in await in_thread(self._threads, functools.partial(writer.write, part, read.end)):
                    self._progress.add(self._target.block_bytes(block))
                    if not self._transfer.arrived(read.request):
                        return
        raise StoreError(f"{self._name} broke off after {writer.at - read.start} of {read.end - read.start} bytes")

    @property
    def _name(self) -> str:
        return f"{self._source.name}/{self._target.file.key}"


class _Writer:
    """Writes what one request brings, from the start of a block on, and sums up each block."""

    def __init__(self, target: _Target, start: int) -> None:
        self._target = target
        self.at = start
        self._crc = 0

    def write(self, part: bytes, end: int) -> list[int]:
        """The blocks that are complete with this part. Blocks. `StoreError` if there is more than was asked for."""
        if self.at + len(part) > end:
            raise StoreError(
                f"{self._target.file.key}: the answer is longer than the {end} bytes that it should end at"
            )
        complete = []
        view = memoryview(part)
        while view:
            block = self.at // BLOCK_BYTES
            block_end = block * BLOCK_BYTES + self._target.block_bytes(block)
            piece = view[: block_end - self.at]
            self._crc = zlib.crc32(piece, self._crc)
            _write(self._target.fd, piece, self.at)
            self.at += len(piece)
            view = view[len(piece) :]
            if self.at == block_end:
                self._target.note(block, self._crc)
                complete.append(block)
                self._crc = 0
        return complete


def _write(fd: int, data: memoryview, at: int) -> None:
    while data:
        written = os.pwrite(fd, data, at)
        data, at = data[written:], at + written


async def _one_ahead(stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The parts of a stream, of which the next one arrives while the last one is dealt with."""

    async def one() -> bytes | None:
        return await anext(stream, None)

    following = asyncio.create_task(one())
    try:
        while (part := await following) is not None:
            following = asyncio.create_task(one())
            yield part
    finally:
        await _cancel([following])


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all of it. When one fails, or this is cancelled, the others are cancelled and waited for."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        await _cancel(tasks)


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # whoever broke off has an error of his own
