"""Folders of MLflow: loaded as what is in them where that is safe, and by MLflow where they are trusted."""

import sys
import types
from pathlib import Path
from typing import Any

import model_files
import numpy as np
import pytest

from modelplex.errors import InvalidModelFileError, UnsafeModelFileError
from modelplex.loaders.mlflow import load

XGBOOST = {"data": "model.ubj", "model_class": "xgboost.core.Booster", "model_format": "ubj"}
LIGHTGBM = {"data": "model.lgb", "model_class": "lightgbm.basic.Booster"}
PICKLED = {"pickled_model": "model.pkl", "serialization_format": "cloudpickle"}


class FakeModel:
    """What MLflow would answer."""

    def __init__(self) -> None:
        self._model_impl = {"weights": np.zeros(100)}


@pytest.fixture
def loaded_paths(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that MLflow is asked to load; its own module needs pandas, which need not be there."""
    paths: list[str] = []

    def load_model(path: str) -> FakeModel:
        paths.append(path)
        return FakeModel()

    module = types.ModuleType("mlflow.pyfunc")
    module.load_model = load_model  # type: ignore[attr-defined]
    package = types.ModuleType("mlflow")
    package.pyfunc = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", package)
    monkeypatch.setitem(sys.modules, "mlflow.pyfunc", module)
    return paths


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize(
    ("name", "flavor", "data", "kind"),
    [
        ("sklearn", {"pickled_model": "model.skops", "serialization_format": "skops"}, "skops", "LogisticRegression"),
        ("xgboost", XGBOOST, "xgboost", "Booster"),
        ("lightgbm", LIGHTGBM, "lightgbm", "Booster"),
        ("onnx", {"data": "model.onnx"}, "onnx", "InferenceSession"),
    ],
)
def test_what_is_safe_is_loaded_as_what_it_is(
    name: str, flavor: Any, data: str, kind: str, trusted: bool, loaded_paths: list[str], tmp_path: Path
) -> None:
    path = model_files.mlflow(tmp_path / "model", {name: flavor})
    model_files.make(data, path)
    answer = load(path, trusted=trusted)
    assert type(answer.model).__name__ == kind
    assert answer.size_bytes > 0
    assert loaded_paths == []


def test_options_are_those_of_the_format(tmp_path: Path) -> None:
    path = model_files.mlflow(tmp_path / "model", {"onnx": {"data": "model.onnx"}})
    model_files.make("onnx", path)
    assert load(path, threads=2).model.get_session_options().intra_op_num_threads == 2


def test_a_class_of_xgboost_is_what_was_logged(tmp_path: Path) -> None:
    import xgboost

    flavor = {**XGBOOST, "model_class": "xgboost.sklearn.XGBRegressor"}
    path = model_files.mlflow(tmp_path / "model", {"xgboost": flavor})
    xgboost.XGBRegressor(n_estimators=1).fit(model_files.ROWS, model_files.LABELS).save_model(path / "model.ubj")
    assert type(load(path).model) is xgboost.XGBRegressor


@pytest.mark.parametrize(
    ("name", "flavor"),
    [
        ("sklearn", PICKLED),
        ("pytorch", {"model_data": "data"}),
        ("lightgbm", {"data": "model.pkl", "model_class": "lightgbm.sklearn.LGBMClassifier"}),
        ("xgboost", {**XGBOOST, "model_class": "my.Own"}),
        ("xgboost", {**XGBOOST, "data": "model.xgb"}),
        ("new-library", {}),
    ],
)
def test_what_may_run_code_is_left_to_mlflow_if_trusted(
    name: str, flavor: Any, loaded_paths: list[str], tmp_path: Path
) -> None:
    path = model_files.mlflow(tmp_path / "model", {name: flavor})
    with pytest.raises(UnsafeModelFileError, match=rf"as python_function, {name}|as {name}, python_function"):
        load(path)
    assert loaded_paths == []
    answer = load(path, trusted=True)
    assert isinstance(answer.model, FakeModel)
    assert answer.size_bytes == pytest.approx(800, abs=300)
    assert loaded_paths == [str(path)]
    with pytest.raises(TypeError, match="no option threads"):
        load(path, trusted=True, threads=2)


def test_a_flavor_can_be_chosen(loaded_paths: list[str], tmp_path: Path) -> None:
    path = model_files.mlflow(tmp_path / "model")
    with pytest.raises(UnsafeModelFileError):
        load(path, flavor="python_function")
    assert isinstance(load(path, flavor="python_function", trusted=True).model, FakeModel)
    assert type(load(path, flavor="sklearn").model).__name__ == "LogisticRegression"
    with pytest.raises(InvalidModelFileError, match="has no flavor 'onnx', but"):
        load(path, flavor="onnx")


def test_types_that_the_folder_itself_trusts_are_not_trusted(tmp_path: Path) -> None:
    flavor = {"pickled_model": "model.skops", "serialization_format": "skops"}
    types_ = ["sklearn.tree._tree.Tree"]
    path = model_files.mlflow(tmp_path / "model", {"sklearn": {**flavor, "skops_trusted_types": types_}})
    model_files.skops(path / "model.skops", model_files.forest())
    with pytest.raises(UnsafeModelFileError, match=r"sklearn\.tree\._tree\.Tree"):
        load(path)
    assert load(path, trusted_types=types_).size_bytes > 2000


@pytest.mark.parametrize("data", ["../model.ubj", "/etc/passwd", None])
def test_data_stays_in_the_folder(data: str | None, tmp_path: Path) -> None:
    path = model_files.mlflow(tmp_path / "model", {"xgboost": {**XGBOOST, "data": data}})
    model_files.xgboost(tmp_path / "model.ubj")
    with pytest.raises(InvalidModelFileError, match=r"which is not (in the model's folder|there)"):
        load(path)


@pytest.mark.parametrize("text", ["", "a: b", "flavors: []", "flavors: {a: 1}", "{", "flavors: !!python/name:os.x"])
def test_an_mlmodel_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(InvalidModelFileError, match="no usable flavors"):
        load(tmp_path)


def test_another_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelFileError, match="has no file MLmodel"):
        load(tmp_path)


def test_what_mlflow_needs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.pyfunc", None)
    path = model_files.mlflow(tmp_path / "model", {"sklearn": PICKLED})
    with pytest.raises(ImportError, match=r'pip install "modelplex\[mlflow\]" pandas'):
        load(path, trusted=True)
