"""Files of API keys: what they may say, and who may write them."""

import os
import random
import re
import time
from fnmatch import translate
from pathlib import Path
from typing import Any

import pytest

from modelplex.config.access import AccessConfig, AccessKey, any_of
from modelplex.config_file.access import parse_keys, read_keys
from modelplex.errors import ConfigFileError

SHA = "a" * 64
ONE = f"keys: [{{name: a, id: abcdefgh, sha256: {SHA}, models: ['*']}}]"


def key(**changed: Any) -> AccessKey:
    return AccessKey(**{"name": "a", "id": "abcdefgh", "sha256": SHA, "models": ["*"], **changed})


def wrong(text: str) -> str:
    with pytest.raises(ConfigFileError) as caught:
        parse_keys(text, "f")
    return str(caught.value)


def test_a_file_with_all_that_there_is() -> None:
    text = f"""
keys:
- name: shop
  id: 3f2a9c01
  sha256: {SHA}
  models: ["shop-*", "base"]
  applications: [default]
  rate: 1000/m
  burst: 50
  tenant: acme
  expires_at: 2027-01-31T00:00:00Z
"""
    [found] = parse_keys(text, "f").keys
    assert (found.name, found.models, found.tenant, found.applications) == (
        "shop",
        ["shop-*", "base"],
        "acme",
        ["default"],
    )
    assert found.limit is not None
    assert (found.limit.per_s, found.limit.burst) == (1000 / 60, 50)
    assert found.expires == 1_801_353_600


def test_json_is_yaml_and_no_key_at_all_is_a_file() -> None:
    assert parse_keys('{"keys": []}', "f") == AccessConfig(keys=())


def test_times_without_a_zone_are_utc_and_a_rate_allows_its_number_at_once() -> None:
    assert key(expires_at="2027-01-31").expires == key(expires_at="2027-01-31T01:00:00+01:00").expires
    limit = key(rate="5000/h").limit
    assert limit is not None
    assert (limit.per_s, limit.burst) == (5000 / 3600, 5000)
    assert (key().limit, key().expires) == (None, None)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "a\nb"}, "name must be 1 to 128 characters"),
        ({"id": "ABCDEFGH"}, "id must be 8 to 32 characters"),
        ({"sha256": "secret"}, "sha256 must be 64 digits"),
        ({"models": ["a b"]}, "models must be characters of"),
        ({"models": "shop"}, "models must be a list"),
        ({"applications": [""]}, "applications must be names"),
        ({"rate": "10 per second"}, "rate must be a number and one of"),
        ({"rate": "0/s"}, "rate must be a number and one of"),
        ({"burst": 5}, "burst is of no use without rate"),
        ({"rate": "1/s", "burst": 0}, "burst must be an integer of at least 1"),
        ({"tenant": "\x1b[31m"}, "tenant must be 1 to 128 characters"),
        ({"expires_at": "tomorrow"}, "expires_at must be a time such as"),
    ],
)
def test_values_that_cannot_be(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        key(**changed)


def test_mistakes_are_told_with_their_places() -> None:
    assert wrong("keys: 5") == "f:1:7: keys: keys must be a list."
    assert wrong("{}") == "f:1:1: keys is missing."
    assert "Did you mean 'keys'?" in wrong("keyes: []")
    assert "sha256 is missing" in wrong("keys: [{name: a, id: abcdefgh, models: []}]")
    assert "Did you mean 'models'?" in wrong(ONE.replace("models", "model"))
    twice = ONE[:-1] + ", " + ONE.partition("[")[2]
    assert "keys: 2 have the name 'a'" in wrong(twice)
    assert "2 have the id" in wrong(twice.replace("name: a", "name: b", 1))
    assert "is not known here" in wrong("keys: !!python/object/apply:os.system ['true']")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(ONE)
    file.chmod(mode)
    with pytest.raises(ConfigFileError, match="Others than its owner may write the file"):
        read_keys(file)
    file.chmod(0o644)
    assert len(read_keys(file).keys) == 1


def test_a_file_of_another_user_is_refused_and_one_that_is_not_there_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.yaml"
    with pytest.raises(ConfigFileError, match="No such file"):
        read_keys(file)
    file.write_text(ONE)
    file.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(file, 12345, -1)
    else:
        monkeypatch.setattr("os.geteuid", lambda: 12345)
    with pytest.raises(ConfigFileError, match="belongs to another user"):
        read_keys(file)


# Globs


@pytest.mark.parametrize(
    ("globs", "yes", "no"),
    [
        (["*"], ["", "a", "a/b", "A:b@c"], []),
        (["shop-*"], ["shop-", "shop-1/x"], ["", "Shop-1", "a-shop-1"]),
        (["a", "b?"], ["a", "bc"], ["", "b", "bcd", "ac"]),
        (["*-v?"], ["x-v1", "-v2", "a-v1-v2"], ["-v", "x-v10"]),
        (["a*b*c"], ["abc", "aXbYc", "abbcc"], ["acb", "ab"]),
        (["ab*ba"], ["abba", "abxba"], ["aba"]),
        (["a.b"], ["a.b"], ["axb"]),
        (["**"], ["", "a"], []),
        ([], [], ["", "a"]),
    ],
)
def test_globs(globs: list[str], yes: list[str], no: list[str]) -> None:
    found = any_of(globs)
    assert all(found.fullmatch(text) for text in yes)
    assert not any(found.fullmatch(text) for text in no)


def test_globs_are_those_of_the_standard_library() -> None:
    chance = random.Random(7)
    for _ in range(20_000):
        glob = "".join(chance.choice("ab*?") for _ in range(chance.randrange(1, 8)))
        text = "".join(chance.choice("ab") for _ in range(chance.randrange(9)))
        assert bool(any_of([glob]).fullmatch(text)) == bool(re.fullmatch(translate(glob), text)), (glob, text)


def test_no_model_id_takes_long_to_match() -> None:
    """Each star by itself would try each place: 256 ** 20 of them."""
    began = time.process_time()
    assert any_of(["a*" * 20 + "b"]).fullmatch("a" * 256) is None
    assert time.process_time() - began < 5
