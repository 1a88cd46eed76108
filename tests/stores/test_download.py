import asyncio
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from memory_source import MemorySource

from modelplex.core import transfer
from modelplex.core.backoff import Backoff
from modelplex.errors import StoreConfigError, StoreError
from modelplex.stores import download as module
from modelplex.stores import entry as entries
from modelplex.stores.download import download
from modelplex.stores.entry import Entry
from modelplex.stores.source import FileChangedError

BLOCK = 1000
SIZE = 10 * BLOCK + 300


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "BLOCK_BYTES", BLOCK)
    monkeypatch.setattr(module, "BLOCK_BYTES", BLOCK)
    monkeypatch.setattr(module, "_requests_good", {})
    for place in (transfer, module):
        monkeypatch.setattr(place, "BACKOFF", Backoff(0.001, 0.001))


@pytest.fixture
def source() -> MemorySource:
    return MemorySource({"m": os.urandom(SIZE)})


async def bring(source: MemorySource, folder: Path, key: str = "m") -> tuple[bytes, list[int]]:
    """What is on the disk in the end, and what was told on the way."""
    files = await source.files(key)
    place = folder / entries.name_of(source.name, key, files)
    place.mkdir(exist_ok=True)
    entry = Entry.open(place, exclusively=True)
    assert entry is not None
    told: list[int] = []
    try:
        await download(source, files, entry, told.append)
        assert entry.complete
        assert entry.is_whole()
        assert entry.matches()
        return (place / "files" / files[0].path).read_bytes(), told
    except BaseException:
        assert not entry.complete
        raise
    finally:
        entry.close()


async def test_a_file_is_brought_by_one_answer(tmp_path: Path, source: MemorySource) -> None:
    data, told = await bring(source, tmp_path)
    assert data == source.contents["m"]
    assert source.requests == [("m", 0, SIZE)]
    assert told[-1] == SIZE


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
async def test_files_of_any_size(tmp_path: Path, size: int) -> None:
    source = MemorySource({"m": os.urandom(size)})
    assert (await bring(source, tmp_path))[0] == source.contents["m"]


async def test_parts_of_any_size_make_the_file(tmp_path: Path, source: MemorySource) -> None:
    def crumbs(number: int, start: int, data: bytes) -> Iterator[bytes]:
        dice = random.Random(number)
        while data:
            length = dice.choice([1, 7, 999, 1000, 1001, 2500])
            yield data[:length]
            data = data[length:]

    source.spoil = crumbs
    assert (await bring(source, tmp_path))[0] == source.contents["m"]


async def test_an_answer_that_breaks_off_is_asked_for_again_from_where_it_did(
    tmp_path: Path, source: MemorySource
) -> None:
    source.spoil = lambda number, start, data: iter([data[:2500]])
    assert (await bring(source, tmp_path))[0] == source.contents["m"]
    assert source.requests == [("m", 2000 * i, SIZE) for i in range(5)]


async def test_an_answer_that_goes_on_too_long_is_a_failure(tmp_path: Path, source: MemorySource) -> None:
    source.spoil = lambda number, start, data: iter([data + b"more"])
    with pytest.raises(StoreError, match="memory://models/m could not be read, in several tries: the answer goes on"):
        await bring(source, tmp_path)
    assert len(source.requests) == transfer.TRIES_MAX


async def test_a_source_that_fails_is_asked_again_and_given_up_at_last(tmp_path: Path, source: MemorySource) -> None:
    def fails(number: int, start: int, data: bytes) -> Iterator[bytes]:
        raise StoreError("503 SlowDown")

    source.spoil = fails
    with pytest.raises(StoreError, match="503 SlowDown"):
        await bring(source, tmp_path)
    assert len(source.requests) == transfer.TRIES_MAX
    source.spoil = lambda number, start, data: fails(number, start, data) if number % 3 else iter([data[:BLOCK]])
    assert (await bring(source, tmp_path))[0] == source.contents["m"]


async def test_a_refusal_is_not_asked_again(tmp_path: Path, source: MemorySource) -> None:
    def refuses(number: int, start: int, data: bytes) -> Iterator[bytes]:
        raise StoreConfigError("access denied")

    source.spoil = refuses
    with pytest.raises(StoreConfigError, match="access denied"):
        await bring(source, tmp_path)
    assert len(source.requests) == 1


async def test_a_file_that_is_replaced_meanwhile_is_told(tmp_path: Path, source: MemorySource) -> None:
    def replaced(number: int, start: int, data: bytes) -> Iterator[bytes]:
        yield data[:2500]
        source.contents["m"] = os.urandom(SIZE)

    source.spoil = replaced
    with pytest.raises(FileChangedError):
        await bring(source, tmp_path)


async def test_without_ranges_each_try_begins_anew(tmp_path: Path, source: MemorySource) -> None:
    source.ranges = False
    source.spoil = lambda number, start, data: iter([data[:2500] if number < 3 else data])
    assert (await bring(source, tmp_path))[0] == source.contents["m"]
    assert set(source.requests) >= {("m", 0, SIZE)}
    source.contents["n"] = bytes(SIZE)
    source.spoil = lambda number, start, data: iter([data[:2500]])
    source.requests.clear()
    with pytest.raises(StoreError, match="broke off"):
        await bring(source, tmp_path, "n")
    assert len(source.requests) <= 2 * transfer.TRIES_MAX


async def test_without_a_version_one_answer_has_it_all(tmp_path: Path, source: MemorySource) -> None:
    source.versions["m"] = ""
    source.spoil = lambda number, start, data: iter([data[:2500] if number < 3 else data])
    data, told = await bring(source, tmp_path)
    assert data == source.contents["m"]
    assert source.requests == [("m", 0, SIZE)] * 3
    assert told[-1] == SIZE


async def test_requests_join_when_one_is_slow(
    tmp_path: Path, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TICK_S", 0.01)
    monkeypatch.setattr(transfer, "FIRST_LOOK_S", 0.02)
    monkeypatch.setattr(transfer, "WORTH_S", 0.05)
    source.contents["m"] = os.urandom(100 * BLOCK)

    def slow(number: int, start: int, data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), BLOCK):
            time.sleep(0.005)
            yield data[at : at + BLOCK]

    source.spoil = slow
    assert (await bring(source, tmp_path))[0] == source.contents["m"]
    starts = [start for _, start, _ in source.requests]
    assert len(starts) > 1
    assert len(starts) == len(set(starts))


async def test_the_lock_stays_while_a_thread_still_writes(tmp_path: Path, source: MemorySource) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hangs(number: int, start: int, data: bytes) -> Iterator[bytes]:
        yield data[:1500]
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(10)
        yield data[1500:]

    source.spoil = hangs
    files = await source.files("m")
    place = tmp_path / entries.name_of(source.name, "m", files)
    bringing = asyncio.create_task(bring(source, tmp_path))
    await began.wait()
    bringing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await bringing
    assert Entry.open(place) is None
    go_on.set()
    for _ in range(1000):
        if (free := Entry.open(place)) is not None:
            free.close()
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody gave the lock back")


@pytest.mark.parametrize("seed", range(30))
async def test_whatever_the_answers_the_file_is_right_or_there_is_none(
    tmp_path: Path, source: MemorySource, seed: int
) -> None:
    dice = random.Random(seed)

    def anything(number: int, start: int, data: bytes) -> Iterator[bytes]:
        match dice.randrange(6):
            case 0:
                raise StoreError("500")
            case 1:
                yield data[: dice.randrange(len(data) + 1)]
            case 2:
                yield data[: dice.randrange(len(data))]
                raise StoreError("reset")
            case 3:
                yield data + b"x"
            case 4 if dice.random() < 0.2:
                source.contents["m"] = os.urandom(SIZE)
                raise FileChangedError("m")
            case _:
                half = dice.randrange(len(data))
                yield data[:half]
                yield data[half:]

    source.spoil = anything
    for _ in range(5):
        try:
            data, _ = await bring(source, tmp_path)
        except (StoreError, FileChangedError):
            continue
        assert data == source.contents["m"]
        break
