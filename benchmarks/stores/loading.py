"""From a file into memory: Modelplex's loaders beside the plain calls of the libraries."""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from . import page_cache
from .models import PLAIN, WRITERS, read_all
from .steps import Figures, Sizes, Step, Stopwatch, in_process

OF_TENSORS = ("safetensors", "safetensors-torch", "torch")
# Of a model of tensors, so much is what is fair to ask of the others.
SHARES = {"onnx": 0.2, "skops": 0.2, "xgboost": 0.02, "lightgbm": 0.02}
_SMALL_BYTES = 2_000_000


@contextlib.contextmanager
def group(folder: Path, sizes: Sizes) -> Iterator[list[Step]]:
    yield [
        Step(
            f"Loading by {loader}, {path.stat().st_size / 1e6:,.3g} MB",
            f"{system}, {temperature}",
            functools.partial(in_process, "loading:measure", loader, system, str(path), temperature),
        )
        for loader, path in written(folder, sizes.model_bytes).items()
        for temperature in ("warm", "cold")
        for system in ("modelplex", *PLAIN[loader])
    ]


def written(folder: Path, model_bytes: int, loaders: tuple[str, ...] = tuple(WRITERS)) -> dict[str, Path]:
    """A model for each loader, and beside each a small one of the same kind. Loaders of the same ending share them."""
    paths = {}
    for loader in loaders:
        ending, _ = WRITERS[loader]
        paths[loader] = folder / f"model{ending}"
        if not paths[loader].exists():
            in_process("models:write", loader, str(paths[loader]), int(model_bytes * SHARES.get(loader, 1.0)))
            in_process("models:write", loader, str(folder / f"small{ending}"), _SMALL_BYTES)
    return paths


def measure(loader: str, system: str, path: str, temperature: str) -> dict[str, Figures]:
    return {system: asyncio.run(_measure(loader, system, Path(path), temperature))}


async def _measure(loader: str, system: str, path: Path, temperature: str) -> Figures:
    load = _by_modelplex(loader, path.parent) if system == "modelplex" else _plainly(PLAIN[loader][system])
    small = await load(path.with_stem("small"))  # imports, and threads that libraries start, are not counted
    if loader in OF_TENSORS:
        read_all(small)
    (page_cache.drop if temperature == "cold" else page_cache.fill)(path)
    watch = Stopwatch()
    model = await load(path)
    figures = watch.figures(f"{temperature}, loaded")
    if loader in OF_TENSORS:
        read_all(model)
        figures |= watch.figures(f"{temperature}, every byte read")
    return figures


def _by_modelplex(loader: str, folder: Path) -> Callable[[Path], Awaitable[Any]]:
    from modelplex import serve

    store = serve.ModelStore(folder, loader=loader)
    return lambda path: store.load(path.name)


def _plainly(function: Callable[[Path], Any]) -> Callable[[Path], Awaitable[Any]]:
    async def load(path: Path) -> Any:
        return function(path)

    return load
