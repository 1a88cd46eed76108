"""Files of named tensors, memory-mapped, and whether they are the tensors that a model has."""

import contextlib
import errno
import json
import math
import mmap
import os
import pickle
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from modelplex.errors import InvalidModelFileError, UnsafeModelFileError

if TYPE_CHECKING:
    import torch

# Differences that an error names.
SHOWN = 5

# The header of a safetensors file is no longer; the library of the format has the same limit.
HEADER_BYTES_MAX = 100_000_000

_LENGTH = struct.Struct("<Q")  # of the header, before it
_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "C64": "complex64",
}

# Linux's MADV_POPULATE_READ. A disk that fails is then an error here, and no end of the process (SIGBUS) later.
_POPULATE_READ = 22

_ZIP = b"PK\x03\x04"  # what torch.save writes is a zip archive


@contextlib.contextmanager
def mapped_tensors(path: Path) -> "Iterator[dict[str, torch.Tensor]]":
    """The tensors in a safetensors file, or in a state dict that `torch.save` wrote, by name.

    They are mapped: a part of the file is read when it is used, and nothing may use them after the block.

    Raises:
        FileNotFoundError: there is no such file.
        UnsafeModelFileError: the file has pickled objects other than tensors.
        InvalidModelFileError: the file is none of the two, or damaged.
    """
    if path.is_dir():
        raise InvalidModelFileError(f"{path} is a folder; a safetensors file or a torch state dict is needed.")
    with path.open("rb") as file:
        is_zip = file.read(len(_ZIP)) == _ZIP
    if is_zip:
        yield _state_dict(path)
        return
    yield _safetensors(path)


def _safetensors(path: Path) -> "dict[str, torch.Tensor]":
    """What the library of the format does, in a quarter of the time for a file of a thousand tensors."""
    with path.open("rb") as file:
        if (size := os.fstat(file.fileno()).st_size) < _LENGTH.size:
            raise InvalidModelFileError(
                f"{path} is neither a safetensors file nor a torch state dict: it is too short."
            )
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch knows no tensors that cannot be written
    if sys.platform == "linux":
        try:
            mapped.madvise(_POPULATE_READ)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a kernel older than 5.14
                raise
    (length,) = _LENGTH.unpack_from(mapped)
    if length > min(size - _LENGTH.size, HEADER_BYTES_MAX):
        raise InvalidModelFileError(f"{path} is neither a safetensors file nor a torch state dict, or it is damaged.")
    start = _LENGTH.size + length
    try:
        header = json.loads(mapped[_LENGTH.size : start])
        header.pop("__metadata__", None)
        return {name: _mapped(mapped, start, **entry) for name, entry in header.items()}
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise InvalidModelFileError(f"{path} is no safetensors file, or it is damaged: {error!r}") from error


def _mapped(mapped: mmap.mmap, start: int, dtype: str, shape: list[int], data_offsets: list[int]) -> "torch.Tensor":
    import torch

    begin, end = data_offsets
    kind: torch.dtype = getattr(torch, _DTYPES[dtype])
    count = math.prod(shape)
    if (
        not 0 <= begin <= end <= len(mapped) - start
        or count * kind.itemsize != end - begin
        or min(shape, default=0) < 0
    ):
        raise ValueError("a tensor is not where the header says")
    if not count:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(mapped, dtype=kind, count=count, offset=start + begin).view(shape)


def _state_dict(path: Path) -> "dict[str, torch.Tensor]":
    import torch

    try:
        found = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeModelFileError(
            f"{path} has pickled objects other than tensors, which may run any code; save module.state_dict(), better "
            "as safetensors."
        ) from error
    except (RuntimeError, EOFError) as error:
        raise InvalidModelFileError(f"{path} is no torch state dict, or it is damaged: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise InvalidModelFileError(
            f"{path} is no state dict, which has names and tensors alone; save module.state_dict() by itself."
        )
    return dict(found)


class Kinds(dict[str, "tuple[torch.dtype, torch.Size]"]):
    """Type and shape of tensors by name: what a file has to have."""

    def __init__(self, tensors: "Mapping[str, torch.Tensor]") -> None:
        super().__init__({name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()})

    def check(self, path: Path, found: "Mapping[str, torch.Tensor]", what: str, *, any_dtype: bool = False) -> None:
        """Raise `InvalidModelFileError`, with the first differences, unless these tensors are such.

        Args:
            path: their file.
            what: what they have to fit, in words.
            any_dtype: whether their types may be others.
        """
        lines = [f"{name} is missing" for name in self if name not in found]
        lines += [f"{name} is not expected" for name in found if name not in self]
        for name, (dtype, shape) in self.items():
            if (tensor := found.get(name)) is None:
                continue
            if tensor.shape != shape or not (any_dtype or tensor.dtype == dtype):
                lines.append(f"{name} is {_text(tensor.dtype, tensor.shape)}, not {_text(dtype, shape)}")
        if lines:
            more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
            raise InvalidModelFileError(f"{path} does not fit {what}: {'; '.join(lines[:SHOWN])}{more}.")


def _text(dtype: "torch.dtype", shape: "torch.Size") -> str:
    return f"{str(dtype).removeprefix('torch.')}{list(shape)}"
