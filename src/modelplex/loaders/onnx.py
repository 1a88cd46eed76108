"""ONNX files, as sessions of onnxruntime."""

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelplex.errors import InvalidModelFileError
from modelplex.file_safety import inside
from modelplex.loaded import Loaded
from modelplex.loaders.files import model_file, needs, reading
from modelplex.loaders.onnx_file import OnnxTensors, tensors_of


def load(
    path: Path,
    *,
    trusted: bool = False,
    threads: int = 1,
    arena: bool = False,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
    session_config: dict[str, str] | None = None,
) -> Loaded:
    """An `onnxruntime.InferenceSession`. ONNX is data: nothing in it is code.

    Args:
        path: a file, or a folder with one, with what it keeps beside itself.
        trusted: whether its data may lie outside of its folder.
        threads: of one run. More than 1 starts that many less one for each model, which spin when they have nothing to
            do: many models on few cores would have more of them than there is work. The thread that calls is the first.
        arena: whether the session keeps the memory of its largest run for the next one. Models that are seldom used
            keep it for nothing, and no budget knows of it; runs are as fast without, as measured with large layers.
        providers: of onnxruntime, the best first.
        session_config: entries for its session, as `{"session.disable_prepacking": "1"}`.

    Raises:
        UnsafeModelFileError: it names data outside of its folder.
    """
    with needs("onnx"):
        import onnxruntime
    file = model_file(path, ".onnx", trusted=trusted)
    tensors = _tensors(file)
    for location in sorted(tensors.locations):
        inside(file.parent, location, f"'{file.name}'", trusted=trusted)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = arena
    for name, value in (session_config or {}).items():
        options.add_session_config_entry(name, value)
    with reading(file, "an ONNX file that this onnxruntime can run"):
        session = onnxruntime.InferenceSession(str(file), options, providers=list(providers))
    return Loaded(session, tensors.size_bytes)


def _tensors(file: Path) -> OnnxTensors:
    try:
        with file.open("rb") as opened:  # mapped until the last view of it goes, those of a traceback included
            found = tensors_of(memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)))
    except ValueError as error:  # an empty file, too
        raise InvalidModelFileError(f"'{file.name}' is not an ONNX file, or it is damaged: {error}") from None
    if not found.is_model:
        raise InvalidModelFileError(f"'{file.name}' is not an ONNX file: it has no graph.")
    return found
