"""What replicas that hold the same model take together: its memory once, or once for each of them."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import models
from .loading import written
from .steps import MIB, TIMEOUT_S, Figures, Sizes, Step, in_process

# The loader of each system; with the name of the writer of its file.
LOADERS: dict[str, tuple[str, str | Callable[[Path], Any]]] = {
    "shared-safetensors": ("safetensors", "safetensors"),
    "shared-safetensors-torch": ("safetensors", "safetensors-torch"),
    "shared-torch": ("torch", "torch"),
    "copied": ("torch", models.plain_torch),
}


@contextlib.contextmanager
def group(folder: Path, sizes: Sizes) -> Iterator[list[Step]]:
    paths = written(folder, sizes.model_bytes, ("safetensors", "torch"))
    yield [
        Step(
            f"Memory of {sizes.replicas} replicas with one model of {sizes.model_bytes / 1e6:,.3g} MB",
            system,
            functools.partial(in_process, "memory:measure", system, str(paths[writer]), sizes.replicas),
        )
        for system, (writer, _) in LOADERS.items()
    ]


def measure(system: str, path: str, replicas: int) -> dict[str, Figures]:
    """Serve, have all replicas load the model and read every byte, and compare their memory with that before."""
    from modelplex import serve

    @serve.deployment(num_replicas=replicas)
    class Holder:
        def __init__(self) -> None:
            self._store = serve.ModelStore(Path(path).parent, loader=LOADERS[system][1])

        @serve.multiplexed(max_num_models_per_replica=2)
        async def get_model(self, model_id: str) -> Any:
            return await self._store.load(model_id)

        async def read(self, model_id: str) -> int:
            models.read_all(await self.get_model(model_id))
            return os.getpid()

    serve.start({"port": 0})
    try:
        handle = serve.run(Holder.bind())  # type: ignore[attr-defined]
        file = Path(path)
        # The small model brings the library, its threads and what it keeps for itself: what all models share.
        pids = set(handle.broadcast("read", file.with_stem("small").name).result(TIMEOUT_S))
        before_bytes = _pss_bytes(pids)
        if set(handle.broadcast("read", file.name).result(TIMEOUT_S)) != pids or len(pids) != replicas:
            raise RuntimeError(f"not all of {replicas} replicas have been there all the time")
        growth_bytes = _pss_bytes(pids) - before_bytes
    finally:
        serve.shutdown()
    figures = {
        "before the load, MiB": before_bytes / MIB,
        "growth, MiB": growth_bytes / MIB,
        "growth, of the model's size": growth_bytes / file.stat().st_size,
    }
    return {system: figures}


def _pss_bytes(pids: set[int]) -> int:
    """The memory of processes; what several have mapped counts in parts."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(int(line.split()[1]) * 1024 for text in texts for line in text.splitlines() if line.startswith("Pss:"))
