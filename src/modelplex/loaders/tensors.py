"""Tensors by their names, as files of weights have them."""

from collections.abc import Mapping
from typing import Any


class Tensors(dict[str, Any]):
    """A dict of the tensors in a file, by name. Unlike a plain one, weak references can point to it.

    Attributes:
        metadata: what else the file says, as text by name.
    """

    def __init__(self, tensors: Mapping[str, Any] | None = None, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(tensors or {})
        self.metadata = dict(metadata or {})
