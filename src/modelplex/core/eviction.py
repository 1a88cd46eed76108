"""Which idle model to give up first."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class IdleModel:
    """What a policy may know of a model that nobody uses at the moment."""

    model_id: str
    size_bytes: int
    load_s: float
    uses: int


class EvictionPolicy(Protocol):
    """Orders the idle models. It never sees one that is leased, so it cannot choose one."""

    def add(self, model: IdleModel) -> None:
        """The model has just become idle."""

    def remove(self, model_id: str) -> None:
        """The model is idle no longer: it is in use again, or gone."""

    def victim(self) -> str | None:
        """The model to evict next, or None when none is idle. Asking changes nothing."""


class LRU:
    """Least recently used first; a model's last use ends with its last lease."""

    def __init__(self) -> None:
        self._idle: OrderedDict[str, None] = OrderedDict()

    def add(self, model: IdleModel) -> None:
        self._idle[model.model_id] = None

    def remove(self, model_id: str) -> None:
        del self._idle[model_id]

    def victim(self) -> str | None:
        return next(iter(self._idle), None)
