"""The models in use of late, and the time that replicas lose to loading evicted ones again."""

import math
from collections import deque

from modelplex.core.look_back import RESOLUTION
from modelplex.core.replica_load import ReplicaLoad


class WorkingSet:
    """Says how many replicas the models in use need, and whether they have too little room.

    Args:
        period_s: a model is in use if it was used within so long. It may be changed.
    """

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s
        self._capacity = -1
        self._used: dict[str, float] = {}  # model -> when it was last known to be in use; the latest last
        self._reloads: deque[tuple[float, float]] = deque()  # when, seconds; since the number of replicas changed
        self._learned = (0, 0)  # so many replicas turned out to be needed for so many models

    def told(self, load: ReplicaLoad, now: float) -> None:
        """A replica has reported this."""
        self._capacity = load.capacity_models
        for model_id, uses in load.models.items():
            if uses > 0:
                self._used.pop(model_id, None)
                self._used[model_id] = now
        if load.reload_s > 0:
            if self._reloads and now - self._reloads[-1][0] < self.period_s * RESOLUTION:
                at, before_s = self._reloads[-1]
                self._reloads[-1] = (at, before_s + load.reload_s)
            else:
                self._reloads.append((now, load.reload_s))
        self._forget(now)

    def in_use(self, now: float) -> int:
        """How many different models are in use."""
        self._forget(now)
        return len(self._used)

    def replicas_needed(self, now: float) -> int:
        """The fewest that the models in use fit into, as far as is known."""
        models = self.in_use(now)
        fit = math.ceil(models / self._capacity) if self._capacity > 0 else min(models, 1)
        replicas, learned_models = self._learned
        return max(fit, replicas) if models >= learned_models > 0 else fit

    def reload_fraction(self, replicas: int, now: float) -> float:
        """The part of the time of so many replicas that reloads took; they are begun to be counted at each change.

        Until a period has passed since then, the rest of it counts as free of reloads: one load proves nothing.
        """
        self._forget(now)
        return sum(seconds for _, seconds in self._reloads) / (self.period_s * max(1, replicas))

    def more_needed(self, replicas: int, now: float) -> None:
        """Because of reloads there are to be so many. They stay needed while no fewer models are in use than now.

        Otherwise what ended the reloads would itself be taken for a reason to do with less.
        """
        self._learned = (replicas, self.in_use(now))

    def replicas_changed(self) -> None:
        """What has been lost to reloads says nothing of another number of replicas."""
        self._reloads.clear()

    def _forget(self, now: float) -> None:
        while self._used and next(iter(self._used.values())) <= now - self.period_s:
            del self._used[next(iter(self._used))]
        while self._reloads and self._reloads[0][0] <= now - self.period_s:
            self._reloads.popleft()
