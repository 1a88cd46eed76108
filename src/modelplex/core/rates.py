"""How many requests a second each of many callers may make: token buckets."""

import math
from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """So many per second on average, and so many at once after a pause."""

    per_s: float
    burst: float


class Buckets:
    """One bucket for each caller, full at first. Time is any clock's, in seconds.

    Args:
        buckets_max: how many are remembered; who has not been seen for longest is
            forgotten, and begins with a full bucket again.
    """

    def __init__(self, buckets_max: int) -> None:
        self._buckets_max = buckets_max
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and when there were so many

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, caller: str, rate: Rate, now: float) -> float:
        """Take a token. Answers 0, or, without having taken any, the seconds until there is one.

        A caller's rate may be another than the last time.
        """
        tokens, since = self._buckets.get(caller, (rate.burst, now))
        # A clock that was set back gives nothing, and takes nothing.
        tokens = min(rate.burst, tokens + max(0.0, now - since) * rate.per_s)
        wait_s = 0.0 if tokens >= 1 else (1 - tokens) / rate.per_s if rate.per_s else math.inf
        self._buckets[caller] = tokens - (0.0 if wait_s else 1.0), now
        self._buckets.move_to_end(caller)
        if len(self._buckets) > self._buckets_max:
            self._buckets.popitem(last=False)
        return wait_s
