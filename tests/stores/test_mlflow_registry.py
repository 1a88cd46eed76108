"""Versions of an MLflow registry, by one of MLflow's own kinds that needs no server: a folder of files."""

import asyncio
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelplex import errors
from modelplex.stores import mlflow_registry
from modelplex.stores.folder import FolderSource
from modelplex.stores.mlflow_registry import MlflowAliases, MlflowSource, Registry

pytest.importorskip("mlflow")


def folder(url: str) -> FolderSource:
    return FolderSource(url.removeprefix("file://"))


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Models `shop`, of eleven versions in the folders `v1` to `v11`, and `other`, of one."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    uri = f"file:{tmp_path / 'registry'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    for name, count in (("shop", 11), ("other", 1)):
        client.create_registered_model(name)
        for version in range(1, count + 1):
            folder = tmp_path / name / f"v{version}"
            folder.mkdir(parents=True)
            (folder / "MLmodel").write_text(f"{name} {version}")
            (folder / "data").mkdir()
            (folder / "data" / "weights").write_bytes(b"x" * version)
            client.create_model_version(name, source=f"file://{folder}")
    client.set_registered_model_alias("shop", "stable", "3")
    return Registry(uri)


def resolve(registry: Registry, model_id: str) -> str:
    return asyncio.run(MlflowAliases(registry).resolve(model_id))


def test_what_ids_stand_for(registry: Registry) -> None:
    assert resolve(registry, "shop@7") == "shop@7"
    assert resolve(registry, "shop@stable") == "shop@3"
    assert resolve(registry, "shop@latest") == "shop@11"
    assert resolve(registry, "shop") == "shop@11"
    _client(registry).set_registered_model_alias("shop", "default", "2")
    assert resolve(registry, "shop") == "shop@2"
    assert resolve(registry, "shop@latest") == "shop@11"


def test_a_version_that_is_not_ready_is_not_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        SimpleNamespace(version=v, status=s) for v, s in ((12, "PENDING_REGISTRATION"), (11, "READY"), (9, "READY"))
    ]
    registry = Registry()
    monkeypatch.setattr(registry, "_client", SimpleNamespace(search_model_versions=lambda *a, **k: found))
    assert resolve(registry, "shop@latest") == "shop@11"
    del found[1:]
    with pytest.raises(errors.ModelNotFoundError, match="ready"):
        resolve(registry, "shop@latest")


@pytest.mark.parametrize("model_id", ["shop@none", "nobody", "nobody@latest", "nobody@stable"])
def test_what_is_not_there_is_not_found(registry: Registry, model_id: str) -> None:
    with pytest.raises(errors.ModelNotFoundError):
        resolve(registry, model_id)


@pytest.mark.parametrize(
    "model_id", ["../shop", "a/b@1", "shop@../1", "shop@1@2", "x' or 'a", "shop@", "@1", "shop@-1"]
)
def test_no_id_leads_out_of_its_place(model_id: str) -> None:
    registry = Registry()

    def call(*_: object) -> None:
        raise AssertionError("it is asked")

    registry.call = call  # type: ignore[method-assign,assignment]
    with pytest.raises((errors.ModelNotFoundError, errors.InvalidModelIdError)):
        resolve(registry, model_id)


def test_the_files_of_a_version(registry: Registry) -> None:
    opened: list[str] = []

    def open_source(url: str) -> FolderSource:
        opened.append(url)
        return folder(url)

    async def main() -> None:
        source = MlflowSource(open_source, registry)
        files = await source.files("shop@3/")
        assert [(f.key, f.path, f.size_bytes) for f in files] == [
            ("shop@3/MLmodel", "MLmodel", 6),
            ("shop@3/data/weights", "data/weights", 3),
        ]
        assert await source.read(files[0], 0, 6) == b"shop 3"
        assert await source.read(files[1], 1, 3) == b"xx"
        [one] = await source.files("shop@3/data/weights")
        assert (one.key, one.path) == ("shop@3/data/weights", "weights")
        assert len(opened) == 1
        for key in ("shop@99/", "nobody@1/", "shop/", "shop@stable/", "shop@3/nothing/"):
            with pytest.raises(FileNotFoundError):
                await source.files(key)

    asyncio.run(main())


def test_what_there_is_can_be_listed(registry: Registry) -> None:
    async def listed(prefix: str) -> list[str]:
        return sorted([key async for key in MlflowSource(folder, registry).list(prefix)])

    shops = sorted(f"shop@{version}/" for version in range(1, 12))
    assert asyncio.run(listed("")) == ["other@1/", *shops]
    assert asyncio.run(listed("shop@")) == shops
    assert asyncio.run(listed("shop@1")) == ["shop@1/", "shop@10/", "shop@11/"]
    assert asyncio.run(listed("nobody@")) == []


def _client(registry: Registry) -> Any:
    asyncio.run(registry.call("nothing", lambda client: None))
    return registry._client


def _slow(registry: Registry, seconds: float) -> Callable[[Any], None]:
    registry._client = object()
    return lambda client: time.sleep(seconds)


def test_a_registry_that_does_not_answer_is_not_waited_for() -> None:
    registry = Registry(timeout_s=0.05)
    call = _slow(registry, 0.3)
    with pytest.raises(errors.StoreError, match=r"within 0\.05 s, asked for x"):
        asyncio.run(registry.call("x", call))


def test_calls_that_wait_for_it_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_registry, "CALLS_MAX", 3)
    registry = Registry(timeout_s=5)
    call = _slow(registry, 0.1)

    async def main() -> list[Any]:
        return await asyncio.gather(*(registry.call("x", call) for _ in range(5)), return_exceptions=True)

    answers = asyncio.run(main())
    assert [type(answer) for answer in answers] == [type(None)] * 3 + [errors.StoreError] * 2
    assert asyncio.run(registry.call("x", call)) is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("PERMISSION_DENIED", errors.StoreConfigError),
        ("RESOURCE_DOES_NOT_EXIST", errors.ModelNotFoundError),
        ("INTERNAL_ERROR", errors.StoreError),
        (None, errors.StoreError),
    ],
)
def test_errors_are_told_as_ours(code: str | None, kind: type[Exception]) -> None:
    registry = Registry()
    registry._client = object()

    def fail(client: object) -> None:
        error = RuntimeError("what it says")
        if code is not None:
            error.error_code = code  # type: ignore[attr-defined]
        raise error

    with pytest.raises(errors.ModelplexError) as caught:
        asyncio.run(registry.call("x", fail))
    assert type(caught.value) is kind


def test_a_registry_that_cannot_be_is_no_missing_model() -> None:
    with pytest.raises(errors.StoreConfigError, match="unsupported URI"):
        resolve(Registry("gopher://nowhere"), "shop@stable")


def test_it_travels_to_replicas(registry: Registry) -> None:
    assert resolve(registry, "shop@stable") == "shop@3"
    copy = pickle.loads(pickle.dumps(MlflowAliases(registry)))
    assert asyncio.run(copy.resolve("shop@stable")) == "shop@3"


def test_a_name_shows_no_password() -> None:
    assert MlflowSource(folder, Registry("https://me:secret@host/x")).name == "models:/ of https://host/x"
