"""Skops, pickles and boosters: what is refused, what is answered, and how large it is."""

import math
import pickle
from pathlib import Path
from typing import Any

import model_files
import numpy as np
import pytest
import xgboost
from sklearn.linear_model import LogisticRegression

from modelplex.errors import InvalidModelFileError, UnsafeModelFileError
from modelplex.loaders import boosters, object_bytes, pickles, skops

RAN: list[str] = []


def note(word: str) -> None:
    RAN.append(word)


class Evil:
    """Runs something as it is unpickled."""

    def __reduce__(self) -> Any:
        return note, ("ran",)


class OfTheUser(LogisticRegression):  # type: ignore[misc]
    """A class that skops does not know."""


# Skops


def test_an_estimator_answers_as_before(tmp_path: Path) -> None:
    before = model_files.estimator()
    answer = skops.load(model_files.skops(tmp_path / "m.skops", before))
    np.testing.assert_array_equal(answer.model.predict(model_files.ROWS), before.predict(model_files.ROWS))


def test_types_that_are_not_known_are_named_unless_they_or_all_are_trusted(tmp_path: Path) -> None:
    path = model_files.skops(tmp_path / "m.skops", OfTheUser().fit(model_files.ROWS, model_files.LABELS))
    name = f"{OfTheUser.__module__}.OfTheUser"
    with pytest.raises(UnsafeModelFileError, match=rf"{name}.*trusted_types=\['{name}'\].*trusted=True"):
        skops.load(path)
    with pytest.raises(UnsafeModelFileError, match=name):
        skops.load(path, trusted_types=["another.Type"])
    for options in ({"trusted": True}, {"trusted_types": [name, "another.Type"]}):
        answer = skops.load(path, **options)
        assert type(answer.model) is OfTheUser


# Pickles


@pytest.mark.parametrize("call", [pickles.load, pickles.load_joblib])
def test_nothing_is_read_of_a_pickle_that_is_not_trusted(call: Any, tmp_path: Path) -> None:
    RAN.clear()
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UnsafeModelFileError, match=r"'m\.pkl' is a pickle.*trusted=True"):
        call(tmp_path / "m.pkl")
    with pytest.raises(UnsafeModelFileError):
        call(tmp_path / "not there")
    assert RAN == []
    call(tmp_path / "m.pkl", trusted=True)
    assert RAN == ["ran"]


def test_arrays_of_joblib_are_mapped_if_wanted(tmp_path: Path) -> None:
    path = model_files.joblib(tmp_path / "m.joblib", {"a": np.ones(1000)})
    assert not isinstance(pickles.load_joblib(path, trusted=True).model["a"], np.memmap)
    answer = pickles.load_joblib(path, trusted=True, mmap=True)
    assert isinstance(answer.model["a"], np.memmap)
    assert not answer.model["a"].flags.writeable
    assert answer.size_bytes == pytest.approx(8000, rel=0.1)


# Sizes


def test_arrays_count_wherever_they_are_and_once() -> None:
    array = np.zeros(10_000)
    for model in (array, [array, array], {"a": {"b": (array,)}}, array.reshape(100, 100).T):
        assert object_bytes.object_bytes(model) == pytest.approx(80_000, abs=500)


def test_the_trees_of_a_forest_count() -> None:
    forest = model_files.forest()
    states = [tree.tree_.__getstate__() for tree in forest.estimators_]
    expected = sum(state["nodes"].nbytes + state["values"].nbytes for state in states)
    assert expected > 2000
    assert expected < object_bytes.object_bytes(forest) < expected + 10_000


def test_what_cannot_be_pickled_has_no_known_size() -> None:
    assert object_bytes.object_bytes(lambda: None) == 0


# Boosters


@pytest.mark.parametrize("ending", ["ubj", "json"])
def test_a_booster_of_xgboost_answers_as_before(ending: str, tmp_path: Path) -> None:
    path = model_files.xgboost(tmp_path / f"m.{ending}")
    before = xgboost.Booster(model_file=path)
    answer = boosters.load_xgboost(path)
    rows = model_files.ROWS
    np.testing.assert_array_equal(answer.model.inplace_predict(rows), before.inplace_predict(rows))
    assert answer.size_bytes == path.stat().st_size
    assert '"nthread":"1"' in answer.model.save_config()


def test_a_class_of_xgboost_is_what_was_saved(tmp_path: Path) -> None:
    before = xgboost.XGBClassifier(n_estimators=2).fit(model_files.ROWS, model_files.LABELS)
    before.save_model(tmp_path / "m.ubj")
    model = boosters.load_xgboost(tmp_path / "m.ubj", model_class="XGBClassifier", threads=2).model
    np.testing.assert_array_equal(model.predict(model_files.ROWS), before.predict(model_files.ROWS))
    assert model.n_jobs == 2
    with pytest.raises(ValueError, match="model_class must be one of Booster, XGBClassifier"):
        boosters.load_xgboost(tmp_path / "m.ubj", model_class="__builtins__")


def test_a_booster_of_lightgbm_answers_as_before(tmp_path: Path) -> None:
    import lightgbm

    path = model_files.lightgbm(tmp_path / "m.lgb", trees=5)
    before = lightgbm.Booster(model_file=path)
    answer = boosters.load_lightgbm(path)
    np.testing.assert_array_equal(answer.model.predict(model_files.ROWS), before.predict(model_files.ROWS))
    assert answer.size_bytes == path.stat().st_size
    assert answer.model.params["num_threads"] == 1


@pytest.mark.parametrize("part", range(1, 40))
def test_a_model_of_lightgbm_that_is_cut_off_anywhere_does_not_end_the_process(part: int, tmp_path: Path) -> None:
    """As it does to LightGBM itself. What follows the trees and parameters is not needed."""
    text = model_files.lightgbm(tmp_path / "m.lgb").read_text()
    end = text.index("\nend of trees")
    (tmp_path / "m.lgb").write_text(text[: math.ceil(end * part / 40)])
    with pytest.raises(InvalidModelFileError):
        boosters.load_lightgbm(tmp_path / "m.lgb")


def test_a_model_of_lightgbm_that_lacks_a_tree_is_damaged(tmp_path: Path) -> None:
    text = model_files.lightgbm(tmp_path / "m.lgb").read_text()
    (tmp_path / "m.lgb").write_text(text[: text.index("\nTree=2")] + text[text.index("\nend of trees") :])
    with pytest.raises(InvalidModelFileError, match="2 of 3 trees"):
        boosters.load_lightgbm(tmp_path / "m.lgb")
