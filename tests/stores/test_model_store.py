import asyncio
import os
import pickle
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from memory_source import MemorySource

from modelplex import loaded
from modelplex.errors import (
    InvalidModelFileError,
    InvalidModelIdError,
    ModelNotFoundError,
    StoreConfigError,
    StoreError,
    UnsafeModelFileError,
)
from modelplex.stores.model_store import FetchProgress, ModelStore


@pytest.fixture
def source() -> MemorySource:
    return MemorySource({f"all/{name}/model.bin": name.encode() for name in ("a", "b", "c")} | {"all/readme.md": b""})


def store_of(source: MemorySource, folder: Path, **options: Any) -> ModelStore:
    options = {"loader": Path.read_bytes} | options
    store = ModelStore("memory://models", "all/{model_id}/model.bin", cache_dir=folder, **options)
    store._source = source
    return store


async def test_a_model_is_fetched_loaded_found_and_listed(tmp_path: Path, source: MemorySource) -> None:
    store = store_of(source, tmp_path / "new")
    assert store.disk_use().models == 0
    path = await store.fetch("a")
    assert path.read_bytes() == b"a"
    assert path.name == "model.bin"
    assert await store.load("b") == b"b"
    assert await store.list() == ["a", "b", "c"]
    assert [await store.exists(model_id) for model_id in ("a", "z")] == [True, False]
    assert store.disk_use().models == 2


async def test_a_load_knows_how_long_its_file_was_fetched(tmp_path: Path, source: MemorySource) -> None:
    took: list[float | None] = []
    for folder in ("one", "one", "other"):
        load = loaded.begin_load()
        await store_of(source, tmp_path / folder).fetch("a")
        took.append(load.fetch_s)
    first, again, elsewhere = took
    assert again == 0.0
    assert first is not None
    assert elsewhere is not None
    assert first > 0.0
    assert elsewhere > 0.0


async def test_files_of_a_folder_are_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"model")
    load = loaded.begin_load()
    await ModelStore(tmp_path).fetch("m")
    assert load.fetch_s is None


async def test_what_does_not_exist_and_what_can_be_no_id(tmp_path: Path, source: MemorySource) -> None:
    store = store_of(source, tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"There is no model 'z': all/z/model\.bin does not exist"):
        await store.load("z")
    with pytest.raises(InvalidModelIdError, match="is a path"):
        await store.fetch("../readme.md".replace("..", "x"))
    with pytest.raises(InvalidModelIdError):
        await store.exists("..")


async def test_a_store_that_is_away_gives_what_was_fetched_last(tmp_path: Path, source: MemorySource) -> None:
    store = store_of(source, tmp_path)
    await store.fetch("a")
    source.contents["all/a/model.bin"] = b"newer"
    await store.fetch("a")
    source.away = True
    assert (await store.fetch("a")).read_bytes() == b"newer"
    with pytest.raises(StoreError, match="does not answer"):
        await store.fetch("b")


async def test_a_model_that_is_replaced_while_it_is_read_is_read_again(tmp_path: Path, source: MemorySource) -> None:
    def replaced(number: int, start: int, data: bytes) -> Any:
        if number == 1:
            source.contents["all/a/model.bin"] = b"2"
            source.spoil = lambda number, start, data: iter([data])
            return source.stream(file, 0, 1)
        return iter([data])

    [file] = await source.files("all/a/model.bin")
    source.spoil = replaced
    store = store_of(source, tmp_path)
    assert (await store.fetch("a")).read_bytes() == b"2"
    assert store.disk_use().models == 1


async def test_one_that_is_replaced_all_the_time_is_given_up(tmp_path: Path, source: MemorySource) -> None:
    files = source.files
    count = 0

    async def always_another(key: str) -> Any:
        nonlocal count
        count += 1
        source.versions[key] = f'"{count}"'
        found = await files(key)
        source.versions[key] = '"none of these"'
        return found

    source.files = always_another  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="replaced 3 times while it was read"):
        await store_of(source, tmp_path).fetch("a")


async def test_a_file_that_its_loader_finds_damaged_is_fetched_once_more(tmp_path: Path, source: MemorySource) -> None:
    loads = []

    def load(path: Path) -> bytes:
        loads.append(path.read_bytes())
        if loads[-1] != b"a":
            raise ValueError("no model")
        return loads[-1]

    store = store_of(source, tmp_path, loader=load)
    path = await store.fetch("a")
    times = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # nothing tells that it was written
    assert await store.load("a") == b"a"
    assert loads == [b"x", b"a"]


async def test_what_the_loader_raises_for_a_sound_file_is_told(tmp_path: Path, source: MemorySource) -> None:
    def load(path: Path) -> bytes:
        raise ValueError("no model")

    with pytest.raises(ValueError, match="no model"):
        await store_of(source, tmp_path, loader=load).load("a")
    assert len(source.requests) == 1


async def test_loaders_are_functions_plain_or_async_or_names(tmp_path: Path, source: MemorySource) -> None:
    async def load(path: Path) -> str:
        return await asyncio.to_thread(path.read_text)

    assert await store_of(source, tmp_path, loader=load).load("a") == "a"
    with pytest.raises(InvalidModelFileError, match=r"Nothing tells how to load .*model.bin: say loader="):
        await store_of(source, tmp_path, loader=None).load("a")
    with pytest.raises(ValueError, match="loader must be a function or one of safetensors"):
        store_of(source, tmp_path, loader="tensorflow")
    with pytest.raises(ValueError, match="a function has its own"):
        store_of(source, tmp_path, loader_options={"a": 1})


async def test_progress_is_told(tmp_path: Path, source: MemorySource) -> None:
    told: list[FetchProgress] = []
    await store_of(source, tmp_path, on_progress=told.append).fetch("a")
    assert told[-1] == FetchProgress("a", 1, 1)


async def test_a_folder_is_used_where_it_lies(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "model.bin").write_text(name)
    store = ModelStore(tmp_path / "models", "{model_id}/model.bin", loader=Path.read_text, cache_dir=tmp_path / "cache")
    assert await store.load("a") == "a"
    assert await store.fetch("b") == tmp_path / "models" / "b" / "model.bin"
    assert await store.list() == ["a", "b"]
    assert os.listdir(tmp_path) == ["models"]
    whole = ModelStore(f"file://{tmp_path}/models", "{model_id}/")
    assert await whole.fetch("a") == tmp_path / "models" / "a"
    assert await whole.list() == ["a", "b"]
    with pytest.raises(ModelNotFoundError):
        await store.load("c")


async def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "models" / "inside").write_text("fine")
    (tmp_path / "models" / "out").symlink_to(tmp_path / "secret")
    (tmp_path / "models" / "in").symlink_to(tmp_path / "models" / "inside")
    store = ModelStore(tmp_path / "models", loader=Path.read_text)
    assert await store.load("in") == "fine"
    with pytest.raises(UnsafeModelFileError, match="leads out of"):
        await store.load("out")


def test_a_store_travels_to_other_processes(tmp_path: Path) -> None:
    store = ModelStore("s3://bucket/models", "{model_id}.pt", cache_dir=tmp_path, options={"region": "eu-west-1"})
    for copy in (pickle.loads(pickle.dumps(store)), cloudpickle.loads(cloudpickle.dumps(store))):
        assert copy._source.name == "s3://bucket/models"
        assert copy._source._options == {"region": "eu-west-1"}
        assert copy._cache.folder == tmp_path


async def test_what_cannot_be_a_store(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cache_bytes"):
        ModelStore("s3://bucket", cache_bytes="many")
    with pytest.raises(ValueError, match="A pattern has"):
        ModelStore("s3://bucket", "model.pt")
    with pytest.raises(StoreConfigError, match="ftp://"):
        await ModelStore("ftp://host/models", cache_dir=tmp_path).fetch("a")
    with pytest.raises(StoreConfigError, match="cannot be listed"):
        await ModelStore("https://host/models", cache_dir=tmp_path).list()


async def test_versions_and_aliases(tmp_path: Path) -> None:
    source = MemorySource({f"shop/{v}/model.bin": f"version {v}".encode() for v in (2, 9, 10)})
    source.contents["shop/aliases.json"] = b'{"stable": "2"}'
    store = ModelStore("memory://x", "{name}/{version}/model.bin", cache_dir=tmp_path, loader=Path.read_text)
    store._source = source
    assert store._versions is not None
    store._versions._source = source  # type: ignore[attr-defined]
    ids = ("shop@9", "shop@latest", "shop@stable", "shop")
    assert [await store.resolve(i) for i in ids] == ["shop@9", "shop@10", "shop@2", "shop@10"]
    assert [await store.load(i) for i in ids] == ["version 9", "version 10", "version 2", "version 10"]
    assert [await store.exists(i) for i in (*ids, "shop@3", "shop@new", "other")] == [True] * 4 + [False] * 3
    assert await store.list() == ["shop@10", "shop@2", "shop@9"]
    source.away = True
    assert await store.load("shop@9") == "version 9"
    with pytest.raises(StoreError, match="does not answer"):
        await store.load("shop@3")
    with pytest.raises(ModelNotFoundError, match="ids are name, name@version or name@alias"):
        await store.fetch("shop@../x")


async def test_an_mlflow_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"file:{tmp_path / 'registry'}"
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("shop")
    for version in ("1", "2"):
        folder = tmp_path / "artifacts" / version
        folder.mkdir(parents=True)
        (folder / "MLmodel").write_text(version)
        client.create_model_version("shop", source=f"file://{folder}")
    client.set_registered_model_alias("shop", "champion", "1")

    def load(path: Path) -> str:
        return (path / "MLmodel").read_text()

    store = ModelStore("models:/", cache_dir=tmp_path / "cache", loader=load, options={"registry_uri": uri})
    assert await store.load("shop@champion") == "1"
    assert await store.load("shop") == "2"
    assert await store.resolve("shop@champion") == "shop@1"
    assert [await store.exists(i) for i in ("shop@1", "shop@3", "none")] == [True, False, False]
    assert await store.list() == ["shop@1", "shop@2"]
    with pytest.raises(ValueError, match="takes no pattern"):
        ModelStore("models:/", "{model_id}")
    assert cloudpickle.loads(cloudpickle.dumps(store))._source.name == store._source.name
