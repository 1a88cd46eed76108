"""Zip bombs and links are found before anything is loaded."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelplex import file_safety as safety
from modelplex.config import LOADERS
from modelplex.config import load as import_path
from modelplex.errors import InvalidModelFileError, UnsafeModelFileError
from modelplex.file_safety import check_links, inside, zip_members


def archive(path: Path, *members: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as opened:
        for name, data in members:
            opened.writestr(name, data)
    return path


@pytest.fixture
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safety, "ZIP_HARMLESS_BYTES", 10_000)
    monkeypatch.setattr(safety, "ZIP_MEMBERS_MAX", 10)


@pytest.mark.usefixtures("_small_limits")
def test_an_archive_that_unpacks_to_very_much_is_refused_with_both_sizes(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.zip", ("a", bytes(100_000)))
    packed = path.stat().st_size
    with pytest.raises(UnsafeModelFileError, match=f"'m.zip' has {packed} bytes and unpacks to 100000.*trusted=True"):
        zip_members(path, trusted=False)
    assert zip_members(path, trusted=True) == ["a"]


@pytest.mark.usefixtures("_small_limits")
def test_an_archive_that_is_not_compressed_or_small_is_harmless(tmp_path: Path) -> None:
    stored = archive(tmp_path / "stored", ("a", bytes(100_000)), compression=zipfile.ZIP_STORED)
    assert zip_members(stored, trusted=False) == ["a"]
    assert zip_members(archive(tmp_path / "small", ("a", bytes(9_000))), trusted=False) == ["a"]


@pytest.mark.usefixtures("_small_limits")
def test_members_that_overlap_count_each(tmp_path: Path) -> None:
    """One of the same bytes under many names, as in the smallest bombs: packed, each says that it is small."""
    path = archive(tmp_path / "m.zip", ("a", bytes(4_000)), compression=zipfile.ZIP_STORED)
    content = path.read_bytes()
    at = content.index(b"PK\1\2")
    end = content.index(b"PK\5\6")
    times = 9
    directory = content[at:end] * times
    tail = bytearray(content[end:])
    tail[8:12] = times.to_bytes(2, "little") * 2
    tail[12:16] = len(directory).to_bytes(4, "little")
    path.write_bytes(content[:at] + directory + bytes(tail))
    assert len(zip_members(path, trusted=True)) == times
    zip_members(path, trusted=False)  # 36 kB of 5
    safety.ZIP_RATIO_MAX, before = 5, safety.ZIP_RATIO_MAX
    try:
        with pytest.raises(UnsafeModelFileError, match="unpacks to 36000"):
            zip_members(path, trusted=False)
    finally:
        safety.ZIP_RATIO_MAX = before


@pytest.mark.usefixtures("_small_limits")
def test_too_many_members_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.zip", *((f"{number}", b"") for number in range(11)))
    with pytest.raises(UnsafeModelFileError, match="has 11 members, more than 10"):
        zip_members(path, trusted=False)


def test_what_is_no_archive_is_invalid(tmp_path: Path) -> None:
    (tmp_path / "m.zip").write_bytes(b"PK")
    with pytest.raises(InvalidModelFileError, match="no zip archive"):
        zip_members(tmp_path / "m.zip", trusted=False)


@pytest.mark.parametrize(("name", "ending"), [("torch", "pt"), ("skops", "skops")])
def test_loaders_of_archives_refuse_a_bomb(name: str, ending: str, tmp_path: Path) -> None:
    path = archive(tmp_path / f"m.{ending}", ("m/data.pkl", bytes(safety.ZIP_HARMLESS_BYTES + 1)))
    with pytest.raises(UnsafeModelFileError, match=f"unpacks to {safety.ZIP_HARMLESS_BYTES + 1}"):
        import_path(LOADERS[name])(path)


# Links


def link_to_file(folder: Path) -> None:
    (folder / "sub" / "link").symlink_to(folder.parent / "out")


def link_to_folder(folder: Path) -> None:
    (folder / "link").symlink_to(folder.parent, target_is_directory=True)


def link_by_another(folder: Path) -> None:
    (folder / "first").symlink_to("second")
    (folder / "second").symlink_to("../out")


def link_to_nothing(folder: Path) -> None:
    (folder / "link").symlink_to("/nothing/there")


def circle(folder: Path) -> None:
    (folder / "link").symlink_to("link")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "file").write_text("inside")
    (tmp_path / "out").write_text("outside")
    return folder


@pytest.mark.parametrize("make", [link_to_file, link_to_folder, link_by_another, link_to_nothing, circle])
def test_a_link_out_of_the_folder_is_refused(make: Callable[[Path], Any], folder: Path) -> None:
    make(folder)
    with pytest.raises(UnsafeModelFileError, match="is a link that leads out of the model's folder"):
        check_links(folder, trusted=False)
    check_links(folder, trusted=True)


def test_a_link_within_the_folder_is_fine_and_the_folder_may_be_one(folder: Path, tmp_path: Path) -> None:
    (folder / "sub" / "link").symlink_to("../file")
    (tmp_path / "alias").symlink_to(folder)
    check_links(folder, trusted=False)
    check_links(tmp_path / "alias", trusted=False)
    assert inside(tmp_path / "alias", "sub/link", "x", trusted=False).read_text() == "inside"


def test_what_a_file_names_must_be_there(folder: Path) -> None:
    with pytest.raises(InvalidModelFileError, match="x names the file 'sub', which is not there"):
        inside(folder, "sub", "x", trusted=False)
    (folder / "link").symlink_to("../out")
    with pytest.raises(UnsafeModelFileError, match="trusted=True"):
        inside(folder, "link", "x", trusted=False)
    assert inside(folder, "link", "x", trusted=True).read_text() == "outside"
