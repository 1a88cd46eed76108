"""What every loader does, by its name in the table."""

import asyncio
import gc
import inspect
import shutil
import sys
import weakref
from pathlib import Path
from typing import Any

import model_files
import pytest

from modelplex import loaded
from modelplex.config import LOADER_ENDINGS, LOADERS
from modelplex.config import load as import_path
from modelplex.errors import InvalidModelFileError, UnsafeModelFileError

FILES = sorted(set(LOADERS) - {"mlflow"})  # which are one file
CODE = ["torchscript", "torch-export", "joblib", "pickle"]  # and may run some

# What a loader cannot do without, and the extra that has it.
LIBRARIES = {
    "safetensors": ("numpy", "safetensors"),
    "safetensors-torch": ("safetensors", "torch"),
    "torch": ("torch", "torch"),
    "torchscript": ("torch", "torch"),
    "torch-export": ("torch", "torch"),
    "onnx": ("onnxruntime", "onnx"),
    "skops": ("skops.io", "sklearn"),
    "joblib": ("joblib", "sklearn"),
    "xgboost": ("xgboost", "xgboost"),
    "lightgbm": ("lightgbm", "lightgbm"),
    "mlflow": ("skops.io", "sklearn"),
}


def load(name: str, path: Path, *, trusted: bool = True, **options: Any) -> loaded.Loaded:
    answer = import_path(LOADERS[name])(path, trusted=trusted, **options)
    assert isinstance(answer, loaded.Loaded)
    return answer


def test_every_ending_means_a_loader() -> None:
    assert set(LOADER_ENDINGS.values()) <= set(LOADERS)
    assert set(model_files.MAKERS) == set(LOADERS)


@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_takes_trust_and_options_by_name_alone(name: str) -> None:
    parameters = list(inspect.signature(import_path(LOADERS[name])).parameters.values())
    assert [p.name for p in parameters[:2]] == ["path", "trusted"]
    assert parameters[1].default is False
    assert all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in parameters[1:])


@pytest.mark.parametrize("name", LOADERS)
def test_a_model_is_loaded_with_its_size_and_goes_with_its_last_reference(name: str, tmp_path: Path) -> None:
    answer = load(name, model_files.make(name, tmp_path))
    size_bytes = answer.size_bytes
    loaded.remember(answer)
    assert loaded.size_bytes(answer.model) == size_bytes > 0
    gone = weakref.ref(answer.model)
    del answer
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("name", FILES)
def test_a_folder_with_one_such_file_is_a_model(name: str, tmp_path: Path) -> None:
    model_files.make(name, tmp_path)
    (tmp_path / "README.md").write_text("of the model")
    assert load(name, tmp_path).size_bytes > 0


@pytest.mark.parametrize("name", FILES)
def test_a_folder_without_or_with_several_such_files_is_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidModelFileError, match="must have one file"):
        load(name, tmp_path)
    path = model_files.make(name, tmp_path)
    shutil.copy(path, path.with_stem("second"))
    path.rename(path.with_stem("first"))
    with pytest.raises(InvalidModelFileError, match=r"has first\.\w+, second\.\w+"):
        load(name, tmp_path)
    shutil.copy(path.with_stem("first"), path)
    assert load(name, tmp_path).size_bytes > 0  # there is one called model


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("name", sorted(set(FILES) - set(CODE)))
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"not a model at all\n" * 50, b"PK\x05\x06" + b"\0" * 18])
def test_another_file_is_invalid(name: str, content: bytes, trusted: bool, tmp_path: Path) -> None:
    path = tmp_path / model_files.MAKERS[name][0]
    path.write_bytes(content)
    with pytest.raises(InvalidModelFileError, match=r"model\.\w+"):
        load(name, path, trusted=trusted)


@pytest.mark.parametrize("name", CODE)
@pytest.mark.parametrize("content", [b"", b"not a model at all\n" * 50])
def test_another_file_is_invalid_if_trusted_too(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / model_files.MAKERS[name][0]
    path.write_bytes(content)
    with pytest.raises(InvalidModelFileError, match=r"model\.\w+"):
        load(name, path)


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_off_is_invalid(name: str, kept: float, tmp_path: Path) -> None:
    path = model_files.make(name, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InvalidModelFileError):
        load(name, path)


@pytest.mark.parametrize("name", CODE)
def test_a_file_that_may_run_code_is_refused_unless_trusted(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafeModelFileError, match="trusted=True"):
        load(name, model_files.make(name, tmp_path), trusted=False)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_there_is_not_found(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(name, tmp_path / model_files.MAKERS[name][0])


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_missing_library_is_told_with_its_extra(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model_files.make(name, tmp_path)
    library, extra = LIBRARIES[name]
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf'{library}: pip install "modelplex\[{extra}\]"'):
        load(name, path)


@pytest.mark.parametrize("name", FILES)
def test_a_link_out_of_the_folder_is_refused_unless_trusted(name: str, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    path = model_files.make(name, elsewhere)
    (folder / path.name).symlink_to(path)
    with pytest.raises(UnsafeModelFileError, match="pickle" if name in ("joblib", "pickle") else "leads out of"):
        load(name, folder, trusted=False)
    assert load(name, folder).size_bytes > 0


@pytest.mark.parametrize("name", LOADERS)
async def test_loads_run_side_by_side(name: str, tmp_path: Path) -> None:
    path = model_files.make(name, tmp_path)
    answers = await asyncio.gather(*(asyncio.to_thread(load, name, path) for _ in range(4)))
    assert len({answer.size_bytes for answer in answers}) == 1
