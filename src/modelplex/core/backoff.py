"""How long to wait before trying again what has failed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off: `base_s`, then `factor` times more for each further failure, at most `max_s`."""

    base_s: float
    max_s: float
    factor: float = 2.0

    def delay_s(self, failures: int) -> float:
        """Seconds to wait after the given number of failures in a row (1 or more)."""
        # Past 64 doublings every delay is at its maximum; the bound keeps the power from overflowing.
        return min(self.max_s, self.base_s * self.factor ** min(failures - 1, 64))
