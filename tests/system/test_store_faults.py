"""Stores whose servers fail: what comes of it is the right file or a clear error, never a wrong or half a file."""

import asyncio
import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import faulty_proxy as faults
import pytest
from faulty_proxy import Fault, FaultyProxy, RandomPlan, Rule, faulty_proxy
from object_servers import Moto, ObjectServer, moto, range_server, store_url
from s3_server import aws_environment
from store_crowd import content
from store_settings import BLOCK_BYTES, READ_TIMEOUT_S, impatient, small_blocks

from modelplex.errors import ModelNotFoundError, StoreConfigError, StoreError
from modelplex.stores import download, object_store
from modelplex.stores.model_store import ModelStore

pytestmark = [pytest.mark.system, pytest.mark.stores]

# 16 blocks, the last of them not whole.
SIZE_BYTES = 16 * BLOCK_BYTES - 1000
BODY = content("m", "", SIZE_BYTES)
PATTERN = "{model_id}/weights.bin"
# Far longer than any fault lasts with the settings of these tests, and far shorter than for ever.
BOUND_S = 30.0
RANDOM_PLANS = 100

# What is to be survived when it happens once.
PASSING: list[Callable[[], Fault]] = [
    lambda: faults.late(0.2),
    lambda: faults.late(READ_TIMEOUT_S + 0.3),
    lambda: faults.dripping(0.5),
    faults.black_hole,
    faults.reset_before_head,
    faults.closed_before_head,
    faults.reset_in_body,
    faults.closed_in_body,
    lambda: faults.status(500),
    lambda: faults.status(502),
    lambda: faults.status(429),
    lambda: faults.status(404),
    lambda: faults.status(412),
    faults.slow_down,
    faults.longer_than_asked,
    faults.shorter_than_asked,
    faults.longer_than_said,
    faults.whole_body,
    faults.other_etag,
    faults.no_etag,
]
# What no file can come of when it happens each time.
LASTING: list[Callable[[], Fault]] = [
    faults.black_hole,
    faults.reset_before_head,
    faults.closed_before_head,
    lambda: faults.status(500),
    lambda: faults.status(429),
    lambda: faults.status(403),
    lambda: faults.status(404),
    lambda: faults.status(412),
    faults.slow_down,
    faults.longer_than_asked,
    faults.shorter_than_asked,
    faults.longer_than_said,
    faults.other_etag,
    faults.no_etag,
]


def name_of(fault: Callable[[], Fault]) -> str:
    return str(fault()).replace(" ", "-")


@pytest.fixture(scope="module", params=[moto, range_server])
def server(request: pytest.FixtureRequest) -> Iterator[ObjectServer]:
    running: contextlib.AbstractContextManager[ObjectServer] = request.param()
    with running as server:
        yield server


@pytest.fixture
def proxy(server: ObjectServer) -> Iterator[FaultyProxy]:
    with faulty_proxy(server.url) as proxy, aws_environment(proxy.url):
        yield proxy


@pytest.fixture
def right() -> set[bytes]:
    """The sums of all files that may ever be seen."""
    return {digest(BODY)}


@pytest.fixture
def store(
    server: ObjectServer, proxy: FaultyProxy, right: set[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModelStore]:
    small_blocks(monkeypatch)
    impatient(monkeypatch)
    server.put("m/weights.bin", BODY)
    yield ModelStore(store_url(server, proxy.url), PATTERN, cache_dir=tmp_path / "cache", cache_bytes="50MiB")
    # Nobody gets these other than by `fetch`, but somebody may look.
    complete = [path for path in (tmp_path / "cache").glob("*/files/*") if path.is_file()]
    assert [path for path in complete if digest(path.read_bytes()) not in right] == []


def digest(body: bytes) -> bytes:
    """Compared in place of what it is of, so that a failure is not a megabyte long."""
    return hashlib.sha256(body).digest()


async def fetched(store: ModelStore, model_id: str = "m") -> bytes:
    began = time.monotonic()
    try:
        path = await store.fetch(model_id)
    finally:
        assert time.monotonic() - began < BOUND_S
    return path.read_bytes()


def is_body(body: bytes) -> bool:
    return digest(body) == digest(BODY)


@pytest.mark.parametrize("fault", PASSING, ids=name_of)
async def test_what_happens_once_is_survived(
    store: ModelStore, proxy: FaultyProxy, fault: Callable[[], Fault], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "REQUESTS_MAX", 1)  # so that it can be counted what is sent
    proxy.fails(Rule(fault()))
    assert is_body(await fetched(store))
    assert proxy.faults() == {str(fault()): 1}
    # and is not fetched anew: what had arrived, and was of this version, counts
    assert proxy.sent_bytes() <= 2 * SIZE_BYTES + BLOCK_BYTES


@pytest.mark.parametrize("fault", LASTING, ids=name_of)
async def test_what_lasts_is_a_clear_error_and_when_it_is_over_the_file_comes(
    store: ModelStore, proxy: FaultyProxy, fault: Callable[[], Fault]
) -> None:
    proxy.fails(Rule(fault(), times=None))
    with pytest.raises(StoreError) as caught:
        await fetched(store)
    assert "weights.bin" in str(caught.value) or "Model 'm' was replaced" in str(caught.value)
    assert isinstance(caught.value, StoreConfigError) == (str(fault()) == "403")
    proxy.fails()
    assert is_body(await fetched(store))


@pytest.mark.parametrize(
    "fault", [faults.whole_body, lambda: faults.late(0.1), lambda: faults.dripping(0.2)], ids=name_of
)
async def test_what_lasts_and_does_no_harm(store: ModelStore, proxy: FaultyProxy, fault: Callable[[], Fault]) -> None:
    proxy.fails(Rule(fault(), times=None))
    assert is_body(await fetched(store))


@pytest.mark.parametrize("fault", [faults.reset_in_body, faults.closed_in_body], ids=name_of)
async def test_a_body_that_always_breaks_arrives_bit_by_bit(
    store: ModelStore, proxy: FaultyProxy, fault: Callable[[], Fault]
) -> None:
    """Each try brings half of the rest, until less than a block is left: no server that works at all is as bad."""
    proxy.fails(Rule(fault(), times=4))
    assert is_body(await fetched(store))
    assert proxy.faults() == {str(fault()): 4}
    if fault is faults.closed_in_body:  # a reset may lose what is on its way
        assert proxy.sent_bytes() < 2 * SIZE_BYTES


@pytest.mark.parametrize("fault", [faults.reset_in_body, faults.closed_in_body, faults.black_hole], ids=name_of)
async def test_a_later_try_goes_on_where_the_first_one_broke_off(
    store: ModelStore, proxy: FaultyProxy, fault: Callable[[], Fault]
) -> None:
    proxy.fails(Rule(faults.closed_in_body()), Rule(faults.status(500), times=None))
    with pytest.raises(StoreError):
        await fetched(store)
    first_bytes = proxy.sent_bytes()
    assert 0 < first_bytes < SIZE_BYTES
    proxy.fails(Rule(fault()))
    assert is_body(await fetched(store))
    assert proxy.sent_bytes() < SIZE_BYTES
    assert min(seen.request.span[0] for seen in proxy.requests() if seen.request.span) >= BLOCK_BYTES


@pytest.mark.parametrize("fault", [*PASSING, faults.other_range], ids=name_of)
async def test_what_happens_to_a_later_range_is_survived(
    store: ModelStore, proxy: FaultyProxy, fault: Callable[[], Fault]
) -> None:
    proxy.fails(Rule(faults.closed_in_body()), Rule(fault()))
    assert is_body(await fetched(store))
    assert proxy.faults() == Counter(["closed in the body", str(fault())])


@pytest.mark.parametrize("fault", [*LASTING, faults.other_range], ids=name_of)
async def test_what_happens_to_all_later_ranges_is_a_clear_error(
    store: ModelStore, proxy: FaultyProxy, fault: Callable[[], Fault]
) -> None:
    if fault is faults.black_hole:
        pytest.skip("the same as for the first range, and takes its time")
    proxy.fails(Rule(faults.closed_in_body()), Rule(fault(), times=None))
    with pytest.raises(StoreError):
        await fetched(store)
    proxy.fails()
    assert is_body(await fetched(store))


async def test_what_arrived_in_blocks_of_another_size_does_not_count(
    store: ModelStore, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an update of the package."""
    proxy.fails(Rule(faults.closed_in_body()), Rule(faults.status(500), times=None))
    with pytest.raises(StoreError):
        await fetched(store)
    proxy.fails()
    small_blocks(monkeypatch, 4 * BLOCK_BYTES)
    assert is_body(await fetched(store))
    small_blocks(monkeypatch, 2 * BLOCK_BYTES)
    assert is_body(await fetched(store))


async def test_a_server_that_knows_no_ranges_after_a_body_that_broke(store: ModelStore, proxy: FaultyProxy) -> None:
    proxy.fails(Rule(faults.closed_in_body()), Rule(faults.whole_body(), times=None))
    assert is_body(await fetched(store))


@pytest.mark.parametrize("difference", [-BLOCK_BYTES, -1, 1, BLOCK_BYTES])
async def test_a_head_that_tells_another_length(store: ModelStore, proxy: FaultyProxy, difference: int) -> None:
    proxy.fails(Rule(faults.other_length(difference), "HEAD"))
    assert is_body(await fetched(store))
    proxy.fails(Rule(faults.other_length(difference), "HEAD", times=None))
    with pytest.raises(StoreError):
        await fetched(store)


async def test_a_head_that_tells_another_version(store: ModelStore, proxy: FaultyProxy) -> None:
    proxy.fails(Rule(faults.other_etag(), "HEAD"))
    assert is_body(await fetched(store))


@pytest.mark.parametrize("breaks", [0, 1, 3])
async def test_a_server_without_etags(store: ModelStore, proxy: FaultyProxy, breaks: int) -> None:
    proxy.fails(Rule(faults.no_etag(), "HEAD", times=None), Rule(unversioned_and_closed(), times=breaks))
    proxy.plan.append(Rule(faults.no_etag(), times=None))
    assert is_body(await fetched(store))


def unversioned_and_closed() -> Fault:
    def change(reply: faults.Reply) -> None:
        faults.no_etag().change(reply)
        faults.closed_in_body().change(reply)

    return Fault("no ETag, closed in the body", change)


def without_versions() -> Fault:
    """Neither ETag nor Last-Modified: nobody could tell whether two answers are of one file."""

    def change(reply: faults.Reply) -> None:
        for name in ("ETag", "Last-Modified"):
            reply.headers.pop(name, None)

    return Fault("no version", change)


def without_versions_and_closed() -> Fault:
    def change(reply: faults.Reply) -> None:
        without_versions().change(reply)
        faults.closed_in_body().change(reply)

    return Fault("no version, closed in the body", change)


@pytest.mark.parametrize("breaks", [0, 1, None])
async def test_a_server_without_any_versions(
    store: ModelStore, proxy: FaultyProxy, server: ObjectServer, breaks: int | None
) -> None:
    if server.scheme == "s3":
        pytest.skip("S3 always has ETags")
    proxy.fails(Rule(without_versions(), "HEAD", times=None), Rule(without_versions_and_closed(), times=breaks))
    proxy.plan.append(Rule(without_versions(), times=None))
    if breaks is None:
        with pytest.raises(StoreError):
            await fetched(store)
    else:
        assert is_body(await fetched(store))


async def test_an_object_that_is_replaced_while_it_is_read(
    store: ModelStore, proxy: FaultyProxy, server: ObjectServer, right: set[bytes]
) -> None:
    """The one or the other, and never the beginning of one with the end of the other."""
    other = content("other", "", SIZE_BYTES)
    right.add(digest(other))
    proxy.fails(Rule(faults.closed_in_body()), Rule(faults.replaced(lambda: server.put("m/weights.bin", other))))
    assert digest(await fetched(store)) == digest(other)
    assert proxy.faults()["replaced"] == 1
    server.put("m/weights.bin", BODY)
    assert is_body(await fetched(store))


async def test_an_object_that_is_replaced_all_the_time(
    store: ModelStore, proxy: FaultyProxy, server: ObjectServer
) -> None:
    versions = iter(range(10_000))

    def put_another() -> None:
        server.put("m/weights.bin", BODY[:-4] + next(versions).to_bytes(4, "big"))

    proxy.fails(Rule(faults.replaced(put_another), times=None))
    with pytest.raises(StoreError):
        await fetched(store)
    proxy.fails()
    server.put("m/weights.bin", BODY)
    assert is_body(await fetched(store))


async def test_an_object_that_is_deleted_while_it_is_read(
    store: ModelStore, proxy: FaultyProxy, server: ObjectServer
) -> None:
    proxy.fails(Rule(faults.closed_in_body()), Rule(faults.replaced(lambda: server.delete("m/weights.bin"))))
    with pytest.raises((ModelNotFoundError, StoreError)):
        await fetched(store)
    proxy.fails()
    with pytest.raises(ModelNotFoundError):
        await fetched(store)
    server.put("m/weights.bin", BODY)
    assert is_body(await fetched(store))


@pytest.mark.parametrize("code", [403, 404, 500, 503])
async def test_a_head_that_fails(store: ModelStore, proxy: FaultyProxy, code: int) -> None:
    errors = {403: StoreConfigError, 404: ModelNotFoundError}
    proxy.fails(Rule(faults.status(code), "HEAD", times=None))
    with pytest.raises(errors.get(code, StoreError)):
        await fetched(store)
    proxy.fails(Rule(faults.status(code), "HEAD"))
    if code >= 500:
        assert is_body(await fetched(store))


async def test_one_who_leaves_stops_nobody_else(store: ModelStore, proxy: FaultyProxy) -> None:
    proxy.fails(Rule(faults.dripping(0.5)))
    first, second = (asyncio.create_task(fetched(store)) for _ in range(2))
    await asyncio.to_thread(proxy.until_seen, 2)
    first.cancel()
    assert is_body(await second)
    with pytest.raises(asyncio.CancelledError):
        await first
    assert proxy.sent_bytes() < 2 * SIZE_BYTES


def test_who_leaves_a_store_that_does_not_answer_is_not_held_up(
    store: ModelStore, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is the end of the event loop, which waits for its threads."""
    monkeypatch.setattr(object_store, "READ_TIMEOUT_S", BOUND_S)

    async def leave() -> None:
        async with asyncio.timeout(0.3):
            await store.fetch("m")

    for method in ("HEAD", "GET"):
        proxy.fails(Rule(faults.black_hole(), method, times=None))
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            asyncio.run(leave())
        assert time.monotonic() - began < BOUND_S / 2


RANDOM_FAULTS = [make() for make in PASSING if str(make()) not in ("held", "late")] + [faults.other_range()]


async def test_faults_at_random(server: ObjectServer, proxy: FaultyProxy, store: ModelStore, right: set[bytes]) -> None:
    """Side by side, each model with faults of its own seed; those who fail try again, as a replica does."""
    model_ids = [f"random-{seed}" for seed in range(RANDOM_PLANS)]
    bodies = {model_id: content(model_id, "", 3 * BLOCK_BYTES + len(model_id)) for model_id in model_ids}
    right |= {digest(body) for body in bodies.values()}
    for model_id in model_ids:
        server.put(f"{model_id}/weights.bin", bodies[model_id])
    plans = {model_id: RandomPlan(seed, RANDOM_FAULTS, chance=0.7) for seed, model_id in enumerate(model_ids)}

    def plan(request: faults.Request) -> Fault | None:
        model_id = request.key.split("/")[1]
        return plans[model_id](request) if request.method == "GET" and model_id in plans else None

    proxy.fails(plan)
    failures: list[str] = []
    few = asyncio.Semaphore(10)

    async def fetch(model_id: str) -> None:
        async with few:
            for _ in range(4):
                try:
                    body = await fetched(store, model_id)
                except StoreError as error:
                    failures.append(str(error))
                else:
                    assert digest(body) == digest(bodies[model_id])
                    return
            raise AssertionError(f"{model_id} never came: {failures[-4:]}")

    await asyncio.gather(*map(fetch, model_ids))
    assert set(proxy.faults()) == {str(fault) for fault in RANDOM_FAULTS}  # all of them had their chance


async def test_a_folder_comes_whole_or_not_at_all(
    server: ObjectServer, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(server, Moto):
        pytest.skip("a web server lists no folders")
    small_blocks(monkeypatch)
    impatient(monkeypatch)
    files = {f"part {n}.bin": content("folder", str(n), 3 * BLOCK_BYTES + n) for n in range(6)} | {"a/b/empty": b""}
    for name, body in files.items():
        server.put(f"folder/{name}", body)
    store = ModelStore(store_url(server), "{model_id}/", cache_dir=tmp_path / "cache", cache_bytes="50MiB")
    proxy.fails(Rule(faults.status(500), key="part 3", times=None))
    with pytest.raises(StoreError):
        await store.fetch("folder")
    first_bytes = proxy.sent_bytes()
    proxy.fails()
    path = await store.fetch("folder")
    assert {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()} == files
    assert proxy.sent_bytes() < sum(map(len, files.values()))
    assert first_bytes + proxy.sent_bytes() <= sum(map(len, files.values())) + 4 * 3 * BLOCK_BYTES


async def test_keys_that_lead_out_of_the_folder_are_refused(
    server: ObjectServer, proxy: FaultyProxy, tmp_path: Path
) -> None:
    if not isinstance(server, Moto):
        pytest.skip("a web server lists no folders")
    server.put("hostile/weights.bin", b"good")
    server.put("hostile/../../../escaped", b"bad")
    store = ModelStore(store_url(server), "{model_id}/", cache_dir=tmp_path / "cache", cache_bytes="50MiB")
    with pytest.raises((StoreError, ModelNotFoundError)):
        await store.fetch("hostile")
    assert not await asyncio.to_thread(lambda: list(tmp_path.rglob("escaped")))


async def test_multipart_objects(
    server: ObjectServer, proxy: FaultyProxy, store: ModelStore, right: set[bytes]
) -> None:
    if not isinstance(server, Moto):
        pytest.skip("no S3")
    body = content("parts", "", 6 << 20)
    right.add(digest(body))
    server.put_in_parts("parts/weights.bin", body)
    proxy.fails(Rule(faults.closed_in_body()))
    assert digest(await fetched(store, "parts")) == digest(body)
