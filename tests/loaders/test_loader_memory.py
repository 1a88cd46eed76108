"""What loads and unloads do to the memory of real processes, as the system counts it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import model_files
import numpy as np
import pytest

from modelplex.config import LOADERS
from modelplex.runtime.give_back import malloc_trim

pytestmark = [
    pytest.mark.system,
    pytest.mark.stores,
    pytest.mark.long,
    pytest.mark.skipif(malloc_trim() is None, reason="the C library is not glibc"),
]

MIB = 2**20
TIMES = 20

# Loads a model, uses all of its memory, drops it, and so on; in a thread, as replicas do.
CYCLES = """
import gc, json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from modelplex import loaded
from modelplex.config import LOADERS, load
from modelplex.runtime.give_back import malloc_trim
from modelplex.runtime.sizes import process_bytes

name, path, times = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
trim = malloc_trim()

def touch(model):
    if isinstance(model, dict):
        for tensor in model.values():
            tensor.sum()

def once():
    answer = load(LOADERS[name])(path, trusted=True)
    loaded.remember(answer)
    touch(answer.model)
    held = resident()
    loaded.end(answer.model)
    return answer.size_bytes, held

def resident():
    gc.collect()
    trim()
    return process_bytes()

sizes, held, left = [], [], []
with ThreadPoolExecutor(1) as threads:
    for _ in range(times):
        size_bytes, held_bytes = threads.submit(once).result()
        sizes.append(size_bytes); held.append(held_bytes); left.append(resident())
print(json.dumps({"sizes": sizes, "held": held, "left": left}))
"""


def large(name: str, folder: Path) -> Path:
    """A model of some MiB for the loader of that name."""
    file = folder / model_files.MAKERS[name][0]
    if name.startswith("safetensors"):
        return model_files.safetensors(file, {"a": np.ones((4096, 1024), np.float32)})
    if name in ("joblib", "pickle", "skops"):
        estimator = model_files.estimator()
        estimator.coef_ = np.ones((1, 2 * MIB))
        return {"joblib": model_files.joblib, "pickle": model_files.pickled, "skops": model_files.skops}[name](
            file, estimator
        )
    if name == "onnx":
        return model_files.onnx(file, size=2048)
    if name == "mlflow":
        path = model_files.mlflow(file, {"onnx": {"data": "model.onnx"}})
        model_files.onnx(path / "model.onnx", size=2048)
        return path
    if name in ("xgboost", "lightgbm"):
        return (model_files.xgboost if name == "xgboost" else model_files.lightgbm)(file, 3000)
    return _large_torch(name, file)


def _large_torch(name: str, file: Path) -> Path:
    import torch

    module = torch.nn.Linear(2048, 2048).eval()
    if name == "torch":
        torch.save(module.state_dict(), file)
    elif name == "torchscript":
        torch.jit.save(torch.jit.trace(module, torch.ones(1, 2048)), str(file))  # type: ignore[no-untyped-call]
    else:
        torch.export.save(torch.export.export(module, (torch.ones(1, 2048),)), file)
    return file


def run(program: str, *args: object) -> Any:
    command = [sys.executable, "-c", program, *map(str, args)]
    # Of the arenas that threads get, glibc keeps the free end, often as much as a model, for their next allocation.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", LOADERS)
def test_all_of_a_model_comes_back_when_it_is_unloaded(name: str, tmp_path: Path) -> None:
    path = large(name, tmp_path)
    found = run(CYCLES, name, path, TIMES)
    size_bytes = found["sizes"][0]
    assert size_bytes > MIB
    # The first ones fill what libraries keep for themselves. Were one in four models left, it would show.
    growth = found["left"][-1] - found["left"][3]
    print(f"{name}: {size_bytes / MIB:.1f} MiB, grew {growth / MIB:.2f} MiB in {TIMES - 4} loads")
    assert growth < max(4 * size_bytes, 8 * MIB) / 2
    # What a model takes is about what its loader says, on top of what there is without models.
    taken = max(found["held"][4:]) - min(found["left"][3:])
    print(f"takes {taken / MIB:.1f} MiB")
    assert size_bytes / 2 < taken < 2 * size_bytes + 8 * MIB


SHARE = """
import json, sys
from pathlib import Path
from modelplex.config import LOADERS, load

model = load(LOADERS[sys.argv[1]])(Path(sys.argv[2])).model
total = float(sum(tensor.sum() for tensor in model.values()))
print("ready", flush=True)
sys.stdin.readline()
found, here = {}, False
for line in open("/proc/self/smaps"):
    words = line.split()
    if "-" in words[0] and not words[0].endswith(":"):
        here = line.rstrip().endswith(sys.argv[2])
    elif here and words[0] in ("Rss:", "Pss:", "Private_Dirty:"):
        found[words[0]] = found.get(words[0], 0) + int(words[1]) * 1024
print(json.dumps(found), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("name", ["safetensors", "safetensors-torch"])
def test_processes_share_one_copy_of_mapped_tensors(name: str, tmp_path: Path) -> None:
    path = model_files.safetensors(tmp_path / "m.safetensors", {"a": np.ones((8192, 1024), np.float32)})
    command = [sys.executable, "-c", SHARE, name, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(4)]  # type: ignore[call-overload]
    try:
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        found = []
        for process in processes:
            process.stdin.write("measure\n")
            process.stdin.flush()
            found.append(json.loads(process.stdout.readline()))
    finally:
        for process in processes:
            process.communicate("end\n", timeout=60)
    size_bytes = path.stat().st_size
    print(name, "Rss", [f["Rss:"] for f in found], "Pss", [f["Pss:"] for f in found])
    assert all(f["Rss:"] > 0.9 * size_bytes for f in found)
    assert sum(f["Pss:"] for f in found) < 1.2 * size_bytes
    assert all(f["Private_Dirty:"] == 0 for f in found)
