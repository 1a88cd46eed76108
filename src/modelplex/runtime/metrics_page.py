"""The metrics of all processes of a system on one page, in the text format of Prometheus."""

import asyncio
import time
from typing import Any, Protocol

from modelplex import metrics
from modelplex.runtime.busiest_models import BusiestModels

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Asks(Protocol):
    """Asks all processes (`survey.Survey`)."""

    async def ask(self, topic: str, argument: Any = None) -> dict[str, Any]: ...


# More series than that are put together in a thread, since the controller has other things to do meanwhile.
AT_ONCE_MAX = 5000


async def page(survey: Asks, busiest: BusiestModels) -> str:
    """What all processes that answer have counted. Who does not is left out until it does again.

    Args:
        survey: asks them.
        busiest: what the pages before have had of models.
    """
    snapshots: dict[str, list[dict[str, Any]]] = await survey.ask("metrics")
    models = busiest.take(snapshots, time.monotonic())
    whole = [*snapshots.values(), models]
    if sum(len(metric["series"]) for snapshot in whole for metric in snapshot) <= AT_ONCE_MAX:
        return _text(whole)
    return await asyncio.to_thread(_text, whole)


def _text(snapshots: list[list[dict[str, Any]]]) -> str:
    return metrics.render(merged(snapshots))


def merged(snapshots: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """As one snapshot: what several say of one series is added up.

    Of a metric that is of several kinds, or has several lists of boundaries, the first counts.
    """
    found: dict[str, dict[str, Any]] = {}
    series: dict[str, dict[tuple[tuple[str, str], ...], dict[str, Any]]] = {}
    for metric in (metric for snapshot in snapshots for metric in snapshot):
        if not metric["series"]:
            continue
        name = metric["name"]
        first = found.setdefault(name, metric)
        if (first["kind"], first.get("boundaries")) != (metric["kind"], metric.get("boundaries")):
            continue
        of_name = series.setdefault(name, {})
        for one in metric["series"]:
            key = tuple(sorted(one["tags"].items()))
            of_name[key] = one if (other := of_name.get(key)) is None else _sum(other, one)
    return [{**metric, "series": list(series[name].values())} for name, metric in found.items()]


def _sum(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    if "counts" not in one:
        return {**one, "value": one["value"] + other["value"]}
    counts = [a + b for a, b in zip(one["counts"], other["counts"], strict=True)]
    return {**one, "sum": one["sum"] + other["sum"], "counts": counts}
