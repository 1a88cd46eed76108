"""Files of named tensors, memory-mapped, and whether they are the tensors that a model has."""

import contextlib
import errno
import mmap
import pickle
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from modelplex.errors import InvalidModelFileError, UnsafeModelFileError
from modelplex.file_safety import zip_members
from modelplex.safetensors_header import TensorInfo, read_header

if TYPE_CHECKING:
    import torch

# Differences that an error names.
SHOWN = 5

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
        zip_members(path, trusted=False, advice="Better still, save it as safetensors.")
        yield _state_dict(path)
        return
    yield _safetensors(path)


def _safetensors(path: Path) -> "dict[str, torch.Tensor]":
    """What the library of the format does, in less than half of the time for a file of a thousand tensors."""
    header = read_header(path)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch knows no tensors that cannot be written
    if sys.platform == "linux":
        try:
            mapped.madvise(_POPULATE_READ)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a kernel older than 5.14
                raise
    return {name: _mapped(path, mapped, info) for name, info in header.tensors.items()}


def _mapped(path: Path, mapped: mmap.mmap, info: TensorInfo) -> "torch.Tensor":
    import torch

    if (kind := getattr(torch, _DTYPES.get(info.dtype, ""), None)) is None:
        raise InvalidModelFileError(f"{path} has tensors of type {info.dtype}, which torch does not have.")
    if info.begin == info.end:
        return torch.empty(info.shape, dtype=kind)
    count = (info.end - info.begin) // kind.itemsize
    return torch.frombuffer(mapped, dtype=kind, count=count, offset=info.begin).view(info.shape)


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
