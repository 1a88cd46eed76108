import asyncio
import errno
import gc
import mmap
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from memory_source import MemorySource

from modelplex.errors import DiskCacheFullError, StoreError, UnsafeModelFileError
from modelplex.stores import disk_cache, entry
from modelplex.stores.disk_cache import CachedPath, DiskCache
from modelplex.stores.download import download
from modelplex.stores.entry import Entry

KB = 1024


@pytest.fixture
def source() -> MemorySource:
    return MemorySource({f"m{i}/model.bin": bytes([i]) * 20 * KB for i in range(10)})


class Killed(BaseException):
    """Nobody catches it on the way, as nobody catches SIGKILL."""


class Machine:
    """A cache as one process uses it."""

    def __init__(self, folder: Path, source: MemorySource, bytes_max: int = 10**9) -> None:
        self.cache = DiskCache(folder, bytes_max)
        self.source = source

    async def get(self, key: str) -> CachedPath:
        files = await self.source.files(key)

        async def fill(filled: Entry) -> None:
            await download(self.source, files, filled, lambda _: None)

        return await self.cache.get(self.source.name, key, files, fill)


async def test_a_model_is_fetched_once_however_many_ask(tmp_path: Path, source: MemorySource) -> None:
    machines = [Machine(tmp_path, source) for _ in range(8)]
    paths = await asyncio.gather(*(m.get(f"m{i}/model.bin") for m in machines for i in range(3)))
    assert len(source.requests) == 3
    assert {p.read_bytes() for p in paths} == {bytes([i]) * 20 * KB for i in range(3)}
    assert {p.name for p in paths} == {"model.bin"}
    assert machines[0].cache.use().models == 3


async def test_files_cannot_be_written(tmp_path: Path, source: MemorySource) -> None:
    path = await Machine(tmp_path, source).get("m1/model.bin")
    assert path.stat().st_mode & 0o777 == 0o444


async def test_a_folder_is_one_entry(tmp_path: Path) -> None:
    source = MemorySource({"m/a": b"1", "m/sub/b": b"22", "m/empty": b"", "n/a": b"3"})
    folder = await Machine(tmp_path, source).get("m/")
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == {
        "a": b"1",
        "sub/b": b"22",
        "empty": b"",
    }


async def test_a_new_version_is_another_entry_and_the_old_one_stays_as_it_is(
    tmp_path: Path, source: MemorySource
) -> None:
    machine = Machine(tmp_path, source)
    old = await machine.get("m1/model.bin")
    source.contents["m1/model.bin"] = b"new"
    new = await machine.get("m1/model.bin")
    assert (old.read_bytes(), new.read_bytes()) == (b"\x01" * 20 * KB, b"new")


async def test_the_least_recently_used_goes_when_it_is_full(tmp_path: Path, source: MemorySource) -> None:
    machine = Machine(tmp_path, source, bytes_max=100 * KB)  # two
    for i in (0, 1, 0, 2):
        await machine.get(f"m{i}/model.bin")
        gc.collect()
        os.sync()
    assert machine.cache.use().size_bytes <= 100 * KB
    source.requests.clear()
    await machine.get("m0/model.bin")
    assert not source.requests
    await machine.get("m1/model.bin")
    assert len(source.requests) == 1


async def test_what_is_in_use_stays(tmp_path: Path, source: MemorySource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_cache, "ROOM_WAIT_S", 0.1)
    machine = Machine(tmp_path, source, bytes_max=100 * KB)
    held = [await machine.get(f"m{i}/model.bin") for i in range(2)]
    with pytest.raises(DiskCacheFullError, match=r"All of .* is in use, .* of cache_bytes=102,400"):
        await machine.get("m2/model.bin")
    assert [p.read_bytes()[:1] for p in held] == [b"\x00", b"\x01"]
    del held[0]
    await machine.get("m2/model.bin")
    assert held[0].read_bytes()[:1] == b"\x01"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells whether somebody has a file open")
async def test_nothing_goes_in_vain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all that nobody uses would not make enough room, it stays."""
    monkeypatch.setattr(disk_cache, "ROOM_WAIT_S", 0.1)
    source = MemorySource({"held": bytes(60 * KB), "idle": bytes(20 * KB), "large": bytes(100 * KB)})
    machine = Machine(tmp_path, source, bytes_max=150 * KB)
    held = await machine.get("held")
    await machine.get("idle")
    gc.collect()
    with pytest.raises(DiskCacheFullError):
        await machine.get("large")
    source.requests.clear()
    await machine.get("idle")
    assert not source.requests
    del held
    gc.collect()
    await machine.get("large")


@pytest.mark.parametrize("how", ["open", "mapped"])
async def test_a_file_that_somebody_has_open_or_mapped_stays(
    tmp_path: Path, source: MemorySource, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_cache, "ROOM_WAIT_S", 0.1)
    machine = Machine(tmp_path, source, bytes_max=50 * KB)  # one
    path = await machine.get("m1/model.bin")
    opened = path.open("rb")
    used: Any = opened
    if how == "mapped":
        used = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        opened.close()
    del path
    gc.collect()
    with pytest.raises(DiskCacheFullError):
        await machine.get("m2/model.bin")
    used.close()
    await machine.get("m2/model.bin")


async def test_one_that_can_never_fit_is_refused(tmp_path: Path, source: MemorySource) -> None:
    with pytest.raises(DiskCacheFullError, match=r"does not fit into cache_bytes=10,240"):
        await Machine(tmp_path, source, bytes_max=10 * KB).get("m1/model.bin")
    assert not source.requests


async def test_what_arrived_before_a_crash_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "BLOCK_BYTES", 4 * KB)
    monkeypatch.setattr("modelplex.stores.download.BLOCK_BYTES", 4 * KB)
    source = MemorySource({"m": os.urandom(39 * KB)})
    machine = Machine(tmp_path, source)

    def breaks_off(number: int, start: int, data: bytes) -> Any:
        yield data[: 18 * KB]
        raise Killed

    source.spoil = breaks_off
    with pytest.raises(Killed):
        await machine.get("m")
    source.spoil = lambda number, start, data: iter([data])
    path = await machine.get("m")
    assert path.read_bytes() == source.contents["m"]
    assert source.requests == [("m", 0, 39 * KB), ("m", 16 * KB, 39 * KB)]


async def test_blocks_of_another_start_of_the_machine_are_not_trusted(
    tmp_path: Path, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, source)
    files = await source.files("m1/model.bin")
    place = tmp_path / entry.name_of(source.name, "m1/model.bin", files)
    place.mkdir()
    filled = Entry.open(place, exclusively=True)
    assert filled is not None
    filled.make_partial(files[0])  # zeros
    with filled.writing(files[0], 0) as writer:
        list(writer.write(0, bytes(20 * KB)))
    filled.close()
    monkeypatch.setattr(entry, "boot_id", lambda: "another")
    path = await machine.get("m1/model.bin")
    assert path.read_bytes() == source.contents["m1/model.bin"]


@pytest.mark.parametrize("damage", ["changed", "cut", "removed", "checks"])
async def test_a_damaged_file_is_dropped_and_fetched_once_more(
    tmp_path: Path, source: MemorySource, damage: str
) -> None:
    machine = Machine(tmp_path, source)
    path = await machine.get("m1/model.bin")
    path.chmod(0o644)
    if damage == "changed":
        path.write_bytes(b"x" + path.read_bytes()[1:])
    elif damage == "cut":
        os.truncate(path, 10)
    elif damage == "removed":
        path.unlink()
    else:
        (tmp_path / path.entry / "checks.json").write_text("{")
    again = await machine.get("m1/model.bin")
    assert again.read_bytes() == source.contents["m1/model.bin"]
    assert len(source.requests) == 2
    await machine.get("m1/model.bin")
    assert len(source.requests) == 2


async def test_a_file_that_was_only_touched_is_read_and_kept(tmp_path: Path, source: MemorySource) -> None:
    machine = Machine(tmp_path, source)
    path = await machine.get("m1/model.bin")
    os.utime(path, (1, 1))
    await machine.get("m1/model.bin")
    assert len(source.requests) == 1


async def test_after_a_start_of_the_machine_files_are_read_before_they_are_used(
    tmp_path: Path, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, source)
    path = await machine.get("m1/model.bin")
    stat = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as damaged:  # as a machine that lost its power may leave it
        damaged.write(bytes(8))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    await machine.get("m1/model.bin")
    assert len(source.requests) == 1, "within one start, nobody looks"
    monkeypatch.setattr(entry, "boot_id", lambda: "another")
    path = await machine.get("m1/model.bin")
    assert path.read_bytes() == source.contents["m1/model.bin"]
    assert len(source.requests) == 2


async def test_drop_if_damaged_tells_whether_it_was(tmp_path: Path, source: MemorySource) -> None:
    machine = Machine(tmp_path, source)
    path = await machine.get("m1/model.bin")
    assert not await machine.cache.drop_if_damaged(path)
    path.chmod(0o644)
    path.write_bytes(b"x")
    assert await machine.cache.drop_if_damaged(path)
    assert machine.cache.use().models == 0


@pytest.mark.parametrize("what", ["entry", "files", "file"])
async def test_a_link_in_the_cache_is_refused(tmp_path: Path, source: MemorySource, what: str) -> None:
    machine = Machine(tmp_path / "cache", source)
    path = await machine.get("m1/model.bin")
    place = {"entry": path.parent.parent, "files": path.parent, "file": path}[what]
    elsewhere = tmp_path / "elsewhere"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    with pytest.raises(UnsafeModelFileError, match="somebody else writes into this cache"):
        await machine.get("m1/model.bin")


async def test_what_is_no_entry_is_left_alone(tmp_path: Path, source: MemorySource) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "x.txt").write_text("x")
    machine = Machine(tmp_path, source, bytes_max=50 * KB)
    for i in range(3):
        await machine.get(f"m{i}/model.bin")
    assert (tmp_path / "x.txt").read_text() == "x"
    assert machine.cache.use().models == 1


async def test_what_a_crash_left_of_a_removal_goes(tmp_path: Path, source: MemorySource) -> None:
    left = tmp_path / "trash-1-x" / "files"
    left.mkdir(parents=True)
    (left / "model.bin").write_bytes(bytes(100))
    await Machine(tmp_path, source).get("m1/model.bin")
    assert not left.parent.exists()


async def test_when_the_disk_is_full_others_make_room(
    tmp_path: Path, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, source)
    await machine.get("m0/model.bin")
    gc.collect()
    allocate = entry._allocate

    def full(fd: int, size_bytes: int) -> None:
        if machine.cache.use().models > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        allocate(fd, size_bytes)

    monkeypatch.setattr(entry, "_allocate", full)
    path = await machine.get("m1/model.bin")
    assert path.read_bytes() == source.contents["m1/model.bin"]
    with pytest.raises(DiskCacheFullError, match=r"The disk of .* is full"):
        await machine.get("m2/model.bin")  # m1 is in use
    assert machine.cache.use().models == 1, "what could not be filled takes no room"


async def test_who_is_cancelled_leaves_it_to_the_next(tmp_path: Path, source: MemorySource) -> None:
    machine = Machine(tmp_path, source)
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stands_still(number: int, start: int, data: bytes) -> Any:
        loop.call_soon_threadsafe(started.set)
        yield data[: 5 * KB]
        if number == 1:
            time.sleep(0.2)
        yield data[5 * KB :]

    source.spoil = stands_still
    first = asyncio.create_task(machine.get("m1/model.bin"))
    second = asyncio.create_task(machine.get("m1/model.bin"))
    await started.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await second).read_bytes() == source.contents["m1/model.bin"]


async def test_nobody_waits_for_ever_for_a_process_that_is_stuck(
    tmp_path: Path, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_cache, "STALLED_S", 0.05)
    files = await source.files("m1/model.bin")
    place = tmp_path / entry.name_of(source.name, "m1/model.bin", files)
    place.mkdir()
    os.utime(place, (1, 1))
    stuck = Entry.open(place, exclusively=True)
    assert stuck is not None
    with pytest.raises(StoreError, match="brings nothing"):
        await Machine(tmp_path, source).get("m1/model.bin")
    stuck.close()


async def test_no_descriptor_is_left_behind(tmp_path: Path, source: MemorySource) -> None:
    machine = Machine(tmp_path, source, bytes_max=100 * KB)
    await machine.get("m0/model.bin")
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    for i in range(10):
        await machine.get(f"m{i}/model.bin")
    gc.collect()
    assert sys.platform != "linux" or len(os.listdir("/proc/self/fd")) <= before
