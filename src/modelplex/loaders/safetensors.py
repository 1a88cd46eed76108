"""Safetensors files, mapped into memory and never copied: as arrays of numpy, or as tensors of torch."""

import json
from pathlib import Path
from typing import Any

from modelplex.errors import InvalidModelFileError
from modelplex.file_safety import check_links, inside
from modelplex.loaded import Loaded
from modelplex.loaders.files import model_file, needs, reading
from modelplex.loaders.tensors import Tensors
from modelplex.safetensors_header import Header, read_header

INDEX = "model.safetensors.index.json"
INDEX_BYTES_MAX = 100_000_000

_NUMPY = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}
_ML_DTYPES = {
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}


def load(path: Path, *, trusted: bool = False) -> Loaded:
    """Read-only arrays by name, whose memory is the file itself: processes share one copy, read when it is first used.

    Args:
        path: a file, or a folder with one, or with several and their `model.safetensors.index.json`.
        trusted: whether links in the folder may lead out of it; nothing in such a file is code.

    Raises:
        ImportError: numpy is missing, or ml_dtypes for bfloat16 and float8.
    """
    with needs("safetensors"):
        import numpy as np
    tensors = Tensors()
    size_bytes = 0
    for file, header in _files(path, trusted=trusted):
        # The library's own loader for numpy reads the whole file into memory, a copy for each process.
        with reading(file, "a safetensors file"):
            mapped = np.asarray(np.memmap(file, np.uint8, "r"))
            for name, info in header.tensors.items():
                data = mapped[info.begin : info.end]
                tensors[name] = data.view(_dtype(file, name, info.dtype)).reshape(info.shape)
                size_bytes += info.end - info.begin
        tensors.metadata |= header.metadata
    return Loaded(tensors, size_bytes)


def load_torch(path: Path, *, trusted: bool = False, device: str = "cpu") -> Loaded:
    """The same as tensors of torch. Mapped if they stay on the CPU: writing to one makes a copy of what is written to.

    Args:
        path, trusted: as of `load`.
        device: where they go, as `cuda:0`.
    """
    with needs("torch"):
        import safetensors
        import torch  # noqa: F401 - which is what safetensors would say is missing, in other words
    tensors = Tensors()
    size_bytes = 0
    for file, header in _files(path, trusted=trusted):
        with reading(file, "a safetensors file"), safetensors.safe_open(file, framework="pt", device=device) as opened:
            tensors.update((name, opened.get_tensor(name)) for name in header.tensors)
        size_bytes += sum(info.end - info.begin for info in header.tensors.values())
        tensors.metadata |= header.metadata
    return Loaded(tensors, size_bytes)


def _files(path: Path, *, trusted: bool) -> list[tuple[Path, Header]]:
    """The files of a model with what is in them; no name is in two of them."""
    if not (path / INDEX).is_file():
        file = model_file(path, ".safetensors", trusted=trusted)
        return [(file, read_header(file))]
    check_links(path, trusted=trusted)
    places = _places(path / INDEX)
    paths = [inside(path, name, INDEX, trusted=trusted) for name in sorted(set(places.values()))]
    files = [(file, read_header(file)) for file in paths]
    found: dict[str, str] = {}
    for file, header in files:
        if doubles := found.keys() & header.tensors.keys():
            raise InvalidModelFileError(f"'{file.name}' has tensor {min(doubles)!r}, which another file has as well.")
        found |= dict.fromkeys(header.tensors, file.name)
    if missing := [name for name in places if name not in found]:
        raise InvalidModelFileError(f"{INDEX} names tensor {missing[0]!r}, which is not in '{places[missing[0]]}'.")
    return files


def _places(index: Path) -> dict[str, str]:
    """The name of the file of each tensor."""
    if index.stat().st_size > INDEX_BYTES_MAX:
        raise InvalidModelFileError(f"{INDEX} has more than {INDEX_BYTES_MAX} bytes.")
    try:
        places = json.loads(index.read_bytes())["weight_map"]
        if not places or not all(isinstance(name, str) for name in places.values()):
            raise ValueError("it must name files, one for each tensor.")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidModelFileError(f"{INDEX} has no usable weight_map: {error}") from error
    return dict(places)


def _dtype(file: Path, name: str, dtype: str) -> Any:
    if dtype in _NUMPY:
        return _NUMPY[dtype]
    if dtype not in _ML_DTYPES:
        raise InvalidModelFileError(f"Tensor {name!r} of '{file.name}' is {dtype}, which numpy has no type for.")
    try:
        import ml_dtypes
    except ModuleNotFoundError as error:
        raise ImportError(
            f"Tensor {name!r} of '{file.name}' is {dtype}, which numpy knows with ml_dtypes alone: "
            "pip install ml_dtypes; or take the loader 'safetensors-torch'.",
            name="ml_dtypes",
        ) from error
    return getattr(ml_dtypes, _ML_DTYPES[dtype])
