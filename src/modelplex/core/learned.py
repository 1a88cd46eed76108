"""What a cache has learned of models: how large they are, which fail to load, and whether ids are being invented."""

from modelplex.core.backoff import Backoff
from modelplex.core.budget import Sizes
from modelplex.core.failures import Failure, Failures

# After so many failed loads in a row of models that were never loaded, their ids are taken to be invented.
SUSPICION_FAILURES = 3


class Learned:
    """Kept for as long as the cache, and bounded, since ids come from outside."""

    def __init__(self, backoff: Backoff) -> None:
        self._sizes = Sizes()
        self._failures = Failures(backoff)
        self._strangers_failed = 0

    @property
    def suspicious(self) -> bool:
        """Whether models that were never loaded keep failing to load."""
        return self._strangers_failed >= SUSPICION_FAILURES

    def knows(self, model_id: str) -> bool:
        """Whether the model has been loaded before."""
        return model_id in self._sizes

    def expected_bytes(self, model_id: str) -> int:
        """The size of the model when it was loaded last, or the average of the others, or 0."""
        return self._sizes.expected(model_id)

    def recent_failure(self, model_id: str, now: float) -> Failure | None:
        """The failure for which the model is not to be tried again yet."""
        return self._failures.recent(model_id, now)

    def loaded(self, model_id: str, size_bytes: int) -> None:
        if not self.knows(model_id):
            self._strangers_failed = 0
        self._sizes.learn(model_id, size_bytes)
        self._failures.forget(model_id)

    def failed(self, model_id: str, error: object, now: float) -> float:
        """Answers after how many seconds the load may be tried again."""
        self._strangers_failed += not self.knows(model_id)
        return self._failures.add(model_id, error, now)
