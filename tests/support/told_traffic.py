"""What a process says of its requests."""

from typing import Any


def told_traffic(*values: tuple[str, str, float], queued: float = 2) -> list[dict[str, Any]]:
    """By start and outcome."""
    series = [{"tags": {"start": start, "outcome": outcome}, "value": value} for start, outcome, value in values]
    waiting = [{"tags": {}, "value": queued}]
    return [
        {"name": "modelplex_requests_total", "kind": "counter", "description": "", "series": series},
        {"name": "modelplex_queued_requests", "kind": "gauge", "description": "", "series": waiting},
    ]
