"""What a router has learned about durations, and what it expects of work that has already begun."""

from collections import OrderedDict

# Weight of the newest observation: about the last twenty count.
_ALPHA = 0.1

# Models whose load time is remembered one by one; the others get the average.
MODELS_MAX = 10_000


def rest_s(expected_s: float, elapsed_s: float) -> float:
    """Expected remaining time of something that has run for `elapsed_s` and was expected to take `expected_s`.

    Past its expectation, what has run long is expected to run as long again (Lindy's rule; Harchol-Balter and Downey,
    "Exploiting process lifetime distributions", SIGMETRICS 1996, measured it for processes).
    """
    return expected_s - elapsed_s if elapsed_s * 2 < expected_s else max(elapsed_s, expected_s / 2)


class Estimates:
    """Learned seconds of loads (by model) and of service (of the deployment).

    Args:
        load_s: what a load is expected to take before any was seen.
        service_s: what a request is expected to take before any was seen.
    """

    def __init__(self, load_s: float, service_s: float) -> None:
        self.service_s = service_s
        self.average_load_s = load_s
        self._loads_seen = 0
        self._services_seen = 0
        self._load_s: OrderedDict[str, float] = OrderedDict()

    def load_s(self, model_id: str) -> float:
        return self._load_s.get(model_id, self.average_load_s)

    def saw_load(self, model_id: str, load_s: float) -> None:
        self._loads_seen += 1
        self.average_load_s += max(_ALPHA, 1 / self._loads_seen) * (load_s - self.average_load_s)
        known = self._load_s.pop(model_id, load_s)
        self._load_s[model_id] = (known + load_s) / 2
        if len(self._load_s) > MODELS_MAX:
            self._load_s.popitem(last=False)

    def saw_service(self, service_s: float) -> None:
        self._services_seen += 1
        weight = _ALPHA if self._services_seen * _ALPHA > 1 else 1 / self._services_seen
        self.service_s += weight * (service_s - self.service_s)
