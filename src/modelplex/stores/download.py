"""Brings the files of one model from their source to the disk: the shell round `core/transfer.py`.

Each request is read and written by a thread of its own. Whoever breaks a download off does not wait for those that
stand still: they end at their next part or time-out, and the entry stays locked until then.
"""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from modelplex.core.transfer import BACKOFF, TRIES_MAX, Read, Transfer
from modelplex.errors import StoreConfigError, StoreError
from modelplex.stores.entry import BLOCK_BYTES, Entry
from modelplex.stores.source import RangesNotSupportedError, RemoteFile, Source
from modelplex.threads import in_thread

# Requests for one file at a time, and files of one model at a time.
REQUESTS_MAX = 10
FILES_MAX = 4

# How often it is looked whether further requests pay.
TICK_S = 0.05

# With how many requests to begin a file, by source, as this process has found it.
_requests_good: dict[str, int] = {}

_threads = ThreadPoolExecutor(64, thread_name_prefix="modelplex-fetch")


async def download(source: Source, files: Sequence[RemoteFile], entry: Entry, told: Callable[[int], None]) -> None:
    """Fill an entry. What has arrived stays there if this is broken off, and is not read again.

    Args:
        source: where from.
        files: what.
        entry: where to, locked exclusively; complete when this returns.
        told: called with the number of bytes that are there, now and then.

    Raises:
        FileChangedError: the source has another version by now.
        StoreError: it does not answer, or not with whole files, after several tries.
        OSError: the disk is full, or cannot be written.
    """
    arrived = entry.arrived()
    bytes_there = dict.fromkeys(range(len(files)), 0)
    few = asyncio.Semaphore(FILES_MAX)

    def tell(number: int, size_bytes: int) -> None:
        bytes_there[number] = size_bytes
        told(sum(bytes_there.values()))

    async def fetch(number: int, file: RemoteFile) -> None:
        async with few:
            fresh = await in_thread(_threads, lambda: entry.make_partial(file))
            there = {} if fresh else arrived.get(number, {})
            job = _Job(source, file, number, entry, tell)
            try:
                await (_FileDownload(job, there).run() if file.version else _in_one(job))
            except RangesNotSupportedError:
                await _in_one(job)

    await _all(fetch(number, file) for number, file in enumerate(files))
    await in_thread(_threads, lambda: entry.finish(files))


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be brought where; `tell` is called with the file's number and the bytes of it that are there."""

    source: Source
    file: RemoteFile
    number: int
    entry: Entry
    tell: Callable[[int, int], None]

    @property
    def name(self) -> str:
        return f"{self.source.name}/{self.file.key}"

    def block_bytes(self, block: int) -> int:
        return min(BLOCK_BYTES, self.file.size_bytes - block * BLOCK_BYTES)


async def _in_one(job: _Job) -> None:
    """By one answer that has it all: there are no ranges, or no version to tell whether two answers are of one file."""
    for tries in itertools.count(1):
        try:
            await _FileDownload(job, (), in_one=True).run()
            break
        except StoreError as error:
            if tries == TRIES_MAX or isinstance(error, StoreConfigError):
                raise
            await asyncio.sleep(BACKOFF.delay_s(tries))


class _FileDownload:
    """One file on its way, by as many requests at a time as pay; or by one, which is not tried again."""

    def __init__(self, job: _Job, arrived: Iterable[int], *, in_one: bool = False) -> None:
        self._job = job
        there = set(arrived)
        self._bytes = sum(map(job.block_bytes, there))
        self._transfer = Transfer(
            job.file.size_bytes,
            BLOCK_BYTES,
            there,
            1 if in_one else REQUESTS_MAX,
            requests_first=_requests_good.get(job.source.name, 1),
            tries_max=1 if in_one else TRIES_MAX,
        )
        self._lock = threading.Lock()  # for the two above, which the threads of all requests change
        self._over = threading.Event()
        self._requests: dict[asyncio.Future[None], int] = {}

    async def run(self) -> None:
        self._begin(self._transfer.start())
        try:
            while self._requests:
                ended, _ = await asyncio.wait(self._requests, timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
                for request in ended:
                    self._ended(request, self._requests.pop(request))
                with self._lock:
                    joining = self._transfer.tick(time.monotonic())
                self._begin(joining)
                self._job.tell(self._job.number, self._bytes)
            _requests_good[self._job.source.name] = self._transfer.requests_good
        finally:
            self._over.set()
            for request in self._requests:
                request.cancel()

    def _begin(self, reads: Iterable[Read]) -> None:
        for read in reads:
            self._job.entry.hold()
            request = _threads.submit(self._request, read)
            request.add_done_callback(lambda _: self._job.entry.release())  # also if it never began
            self._requests[asyncio.wrap_future(request)] = read.request

    def _ended(self, request: "asyncio.Future[None]", number: int) -> None:
        error = request.exception()
        if error is not None and (isinstance(error, StoreConfigError) or not isinstance(error, StoreError)):
            raise error
        with self._lock:
            reads = self._transfer.over(number)
        if reads is None:
            raise StoreError(f"{self._job.name} could not be read, in several tries: {error}") from error
        self._begin(reads)

    # In threads

    def _request(self, read: Read) -> None:
        if self._over.wait(read.delay_s):
            return
        job, at = self._job, read.start
        with job.entry.writing(job.file, job.number) as writer:
            for part in job.source.stream(job.file, read.start, read.end):
                if at + len(part) > read.end:
                    raise StoreError(f"the answer goes on after the {read.end - read.start} bytes that were asked for")
                at += len(part)
                for block in writer.write(at - len(part), part):
                    if not self._arrived(read.request, block):
                        return
                if self._over.is_set():
                    return
        raise StoreError(f"the answer broke off after {at - read.start} of {read.end - read.start} bytes")

    def _arrived(self, request: int, block: int) -> bool:
        """A block has been written. Whether the request is to go on."""
        with self._lock:
            self._bytes += self._job.block_bytes(block)
            return self._transfer.arrived(request, time.monotonic())


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all of it. When one fails, or this is cancelled, the others are cancelled and waited for."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
