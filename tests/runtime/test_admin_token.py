"""The file that the token is in."""

import os
import stat
from pathlib import Path

import pytest

from modelplex.errors import CredentialsError
from modelplex.runtime.admin_token import read_token


def test_without_a_file_one_is_made_for_this_user_alone_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "token"
    before = os.umask(0)
    try:
        token = read_token(path)
    finally:
        os.umask(before)
    assert len(token) >= 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_token(path) == token == path.read_text().strip()
    assert read_token(tmp_path / "other") != token


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_file_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    token = read_token(path)
    path.chmod(mode)
    with pytest.raises(CredentialsError, match="chmod 600") as caught:
        read_token(path)
    assert token not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "short", "x" * 19, "x" * 1025, "two words that are long enough", "ä" * 30, "a\nb" * 9]
)
def test_what_is_no_token_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(text)
    with pytest.raises(CredentialsError, match="must have one line"):
        read_token(path)
    assert path.read_text() == text


def test_links_folders_and_pipes_are_no_files(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    read_token(target)
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "dangling", "folder", "pipe", "no/such/folder"):
        with pytest.raises(CredentialsError):
            read_token(tmp_path / name)
    assert not (tmp_path / "nothing").exists()
