"""What the processes of a program leave when they end."""

import os
from pathlib import Path

import pytest

from modelplex.config import ADMIN, CONTROL
from modelplex.runtime.child import _remove_folder


def test_two_that_end_at_once_leave_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "sockets"
    folder.mkdir()
    for name in (CONTROL, ADMIN):
        (folder / name).touch()
    unlink = os.unlink

    def unlink_second(path: Path) -> None:
        unlink(path)  # the other one was faster
        unlink(path)

    monkeypatch.setattr(os, "unlink", unlink_second)
    _remove_folder(str(folder / "a.sock"))
    assert not folder.exists()


def test_the_folder_stays_while_another_process_has_its_socket_there(tmp_path: Path) -> None:
    for name in (CONTROL, "other.sock"):
        (tmp_path / name).touch()
    _remove_folder(str(tmp_path / "a.sock"))
    assert sorted(os.listdir(tmp_path)) == sorted([CONTROL, "other.sock"])
