"""How large a model is: as its user says, as it says itself, or as the process has grown."""

import itertools
import os
import sys
from collections.abc import Iterable
from typing import Any

from modelplex import loaded

# Objects that are looked at inside of one model before what was found has to do.
_OBJECTS_MAX = 10_000


def told_bytes(model: Any) -> int:
    """The bytes of a model; 0 if nothing is known.

    What its loader said of it, or of a part of it, comes first. Else this knows torch modules (parameters and
    buffers), whatever has `nbytes` (arrays of numpy and others), scikit-learn estimators and other objects that hold
    those in attributes, lists, tuples and dicts, and onnxruntime sessions (the size of their file).
    """
    total = 0
    todo: list[Any] = [model]
    seen: set[int] = set()
    while todo and len(seen) < _OBJECTS_MAX:
        item = todo.pop()
        if id(item) in seen or isinstance(item, type | str | bytes | int | float):
            continue
        seen.add(id(item))
        own = loaded.size_bytes(item) or _own_bytes(item)
        total += own
        if not own:
            todo.extend(itertools.islice(_parts(item), _OBJECTS_MAX))
    return total


def _own_bytes(item: Any) -> int:
    nbytes = getattr(item, "nbytes", None)
    if isinstance(nbytes, int):
        return nbytes
    if hasattr(item, "_model_bytes") and hasattr(item, "get_modelmeta"):  # onnxruntime.InferenceSession
        path = getattr(item, "_model_path", None)
        return os.path.getsize(path) if path else len(item._model_bytes or b"")
    return 0


def _parts(item: Any) -> Iterable[Any]:
    if isinstance(item, dict):
        return item.values()
    if isinstance(item, list | tuple | set):
        return item
    if _is_torch_module(item):
        return [*item.parameters(), *item.buffers()]
    return getattr(item, "__dict__", {}).values()


def _is_torch_module(item: Any) -> bool:
    torch = sys.modules.get("torch.nn")
    return torch is not None and isinstance(item, torch.Module)


def process_bytes() -> int:
    """The memory of this process that is in use now; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
