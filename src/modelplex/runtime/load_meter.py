"""What a replica has done of late, for the controller."""

import time
from collections.abc import Iterable, Mapping

from modelplex.wire import messages

# Models that are told of at a time: those that were used, and others until there are so many.
MODELS_MAX = 10_000


class LoadMeter:
    """Counts from one `take` to the next.

    Attributes:
        loads: the models that have been loaded, with the seconds that each took.
    """

    def __init__(self) -> None:
        self.loads: list[tuple[str, float]] = []
        self._uses: dict[str, int] = {}
        self._served_s = 0.0  # all the time that requests have run which have ended
        self._total_s = 0.0  # the same with those that run, when it was taken last
        self._taken_at = time.perf_counter()

    def ended(self, began: float, model_id: str) -> None:
        """A request has ended that began then, by `time.perf_counter`."""
        self._served_s += time.perf_counter() - began
        if model_id:
            self._uses[model_id] = self._uses.get(model_id, 0) + 1

    def take(
        self,
        running: Iterable[float],
        held: Iterable[str],
        models_max: int,
        loaders: dict[str, list[str]] | None = None,
        aliases: Mapping[str, Mapping[str, str]] | None = None,
    ) -> messages.Load:
        """What there was since the last time.

        Args:
            running: when each request that runs began.
            held: the models that are loaded, or being loaded.
            models_max: how many there may be.
            loaders: which of several loaders holds what.
            aliases: by loader, other names of models, whose uses are those of the models.
        """
        now = time.perf_counter()
        total_s = self._served_s + sum(now - began for began in running)
        ongoing = max(0.0, total_s - self._total_s) / max(1e-9, now - self._taken_at)
        uses = {model_id: self._uses.get(model_id, 0) for model_id in held}
        told: dict[str, list[str]] = {}
        for loader, names in (aliases or {}).items():
            told[loader] = [alias for alias, model_id in names.items() if model_id in uses and alias != model_id]
            for alias in told[loader]:
                uses[names[alias]] += self._uses.get(alias, 0)
        if len(uses) > MODELS_MAX:
            uses = dict(sorted(uses.items(), key=lambda item: -item[1])[:MODELS_MAX])
        load = messages.Load(round(ongoing, 4), uses, self.loads, models_max, loaders or {}, told)
        self.loads, self._uses, self._total_s, self._taken_at = [], {}, total_s, now
        return load
