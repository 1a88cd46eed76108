"""What a loader knows of a model that it has made, for whoever keeps it: its size, and what its end takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model as a loader answers it.

    Attributes:
        model: the model; of a class that weak references can point to.
        size_bytes: the memory that it takes, mapped files included; exact as far as its library says.
        unload: frees what dropping the last reference does not free; called once, in a thread, when the model goes.
    """

    model: Any
    size_bytes: int
    unload: Callable[[], None] | None = None


def remember(loaded: Loaded) -> None:
    """Note what a loader knows, until the model goes."""
