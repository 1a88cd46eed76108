"""Failed loads, remembered for a while so that they are not tried again and again."""

from collections import OrderedDict
from dataclasses import dataclass

from modelplex.core.backoff import Backoff

# Failed loads that are remembered. Ids come from outside, so their number has to be bounded.
FAILURES_MAX = 1024


@dataclass(frozen=True, slots=True)
class Failure:
    """The last failed load of a model, and when it may be tried again."""

    error: object
    count: int
    retry_at: float


class Failures:
    """Remembers the last failure of each model, with a delay that grows with each one in a row."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._failures: OrderedDict[str, Failure] = OrderedDict()

    def recent(self, model_id: str, now: float) -> Failure | None:
        """The failure for which the model is not tried again yet."""
        failure = self._failures.get(model_id)
        return failure if failure is not None and now < failure.retry_at else None

    def add(self, model_id: str, error: object, now: float) -> float:
        """One more failure. Answers after how many seconds the load may be tried again."""
        before = self._failures.pop(model_id, None)
        count = before.count + 1 if before else 1
        delay_s = self._backoff.delay_s(count)
        self._failures[model_id] = Failure(error, count, now + delay_s)
        if len(self._failures) > FAILURES_MAX:
            self._failures.popitem(last=False)
        return delay_s

    def forget(self, model_id: str) -> None:
        """The model was loaded after all."""
        self._failures.pop(model_id, None)
