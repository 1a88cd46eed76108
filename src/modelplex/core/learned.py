"""What a cache has learned of models: what they take, how much they are used, which fail, whether ids are invented."""

from dataclasses import dataclass

from modelplex.core.backoff import Backoff
from modelplex.core.failures import Failure, Failures
from modelplex.core.popularity import Popularity, Uses

# After so many failed loads in a row of models that were never loaded, their ids are taken to be invented.
SUSPICION_FAILURES = 3


@dataclass(slots=True, eq=False, kw_only=True)
class Known(Uses):
    """What is known of one model: what it takes, and how much it is used.

    Size and load time are those of its last load, or the average of other models before the first.
    """

    size_bytes: int = 0
    load_s: float = 0.0
    proven: bool = False  # it has been loaded before, so it exists


class Learned:
    """Kept for as long as the cache, and bounded, since ids come from outside.

    Args:
        backoff: how long a failed load is remembered.
        models_max: models that are remembered, those that were loaded last.
    """

    def __init__(self, backoff: Backoff, models_max: int = 100_000) -> None:
        self._failures = Failures(backoff)
        self._models_max = models_max
        self._known: dict[str, Known] = {}
        self._bytes = 0
        self._load_s = 0.0
        self._strangers_failed = 0
        self._popularity = Popularity()

    @property
    def suspicious(self) -> bool:
        """Whether models that were never loaded keep failing to load."""
        return self._strangers_failed >= SUSPICION_FAILURES

    @property
    def average_bytes(self) -> int:
        """Of the models that have been loaded; 0 before the first."""
        return self._bytes // len(self._known) if self._known else 0

    @property
    def average_load_s(self) -> float:
        """Of the models that have been loaded; 0 before the first."""
        return self._load_s / len(self._known) if self._known else 0.0

    def known(self, model_id: str) -> Known | None:
        """The model, if it has been loaded before."""
        return self._known.get(model_id)

    def recall(self, model_id: str) -> Known:
        """What is to be expected of the model."""
        known = self._known.get(model_id)
        return known or Known(size_bytes=self.average_bytes, load_s=self.average_load_s)

    def used(self, known: Known) -> None:
        """Somebody wants this model."""
        self._popularity.used(known, len(self._known))

    def told_share(self, known: Known, share: float) -> None:
        """So large a part of all uses would be of this model if it were here."""
        self._popularity.raise_share(known, share)

    def share(self, known: Known) -> float:
        """The part of all uses of late that were of this model."""
        return self._popularity.share(known)

    def loaded(self, model_id: str, known: Known, size_bytes: int, load_s: float) -> None:
        """The model was loaded in so many seconds, and turned out to take so many bytes."""
        if self._known.pop(model_id, None) is known:
            self._bytes -= known.size_bytes
            self._load_s -= known.load_s
        elif not known.proven:
            self._strangers_failed = 0
        known.size_bytes, known.load_s, known.proven = size_bytes, load_s, True
        self._known[model_id] = known
        self._bytes += size_bytes
        self._load_s += load_s
        if len(self._known) > self._models_max:
            oldest = self._known.pop(next(iter(self._known)))
            self._bytes -= oldest.size_bytes
            self._load_s -= oldest.load_s
        self._failures.forget(model_id)

    def recent_failure(self, model_id: str, now: float) -> Failure | None:
        """The failure for which the model is not to be tried again yet."""
        return self._failures.recent(model_id, now)

    def failed(self, model_id: str, known: Known, error: object, now: float) -> float:
        """Answers after how many seconds the load may be tried again."""
        self._strangers_failed += not known.proven
        return self._failures.add(model_id, error, now)
