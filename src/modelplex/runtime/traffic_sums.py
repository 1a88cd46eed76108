"""Requests of a system since its start, as sums of what its processes count."""

from collections import Counter
from typing import Any

import msgspec

from modelplex.runtime import metric_families as families
from modelplex.runtime.meters import STARTS

# Processes whose counters are remembered, those that have ended as well, so that sums do not fall.
PROCESSES_MAX = 10_000


class Traffic(msgspec.Struct):
    """Requests by how they met their models, and errors, since the start; and how many wait now."""

    warm: int = 0
    cold: int = 0
    joined: int = 0
    none: int = 0
    errors: int = 0
    queued: int = 0


class TrafficSums:
    """They do not fall when a process ends, or does not answer for once."""

    def __init__(self) -> None:
        self._last: dict[str, Counter[str]] = {}
        self._gone: Counter[str] = Counter()

    def take(self, snapshots: dict[str, Any]) -> Traffic:
        """With what each process says of its metrics now (`process_metrics`)."""
        queued = 0.0
        for process, metrics in snapshots.items():
            series = {metric["name"]: metric["series"] for metric in metrics or ()}
            queued += sum(each["value"] for each in series.get(families.QUEUED.name, ()))
            counts: Counter[str] = Counter()
            for each in series.get(families.REQUESTS.name, ()):
                tags = each["tags"]
                counts[tags.get("start", "none")] += each["value"]
                counts["errors"] += each["value"] if tags.get("outcome") == "error" else 0
            self._last.pop(process, None)  # so that the longest silent are the first to go
            self._last[process] = counts
        while len(self._last) > PROCESSES_MAX:
            self._gone += self._last.pop(next(iter(self._last)))
        total = sum(self._last.values(), Counter(self._gone))
        return Traffic(**{name: int(total[name]) for name in (*STARTS, "errors")}, queued=int(queued))
