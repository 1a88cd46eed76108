"""The idle models of a cache: which may be evicted, in which order, and which have been idle for too long."""

import heapq
import math
from collections.abc import Callable, Iterable

from modelplex.core.eviction import EvictionPolicy
from modelplex.core.shelf import Entry

# By how much more a model has to be worth to be spared for a moment, as a power of two: 1.3 times. Without it, equals
# would be waited for; at 2 times, a tenth of the loads that it saves are lost again.
CLEARLY_LOG2 = 0.4


class IdleModels:
    """Hands idle models to the policy when they may be evicted.

    Args:
        policy: orders those that may be evicted.
        min_residency_s: a model may not be evicted before it has been resident for so long.
        ttl_s: one that has been idle for so long is to be unloaded; None for never.
    """

    def __init__(self, policy: EvictionPolicy, min_residency_s: float, ttl_s: float | None) -> None:
        self._policy = policy
        self._worth: Callable[[Entry], float] | None = getattr(policy, "worth", None)
        self._min_residency_s = min_residency_s
        self._ttl_s = ttl_s
        self._idle: dict[str, Entry] = {}
        self._timers: list[tuple[float, str]] = []
        self._next: dict[str, float] = {}  # the earliest timer of each model

    def __len__(self) -> int:
        """How many are idle, those included that may not be evicted yet."""
        return len(self._idle)

    def add(self, entry: Entry, now: float) -> None:
        """The model has become idle."""
        entry.idle_since = now
        self._idle[entry.model_id] = entry
        if now >= entry.resident_since + self._min_residency_s:
            self._offer(entry)
        if self._ttl_s is not None or not entry.evictable:
            self._set_timer(entry)

    def remove(self, entry: Entry) -> None:
        """The model is in use again, or is being unloaded. Nothing happens if it was not idle."""
        if self._idle.pop(entry.model_id, None) is not None and entry.evictable:
            entry.evictable = False
            self._policy.remove(entry.model_id)

    def victim(self) -> str | None:
        """The model to evict next; None when none may be."""
        return self._policy.victim()

    def worths(self, in_use: Iterable[Entry]) -> list[float]:
        """What each of these is worth to keep, least first; nothing if the policy has no opinion of models in use."""
        return [] if self._worth is None else sorted(self._worth(entry) for entry in in_use)

    def dearer(self, victim: str, worth: float) -> bool:
        """Whether the model is clearly worth more than that."""
        return self._worth is not None and self._worth(self._idle[victim]) > worth + CLEARLY_LOG2

    def offer_all(self) -> None:
        """From now on each idle model may be evicted, however young."""
        self._min_residency_s = 0.0
        for entry in self._idle.values():
            self._offer(entry)

    @property
    def next_look(self) -> float | None:
        return self._timers[0][0] if self._timers else None

    def overdue(self, now: float) -> list[str]:
        """The models that have been idle for too long. Those that have become old enough may be evicted from now on."""
        overdue: dict[str, None] = {}  # each once, though a timer may be left from an earlier life of the model
        while self._timers and self._timers[0][0] <= now:
            due, model_id = heapq.heappop(self._timers)
            if self._next.get(model_id) == due:
                del self._next[model_id]
            entry = self._idle.get(model_id)
            if entry is None:
                continue
            if now >= entry.resident_since + self._min_residency_s:
                self._offer(entry)
            if self._ttl_s is not None and now >= _since(entry) + self._ttl_s:
                overdue[model_id] = None
            else:
                self._set_timer(entry)
        return list(overdue)

    def _offer(self, entry: Entry) -> None:
        if not entry.evictable:
            entry.evictable = True
            self._policy.add(entry)

    def _set_timer(self, entry: Entry) -> None:
        due = [] if entry.evictable else [entry.resident_since + self._min_residency_s]
        if self._ttl_s is not None:
            due.append(_since(entry) + self._ttl_s)
        # A timer may be left from an earlier life of the model: it does when it comes no later.
        if due and min(due) < self._next.get(entry.model_id, math.inf):
            self._next[entry.model_id] = min(due)
            heapq.heappush(self._timers, (min(due), entry.model_id))


def _since(entry: Entry) -> float:
    return 0.0 if entry.idle_since is None else entry.idle_since
