"""A disk cache on a full disk, and one whose folder somebody else has been in."""

import asyncio
import contextlib
import errno
import gc
import os
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from glob import glob
from pathlib import Path
from typing import Any

import pytest
from disk_sampler import room_bytes, there
from faulty_proxy import FaultyProxy, faulty_proxy
from object_servers import RangeServer, range_server, store_url
from store_crowd import Crowd, content, mistakes, run_crowd
from store_settings import BLOCK_BYTES, impatient, small_blocks

from modelplex.errors import DiskCacheFullError, UnsafeModelFileError
from modelplex.stores.model_store import ModelStore

pytestmark = [pytest.mark.system, pytest.mark.stores]

PATTERN = "{model_id}/weights.bin"
SIZE_BYTES = 3 * BLOCK_BYTES
DISK_BYTES = 1 << 20


@pytest.fixture(scope="module")
def web() -> Iterator[RangeServer]:
    with range_server() as server:
        for n in range(20):
            server.put(f"m-{n}/weights.bin", content(f"m-{n}", "", SIZE_BYTES))
        yield server


@pytest.fixture
def proxy(web: RangeServer) -> Iterator[FaultyProxy]:
    with faulty_proxy(web.url) as proxy:
        yield proxy


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def store(proxy: FaultyProxy, web: RangeServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    small_blocks(monkeypatch)
    impatient(monkeypatch)
    return ModelStore(store_url(web, proxy.url), PATTERN, cache_dir=cache, cache_bytes="100MiB")


@pytest.fixture
def small_disk(cache: Path) -> Iterator[None]:
    """The cache is on a disk of its own, which is smaller than the cache may become."""
    cache.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}"]
    mounted = subprocess.run(["mount", *options, "modelplex-test", str(cache)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a disk can be mounted by root only: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        gc.collect()  # paths that hold something
        subprocess.run(["umount", "--lazy", str(cache)], check=True)


async def fetch_right(store: ModelStore, model_id: str) -> Path:
    path = await store.fetch(model_id)
    assert mistakes(path, model_id, {"": SIZE_BYTES}) == []
    return path


def entry_of(path: Path) -> Path:
    """The folder of the cache that a file is in."""
    return path.parent.parent


# Full


@pytest.mark.usefixtures("small_disk")
async def test_when_the_disk_is_full_models_that_nobody_uses_go(store: ModelStore, cache: Path) -> None:
    for n in range(20):
        await fetch_right(store, f"m-{n}")
    assert room_bytes(cache) <= DISK_BYTES


@pytest.mark.usefixtures("small_disk")
async def test_when_the_disk_is_full_of_models_in_use_that_is_said(store: ModelStore, cache: Path) -> None:
    held: list[Path] = []

    async def hold(model_id: str) -> None:
        held.append(await fetch_right(store, model_id))

    with pytest.raises(DiskCacheFullError, match=r"m-\d"):
        await each([hold(f"m-{n}") for n in range(20)])
    assert 2 <= len(held) <= 5
    assert [mistakes(path, f"m-{n}", {"": SIZE_BYTES}) for n, path in enumerate(held)] == [[]] * len(held)
    assert glob(str(cache / "*" / "partial")) == []
    del held[0]
    gc.collect()
    await fetch_right(store, "m-19")


async def each(calls: list[Coroutine[Any, Any, None]]) -> None:
    """One after another, until one fails."""
    try:
        while calls:
            await calls.pop(0)
    finally:
        for call in calls:
            call.close()


@pytest.mark.usefixtures("small_disk")
async def test_when_something_else_fills_the_disk_that_is_said(store: ModelStore, cache: Path) -> None:
    """To the last byte: not even the folder of a model can be filled."""
    filler = cache / "somebody else's"
    fill(filler)
    for _ in range(2):
        with pytest.raises(DiskCacheFullError):
            await store.fetch("m-1")
    filler.unlink()
    await fetch_right(store, "m-1")


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


@pytest.mark.parametrize("failures", [1, 100])
async def test_no_space_for_the_folder_of_a_model(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    make, left = os.mkdir, [failures]

    def fail(path: Path, *args: int, **kwargs: int) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        make(path, *args, **kwargs)

    await fetch_right(store, "m-0")
    monkeypatch.setattr(os, "mkdir", fail)
    if failures == 1:  # the other model goes for it
        await fetch_right(store, "m-1")
    else:
        with pytest.raises(DiskCacheFullError, match="m-1"):
            await store.fetch("m-1")
        left[0] = 0
        await fetch_right(store, "m-1")


@pytest.mark.parametrize("written", [0, 3])
async def test_no_space_for_the_list_of_blocks(
    store: ModelStore, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """Of which a part may be written."""
    write, left = os.write, [2]

    def fail(fd: int, data: bytes) -> int:
        if data.endswith(b";"):
            left[0] -= 1
            if left[0] == 0:
                return write(fd, data[:written])
        return write(fd, data)

    await fetch_right(store, "m-0")
    gc.collect()
    monkeypatch.setattr(os, "write", fail)
    await fetch_right(store, "m-1")
    assert left[0] < 0
    assert proxy.sent_bytes("m-1") < 2 * SIZE_BYTES


@pytest.mark.parametrize("failures", [1, 100])
async def test_no_space_for_a_file(
    store: ModelStore, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    allocate, left = os.posix_fallocate, [failures]

    def fail(fd: int, start: int, size_bytes: int) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        allocate(fd, start, size_bytes)

    await fetch_right(store, "m-0")
    monkeypatch.setattr(os, "posix_fallocate", fail)
    if failures == 1:  # the other model goes for it
        await fetch_right(store, "m-1")
    else:
        with pytest.raises(DiskCacheFullError, match="m-1"):
            await store.fetch("m-1")
        left[0] = 0
        await fetch_right(store, "m-1")
    assert proxy.sent_bytes("m-1") == SIZE_BYTES


async def test_no_space_while_a_file_is_written(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """On file systems that do not keep what they have promised."""
    write = os.pwrite

    def fail(fd: int, data: memoryview, at: int) -> int:
        if at >= 2 * BLOCK_BYTES:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[: BLOCK_BYTES // 3], at)  # and in small bits

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(DiskCacheFullError):
        await store.fetch("m-1")
    monkeypatch.undo()
    await fetch_right(store, "m-1")


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EROFS])
async def test_a_disk_that_cannot_be_written(store: ModelStore, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(fd: int, data: memoryview, at: int) -> int:
        raise OSError(number, os.strerror(number))

    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        await store.fetch("m-1")
    monkeypatch.setattr(os, "pwrite", write)
    await fetch_right(store, "m-1")


# Somebody else was here


def truncate(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, SIZE_BYTES - 1)


def flip(path: Path) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(BLOCK_BYTES + 7)
        file.write(b"??")


def unlink(path: Path) -> None:
    path.unlink()


def replace_by_another(path: Path) -> None:
    beside = path.with_name("another")
    beside.write_bytes(bytes(SIZE_BYTES))
    beside.replace(path)


def empty_the_entry(path: Path) -> None:
    (entry_of(path) / "checks.json").unlink()


def garbage_in_the_checks(path: Path) -> None:
    (entry_of(path) / "checks.json").write_bytes(b"\0\xff{")


def other_checks(path: Path) -> None:
    (entry_of(path) / "checks.json").write_text('{"files": [{"path": 3}]}')


def no_files_in_the_checks(path: Path) -> None:
    (entry_of(path) / "checks.json").write_text('{"boot": "", "files": []}')


DAMAGES = [
    truncate,
    flip,
    unlink,
    replace_by_another,
    empty_the_entry,
    garbage_in_the_checks,
    other_checks,
    no_files_in_the_checks,
]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_what_was_damaged_is_fetched_once_more(
    store: ModelStore, proxy: FaultyProxy, damage: Callable[[Path], None]
) -> None:
    path = Path(await fetch_right(store, "m-1"))
    gc.collect()
    damage(path)
    for _ in range(3):
        await fetch_right(store, "m-1")
    assert proxy.sent_bytes() == 2 * SIZE_BYTES


async def test_a_file_that_was_only_touched_is_not(store: ModelStore, proxy: FaultyProxy) -> None:
    path = await fetch_right(store, "m-1")
    os.utime(path)
    path.chmod(0o600)
    await fetch_right(store, "m-1")
    assert proxy.sent_bytes() == SIZE_BYTES


def test_eight_processes_find_twenty_damaged_models(web: RangeServer, proxy: FaultyProxy, tmp_path: Path) -> None:
    """Who drops what is damaged must not drop what another one has just begun to fetch in its place."""
    files = {f"m-{n}": {"": SIZE_BYTES} for n in range(20)}
    crowd = Crowd(
        url=store_url(web, proxy.url),
        pattern=PATTERN,
        cache_dir=str(tmp_path / "cache"),
        cache_bytes=100 << 20,
        files=files,
        report=str(tmp_path / "report"),
        block_bytes=BLOCK_BYTES,
    )
    assert len(run_crowd(crowd)) == 8 * 20
    for path in (tmp_path / "cache").glob("*/files/weights.bin"):
        flip(path)
    proxy.fails()
    reports = run_crowd(crowd)
    assert [report for report in reports if "fetched" not in report] == []
    assert len(reports) == 2 * 8 * 20
    assert proxy.sent_by_key() == {f"bucket/{model_id}/weights.bin": SIZE_BYTES for model_id in files}


@pytest.mark.parametrize("what", ["entry", "file", "files", "partial", "blocks"])
async def test_links_in_the_cache_lead_nowhere(
    store: ModelStore, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Neither is a file from elsewhere answered, nor one elsewhere written."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "files").mkdir(parents=True)
    secrets = [elsewhere / "weights.bin", elsewhere / "files" / "weights.bin", elsewhere / "blocks"]
    for secret in secrets:
        secret.write_bytes(b"secret")
    path = Path(await store.fetch("m-1"))
    entry = entry_of(path)
    gc.collect()
    plant_link(what, entry, path, elsewhere)
    with contextlib.suppress(UnsafeModelFileError, OSError):
        await fetch_right(store, "m-1")
    assert [secret.read_bytes() for secret in secrets] == [b"secret"] * 3
    assert sorted(p.name for p in elsewhere.rglob("*")) == ["blocks", "files", "weights.bin", "weights.bin"]


def plant_link(what: str, entry: Path, path: Path, elsewhere: Path) -> None:
    if what == "entry":
        entry.rename(entry.with_name("away"))
        entry.symlink_to(elsewhere, target_is_directory=True)
    elif what == "file":
        path.unlink()
        path.symlink_to(elsewhere / "weights.bin")
    elif what == "files":
        (entry / "files").rename(entry / "away")
        (entry / "files").symlink_to(elsewhere / "files", target_is_directory=True)
    else:  # an entry that is not complete yet
        path.unlink()
        (entry / "files").rmdir()
        (entry / "checks.json").unlink()
        if what == "partial":
            (entry / "partial").symlink_to(elsewhere, target_is_directory=True)
        else:
            from modelplex.stores.entry import boot_id

            (entry / f"blocks-{BLOCK_BYTES}-{boot_id()}").symlink_to(elsewhere / "blocks")


async def test_garbage_in_the_folder_disturbs_nobody(store: ModelStore, cache: Path) -> None:
    plant_garbage(cache)
    for n in range(3):
        await fetch_right(store, f"m-{n}")
    assert there(cache / "notes.txt", cache / "folder", cache / "trash-1-x") == [True, True, False]


def plant_garbage(cache: Path) -> None:
    cache.mkdir()
    (cache / "notes.txt").write_text("mine")
    (cache / "folder").mkdir()
    (cache / f"{'0' * 24}-{'1' * 24}-4096").write_text("a file with the name of an entry")
    (cache / f"{'0' * 24}-{'2' * 24}-99999999999999999999").mkdir()
    (cache / f"{'0' * 24}-{'3' * 24}-4096").mkdir()
    (cache / "trash-1-x").mkdir()
    (cache / "trash-1-x" / "file").write_text("left by a crash")
    (cache / "trash-2-y").write_text("no folder")


@pytest.mark.parametrize("change", [lambda path: path.chmod(0o777), lambda path: os.chown(path, 12345, -1)])
async def test_what_another_user_may_have_written_is_refused(
    store: ModelStore, cache: Path, change: Callable[[Path], None]
) -> None:
    path = Path(await fetch_right(store, "m-1"))
    gc.collect()
    try:
        change(entry_of(path))
    except PermissionError:
        pytest.skip("only root gives files to others")
    with pytest.raises(UnsafeModelFileError):
        await store.fetch("m-1")
    await fetch_right(store, "m-2")


async def test_a_disk_that_is_only_for_reading_has_what_it_has(
    store: ModelStore, proxy: FaultyProxy, cache: Path, small_disk: None
) -> None:
    """As when models are put into an image."""
    await fetch_right(store, "m-1")
    gc.collect()
    subprocess.run(["mount", "-o", "remount,ro", str(cache)], check=True)  # noqa: ASYNC221
    await fetch_right(store, "m-1")
    assert proxy.sent_bytes() == SIZE_BYTES
    with pytest.raises(OSError, match="Read-only"):
        await store.fetch("m-2")


async def test_what_is_cached_is_for_its_user_and_cannot_be_written(store: ModelStore, cache: Path) -> None:
    path = await fetch_right(store, "m-1")
    assert mode(cache) & 0o077 == 0
    assert mode(path) & 0o222 == 0


def mode(path: Path) -> int:
    return path.stat().st_mode


async def test_ids_that_lead_out_of_the_store_are_refused(store: ModelStore, proxy: FaultyProxy) -> None:
    for model_id in ("..", ".", "../m-1", "a/../../m-1", "/etc/passwd", "a\0b", "a%2f..%2fb", ""):
        with pytest.raises(ValueError, match=r"(?i)model id"):
            await store.fetch(model_id)
    assert proxy.seen == []


async def test_a_cache_that_is_deleted_while_it_is_used(store: ModelStore, cache: Path) -> None:
    import shutil

    path = await fetch_right(store, "m-1")
    await asyncio.to_thread(shutil.rmtree, cache)
    assert not path.exists()
    await fetch_right(store, "m-1")
