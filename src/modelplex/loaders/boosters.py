"""Boosted trees in the formats of XGBoost and LightGBM.

Their size is that of the file, which is all that these libraries tell of it without making a copy (XGBoost keeps the one
that `save_raw` makes). Measured: XGBoost takes 1.5 times its UBJSON, LightGBM 0.7 to 0.9 times its text.
"""

import re
from pathlib import Path
from typing import Any

from modelplex.errors import InvalidModelFileError
from modelplex.loaded import Loaded
from modelplex.loaders.files import model_file, needs, one_of, reading

XGBOOST_CLASSES = ("Booster", "XGBClassifier", "XGBRegressor", "XGBRanker", "XGBRFClassifier", "XGBRFRegressor")


def load_xgboost(path: Path, *, trusted: bool = False, threads: int = 1, model_class: str = "Booster") -> Loaded:
    """A model of XGBoost from its UBJSON or JSON.

    Args:
        path: a file, or a folder with one.
        trusted: whether a link in the folder may lead out of it; the file itself is data.
        threads: of one prediction.
        model_class: `Booster`, or the class of `xgboost` that it was saved from, as `XGBClassifier`.
    """
    one_of("model_class", model_class, XGBOOST_CLASSES)
    with needs("xgboost"):
        import xgboost
    file = model_file(path, ".ubj", ".json", trusted=trusted)
    with reading(file, "a model of XGBoost"):
        model: Any = getattr(xgboost, model_class)()
        model.load_model(file)
        booster = model if model_class == "Booster" else model.set_params(n_jobs=threads).get_booster()
        booster.set_param({"nthread": threads})
    return Loaded(model, file.stat().st_size)


def load_lightgbm(path: Path, *, trusted: bool = False, threads: int = 1) -> Loaded:
    """A `lightgbm.Booster` from LightGBM's text.

    Args:
        path: a file, or a folder with one.
        trusted: whether a link in the folder may lead out of it; the file itself is data.
        threads: of one prediction.
    """
    with needs("lightgbm"):
        import lightgbm
    file = model_file(path, ".lgb", ".txt", trusted=trusted)
    with reading(file, "a model of LightGBM"):
        text = file.read_text("utf-8")
        trees = _trees(file, text)
        # With the sizes of its trees LightGBM reads them side by side, and a damaged one ends the whole process: what
        # its threads throw, nobody catches. Without, it takes as long, and raises an error.
        booster = lightgbm.Booster(model_str=re.sub(r"^tree_sizes=.*\n", "", text, count=1, flags=re.MULTILINE))
        if booster.num_trees() != trees:
            raise InvalidModelFileError(f"'{file.name}' is damaged: {booster.num_trees()} of {trees} trees are whole.")
        booster.params["num_threads"] = threads
    return Loaded(booster, file.stat().st_size)


def _trees(file: Path, text: str) -> int:
    """How many trees there are to be, as the head of the file says. LightGBM crashes where it is cut off after them."""
    is_whole = "\nend of trees\n" in text and ("\nparameters:" not in text or "\nend of parameters\n" in text)
    if not text.startswith("tree\n") or not is_whole:
        raise InvalidModelFileError(f"'{file.name}' is not LightGBM's text, or it is cut off.")
    sizes = re.search(r"^tree_sizes=(.*)$", text, re.MULTILINE)
    return len(sizes[1].split()) if sizes else len(re.findall(r"^Tree=\d+$", text, re.MULTILINE))
