import pickle

import pytest

from modelplex.stores.object_store import ObjectStoreSource


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
