"""What is measured of replicas that hold the same model."""

from pathlib import Path

import pytest

from benchmarks.stores.loading import written
from benchmarks.stores.memory import LOADERS
from benchmarks.stores.steps import in_process

pytestmark = [pytest.mark.system, pytest.mark.stores]

MODEL_BYTES = 20_000_000


def test_replicas_load_and_are_compared_with_themselves_before(tmp_path: Path) -> None:
    """A copy for each replica, or one for both, is a difference that no noise hides."""
    paths = written(tmp_path, MODEL_BYTES, ("torch",))
    growth = {}
    for system in ("shared-torch", "copied"):
        found = in_process("memory:measure", system, str(paths["torch"]), 2)[system]
        growth[system] = found["growth, of the model's size"]
    assert growth["shared-torch"] + 0.5 < growth["copied"]


def test_the_systems_are_of_loaders_that_there_are() -> None:
    from benchmarks.stores.models import WRITERS
    from modelplex.config import LOADERS as KNOWN

    for writer, loader in LOADERS.values():
        assert writer in WRITERS
        assert callable(loader) or loader in KNOWN
