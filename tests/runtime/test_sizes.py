"""How large models say that they are."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from modelplex.runtime.sizes import told_bytes


class Estimator:
    """Like one of scikit-learn: arrays in attributes, some of them below others."""

    def __init__(self) -> None:
        self.coef_ = np.zeros(10)
        self.trees = [{"values": np.zeros(5, np.float32)}, self]
        self.name = "estimator"


@pytest.mark.parametrize(
    ("model", "size_bytes"),
    [
        (np.zeros((3, 4)), 96),
        ([np.zeros(2), {"b": np.zeros(3)}, (np.zeros(1),)], 48),
        (Estimator(), 100),
        ("text", 0),
        (None, 0),
        (object(), 0),
    ],
)
def test_arrays_are_found_wherever_they_are(model: Any, size_bytes: int) -> None:
    assert told_bytes(model) == size_bytes


def test_an_array_that_is_held_twice_counts_once() -> None:
    array = np.zeros(100)
    assert told_bytes([array, array, {"again": array}]) == 800


def test_a_torch_module_counts_its_parameters_and_buffers() -> None:
    torch = pytest.importorskip("torch", reason="torch is an optional dependency")
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    expected = sum(t.nbytes for t in (*module.parameters(), *module.buffers()))
    assert told_bytes({"model": module}) == expected


def test_an_onnx_session_counts_its_model() -> None:
    class Session:
        _model_bytes = b"12345"
        _model_path = None

        def get_modelmeta(self) -> None: ...

    assert told_bytes(Session()) == 5


GROWTH = """
from modelplex.runtime.sizes import process_bytes
before = process_bytes()
held = bytearray(b"x") * 200_000_000
print(before, process_bytes() - before)
"""


def test_a_process_grows_by_what_it_holds() -> None:
    """One of its own: this one may have as much memory left over from other tests, and need no more."""
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, timeout=60, check=True)
    before, growth_bytes = map(int, done.stdout.split())
    assert growth_bytes > 190_000_000 or not before
