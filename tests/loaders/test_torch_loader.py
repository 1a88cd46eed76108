"""Files of torch: tensors for everybody, code for those who are trusted, and exact sizes."""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import model_files
import pytest
import torch

from modelplex.errors import InvalidModelFileError, UnsafeModelFileError
from modelplex.loaders.torch import load, load_exported, load_script, tensor_bytes

RAN: list[str] = []


def note(word: str) -> None:
    RAN.append(word)


class Evil:
    """Runs something as it is unpickled."""

    def __reduce__(self) -> Any:
        return note, ("ran",)


class Custom:
    """A class of the user's."""


def saved(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def test_tensors_are_mapped_from_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pt", {"a": torch.zeros(4, dtype=torch.uint8), "more": {"b": torch.ones(3)}, "epoch": 5})
    answer = load(path)
    assert answer.size_bytes == 4 + 12
    assert answer.model["epoch"] == 5
    with zipfile.ZipFile(path) as archive, archive.open("m/data/0") as member:
        begin = member._orig_compress_start  # type: ignore[attr-defined]  # where its bytes begin
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(b"\1\2\3\4")
    assert answer.model["a"].tolist() == [1, 2, 3, 4]


def test_files_from_before_archives_are_loaded(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pth", {"a": torch.ones(4)}, _use_new_zipfile_serialization=False)
    assert load(path).model["a"].tolist() == [1, 1, 1, 1]


def test_a_state_dict_stays_one(tmp_path: Path) -> None:
    answer = load(model_files.torch_state(tmp_path / "m.pt"))
    assert isinstance(answer.model, OrderedDict)
    module = model_files.torch_module()
    module.load_state_dict(answer.model)
    assert answer.size_bytes == sum(t.nbytes for t in module.state_dict().values())


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize(
    ("value", "what"),
    [
        ({"a": Evil()}, "note"),
        ({"a": Custom()}, "Custom"),
        (torch.nn.Linear(1, 1), r"torch.nn.modules.linear.Linear"),
    ],
)
def test_more_than_tensors_is_refused_and_does_not_run(value: Any, what: str, archive: bool, tmp_path: Path) -> None:
    RAN.clear()
    path = saved(tmp_path / "m.pt", value, _use_new_zipfile_serialization=archive)
    with pytest.raises(UnsafeModelFileError, match=rf"'m.pt' would call or make \S*({what}).*state_dict.*trusted=True"):
        load(path)
    assert RAN == []


def test_a_trusted_module_is_whole_and_in_eval_mode(tmp_path: Path) -> None:
    module = model_files.torch_module()
    answer = load(saved(tmp_path / "m.pt", module), trusted=True)
    assert not answer.model.training
    assert answer.model(torch.ones(2, 3)).shape == (2, 4)
    assert answer.size_bytes == sum(t.nbytes for t in (*module.parameters(), *module.buffers()))


@pytest.mark.parametrize(
    ("name", "what"), [("torchscript", "TorchScript program"), ("torch-export", "exported program")]
)
def test_a_program_under_any_ending_is_refused_or_loaded_as_what_it_is(name: str, what: str, tmp_path: Path) -> None:
    path = model_files.make(name, tmp_path).rename(tmp_path / "other.pt")
    with pytest.raises(UnsafeModelFileError, match=f"'other.pt' is an? {what}"):
        load(path)
    assert load(path, trusted=True).model(torch.ones(2, 3)).shape == (2, 4)


@pytest.mark.parametrize(("name", "call"), [("torchscript", load_script), ("torch-export", load_exported)])
def test_programs_answer_and_know_their_size(name: str, call: Any, tmp_path: Path) -> None:
    answer = call(model_files.make(name, tmp_path), trusted=True)
    assert answer.model(torch.ones(2, 3)).shape == (2, 4)
    module = model_files.torch_module()
    assert answer.size_bytes == sum(t.nbytes for t in (*module.parameters(), *module.buffers()))


@pytest.mark.parametrize("call", [load_script, load_exported])
def test_tensors_are_no_program(call: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidModelFileError, match=r"'m\.pt' is not"):
        call(model_files.torch_state(tmp_path / "m.pt"), trusted=True)


def test_a_pickle_that_torch_did_not_write_is_refused(tmp_path: Path) -> None:
    RAN.clear()
    (tmp_path / "m.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InvalidModelFileError):
        load(tmp_path / "m.pt")
    assert RAN == []


def test_another_device_is_taken_at_its_word(tmp_path: Path) -> None:
    answer = load(model_files.torch_state(tmp_path / "m.pt"), device="meta")
    assert {t.device.type for t in answer.model.values()} == {"meta"}


# Sizes


def test_memory_that_tensors_share_counts_once() -> None:
    base = torch.zeros(100)
    assert tensor_bytes([base, base[10:20], {"again": base.view(10, 10)}, (base.clone(),)]) == 800
    tied = torch.nn.Sequential(torch.nn.Linear(10, 10, bias=False), torch.nn.Linear(10, 10, bias=False))
    tied[1].weight = tied[0].weight
    assert tensor_bytes(tied) == 400


def test_a_view_counts_as_what_it_keeps() -> None:
    assert tensor_bytes(torch.zeros(1000)[:1]) == 4000


@pytest.mark.parametrize("layout", ["to_sparse_coo", "to_sparse_csr", "to_sparse_csc"])
def test_sparse_tensors_count_by_their_parts(layout: str) -> None:
    tensor = getattr(torch.eye(8), layout)()
    assert tensor_bytes(tensor) >= 8 * 4 + 8 * 8


def test_what_has_no_tensors_has_no_size() -> None:
    circle: list[Any] = [1, "text", None]
    circle.append(circle)
    assert tensor_bytes(circle) == 0
