"""Which idle model to give up first."""

import heapq
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


class GDSF:
    """Greedy-Dual-Size-Frequency: the least worth first, by uses x load seconds / bytes, aged.

    Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency caching policy", HP Labs technical
    report HPL-98-69R1, 1998. What is evicted sets the clock that later priorities start from, so that what was used
    often long ago ages. A model of unknown size counts as one byte.
    """

    def __init__(self) -> None:
        self._clock = 0.0
        self._priorities: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._chosen: str | None = None

    def add(self, model: IdleModel) -> None:
        priority = self._clock + model.uses * model.load_s / max(1, model.size_bytes)
        self._priorities[model.model_id] = priority
        heapq.heappush(self._heap, (priority, model.model_id))

    def remove(self, model_id: str) -> None:
        priority = self._priorities.pop(model_id)
        if model_id == self._chosen:  # asked for a victim, the cache evicts it before it does anything else
            self._clock = priority
        self._chosen = None

    def victim(self) -> str | None:
        while self._heap:
            priority, model_id = self._heap[0]
            if self._priorities.get(model_id) == priority:
                self._chosen = model_id
                return model_id
            heapq.heappop(self._heap)
        return None
