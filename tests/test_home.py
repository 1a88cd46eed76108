"""Where a system keeps what it is: which folder, for whom, and for one controller at a time."""

import os
import socket
import tempfile
from pathlib import Path

import pytest

from modelplex import errors
from modelplex.config import ADMIN, CONTROL
from modelplex.home import Home, answers, running


@pytest.fixture(autouse=True)
def _nothing_said_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELPLEX_HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    return Home.of(tmp_path / "home")


def test_the_folder_is_what_was_given_or_the_environments_or_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Home.of().folder == tmp_path / ".local" / "state" / "modelplex"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert Home.of().folder == tmp_path / "xdg" / "modelplex"
    monkeypatch.setenv("MODELPLEX_HOME", str(tmp_path / "mine"))
    assert Home.of().folder == tmp_path / "mine"
    assert Home.of(tmp_path / "given").folder == tmp_path / "given"


def test_one_folder_has_one_place_for_its_sockets_however_it_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "home")
    spelled = [Path("home"), tmp_path / "x" / ".." / "home", tmp_path / "link", tmp_path / "home"]
    assert len({Home.of(folder).sockets for folder in spelled}) == 1
    assert Home.of(Path("other")).sockets != Home.of(Path("home")).sockets


def test_a_long_path_makes_no_long_path_of_a_socket(tmp_path: Path) -> None:
    deep = Home.of(tmp_path.joinpath(*["folder"] * 30))
    assert len(str(deep.sockets / CONTROL)) - len(tempfile.gettempdir()) < 60


def test_the_folders_are_made_for_this_user_alone(home: Home) -> None:
    home.make()
    home.make()
    assert {folder.stat().st_mode & 0o777 for folder in (home.folder, home.sockets)} == {0o700}


@pytest.mark.parametrize("which", ["folder", "sockets"])
def test_a_folder_that_others_can_read_is_refused(home: Home, which: str) -> None:
    getattr(home, which).mkdir()
    getattr(home, which).chmod(0o750)
    with pytest.raises(errors.ModelplexError, match="chmod 700"):
        home.make()


def test_a_link_in_place_of_the_sockets_is_refused(home: Home, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    home.sockets.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.ModelplexError, match="this user's alone"):
        home.make()


def test_another_users_folder_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = home.sockets
    home.make()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(errors.ModelplexError, match="this user's alone"):
        home.make()
    assert home.sockets != sockets


def test_what_is_no_folder_is_told(home: Home) -> None:
    home.folder.write_text("")
    with pytest.raises(errors.ModelplexError, match="cannot be made: File exists"):
        home.make()
    with pytest.raises(errors.ModelplexError, match="cannot be written"):
        home.lock()


def test_there_is_one_lock(home: Home) -> None:
    home.make()
    states = [home.is_locked]
    with home.lock():
        states.append(home.is_locked)
        with pytest.raises(errors.ModelplexError, match="runs already"):
            home.lock()
    states.append(home.is_locked)
    assert states == [False, True, False]
    home.lock().close()


def test_who_listens_is_found(home: Home) -> None:
    home.make()
    assert (answers(home.sockets), running()) == (False, [])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home.sockets / ADMIN))
        assert not answers(home.sockets), "it does not listen yet"
        listener.listen()
        assert answers(home.sockets)
        assert running() == [home.sockets]
    assert (answers(home.sockets), running()) == (False, [])


def test_traces_of_a_controller_that_died_are_found(home: Home) -> None:
    found = [home.may_have_processes]
    home.make()
    found.append(home.may_have_processes)
    home.expect_processes()
    found.append(home.may_have_processes)
    (home.sockets / CONTROL).rename(home.sockets / "abc.sock")
    found.append(home.may_have_processes)
    assert found == [False, False, True, True]
