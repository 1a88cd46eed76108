"""One disk cache, many who use it at once, some who die: each file is fetched once, and is right."""

import asyncio
import contextlib
import gc
import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path

import faulty_proxy as faults
import pytest
from disk_sampler import sampling, there
from faulty_proxy import FaultyProxy, RandomPlan, Rule, faulty_proxy
from object_servers import ObjectServer, moto, range_server, store_url
from s3_server import aws_environment
from store_crowd import Crowd, content, mistakes, run_crowd
from store_settings import BLOCK_BYTES, impatient, small_blocks

from modelplex.errors import DiskCacheFullError
from modelplex.stores.model_store import ModelStore

pytestmark = [pytest.mark.system, pytest.mark.stores, pytest.mark.long]

PATTERN = "{model_id}/weights.bin"
BOUND_BYTES = 3 << 20
# As many as fit into the time; each costs some milliseconds of both cores of a small machine.
KILLS = 1000
CHAOS_S = 45.0
CHAOS_BLOCK_BYTES = 16 << 10


@pytest.fixture(scope="module")
def web() -> Iterator[ObjectServer]:
    with range_server() as server:
        yield server


@pytest.fixture(scope="module")
def s3() -> Iterator[ObjectServer]:
    with moto() as server, aws_environment(server.url):
        yield server


@pytest.fixture
def proxy(web: ObjectServer) -> Iterator[FaultyProxy]:
    with faulty_proxy(web.url) as proxy:
        yield proxy


def put_models(
    server: ObjectServer, count: int, prefix: str, size_max: int, seed: int = 0
) -> dict[str, dict[str, int]]:
    """Models of one file each, of random sizes, as a `Crowd` has them."""
    rng = random.Random(0)
    files = {f"{prefix}-{n}": {"": rng.randrange(1, size_max)} for n in range(count)}
    for model_id, sizes in files.items():
        server.put(f"{model_id}/weights.bin", content(model_id, "", sizes[""]))
    return files


def crowd_of(folder: Path, url: str, files: dict[str, dict[str, int]], **options: int | float | str) -> Crowd:
    values = {"pattern": PATTERN, "cache_bytes": 100 << 20, "block_bytes": BLOCK_BYTES, **options}
    return Crowd(url=url, cache_dir=str(folder / "cache"), files=files, report=str(folder / "report"), **values)  # type: ignore[arg-type]


def store_of(folder: Path, url: str, cache_bytes: int = 100 << 20, pattern: str = PATTERN) -> ModelStore:
    return ModelStore(url, pattern, cache_dir=folder / "cache", cache_bytes=cache_bytes)


def test_eight_processes_and_twenty_models_are_twenty_downloads(
    web: ObjectServer, proxy: FaultyProxy, tmp_path: Path
) -> None:
    files = put_models(web, 20, "race", 8 * BLOCK_BYTES)
    reports = run_crowd(crowd_of(tmp_path, store_url(web, proxy.url), files))
    assert [report for report in reports if "fetched" not in report] == []
    assert len(reports) == 8 * 20
    assert proxy.sent_by_key() == {f"bucket/{m}/weights.bin": sizes[""] for m, sizes in files.items()}


def test_the_same_when_some_of_the_downloads_fail_at_first(
    web: ObjectServer, proxy: FaultyProxy, tmp_path: Path
) -> None:
    files = put_models(web, 5, "failing", 8 * BLOCK_BYTES)
    proxy.fails(*(Rule(faults.closed_in_body(), key=model_id) for model_id in files))
    reports = run_crowd(crowd_of(tmp_path, store_url(web, proxy.url), files, processes=4))
    assert [report for report in reports if "fetched" not in report] == []
    for model_id, sizes in files.items():
        assert sizes[""] <= proxy.sent_bytes(f"{model_id}/") < 2 * sizes[""]


async def test_several_stores_in_one_process(web: ObjectServer, proxy: FaultyProxy, tmp_path: Path) -> None:
    files = put_models(web, 6, "stores", 4 * BLOCK_BYTES)
    stores = [store_of(tmp_path, store_url(web, proxy.url)) for _ in range(3)]
    proxy.fails(*(Rule(faults.dripping(0.2), key=model_id) for model_id in files))
    paths = await asyncio.gather(*(store.fetch(model_id) for model_id in files for store in stores for _ in range(2)))
    for position, model_id in enumerate(files):
        for path in paths[6 * position : 6 * position + 6]:
            assert mistakes(path, model_id, files[model_id]) == []
    assert proxy.sent_by_key() == {f"bucket/{m}/weights.bin": sizes[""] for m, sizes in files.items()}


@pytest.mark.parametrize("moment", ["head", "begin", "body"])
async def test_a_fetch_that_is_cancelled_is_taken_up_by_the_next(
    web: ObjectServer, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    small_blocks(monkeypatch)
    impatient(monkeypatch)
    web.put("cancelled/weights.bin", content("cancelled", "", 8 * BLOCK_BYTES))
    store = store_of(tmp_path, store_url(web, proxy.url))
    at = {
        "head": Rule(faults.black_hole(), "HEAD"),
        "begin": Rule(faults.black_hole()),
        "body": Rule(faults.dripping(2.0)),
    }
    proxy.fails(at[moment])
    fetching = asyncio.create_task(store.fetch("cancelled"))
    await asyncio.to_thread(proxy.until_seen, 1 if moment == "head" else 2)
    await asyncio.sleep(1.0 if moment == "body" else 0.05)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    proxy.fails()
    assert mistakes(await store.fetch("cancelled"), "cancelled", {"": 8 * BLOCK_BYTES}) == []
    assert (proxy.sent_bytes() < 8 * BLOCK_BYTES) == (moment == "body")


async def test_cancellations_at_random_moments(
    web: ObjectServer, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two who want each model, one leaves at a random moment; whoever stays gets it, and nothing hangs."""
    small_blocks(monkeypatch)
    files = put_models(web, 60, "leaving", 6 * BLOCK_BYTES)
    store, rng = store_of(tmp_path, store_url(web, proxy.url)), random.Random(5)
    proxy.fails(Rule(faults.dripping(0.1), times=None))

    async def leave(model_id: str) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(rng.random() * 0.3):
                await store.fetch(model_id)

    async def stay(model_id: str) -> list[str]:
        return mistakes(await store.fetch(model_id), model_id, files[model_id])

    async with asyncio.timeout(60.0):
        leaving = [asyncio.create_task(leave(model_id)) for model_id in files]
        assert [await stay(model_id) for model_id in files] == [[]] * len(files)
        await asyncio.gather(*leaving)
    assert len(asyncio.all_tasks()) == 1


def test_many_more_models_than_there_is_room_for(web: ObjectServer, tmp_path: Path) -> None:
    files = put_models(web, 60, "many", 4 * BLOCK_BYTES)
    assert sum(sizes[""] for sizes in files.values()) > 2 * BOUND_BYTES
    url = store_url(web)
    with sampling(tmp_path / "cache") as samples:
        reports = run_crowd(crowd_of(tmp_path, url, files, processes=4, cache_bytes=BOUND_BYTES))
    assert [report for report in reports if "fetched" not in report] == []
    assert len(reports) == 4 * 60
    assert BOUND_BYTES / 2 < max(samples) <= BOUND_BYTES


async def test_what_is_in_use_stays_and_the_rest_goes(
    web: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    size_bytes = 4 * BLOCK_BYTES
    files = {f"use-{n}": {"": size_bytes} for n in range(30)}
    for model_id in files:
        web.put(f"{model_id}/weights.bin", content(model_id, "", size_bytes))
    store = store_of(tmp_path, store_url(web), BOUND_BYTES)
    held = await store.fetch("use-0")
    mapped, opened = Path(await store.fetch("use-1")), Path(await store.fetch("use-2"))
    idle = Path(await store.fetch("use-3"))
    mapping = mapping_of(mapped)
    with contextlib.closing(os.fdopen(os.open(opened, os.O_RDONLY))), sampling(tmp_path / "cache") as samples:
        gc.collect()
        for model_id in list(files)[4:]:
            assert mistakes(await store.fetch(model_id), model_id, files[model_id]) == []
        assert there(held, mapped, opened, idle) == [True, True, True, False]
        assert mapping[:] == content("use-1", "", size_bytes)
        assert mistakes(held, "use-0", files["use-0"]) == []
    mapping.close()
    for model_id in list(files)[4:20]:
        await store.fetch(model_id)
    assert there(held, mapped, opened) == [True, False, False]
    assert max(samples) <= BOUND_BYTES


def mapping_of(path: Path) -> mmap.mmap:
    """Mapped, and no longer open."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


async def test_when_all_room_is_in_use_that_is_said_and_nothing_is_broken(
    web: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    size_bytes = 4 * BLOCK_BYTES
    model_ids = [f"full-{n}" for n in range(30)]
    for model_id in model_ids:
        web.put(f"{model_id}/weights.bin", content(model_id, "", size_bytes))
    store = store_of(tmp_path, store_url(web), BOUND_BYTES)
    held: dict[str, Path] = {}
    with contextlib.suppress(DiskCacheFullError):
        for model_id in model_ids:
            held[model_id] = await store.fetch(model_id)
    with pytest.raises(DiskCacheFullError):
        await store.fetch("full-29")
    assert 5 < len(held) < 12
    assert [mistakes(path, model_id, {"": size_bytes}) for model_id, path in held.items()] == [[]] * len(held)
    del held[model_ids[0]]
    gc.collect()
    assert mistakes(await store.fetch("full-29"), "full-29", {"": size_bytes}) == []


def test_processes_that_are_killed_at_random_moments(
    web: ObjectServer, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = put_models(web, 40, "chaos", 6 * BLOCK_BYTES)
    # Slowly enough for most of them to be killed while something arrives.
    proxy.fails(RandomPlan(0, [faults.dripping(0.15), faults.dripping(0.05)], chance=0.8, times=1_000_000))
    options = {"processes": 6, "cache_bytes": 5 << 20, "block_bytes": CHAOS_BLOCK_BYTES}
    crowd = crowd_of(tmp_path, store_url(web, proxy.url), files, **options, kills=KILLS, time_max_s=CHAOS_S)
    survives(crowd, monkeypatch)
    taken_up = [seen for seen in proxy.requests() if seen.request.span and seen.request.span[0] > 0]
    print(f"{len(taken_up)} of {len(proxy.requests())} downloads went on where a process had died")
    assert len(taken_up) >= 3  # dozens on a machine that does nothing else


def test_processes_that_are_killed_while_they_fetch_folders(
    s3: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(1)
    sizes = {
        f"folder-{n}": {name: rng.randrange(3 * BLOCK_BYTES) for name in ("config", "part 1", "part 2", "more/x")}
        for n in range(20)
    }
    for model_id, files in sizes.items():
        for name, size_bytes in files.items():
            s3.put(f"{model_id}/{name}", content(model_id, name, size_bytes))
    crowd = crowd_of(
        tmp_path,
        store_url(s3),
        sizes,
        pattern="{model_id}/",
        processes=3,
        cache_bytes=6 << 20,
        kills=60,
        time_max_s=15.0,
    )
    survives(crowd, monkeypatch)


def survives(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run it; whatever a process got was right, there was room for all of it, and in the end all models can be had."""
    with sampling(Path(crowd.cache_dir)) as samples:
        reports = run_crowd(crowd)
    assert [report for report in reports if not report.keys() & {"fetched", "kills"}] == []
    killed = next(report["kills"] for report in reports if "kills" in report)
    small_blocks(monkeypatch, crowd.block_bytes)
    print(f"{killed} kills, {len(reports)} fetches, {len(samples)} samples of at most {max(samples):,} bytes")
    assert max(samples) <= crowd.cache_bytes
    assert killed >= crowd.kills // 20  # on a machine that is busy otherwise
    assert len(reports) > killed // 3
    asyncio.run(all_are_right(crowd))


async def all_are_right(crowd: Crowd) -> None:
    store = ModelStore(crowd.url, crowd.pattern, cache_dir=crowd.cache_dir, cache_bytes=crowd.cache_bytes)
    async with asyncio.timeout(30.0):
        for model_id, files in crowd.files.items():
            assert mistakes(await store.fetch(model_id), model_id, files) == []
