"""What loading models leaves to other tests."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _libraries_are_no_garbage() -> Iterator[None]:
    """A million objects of the libraries stay imported. Collections of later tests, which make many, skip them."""
    yield
    gc.collect()
    gc.freeze()
