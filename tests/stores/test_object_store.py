import pickle
from datetime import UTC, datetime
from typing import Any

import pytest

from modelplex.stores.object_store import ObjectStoreSource, _conditions, _version


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("s3://bucket/models/", "s3://bucket/models"),
        ("https://user:password@host/models", "https://host/models"),
        ("https://host/models?sig=secret", "https://host/models"),
        ("abfss://models@account.dfs.core.windows.net/all", "abfss://models@account.dfs.core.windows.net/all"),
    ],
)
def test_a_name_has_no_secrets(url: str, name: str) -> None:
    source = ObjectStoreSource(url, {"region": "eu-west-1"})
    assert source.name == name
    copy = pickle.loads(pickle.dumps(source))
    assert (copy._url, copy._options) == (url, {"region": "eu-west-1"})


@pytest.mark.parametrize(
    "url", ["gs://bucket/models", "az://container/models", "abfss://models@account.dfs.core.windows.net/all"]
)
def test_stores_of_all_clouds_open(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    source = ObjectStoreSource(url, {"skip_signature": True})
    _, store = source._open()
    assert type(store).__name__ == ("GCSStore" if url.startswith("gs") else "AzureStore")


CHANGED = datetime(2026, 1, 2, tzinfo=UTC)
NEVER = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("etag", "changed", "conditions"),
    [
        ('"abc"', CHANGED, {"if_match": '"abc"'}),
        ("0x8DE", CHANGED, {"if_match": '"0x8DE"'}),  # as Azure lists it
        ('W/"abc"', CHANGED, {}),  # matches nothing, by the standard
        (None, CHANGED, {"if_unmodified_since": CHANGED}),
        (None, NEVER, {}),
    ],
)
def test_a_store_is_asked_for_one_version(etag: str | None, changed: datetime, conditions: dict[str, Any]) -> None:
    assert _conditions(_version({"e_tag": etag, "last_modified": changed})) == conditions


def test_a_version_is_the_same_however_it_was_found() -> None:
    head, listed = ({"e_tag": etag, "last_modified": CHANGED} for etag in ('"0x8DE"', "0x8DE"))
    assert _version(head) == _version(listed)
