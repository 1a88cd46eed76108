"""Versions in a store: what ids stand for, by a source in memory."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from memory_source import MemorySource

from modelplex import errors
from modelplex.stores.source import FileChangedError, RemoteFile
from modelplex.stores.versions import ALIASES_BYTES_MAX, Versions, natural

PATTERN = "{name}/{version}/model.safetensors"


class NotingSource(MemorySource):
    """It notes what it is asked."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        super().__init__(contents)
        self.asked: list[str] = []
        self.changes = 0

    async def files(self, key: str) -> Sequence[RemoteFile]:
        self.asked.append(f"files {key}")
        return await super().files(key)

    async def read(self, file: RemoteFile, start: int, end: int) -> bytes:
        self.asked.append(f"read {file.key}")
        if self.changes:
            self.changes -= 1
            raise FileChangedError(file.key)
        return await super().read(file, start, end)

    async def list(self, prefix: str) -> AsyncIterator[str]:
        self.asked.append(f"list {prefix}")
        async for key in super().list(prefix):
            yield key


def store(*keys: str, **aliases: bytes) -> NotingSource:
    files = dict.fromkeys(keys, b"weights")
    return NotingSource(files | {f"{name}/aliases.json": text for name, text in aliases.items()})


SHOPS = [f"shop/{version}/model.safetensors" for version in (1, 2, 9, 10)]


def resolve(source: NotingSource, model_id: str, pattern: str = PATTERN, **options: Any) -> str:
    return asyncio.run(Versions(source, pattern, **options).resolve(model_id))


def test_a_version_stands_for_itself_and_costs_one_look() -> None:
    source = store(*SHOPS, shop=b'{"9": "1"}')
    assert resolve(source, "shop@9") == "shop@9"
    assert source.asked == ["files shop/9/model.safetensors"]


def test_latest_is_the_highest_by_number_and_lists_this_model_alone() -> None:
    source = store(*SHOPS, "shop2/99/model.safetensors", "other/77/model.safetensors")
    assert resolve(source, "shop@latest") == "shop@10"
    assert source.asked == ["list shop/"]


def test_what_has_no_file_of_a_model_is_no_version() -> None:
    source = store(*SHOPS, "shop/11/notes.txt", "shop/12/deep/model.safetensors", "shop/latest/model.safetensors")
    assert resolve(source, "shop@latest") == "shop@10"
    with pytest.raises(errors.ModelNotFoundError, match="'11'"):
        resolve(source, "shop@11")


def test_a_tag_is_read_from_the_file_of_aliases() -> None:
    source = store(*SHOPS, shop=b'{"stable": "9", "next": "10"}')
    assert resolve(source, "shop@stable") == "shop@9"
    assert source.asked == [
        "files shop/stable/model.safetensors",
        "files shop/aliases.json",
        "read shop/aliases.json",
    ]


def test_a_bare_name_is_the_default_or_else_the_latest() -> None:
    assert resolve(store(*SHOPS), "shop") == "shop@10"
    assert resolve(store(*SHOPS, shop=b'{"stable": "1"}'), "shop") == "shop@10"
    assert resolve(store(*SHOPS, shop=b'{"default": "2"}'), "shop") == "shop@2"
    assert resolve(store(*SHOPS, shop=b'{"default": "2"}'), "shop@default") == "shop@2"
    assert resolve(store(*SHOPS, shop=b'{"default": "2"}'), "shop@latest") == "shop@10"
    with pytest.raises(errors.ModelNotFoundError):
        resolve(store(*SHOPS), "shop@default")


@pytest.mark.parametrize("model_id", ["shop@nope", "nobody", "nobody@latest", "nobody@3"])
def test_what_is_not_there_is_not_found(model_id: str) -> None:
    with pytest.raises(errors.ModelNotFoundError):
        resolve(store(*SHOPS, shop=b'{"stable": "9"}'), model_id)


@pytest.mark.parametrize(
    "model_id",
    [
        "../shop",
        "shop@..",
        "shop@../x",
        "a/shop@3",
        "shop@3/..",
        "shop@",
        "@3",
        ".",
        "..",
        "shop@.",
        "shop@3@4",
        "-a",
        "",
    ],
)
def test_no_id_leads_out_of_its_place(model_id: str) -> None:
    source = store(*SHOPS)
    with pytest.raises((errors.ModelNotFoundError, errors.InvalidModelIdError)):
        resolve(source, model_id)
    assert source.asked == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"{", "Expecting property name"),
        (b"\xff\xfe\x00", ""),
        (b"[]", "it is a list"),
        (b'"3"', "it is a str"),
        (b'{"stable": 3}', "'stable' stands for 3, which is no text"),
        (b'{"stable": null}', "which is no text"),
        (b'{"stable": "../../etc/passwd"}', "no name of a version"),
        (b'{"stable": "3/4"}', "no name of a version"),
        (b'{"stable": ".."}', "no name of a version"),
        (b'{"stable": ""}', "no name of a version"),
        (b'{"stable": "3@4"}', "no name of a version"),
        (b'{"stable": "latest"}', "no name of a version"),
        (b'{"latest": "3"}', "'latest' cannot be an alias"),
        (b'{"a/b": "3"}', "'a/b' cannot be an alias"),
        (b'{"stable": "3", "stable": "4"}', "twice"),
        (b"[" * 30_000, ""),
        (b'{"stable": "3"}' + b" " * ALIASES_BYTES_MAX, "more than 65536"),
    ],
)
def test_a_file_of_aliases_is_read_strictly(text: bytes, what: str) -> None:
    with pytest.raises(errors.StoreConfigError, match=r"shop/aliases\.json.*memory://models") as caught:
        resolve(store(*SHOPS, shop=text), "shop@stable")
    assert what in str(caught.value)


def test_a_file_that_is_too_large_is_not_read() -> None:
    source = store(*SHOPS, shop=b" " * (ALIASES_BYTES_MAX + 1))
    with pytest.raises(errors.StoreConfigError):
        resolve(source, "shop@stable")
    assert not [asked for asked in source.asked if asked.startswith("read")]


def test_a_file_that_changes_while_it_is_read_is_read_again() -> None:
    source = store(*SHOPS, shop=b'{"stable": "9"}')
    source.changes = 2
    assert resolve(source, "shop@stable") == "shop@9"
    source.changes = 10
    with pytest.raises(errors.StoreError, match="changes whenever"):
        resolve(source, "shop@stable")


def test_without_files_of_aliases_none_is_looked_for() -> None:
    source = store(*SHOPS, shop=b'{"stable": "9"}')
    with pytest.raises(errors.ModelNotFoundError):
        resolve(source, "shop@stable", aliases=None)
    assert source.asked == ["files shop/stable/model.safetensors"]


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("{name}/{version}/", ["shop/2/config.json", "shop/10/weights.bin", "shop/10/config.json"]),
        ("models/{name}/v{version}.pt", ["models/shop/v2.pt", "models/shop/v10.pt", "models/shop/w11.pt"]),
        ("{name}-{version}.onnx", ["shop-2.onnx", "shop-10.onnx", "shop-17-99.onnx", "shop-3.onnx.tmp"]),
        ("{name}/{version}", ["shop/2", "shop/10", "shop/aliases.json"]),
        ("{name}/{version}/model/", ["shop/2/model/a", "shop/10/model/a", "shop/11/other/a"]),
    ],
)
def test_patterns(pattern: str, keys: list[str]) -> None:
    source = store(*keys)
    assert resolve(source, "shop@latest", pattern) == "shop@10"
    assert resolve(source, "shop@2", pattern) == "shop@2"
    assert asyncio.run(Versions(source, pattern).versions("shop")) == ["2", "10"]
    key = Versions(source, pattern).key("shop@2")
    assert any(k == key or k.startswith(key) for k in keys)


@pytest.mark.parametrize("model_id", ["shop", "shop@latest", "shop@default"])
def test_only_a_version_has_a_key(model_id: str) -> None:
    with pytest.raises(errors.ModelNotFoundError, match="names no version"):
        Versions(store(), PATTERN).key(model_id)


@pytest.mark.parametrize("pattern", ["{version}/{name}", "{name}", "{version}", "{name}{version}", "{name}/{x}", ""])
def test_a_pattern_that_cannot_be_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="name"):
        Versions(store(), pattern)


@pytest.mark.parametrize("aliases", ["aliases.json", "{name}/{version}.json", "{", ""])
def test_a_pattern_of_alias_files_that_cannot_be_is_refused(aliases: str) -> None:
    with pytest.raises(ValueError, match="alias files"):
        Versions(store(), PATTERN, aliases)


def test_natural_order() -> None:
    ordered = ["alpha", "beta2", "beta10", "1", "1.0", "1.2", "1.9", "1.10", "2", "2024-01-31", "2024-02-01"]
    shuffled = ordered[::-1]
    assert sorted(shuffled, key=natural) == ordered


@pytest.mark.parametrize(
    ("pattern", "key", "model_id"),
    [
        (PATTERN, "shop/3/model.safetensors", "shop@3"),
        (PATTERN, "shop/aliases.json", None),
        (PATTERN, "shop/3/other.json", None),
        (PATTERN, "shop/latest/model.safetensors", None),
        (PATTERN, "../3/model.safetensors", None),
        (PATTERN, "shop/../model.safetensors", None),
        ("all/{name}/{version}/", "all/shop/3/MLmodel", "shop@3"),
        ("all/{name}/{version}/", "all/shop/3/data/weights", "shop@3"),
        ("{name}-{version}.pt", "shop-17-3.pt", "shop-17@3"),
    ],
)
def test_a_key_leads_back_to_its_version(pattern: str, key: str, model_id: str | None) -> None:
    versions = Versions(store(), pattern)
    assert versions.model_id(key) == model_id
    if model_id is not None:
        assert key.startswith(versions.key(model_id))
