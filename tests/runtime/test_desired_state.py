"""What is wanted, on disk."""

import os
from pathlib import Path
from typing import Any

import pytest

from modelplex import errors, serve
from modelplex.config import HTTPOptions
from modelplex.deployment import flatten
from modelplex.runtime import payload
from modelplex.runtime.app_spec import AppSpec
from modelplex.runtime.desired_state import NotKept, Saved, SavedApp, StateFile


@serve.deployment
class D:
    pass


def saved_app(count: int = 1) -> SavedApp:
    spec = AppSpec.of("a", flatten(D.bind(), "a"), "/a", pickled=True, version="v")  # type: ignore[attr-defined]
    return SavedApp(spec, None, False, {"D": count})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


def names(path: Path) -> list[str]:
    return [file.name for file in path.parent.iterdir()]


def test_what_was_saved_is_read_again(path: Path) -> None:
    http = HTTPOptions(port=1234)
    one = saved_app()
    StateFile(path, http).save([one, saved_app(2)])
    assert StateFile.read(path) == Saved(http, [one, saved_app(2)])
    assert names(path) == ["state"]


def test_what_was_never_saved_is_nothing(path: Path) -> None:
    assert StateFile.read(path) is None


def test_the_last_save_counts(path: Path) -> None:
    state = StateFile(path, HTTPOptions())
    for count in (1, 2, 3):
        state.save([saved_app(count)])
    read = StateFile.read(path)
    assert read is not None
    assert [dict(app.counts) for app in read.apps] == [{"D": 3}]
    state.save([])
    assert StateFile.read(path) == Saved(HTTPOptions(), [])


def test_it_is_for_its_user_alone(path: Path) -> None:
    StateFile(path, HTTPOptions()).save([])
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    state = StateFile(path, HTTPOptions())
    state.save([saved_app(1)])

    def fail(*args: Any) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(os, step, fail)
        with pytest.raises(type(error)):
            state.save([saved_app(2)])
    read = StateFile.read(path)
    assert read is not None
    assert [dict(app.counts) for app in read.apps] == [{"D": 1}]
    assert names(path) == ["state"]
    state.save([saved_app(2)])  # it was not taken for written
    read = StateFile.read(path)
    assert read is not None
    assert [dict(app.counts) for app in read.apps] == [{"D": 2}]


def test_the_same_is_not_written_twice(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = StateFile(path, HTTPOptions())
    replaced: list[str] = []
    replace = os.replace

    def noted(source: str, target: Path) -> None:
        replaced.append(source)
        replace(source, target)

    monkeypatch.setattr(os, "replace", noted)
    for count in (1, 1, 2, 2, 1):
        state.save([saved_app(count)])
    assert len(replaced) == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read"),
        (b"no pickle", "cannot be read"),
        (payload.dumps(Saved(HTTPOptions(), []))[:-5], "cannot be read"),
        (payload.dumps({"apps": []}), "is not a state file"),
    ],
)
def test_a_file_that_is_something_else_says_what_helps(path: Path, content: bytes, words: str) -> None:
    path.write_bytes(content)
    with pytest.raises(errors.ModelplexError, match=f"state {words}.* Remove it to start with nothing"):
        StateFile.read(path)


def test_a_folder_is_no_state_file(path: Path) -> None:
    path.mkdir()
    with pytest.raises(errors.ModelplexError, match="cannot be read"):
        StateFile.read(path)


def test_what_is_not_kept_is_nowhere(path: Path) -> None:
    NotKept().save([saved_app()])
    assert names(path) == []
