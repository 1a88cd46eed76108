"""What a switch between models of one architecture takes: constructed anew, and into a module that is there.

    python benchmarks/skeletons.py [--quick] [--runs 15]

Prints medians in milliseconds, from the file (which the system has in memory) to a model in evaluation mode.
"construct" is the module's constructor and load_state_dict of what safetensors.torch.load_file answers. "skeleton" is
the load by a SkeletonPool whose last model has just gone, that one's end included.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from modelplex import serve

Factory = Callable[[], nn.Module]


def layers(number: int, layer: Factory) -> Factory:
    return lambda: nn.Sequential(*(layer() for _ in range(number)))


def encoder(width: int) -> Factory:
    return lambda: nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)


CASES: dict[str, Factory] = {
    "100 x Linear(64)": layers(100, lambda: nn.Linear(64, 64)),
    "100 x Linear(256)": layers(100, lambda: nn.Linear(256, 256)),
    "100 x Linear(512)": layers(100, lambda: nn.Linear(512, 512)),
    "12 x TransformerEncoderLayer(256)": layers(12, encoder(256)),
    "100 x TransformerEncoderLayer(128)": layers(100, encoder(128)),
}


def measure(factory: Factory, folder: Path, runs: int) -> tuple[float, float, float]:
    """Megabytes, and median milliseconds of both ways, taken in turns."""
    files = [folder / "0.safetensors", folder / "1.safetensors"]
    for file in files:
        save_file(factory().state_dict(), file)
    pool = serve.SkeletonPool(factory)
    model: nn.Module | None = pool.load(files[0])
    assert model is not None
    size_mb = sum(tensor.nbytes for tensor in model.state_dict().values()) / 1e6
    constructed, switched = [], []
    for run in range(runs):
        file = files[run % 2]
        began = time.perf_counter()
        other = factory()
        other.load_state_dict(load_file(file))
        other.eval()
        constructed.append(time.perf_counter() - began)
        del other
        began = time.perf_counter()
        model = None  # its end
        model = pool.load(file)
        switched.append(time.perf_counter() - began)
        assert not model.training
    assert pool.built == 1, "a module was not used again"
    return size_mb, statistics.median(constructed) * 1e3, statistics.median(switched) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="5 runs of two cases")
    options = parser.parse_args()
    names = ["100 x Linear(256)", "100 x TransformerEncoderLayer(128)"] if options.quick else list(CASES)
    torch.manual_seed(0)
    print(f"{'module':36} {'MB':>6} {'construct':>10} {'skeleton':>10} {'ratio':>6}")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            size_mb, construct_ms, switch_ms = measure(CASES[name], Path(folder), 5 if options.quick else options.runs)
        gc.collect()
        ratio = construct_ms / switch_ms
        print(f"{name:36} {size_mb:6.1f} {construct_ms:10.1f} {switch_ms:10.1f} {ratio:6.1f}", flush=True)


if __name__ == "__main__":
    main()
