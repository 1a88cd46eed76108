"""`modelplex keys`."""

import functools
import json
import stat
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from modelplex import errors
from modelplex.cli import cli
from modelplex.config_file.access import read_keys
from modelplex.runtime.access import Gate, new_key


def keys(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["keys", *(str(argument) for argument in arguments)])


@pytest.mark.parametrize("name", ["keys.yaml", "keys.json"])
def test_a_key_from_its_making_to_its_end(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    options = ("--models", "shop-*", "--models", "base", "--rate", "100/s", "--tenant", "acme")
    made = keys("add", "shop", "--file", file, *options)
    assert (made.exit_code, made.stderr) == (0, "")
    secret = made.stdout.strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert secret.rpartition("_")[2] not in file.read_text()
    assert Gate(str(file)).admit(secret.encode(), "default", "shop-1", time.time()) == "acme"

    assert keys("add", "other", "--file", file).exit_code == 0
    assert [key.name for key in read_keys(file).keys] == ["shop", "other"]
    shown = keys("list", "--file", file).stdout
    assert "shop  mpx_" in shown
    assert "models: shop-* base  rate: 100/s  tenant: acme" in shown
    listed = json.loads(keys("list", "--file", file, "--json").stdout)
    assert [key["models"] for key in listed] == [["shop-*", "base"], ["*"]]
    assert "sha256" not in listed[0]

    assert keys("remove", "shop", "--file", file).exit_code == 0
    with pytest.raises(errors.UnauthenticatedError):
        Gate(str(file)).check(secret.encode(), time.time())
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_id_that_looks_like_a_number_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys.yaml"
    for key_id in ("123456e78901", "123456789012", "012345670123"):
        monkeypatch.setattr("modelplex.cli_keys.new_key", functools.partial(new_key, key_id))
        made = keys("add", f"of-{key_id}", "-f", file)
        assert (made.exit_code, made.stderr) == (0, "")
    assert [key.id for key in read_keys(file).keys] == ["123456e78901", "123456789012", "012345670123"]


def test_what_is_wrong_is_said_and_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    keys("add", "a", "-f", file)
    before = file.read_text()
    for words, said in (
        (("add", "a"), "2 have the name 'a'"),
        (("add", "b", "--rate", "much"), "rate must be a number"),
        (("add", "b", "--models", "a b"), "models must be"),
        (("remove", "b"), "there is no key 'b'"),
    ):
        done = keys(*words, "-f", file)
        assert done.exit_code == 2
        assert said in " ".join(done.stderr.split())
    assert file.read_text() == before
    assert keys("list", "-f", tmp_path / "none").exit_code != 0
    assert keys("add", "a", "-f", tmp_path / "none" / "keys.yaml").exit_code == 2
