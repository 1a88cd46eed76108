"""Models of about a size, written to files, and how their libraries load them by themselves. Run in processes."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

TENSORS_MAX = 100
_TENSOR_BYTES_MIN = 400_000  # libraries take threads for those of some size
_BOOSTER_TREE_BYTES = 8_000  # about what a tree of the ones below takes


def _arrays(size_bytes: int) -> dict[str, Any]:
    import numpy as np

    random = np.random.default_rng(0)
    tensors = max(1, min(TENSORS_MAX, size_bytes // _TENSOR_BYTES_MIN))
    each = size_bytes // tensors // 4
    return {f"layers.{number}.weight": random.random(each, np.float32) for number in range(tensors)}


def _safetensors(path: Path, size_bytes: int) -> None:
    from safetensors.numpy import save_file

    save_file(_arrays(size_bytes), path)


def _torch(path: Path, size_bytes: int) -> None:
    import torch

    torch.save({name: torch.from_numpy(array) for name, array in _arrays(size_bytes).items()}, path)


def _onnx(path: Path, size_bytes: int) -> None:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    size = int((size_bytes / 4) ** 0.5)
    weights = numpy_helper.from_array(np.random.default_rng(0).random((size, size), np.float32), "weights")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, size]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "weights"], ["y"])], "g", ends[:1], ends[1:], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def _skops(path: Path, size_bytes: int) -> None:
    import numpy as np
    import skops.io
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(0)
    model = LogisticRegression().fit(random.random((10, 3)), np.arange(10) % 2)
    model.coef_ = random.random((1, size_bytes // 8))
    skops.io.dump(model, path)


def _rows() -> tuple[Any, Any]:
    import numpy as np

    random = np.random.default_rng(0)
    return random.random((2000, 10)), random.random(2000)  # nothing to learn, so that trees grow as large as they may


def _xgboost(path: Path, size_bytes: int) -> None:
    import xgboost

    data = xgboost.DMatrix(*_rows())
    options = {"max_depth": 8, "learning_rate": 0.01, "tree_method": "hist"}
    xgboost.train(options, data, max(1, size_bytes // _BOOSTER_TREE_BYTES)).save_model(path)


def _lightgbm(path: Path, size_bytes: int) -> None:
    import lightgbm

    options = {"num_leaves": 127, "learning_rate": 0.01, "verbose": -1}
    lightgbm.train(options, lightgbm.Dataset(*_rows()), max(1, size_bytes // _BOOSTER_TREE_BYTES)).save_model(path)


# By the names of loaders, with the file's ending.
WRITERS: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "safetensors": (".safetensors", _safetensors),
    "safetensors-torch": (".safetensors", _safetensors),
    "torch": (".pt", _torch),
    "onnx": (".onnx", _onnx),
    "skops": (".skops", _skops),
    "xgboost": (".ubj", _xgboost),
    "lightgbm": (".lgb", _lightgbm),
}


def write(loader: str, path: str, size_bytes: int) -> None:
    WRITERS[loader][1](Path(path), size_bytes)


def plain_safetensors(path: Path) -> Any:
    from safetensors.numpy import load_file

    return load_file(path)


def plain_safetensors_torch(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def plain_torch(path: Path) -> Any:
    import torch

    return torch.load(path, weights_only=True)


def mapped_torch(path: Path) -> Any:
    import torch

    return torch.load(path, weights_only=True, mmap=True)


def plain_onnx(path: Path) -> Any:
    from onnxruntime import InferenceSession

    return InferenceSession(path, providers=["CPUExecutionProvider"])


def plain_skops(path: Path) -> Any:
    import skops.io

    return skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))


def plain_xgboost(path: Path) -> Any:
    import xgboost

    return xgboost.Booster(model_file=path)


def plain_lightgbm(path: Path) -> Any:
    import lightgbm

    return lightgbm.Booster(model_file=path)


# By the names of loaders, and then by those of the systems.
PLAIN: dict[str, dict[str, Callable[[Path], Any]]] = {
    "safetensors": {"library": plain_safetensors},
    "safetensors-torch": {"library": plain_safetensors_torch},
    "torch": {"library": plain_torch, "mapped": mapped_torch},
    "onnx": {"library": plain_onnx},
    "skops": {"library": plain_skops},
    "xgboost": {"library": plain_xgboost},
    "lightgbm": {"library": plain_lightgbm},
}


def read_all(model: Any) -> float:
    """Use every byte of tensors by their names, in one thread: a mapped one is read from its file only now."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)  # several wait for each other at each tensor, for long where cores are few
    return sum(float(tensor.sum()) for tensor in model.values())
