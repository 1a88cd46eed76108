import os
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import GenericError

from modelplex.errors import StoreConfigError
from modelplex.stores.object_store import ObjectStoreSource, _as_aws_tools_find_them, _conditions, _translated, _version


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


def test_a_profile_says_what_the_environment_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "credentials").write_text("[work]\naws_access_key_id = key\naws_secret_access_key = secret\n")
    (tmp_path / "config").write_text("[profile work]\nregion = eu-west-1\nendpoint_url = http://127.0.0.1:9000\n")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    found = _as_aws_tools_find_them({})
    assert (found["endpoint"], found["region"]) == ("http://127.0.0.1:9000", "eu-west-1")
    credentials = found["credential_provider"]()
    assert (credentials["access_key_id"], credentials["secret_access_key"]) == ("key", "secret")
    given = {"access_key_id": "other", "secret_access_key": "one", "endpoint": "https://minio"}
    assert _as_aws_tools_find_them(given) == given


def test_the_environment_says_where_s3_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    assert _as_aws_tools_find_them({"region": "x"}) == {"endpoint": "http://127.0.0.1:9000", "region": "x"}


def test_who_has_no_credentials_is_told_what_to_do() -> None:
    with (
        pytest.raises(StoreConfigError, match=r"no credentials were found\. Set AWS_ACCESS"),
        _translated("s3://b", "m"),
    ):
        raise GenericError(
            "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 1 ms - 403"
        )
