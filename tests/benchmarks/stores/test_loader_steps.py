"""What is measured of loaders, with tiny models."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.stores import loading, models
from modelplex.config import LOADER_ENDINGS, LOADERS

SYSTEMS = [(loader, system) for loader, plain in models.PLAIN.items() for system in ("modelplex", *plain)]


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """Reading says for the whole process how many threads torch takes."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for loader, (ending, _) in models.WRITERS.items():
        for name in ("model", "small"):
            models.write(loader, str(folder / f"{name}{ending}"), 20_000)
    return folder


@pytest.mark.parametrize(("loader", "system"), SYSTEMS)
def test_a_model_is_loaded_and_read(loader: str, system: str, folder: Path) -> None:
    path = folder / f"model{models.WRITERS[loader][0]}"
    found = loading.measure(loader, system, str(path), "warm")
    assert list(found) == [system]
    read = {"warm, every byte read, s", "warm, every byte read, CPU s"} if loader in loading.OF_TENSORS else set()
    assert found[system].keys() == {"warm, loaded, s", "warm, loaded, CPU s"} | read


@pytest.mark.system
@pytest.mark.stores
def test_models_are_written_once_for_each_ending_about_as_large_as_wanted(tmp_path: Path) -> None:
    paths = loading.written(tmp_path, 3_000_000, ("safetensors", "safetensors-torch", "torch"))
    assert paths["safetensors"] == paths["safetensors-torch"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "model.safetensors",
        "small.safetensors",
        "model.pt",
        "small.pt",
    }
    for path in paths.values():
        assert 2_900_000 < path.stat().st_size < 3_100_000


def test_loaders_are_measured_with_files_of_their_own_endings() -> None:
    assert models.WRITERS.keys() == models.PLAIN.keys() <= LOADERS.keys()
    for loader, (ending, _) in models.WRITERS.items():
        assert loader.startswith(LOADER_ENDINGS[ending])


def test_all_that_is_read_is_summed() -> None:
    import numpy as np

    assert models.read_all({"a": np.ones(3), "b": np.ones((2, 2))}) == 7
