"""Safetensors: arrays that are the file itself, and headers that are what they must be."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from model_files import safetensors, with_header
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from modelplex.errors import InvalidModelFileError, UnsafeModelFileError
from modelplex.loaders.safetensors import INDEX, load, load_torch
from modelplex.safetensors_header import BITS, HEADER_BYTES_MAX

LOADS = [load, load_torch]
F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def test_arrays_are_those_that_were_saved_and_cannot_be_written(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {
        "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float16),
        "flags": np.array([True, False, True]),
        "odd": np.arange(3, dtype=np.uint8),
        "complex": np.array([1 + 2j], np.complex64),
    }
    save_file(tensors, tmp_path / "m.safetensors", {"made": "here"})
    answer = load(tmp_path / "m.safetensors")
    assert answer.model.metadata == {"made": "here"}
    assert answer.size_bytes == sum(array.nbytes for array in tensors.values())
    assert answer.model.keys() == tensors.keys()
    for name, array in answer.model.items():
        assert array.dtype == tensors[name].dtype
        assert type(array) is np.ndarray
        np.testing.assert_array_equal(array, tensors[name])
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_arrays_are_the_file_itself(tmp_path: Path) -> None:
    """Nobody may change a file that is in use; here it shows that there is no copy."""
    path = safetensors(tmp_path / "m.safetensors", {"a": np.zeros(4, np.uint8)})
    array = load(path).model["a"]
    with path.open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\1\2\3\4")
    assert array.tolist() == [1, 2, 3, 4]


def test_tensors_of_torch_are_mapped_too_and_a_write_stays_in_this_process(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "m.safetensors", {"a": np.zeros(4, np.uint8)})
    content = path.read_bytes()
    tensor = load_torch(path).model["a"]
    with path.open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\1\2\3\4")
    assert tensor.tolist() == [1, 2, 3, 4]
    path.write_bytes(content)
    tensor[0] = 9
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("dtype", "of_torch"),
    [
        ("bfloat16", torch.bfloat16),
        ("float8_e4m3fn", torch.float8_e4m3fn),
        ("float8_e5m2", torch.float8_e5m2),
    ],
)
def test_small_floats_are_those_of_ml_dtypes(dtype: str, of_torch: torch.dtype, tmp_path: Path) -> None:
    values = torch.tensor([0.5, -2.0, 1.75, 448.0])
    save_torch({"a": values.to(of_torch)}, tmp_path / "m.safetensors")
    array = load(tmp_path / "m.safetensors").model["a"]
    assert array.dtype == getattr(ml_dtypes, dtype)
    np.testing.assert_array_equal(array.astype(np.float32), values.to(of_torch).float().numpy())
    assert load_torch(tmp_path / "m.safetensors").model["a"].dtype == of_torch


def test_small_floats_need_ml_dtypes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_torch({"a": torch.zeros(1, dtype=torch.bfloat16)}, tmp_path / "m.safetensors")
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match=r"'a' of 'm\.safetensors' is BF16.*pip install ml_dtypes"):
        load(tmp_path / "m.safetensors")


def test_what_numpy_has_no_type_for_is_told(tmp_path: Path) -> None:
    header = {"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}
    with pytest.raises(InvalidModelFileError, match="'a' of 'm' is F4, which numpy has no type for"):
        load(with_header(tmp_path / "m", header, bytes(2)))


# Headers


@pytest.mark.parametrize("call", LOADS)
@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ([], b"", "must be an object"),
        (b"{" * 5000, b"", "in its header"),
        (b"[" * 100_000, b"", "in its header"),
        (b"\xff\xfe", b"", "in its header"),
        (b'{"a": %s, "a": %s}' % ((json.dumps(F32).encode(),) * 2), bytes(8), "a name twice"),
        ({"__metadata__": {"a": 1}, "a": F32}, bytes(8), "must be text by name"),
        ({"a": {**F32, "more": 1}}, bytes(8), "'a' must have dtype, shape and data_offsets"),
        ({"a": 5}, bytes(8), "'a' must have"),
        ({"a": {**F32, "dtype": "F33"}}, bytes(8), "unknown dtype 'F33'"),
        ({"a": {**F32, "dtype": []}}, bytes(8), "in its header"),
        ({"a": {**F32, "shape": [-2]}}, bytes(8), "integers from 0"),
        ({"a": {**F32, "shape": [2.0]}}, bytes(8), "integers from 0"),
        ({"a": {**F32, "shape": [True, 2]}}, bytes(8), "integers from 0"),
        ({"a": {**F32, "data_offsets": [0]}}, bytes(8), "integers from 0"),
        ({"a": {**F32, "data_offsets": [8, 0]}}, bytes(8), "has -8 bytes, which are not those of F32"),
        ({"a": {**F32, "shape": [3]}}, bytes(8), "has 8 bytes, which are not those of F32"),
        ({"a": {**F32, "shape": [2**62, 2**62]}}, bytes(8), "are not those of F32"),
        ({"a": F32}, bytes(7), "end at byte .*, and the file at"),
        ({"a": F32}, bytes(9), "end at byte .*, and the file at"),
        ({"a": F32, "b": F32}, bytes(8), "begins at byte"),
        ({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, bytes(12), "begins at byte"),
        ({"a": F32, "b": {**F32, "data_offsets": [12, 20]}}, bytes(20), "begins at byte"),
        ({"a": {**F32, "data_offsets": [8, 16]}}, bytes(16), "begins at byte"),
    ],
)
def test_a_header_that_is_not_strictly_one_is_refused(
    call: Callable[[Path], Any], header: Any, data: bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidModelFileError, match=f"'m'.*{message}"):
        call(with_header(tmp_path / "m", header, data))


@pytest.mark.parametrize("length", [0, 1, 100, HEADER_BYTES_MAX + 1, 2**63])
def test_a_header_is_as_long_as_it_can_be(length: int, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(InvalidModelFileError, match=f"its header would have {length}"):
        load(tmp_path / "m")


def test_the_dtypes_are_those_of_the_library(tmp_path: Path) -> None:
    """Which refuses a dtype that it does not know, and says which it does."""
    path = with_header(tmp_path / "m", {"a": {"dtype": "NONE", "shape": [], "data_offsets": [0, 1]}}, b"1")
    with pytest.raises(SafetensorError) as refused:
        safe_open(path, "np")
    known = re.findall(r"`(\w+)`", str(refused.value).partition("expected one of")[2])
    assert set(known) == set(BITS)


# Folders


def sharded(folder: Path) -> Path:
    safetensors(folder / "one.safetensors", {"a": np.ones(2, np.float32), "b": np.ones(3, np.float32)})
    safetensors(folder / "two.safetensors", {"c": np.ones(5, np.float64)})
    places = {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 60}, "weight_map": places}))
    return folder


@pytest.mark.parametrize("call", LOADS)
def test_several_files_with_an_index_are_one_model(call: Callable[[Path], Any], tmp_path: Path) -> None:
    answer = call(sharded(tmp_path))
    assert {name: tuple(t.shape) for name, t in answer.model.items()} == {"a": (2,), "b": (3,), "c": (5,)}
    assert answer.size_bytes == 60


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"{}", "no usable weight_map"),
        (b"[", "no usable weight_map"),
        (b'{"weight_map": {}}', "no usable weight_map"),
        (b'{"weight_map": {"a": 1}}', "no usable weight_map"),
        (b'{"weight_map": ["a"]}', "no usable weight_map"),
        (b'{"weight_map": {"c": "one.safetensors"}}', "names tensor 'c', which is not in 'one.safetensors'"),
        (b'{"weight_map": {"a": "three.safetensors"}}', "'three.safetensors', which is not there"),
        (b'{"weight_map": {"a": "one.safetensors", "b": "again.safetensors"}}', "has tensor 'a'|has tensor 'b'"),
    ],
)
def test_an_index_that_is_not_that_of_its_files_is_refused(index: bytes, message: str, tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "again.safetensors").write_bytes((tmp_path / "one.safetensors").read_bytes())
    (tmp_path / INDEX).write_bytes(index)
    with pytest.raises(InvalidModelFileError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("name", ["../out.safetensors", "/etc/passwd", "", "a\0b"])
def test_an_index_does_not_lead_out_of_its_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    safetensors(tmp_path / "out.safetensors", {"a": np.ones(2)})
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UnsafeModelFileError, match="not in the model's folder"):
        load(folder)
