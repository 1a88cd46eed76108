"""Where programs written for Ray Serve import metrics from."""

from modelplex.metrics import Counter, Gauge, Histogram

__all__ = ["Counter", "Gauge", "Histogram"]
