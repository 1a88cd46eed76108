"""What loaders leave to other tests."""

from collections.abc import Iterator

import pytest

from modelplex.multiplex import Loader


@pytest.fixture(autouse=True)
def _loaders_end_with_their_test() -> Iterator[None]:
    """Replicas find loaders that are functions while these exist, which for those of a test is up to the collector."""
    before = list(Loader.standalone)
    yield
    for loader in set(Loader.standalone) - set(before):
        Loader.standalone.discard(loader)
