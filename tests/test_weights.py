"""Files of tensors: what is read of them, and what is said of files that are none."""

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from modelplex.errors import InvalidModelFileError, UnsafeModelFileError
from modelplex.weights import mapped_tensors

DTYPES = [torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32]
DTYPES += [torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
DTYPES += [torch.float8_e4m3fn, torch.float8_e5m2]


def test_all_types_and_shapes_are_read_as_the_library_writes_them(tmp_path: Path) -> None:
    tensors = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in DTYPES}
    tensors |= {"scalar": torch.tensor(3.5), "empty": torch.ones(0, 4)}
    save_file(tensors, tmp_path / "file", metadata={"format": "pt"})
    with mapped_tensors(tmp_path / "file") as found:
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
            assert found[name].tolist() == tensor.tolist()


def test_the_file_stays_as_it_is(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "file")
    with mapped_tensors(tmp_path / "file") as found:
        found["a"].fill_(7)
    with mapped_tensors(tmp_path / "file") as found:
        assert found["a"].tolist() == [1, 1, 1]


def safetensors(header: Any, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


DAMAGED = {
    "empty": b"",
    "short": b"1234567",
    "text": b"this is no file of tensors",
    "a header that is longer than the file": struct.pack("<Q", 2**63) + b"{}",
    "no JSON": safetensors(b"{"),
    "no object": safetensors([]),
    "nested without end": safetensors(b"[" * 100_000),
    "no tensor": safetensors({"a": 1}),
    "an unknown type": safetensors(tensor(dtype="F3")),
    "a type that is a name of torch": safetensors(tensor(dtype="load")),
    "more than there is": safetensors(tensor(shape=[4], data_offsets=[0, 16])),
    "before the data": safetensors(tensor(data_offsets=[-8, 0])),
    "backwards": safetensors(tensor(data_offsets=[8, 0])),
    "another size": safetensors(tensor(shape=[1])),
    "a negative shape": safetensors(tensor(shape=[-1, -2])),
    "a shape of halves": safetensors(tensor(shape=[2.0])),
    "something more": safetensors(tensor(more=1)),
    "a zip archive": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_that_is_none_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(DAMAGED[name])
    with pytest.raises(InvalidModelFileError, match=r"file'? is n"), mapped_tensors(tmp_path / "file"):
        pass


@pytest.mark.parametrize("saved", [{"state_dict": {"a": torch.ones(1)}}, [torch.ones(1)]])
def test_what_is_more_than_a_state_dict_is_told(tmp_path: Path, saved: Any) -> None:
    torch.save(saved, tmp_path / "file")
    with (
        pytest.raises(InvalidModelFileError, match=r"save module\.state_dict\(\) by itself"),
        mapped_tensors(tmp_path / "file"),
    ):
        pass


def test_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelFileError, match="is a folder"), mapped_tensors(tmp_path):
        pass


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "file", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", bytes(100 * 2**20))
    with pytest.raises(UnsafeModelFileError, match="like a zip bomb"), mapped_tensors(tmp_path / "file"):
        pass
