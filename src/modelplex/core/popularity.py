"""How much each model is used, old uses counting less.

Forward decay, after Cormode, Shkapenyuk, Srivastava, Xu, "Forward decay: a practical time decay model for streaming
systems", ICDE 2009: nothing has to be done to the models that are not used.
"""

import math
from dataclasses import dataclass

# A use counts half after so many further uses of each known model, on average. Less forgets what is popular; more
# clings to what was: from 2 to 25, the loads of steady and of drifting popularities in the simulator differ by 10%.
HALF_LIFE_USES = 5

# With few models known, the half-life is that of so many.
HALF_LIFE_MODELS_MIN = 20


@dataclass(slots=True, eq=False)
class Uses:
    """The uses of one model. `counted_at` is when `frequency` was counted, in half-lives since the beginning."""

    frequency: float = 0.0
    counted_at: float = 0.0

    @property
    def log_frequency(self) -> float:
        """The frequency's logarithm on a scale that does not change with time: any two can be compared at any time."""
        return self.counted_at + (math.log2(self.frequency) if self.frequency else 0.0)


class Popularity:
    """Counts uses. Its clock is the uses themselves."""

    def __init__(self) -> None:
        self._half_lives = 0.0
        self._total = 0.0

    def used(self, uses: Uses, models: int) -> None:
        """The model is used once more; so many models are known."""
        step = 1.0 / (HALF_LIFE_USES * max(HALF_LIFE_MODELS_MIN, models))
        self._half_lives = now = self._half_lives + step
        uses.frequency = uses.frequency * math.exp2(uses.counted_at - now) + 1.0
        uses.counted_at = now
        self._total = self._total * math.exp2(-step) + 1.0

    def share(self, uses: Uses) -> float:
        """The part of all uses of late that were of this model."""
        return uses.frequency * math.exp2(uses.counted_at - self._half_lives) / max(1.0, self._total)

    def raise_share(self, uses: Uses, share: float) -> None:
        """Take the model to be used no less than that."""
        if share > self.share(uses):
            uses.frequency, uses.counted_at = share * self._total, self._half_lives


class Demand:
    """How much the models that requests name are in demand.

    Args:
        models_max: models that are remembered, those that were named last, since ids come from outside.
    """

    def __init__(self, models_max: int = 100_000) -> None:
        self._models_max = models_max
        self._popularity = Popularity()
        self._uses: dict[str, Uses] = {}

    def named(self, model_id: str) -> None:
        """A request names this model."""
        uses = self._uses.pop(model_id, None) or Uses()
        self._uses[model_id] = uses
        self._popularity.used(uses, len(self._uses))
        if len(self._uses) > self._models_max:
            del self._uses[next(iter(self._uses))]

    def share(self, model_id: str) -> float:
        """The part of all requests of late that named this model."""
        uses = self._uses.get(model_id)
        return 0.0 if uses is None else self._popularity.share(uses)
