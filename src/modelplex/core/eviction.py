"""Which idle model to give up first."""

import heapq
import math
from collections import OrderedDict
from typing import Protocol


class IdleModel(Protocol):
    """What a policy may know of a model.

    Attributes:
        model_id: its id.
        size_bytes: what it takes; 0 if that is not known.
        load_s: seconds that its last load took.
        uses: requests that have used it since it was loaded.
        log_frequency: base-2 logarithm of its uses, earlier lives included, of which old ones count less; on a scale
            on which any two models can be compared at any time.
    """

    @property
    def model_id(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def load_s(self) -> float: ...
    @property
    def uses(self) -> int: ...
    @property
    def log_frequency(self) -> float: ...


class EvictionPolicy(Protocol):
    """Orders the idle models. It never sees one that is leased, so it cannot choose one.

    A policy that also has `worth(model: IdleModel) -> float`, a base-2 logarithm, larger for what is better kept,
    lets a cold model wait a moment for the place of one that is in use and worth clearly less than every idle one.
    """

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
    """Greedy-Dual-Size-Frequency: the least worth first, by aged frequency x load seconds / bytes.

    After Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency caching policy", HP Labs
    technical report HPL-98-69R1, 1998. There a clock that evictions advance makes old uses count less; here each use
    ages by itself (`Known.log_frequency`), and those before an eviction are not forgotten. A model of unknown size
    counts as one byte.
    """

    def __init__(self) -> None:
        self._worth: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def worth(self, model: IdleModel) -> float:
        """The logarithm, base 2."""
        return model.log_frequency + math.log2(max(model.load_s, 1e-9) / max(1, model.size_bytes))

    def add(self, model: IdleModel) -> None:
        worth = self._worth[model.model_id] = self.worth(model)
        if len(self._heap) > 64 + 4 * len(self._worth):
            self._heap = [(worth, model_id) for model_id, worth in self._worth.items()]
            heapq.heapify(self._heap)
        else:
            heapq.heappush(self._heap, (worth, model.model_id))

    def remove(self, model_id: str) -> None:
        del self._worth[model_id]

    def victim(self) -> str | None:
        while self._heap:
            worth, model_id = self._heap[0]
            if self._worth.get(model_id) == worth:
                return model_id
            heapq.heappop(self._heap)
        return None
