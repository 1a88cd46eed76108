"""Small models in files of each format that there is a loader for, all scores of `[1, 2, 3]`."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ROWS = np.random.default_rng(0).random((60, 3)).astype(np.float32)
LABELS = (ROWS[:, 0] > 0.5).astype(int)


def safetensors(path: Path, tensors: dict[str, Any] | None = None) -> Path:
    from safetensors.numpy import save_file

    save_file(tensors or {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(2, np.float64)}, path)
    return path


def torch_module() -> Any:
    import torch

    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout(0.9), torch.nn.BatchNorm1d(4))


def torch_state(path: Path) -> Path:
    import torch

    torch.save(torch_module().state_dict(), path)
    return path


def torch_script(path: Path) -> Path:
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch_module().eval(), torch.ones(2, 3)), str(path))  # type: ignore[no-untyped-call]
    return path


def torch_exported(path: Path) -> Path:
    import torch

    torch.export.save(torch.export.export(torch_module().eval(), (torch.ones(2, 3),)), path)
    return path


def onnx(path: Path, *, size: int = 3, beside: str = "") -> Path:
    """A product with a matrix of `size`², which lies in the file of that name beside the model if there is one."""
    import onnx as library
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((size, size), np.float32), "weights")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, size]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "weights"], ["y"])], "g", ends[:1], ends[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    library.save(model, path, save_as_external_data=bool(beside), location=beside or None, size_threshold=0)
    return path


def estimator() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression().fit(ROWS, LABELS)


def forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(5, random_state=0).fit(ROWS, LABELS)


def skops(path: Path, model: Any = None) -> Path:
    import skops.io

    skops.io.dump(estimator() if model is None else model, path)
    return path


def joblib(path: Path, model: Any = None) -> Path:
    import joblib as library

    library.dump(estimator() if model is None else model, path)
    return path


def pickled(path: Path, model: Any = None) -> Path:
    path.write_bytes(pickle.dumps(estimator() if model is None else model))
    return path


def xgboost(path: Path, trees: int = 3) -> Path:
    import xgboost as library

    library.train({"nthread": 1}, library.DMatrix(ROWS, LABELS), trees).save_model(path)
    return path


def lightgbm(path: Path, trees: int = 3) -> Path:
    import lightgbm as library

    options = {"verbose": -1, "min_data_in_leaf": 2, "num_threads": 1}
    library.train(options, library.Dataset(ROWS, LABELS), trees).save_model(path)
    return path


def mlflow(path: Path, flavors: dict[str, Any] | None = None) -> Path:
    """A folder as `mlflow.sklearn.save_model` makes it of an estimator in skops, unless other flavors are said."""
    path.mkdir()
    if flavors is None:
        skops(path / "model.skops")
        flavors = {"sklearn": {"pickled_model": "model.skops", "serialization_format": "skops", "code": None}}
    flavors = {"python_function": {"loader_module": "mlflow.sklearn"}, **flavors}
    (path / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors, "mlflow_version": "3.17.2"}))
    return path


# By the names of loaders, each with the file's name.
MAKERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "safetensors": ("model.safetensors", safetensors),
    "safetensors-torch": ("model.safetensors", safetensors),
    "torch": ("model.pt", torch_state),
    "torchscript": ("model.pt", torch_script),
    "torch-export": ("model.pt2", torch_exported),
    "onnx": ("model.onnx", onnx),
    "skops": ("model.skops", skops),
    "joblib": ("model.joblib", joblib),
    "pickle": ("model.pkl", pickled),
    "xgboost": ("model.ubj", xgboost),
    "lightgbm": ("model.lgb", lightgbm),
    "mlflow": ("model", mlflow),
}


def make(loader: str, folder: Path) -> Path:
    """A model for the loader of that name, in this folder."""
    name, maker = MAKERS[loader]
    return maker(folder / name)


def with_header(path: Path, header: Any, data: bytes = b"") -> Path:
    """A safetensors file of any header at all."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path
