"""Files of torch: tensors, and with trust whole modules, TorchScript, and exported programs."""

import pickle
import re
import threading
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from modelplex.errors import InvalidModelFileError, UnsafeModelFileError
from modelplex.file_safety import TRUST, zip_members
from modelplex.loaded import Loaded
from modelplex.loaders.files import model_file, needs, reading
from modelplex.loaders.tensors import Tensors

# torch.export has one state for all threads, and fails in all but the first.
_exporting = threading.Lock()

_BETTER = "What runs nothing: a state_dict of tensors (torch.save(module.state_dict(), …)), safetensors, or ONNX."


def load(path: Path, *, trusted: bool = False, device: str = "cpu") -> Loaded:
    """What `torch.save` wrote: tensors, mapped from the file where they stay on the CPU; a whole module if trusted.

    A file that is TorchScript or an exported program after all is loaded as that, which takes trust.

    Args:
        path: a file, or a folder with one.
        trusted: whether the pickle in the file may make any objects, which is to run any code.
        device: where tensors go, as `cuda:0`.

    Raises:
        UnsafeModelFileError: there is more than tensors in the file.
    """
    with needs("torch"):
        import torch
    file = model_file(path, ".pt", ".pth", trusted=trusted)
    kind = _kind(file, trusted=trusted)
    if kind in _OTHER_KINDS:
        return _OTHER_KINDS[kind](file, trusted=trusted, device=device)
    with reading(file, "a file of torch.save"):
        try:
            # Files from before torch 1.6 are no archives, and cannot be mapped.
            model = torch.load(file, map_location=device, weights_only=not trusted, mmap=kind == "archive")
        except pickle.UnpicklingError as error:
            if trusted or (what := _refused(error)) is None:
                raise
            raise UnsafeModelFileError(f"'{file.name}' {what}. {_BETTER} {TRUST}") from None
    if isinstance(model, torch.nn.Module):
        model.eval()
    return Loaded(Tensors(model) if type(model) is dict else model, tensor_bytes(model))


def load_script(path: Path, *, trusted: bool = False, device: str = "cpu") -> Loaded:
    """A TorchScript module, in eval mode. It is a program that runs as it is loaded, so it has to be trusted.

    Args:
        path: a file, or a folder with one.
        trusted: whether that program may run.
        device: where its tensors go.
    """
    with needs("torch"):
        import torch
    file = model_file(path, ".pt", ".pth", trusted=trusted)
    _check_trust(file, "a TorchScript program, which can read and write files, and run code as it is loaded", trusted)
    if _kind(file, trusted=True) != "script":
        raise InvalidModelFileError(f"'{file.name}' is not TorchScript, or it is damaged.")
    with reading(file, "TorchScript"):
        module = torch.jit.load(str(file), map_location=device)  # type: ignore[no-untyped-call]
        module.eval()
    return Loaded(module, tensor_bytes(module))


def load_exported(path: Path, *, trusted: bool = False, device: str = "cpu") -> Loaded:
    """The module of a program of `torch.export.save`, to be called. Pickles are in there, so it has to be trusted.

    Args:
        path: a file, or a folder with one.
        trusted: whether those pickles may run.
        device: where its tensors go.
    """
    with needs("torch"):
        import torch
        from torch.export.passes import move_to_device_pass
    file = model_file(path, ".pt2", trusted=trusted)
    _check_trust(file, "an exported program, whose constants are pickles that may run any code", trusted)
    if _kind(file, trusted=True) != "export":
        raise InvalidModelFileError(f"'{file.name}' is not what torch.export.save writes, or it is damaged.")
    with _exporting, reading(file, "an exported program"), file.open("rb") as opened:
        program = torch.export.load(opened)  # opened, since it takes no path but *.pt2
        if device != "cpu":
            program = move_to_device_pass(program, device)
        module = program.module()
    return Loaded(module, tensor_bytes(module))


def tensor_bytes(model: object) -> int:
    """The memory of the tensors of a module, or in dicts, lists and tuples. What several of them share counts once."""
    import torch

    storages: dict[tuple[str, int], int] = {}
    todo, seen = [model], set[int]()
    while todo:
        item = todo.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor) and item.layout == torch.strided:
            storage = item.untyped_storage()
            key = (str(item.device), storage.data_ptr())
            storages[key] = max(storages.get(key, 0), storage.nbytes())
        else:
            todo.extend(_parts(item))
    return sum(storages.values())


def _parts(item: object) -> Iterable[Any]:
    import torch

    if isinstance(item, torch.nn.Module):
        return [*item.parameters(), *item.buffers()]
    if isinstance(item, torch.Tensor):  # a sparse one
        if item.layout in (torch.sparse_csr, torch.sparse_bsr):
            return [item.crow_indices(), item.col_indices(), item.values()]
        if item.layout == torch.sparse_coo:
            return [item._indices(), item._values()]
        if item.layout in (torch.sparse_csc, torch.sparse_bsc):
            return [item.ccol_indices(), item.row_indices(), item.values()]
        return ()
    if isinstance(item, dict):
        return item.values()
    return item if isinstance(item, list | tuple | set) else ()


def _kind(file: Path, *, trusted: bool) -> str:
    """What a file is by its members: `archive` (of torch.save), `script`, `export`, or `old` if it has none."""
    if not zipfile.is_zipfile(file):
        return "old"
    # Archives of torch have one folder, in which all of it is; the first exported programs had none.
    members = zip_members(file, trusted=trusted)
    names = {*members, *(name.partition("/")[2] for name in members)}
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        return "script"
    exported = "archive_format" in names or "models/model.json" in names or "serialized_exported_program.json" in names
    return "export" if exported else "archive"


_OTHER_KINDS = {"script": load_script, "export": load_exported}


def _check_trust(file: Path, what: str, trusted: bool) -> None:
    if not trusted:
        raise UnsafeModelFileError(f"'{file.name}' is {what}. {_BETTER} {TRUST}")


def _refused(error: pickle.UnpicklingError) -> str | None:
    """What a pickle would do that is not about tensors; None if it is none at all."""
    text = str(error)
    if found := re.search(r"GLOBAL (\S+)", text):
        return f"would call or make {found[1]} as it is loaded, which is more than tensors"
    if "add_safe_globals" in text or "must be imported" in text:
        return "would make objects that are more than tensors"
    return None
