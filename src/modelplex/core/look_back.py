"""A number that changes now and then, as it was of late."""

from collections import deque
from itertools import pairwise

# Values that last less than this part of the period may go unseen: so many are kept at most, however often they change.
RESOLUTION = 1 / 1000


class LookBack:
    """The values of a number within a period that ends now.

    Args:
        period_s: how far to look back; less while it has not been known for so long. It may be changed.
    """

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s
        self._steps: deque[tuple[float, float]] = deque()  # since when it was what

    def told(self, value: float, now: float) -> None:
        """It is this from now on."""
        steps = self._steps
        if steps and now - steps[-1][0] < self.period_s * RESOLUTION:
            steps[-1] = (steps[-1][0], value)
        elif not steps or steps[-1][1] != value:
            steps.append((now, value))
        while len(steps) > 1 and steps[1][0] <= now - self.period_s:
            steps.popleft()

    def aggregate(self, function: str, now: float) -> float:
        """The "mean" over time, the "max" or the "min" of the period; 0 if nothing is known."""
        begin = now - self.period_s
        spans: list[tuple[float, float]] = []  # a value, and for how long
        for (since, value), (until, _) in pairwise([*self._steps, (now, 0.0)]):
            if until > begin or until == now:
                spans.append((value, until - max(since, begin)))
        if not spans:
            return 0.0
        if function != "mean":
            values = [value for value, _ in spans]
            return max(values) if function == "max" else min(values)
        total_s = sum(span_s for _, span_s in spans)
        return sum(value * span_s for value, span_s in spans) / total_s if total_s > 0 else spans[-1][0]
