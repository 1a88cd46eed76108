"""Aliases that are set in a store."""

import json
from pathlib import Path

import pytest
from memory_source import MemorySource

from modelplex.errors import (
    AliasNotSetError,
    InvalidModelIdError,
    ModelNotFoundError,
    StoreConfigError,
    UnsafeModelFileError,
)
from modelplex.stores.model_store import ModelStore
from modelplex.stores.versions import Versions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two versions of a model."""
    for version in "12":
        (tmp_path / "shop" / version).mkdir(parents=True)
        (tmp_path / "shop" / version / "model.txt").write_text(version)
    return tmp_path


async def test_an_alias_is_set_in_a_folder_beside_the_others(folder: Path) -> None:
    store = ModelStore(folder, pattern="{name}/{version}/model.txt")
    await store.set_alias("shop@stable", "shop@1")
    await store.set_alias("shop", "shop@2")
    await store.set_alias("shop@beta", "2")
    assert json.loads((folder / "shop" / "aliases.json").read_text()) == {"stable": "1", "default": "2", "beta": "2"}
    assert [await store.resolve(i) for i in ("shop@stable", "shop", "shop@beta")] == ["shop@1", "shop@2", "shop@2"]
    assert [p.name for p in (folder / "shop").iterdir() if p.is_file()] == ["aliases.json"]  # nothing is left beside it


@pytest.mark.parametrize(
    ("alias", "version", "kind", "what"),
    [
        ("shop@stable", "shop@9", ModelNotFoundError, "no version '9'"),
        ("shop@stable", "other@1", AliasNotSetError, "only stand for a version of 'shop'"),
        ("shop@latest", "shop@1", AliasNotSetError, "found out by itself"),
        ("shop@stable", "shop@latest", AliasNotSetError, "cannot stand for"),
        ("shop@1", "shop@2", AliasNotSetError, "is a version itself"),
        ("../shop@stable", "shop@1", InvalidModelIdError, "malformed"),
        ("a/b@stable", "a/b@1", ModelNotFoundError, "ids are name"),
        ("shop@stable", "shop@", ModelNotFoundError, "ids are name"),
    ],
)
async def test_an_alias_that_cannot_be_is_refused(
    folder: Path, alias: str, version: str, kind: type[Exception], what: str
) -> None:
    store = ModelStore(folder, pattern="{name}/{version}/model.txt")
    with pytest.raises(kind, match=what):
        await store.set_alias(alias, version)
    assert not (folder / "shop" / "aliases.json").exists()


async def test_no_alias_is_written_through_a_link_to_elsewhere_nor_over_what_is_malformed(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "file"
    elsewhere.write_text("{}")
    store = ModelStore(folder, pattern="{name}/{version}/model.txt")
    (folder / "shop" / "aliases.json").symlink_to(elsewhere)
    with pytest.raises(UnsafeModelFileError):
        await store.set_alias("shop@stable", "shop@1")
    assert elsewhere.read_text() == "{}"
    (folder / "shop" / "aliases.json").unlink()
    (folder / "shop" / "aliases.json").write_text("[1")
    with pytest.raises(StoreConfigError, match="must be JSON"):
        await store.set_alias("shop@stable", "shop@1")
    assert (folder / "shop" / "aliases.json").read_text() == "[1"


async def test_other_stores_say_where_their_aliases_are_set(tmp_path: Path) -> None:
    with pytest.raises(AliasNotSetError, match="in the store itself"):
        await ModelStore(tmp_path).set_alias("a@b", "a@1")
    source = MemorySource({"shop/1/model.txt": b"1"})
    with pytest.raises(AliasNotSetError, match="in the store itself"):
        await Versions(source, "{name}/{version}/model.txt").set_alias("shop@stable", "shop@1")
