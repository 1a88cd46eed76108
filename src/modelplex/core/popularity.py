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


# Weights are kept below two to this power: when they reach it, an age begins, and they are counted from one again.
AGE_HALF_LIVES = 256

# How many requests come in a second is told by the last one to two times so many.
MARK_USES = 128


@dataclass(slots=True, eq=False)
class Uses:
    """The uses of one model: their weights together, in the units of an age."""

    weight: float = 0.0
    age: int = 0

    @property
    def log_frequency(self) -> float:
        """The weight's logarithm on a scale that does not change with time: any two can be compared at any time."""
        return self.age * AGE_HALF_LIVES + math.log2(self.weight) if self.weight else 0.0


class Popularity:
    """Counts uses. Its clock is the uses themselves: each weighs a little more than the one before."""

    def __init__(self) -> None:
        self._weight = 1.0  # of the last use
        self._total = 0.0  # of all uses
        self._age = 0
        self._models = -1  # for which the growth was computed
        self._growth = 1.0

    def used(self, uses: Uses, models: int) -> None:
        """The model is used once more; so many models are known."""
        if models != self._models:
            self._models = models
            self._growth = math.exp2(1.0 / (HALF_LIFE_USES * max(HALF_LIFE_MODELS_MIN, models)))
        self._weight *= self._growth
        if self._weight >= 2.0**AGE_HALF_LIVES:
            self._age += 1
            self._weight *= 2.0**-AGE_HALF_LIVES
            self._total *= 2.0**-AGE_HALF_LIVES
        if uses.age != self._age:
            uses.weight, uses.age = self._weight_of(uses), self._age
        uses.weight += self._weight
        self._total += self._weight

    def share(self, uses: Uses) -> float:
        """The part of all uses of late that were of this model."""
        weight = uses.weight if uses.age == self._age else self._weight_of(uses)
        return weight / self._total if self._total else 0.0

    def raise_share(self, uses: Uses, share: float) -> None:
        """Take the model to be used no less than that."""
        if share > self.share(uses):
            uses.weight, uses.age = share * self._total, self._age

    def _weight_of(self, uses: Uses) -> float:
        """In the units of this age."""
        return math.ldexp(uses.weight, (uses.age - self._age) * AGE_HALF_LIVES)


class Demand:
    """How much the models that requests name are in demand.

    Args:
        models_max: models that are remembered, those that were named last, since ids come from outside.
    """

    def __init__(self, models_max: int = 100_000) -> None:
        self._models_max = models_max
        self._popularity = Popularity()
        self._uses: dict[str, Uses] = {}
        self._count = 0  # since the mark
        self._mark: float | None = None
        self._mark_before: float | None = None

    def named(self, model_id: str, now: float) -> None:
        """A request names this model."""
        self._count += 1
        if self._count >= MARK_USES or self._mark is None:
            self._mark_before, self._mark, self._count = self._mark, now, 0
        uses = self._uses.pop(model_id, None) or Uses()
        self._uses[model_id] = uses
        self._popularity.used(uses, len(self._uses))
        if len(self._uses) > self._models_max:
            del self._uses[next(iter(self._uses))]

    def per_s(self, now: float) -> float:
        """How many requests of late name a model, for each second."""
        if self._mark is None:
            return 0.0
        since, count = (
            (self._mark, self._count) if self._mark_before is None else (self._mark_before, self._count + MARK_USES)
        )
        return count / (now - since) if now > since else 0.0

    def share(self, model_id: str) -> float:
        """The part of all requests of late that named this model."""
        uses = self._uses.get(model_id)
        return 0.0 if uses is None else self._popularity.share(uses)
