"""Pickles, which run whatever code they name: nothing is read of one that is not trusted."""

import pickle
from pathlib import Path

from modelplex.errors import UnsafeModelFileError
from modelplex.file_safety import TRUST
from modelplex.loaded import Loaded
from modelplex.loaders.files import model_file, needs, reading
from modelplex.loaders.object_bytes import object_bytes


def load(path: Path, *, trusted: bool = False) -> Loaded:
    """What `pickle.dump` wrote, or `cloudpickle`.

    Args:
        path: a file, or a folder with one.
        trusted: whether it may run any code; without, it is refused.
    """
    file = _trusted(path, ".pkl", ".pickle", trusted=trusted)
    with reading(file, "a pickle"), file.open("rb") as opened:
        model = pickle.load(opened)
    return Loaded(model, object_bytes(model))


def load_joblib(path: Path, *, trusted: bool = False, mmap: bool = False) -> Loaded:
    """What `joblib.dump` wrote.

    Args:
        path, trusted: as of `load`.
        mmap: whether arrays are mapped from the file, read-only, and so shared by processes, if it is not compressed.
            Not all estimators can work with arrays that they cannot write.
    """
    file = _trusted(path, ".joblib", trusted=trusted)
    with needs("sklearn"):
        import joblib
    with reading(file, "a file of joblib"):
        model = joblib.load(file, mmap_mode="r" if mmap else None)
    return Loaded(model, object_bytes(model))


def _trusted(path: Path, *endings: str, trusted: bool) -> Path:
    if not trusted:
        raise UnsafeModelFileError(
            f"'{path.name}' is a pickle, which can run any code as it is loaded. Save the model as skops, ONNX or in "
            f"its library's own format. {TRUST}"
        )
    return model_file(path, *endings, trusted=True)
