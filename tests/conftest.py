"""What tests would leave to others, and do not."""

import gc
import sys
from collections.abc import Iterator

import pytest

from modelplex.multiplex import Loader

# Modules that are imported at once only by a large library.
LIBRARY_MODULES = 100


def pytest_collection_finish() -> None:
    """Libraries are a million objects, which stay imported: the tests' collections of garbage skip them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _loaders_end_with_their_test() -> Iterator[None]:
    """Replicas find loaders that are functions while these exist, which for those of a test is up to the collector."""
    before = set(Loader.standalone)
    yield
    for loader in set(Loader.standalone) - before:
        Loader.standalone.discard(loader)


@pytest.fixture(scope="module", autouse=True)
def _libraries_are_no_garbage() -> Iterator[None]:
    """The same for those that a test imports."""
    before = len(sys.modules)
    yield
    if len(sys.modules) > before + LIBRARY_MODULES:
        gc.collect()
        gc.freeze()
