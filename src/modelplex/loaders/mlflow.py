"""Folders of MLflow (with a file `MLmodel`): by the library that made the model where that is safe, else by MLflow."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from modelplex.errors import InvalidModelFileError, UnsafeModelFileError
from modelplex.file_safety import TRUST, check_links, inside
from modelplex.loaded import Loaded
from modelplex.loaders import boosters, onnx, skops
from modelplex.loaders.files import needs, reading
from modelplex.loaders.object_bytes import object_bytes

MLMODEL = "MLmodel"
MLMODEL_BYTES_MAX = 10_000_000
PYFUNC = "python_function"

Way = tuple[Callable[..., Loaded], str, dict[str, Any]]


def load(path: Path, *, trusted: bool = False, flavor: str | None = None, **options: Any) -> Loaded:
    """The model in a folder that `mlflow.…save_model` or `log_model` wrote.

    Estimators in skops, models of XGBoost and LightGBM, and ONNX are loaded as what they are, without MLflow. Of all
    others there is a pickle, or code, in the folder: they are loaded by `mlflow.pyfunc`, if trusted.

    Args:
        path: the folder.
        trusted: whether code in the folder may run.
        flavor: which of the model's flavors to load; by default one that needs no trust, else `python_function`.
        options: those of the format that the flavor is in, as `threads` of ONNX, or `trusted_types` of skops.

    Raises:
        UnsafeModelFileError: it has only flavors that may run code, and is not trusted.
    """
    if not (path / MLMODEL).is_file():
        raise InvalidModelFileError(f"'{path.name}' is not a folder of MLflow: it has no file {MLMODEL}.")
    check_links(path, trusted=trusted)
    flavors = _flavors(path)
    if flavor is not None and flavor not in flavors:
        raise InvalidModelFileError(f"'{path.name}' has no flavor '{flavor}', but {', '.join(flavors)}.")
    for name in flavors if flavor is None else [flavor]:
        way = _ways.get(name, _no_way)(flavors[name])
        if way is not None:
            load_file, data, own = way
            file = inside(path, data, MLMODEL, trusted=trusted)
            return load_file(file, trusted=trusted, **{**own, **options})
    if not trusted:
        raise UnsafeModelFileError(
            f"'{path.name}' is a model of MLflow as {', '.join(flavors)}, in a way that may run code as it is loaded. "
            "Log it as skops (serialization_format='skops'), ONNX, or a booster in its own format. " + TRUST
        )
    if PYFUNC not in flavors or flavor not in (None, PYFUNC):
        raise InvalidModelFileError(f"'{path.name}' has no flavor {PYFUNC} by which MLflow could load it.")
    return _by_mlflow(path, options)


def _by_mlflow(path: Path, options: dict[str, Any]) -> Loaded:
    if options:
        raise TypeError(f"'{path.name}' is loaded by mlflow.pyfunc, which has no option {', '.join(options)}.")
    with needs("mlflow", "pandas"):
        import mlflow.pyfunc
    with reading(path, "a model that MLflow can load"):
        model = mlflow.pyfunc.load_model(str(path))
    return Loaded(model, object_bytes(getattr(model, "_model_impl", None)))


def _flavors(path: Path) -> dict[str, dict[str, Any]]:
    if (path / MLMODEL).stat().st_size > MLMODEL_BYTES_MAX:
        raise InvalidModelFileError(f"{MLMODEL} in '{path.name}' has more than {MLMODEL_BYTES_MAX} bytes.")
    try:
        document = yaml.safe_load((path / MLMODEL).read_text())
        flavors = document["flavors"]
        if not flavors or not all(isinstance(entry, dict) for entry in flavors.values()):
            raise ValueError("each of its flavors must have entries.")
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidModelFileError(f"{MLMODEL} in '{path.name}' has no usable flavors: {error}") from error
    return {str(name): entry for name, entry in flavors.items()}


# How each flavor is loaded without MLflow; None if it cannot be. Which types are trusted (`skops_trusted_types`) is not
# for the folder itself to say.


def _no_way(entry: Mapping[str, Any]) -> Way | None:
    return None


def _sklearn(entry: Mapping[str, Any]) -> Way | None:
    return (skops.load, str(entry.get("pickled_model")), {}) if entry.get("serialization_format") == "skops" else None


def _xgboost(entry: Mapping[str, Any]) -> Way | None:
    module, _, name = str(entry.get("model_class", "xgboost.core.Booster")).rpartition(".")
    data = str(entry.get("data"))
    if not module.startswith("xgboost.") or name not in boosters.XGBOOST_CLASSES or data.endswith(".xgb"):
        return None
    return boosters.load_xgboost, data, {"model_class": name}


def _lightgbm(entry: Mapping[str, Any]) -> Way | None:
    data = str(entry.get("data"))
    if data.endswith(".skops"):
        return skops.load, data, {}
    is_booster = entry.get("model_class", "lightgbm.basic.Booster") == "lightgbm.basic.Booster"
    return (boosters.load_lightgbm, data, {}) if is_booster and data.endswith((".lgb", ".txt")) else None


def _onnx(entry: Mapping[str, Any]) -> Way | None:
    return onnx.load, str(entry.get("data")), {}


_ways: dict[str, Callable[[Mapping[str, Any]], Way | None]] = {
    "sklearn": _sklearn,
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "onnx": _onnx,
}
