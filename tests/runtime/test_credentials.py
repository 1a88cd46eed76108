"""The secret and the certificates of a cluster: where they come from, and what is said of those that are not right."""

import pickle
from pathlib import Path

import pytest
from clusters import make_tls

from modelplex.errors import CredentialsError
from modelplex.runtime.credentials import Credentials, TLSFiles

SECRET = b"0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TLSFiles:
    return make_tls(tmp_path_factory.mktemp("tls"))


def environment(files: TLSFiles, **others: str) -> dict[str, str]:
    names = {"RAY_TLS_SERVER_CERT": files.cert, "RAY_TLS_SERVER_KEY": files.key, "RAY_TLS_CA_CERT": files.ca}
    return {"RAY_USE_TLS": "1"} | names | others


def test_tls_is_as_ray_has_it(files: TLSFiles) -> None:
    assert TLSFiles.from_environment(environment(files)) == files
    assert TLSFiles.from_environment(environment(files, RAY_USE_TLS="0")) is None
    assert TLSFiles.from_environment({}) is None


@pytest.mark.parametrize("name", ["RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"])
def test_a_file_that_is_missing_or_wrong_is_named(name: str, files: TLSFiles, tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match=f"RAY_USE_TLS is set, but {name} is not"):
        TLSFiles.from_environment(environment(files) | {name: ""})
    with pytest.raises(CredentialsError, match=f"{name}='/nowhere' cannot be read: No such file"):
        TLSFiles.from_environment(environment(files) | {name: "/nowhere"})
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no certificate")
    with pytest.raises(CredentialsError, match=r"wrong\.pem"):
        TLSFiles.from_environment(environment(files) | {name: str(wrong)})


def test_the_secret_is_never_shown_and_has_its_length() -> None:
    credentials = Credentials(SECRET)
    assert "0123456789" not in f"{credentials!r} {credentials}"
    for secret in (b"", SECRET[:-1], SECRET * 2):
        with pytest.raises(CredentialsError, match=rf"has 32 bytes, not {len(secret)}\.$") as error:
            Credentials(secret)
        assert "01234" not in str(error.value)


def test_credentials_travel_also_when_they_have_been_used(files: TLSFiles) -> None:
    files.context(is_server=True)
    credentials = Credentials(SECRET, files)
    assert pickle.loads(pickle.dumps(credentials)) == credentials
