"""Pictures of a plan: what memory does for loads, and for latency."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelplex.sim import bounds
from modelplex.sim.planner import Plan, Progress, default_sizes, grid
from modelplex.sim.prediction import Candidate, Prediction, Question

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# So many numbers of replicas are drawn, and so many memory sizes for each.
REPLICAS_MAX = 4
SIZES_MAX = 9

# Places at which the curve of LRU is computed: it has steps.
CURVE_POINTS = 500

# Okabe, Ito, "Color universal design", 2008: colours that the colour-blind can tell apart; the markers differ, too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_MARKERS = ("o", "s", "^", "D")

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def draw(folder: Path, plan: Plan, progress: Progress = lambda what, part: None) -> list[Path]:
    """Write `miss-ratio.png` and `latency.png`, and answer their paths. Raises OSError."""
    points = list(plan.predictions) if plan.question.p99_s is None else grid(plan.question, to_draw(plan), progress)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "miss-ratio.png", folder / "latency.png"]
    for path, figure in zip(paths, (miss_ratio(plan.question, points), latency(plan.question, points)), strict=True):
        figure.savefig(path, dpi=150)
    return paths


def to_draw(plan: Plan) -> list[Candidate]:
    """The answer's number of replicas and its neighbours, with its policy, over memory sizes evenly spread."""
    question, answer = plan.question, plan.answer
    eviction = question.evictions[-1] if answer is None else answer.candidate.eviction
    at = len(question.replicas) - 1 if answer is None else question.replicas.index(answer.candidate.replicas)
    first = max(0, min(at - 1, len(question.replicas) - REPLICAS_MAX))
    sizes = question.sizes_that_fit
    spread = sorted({round(place) for place in np.linspace(0, len(sizes) - 1, SIZES_MAX)}) if sizes else []
    return [
        Candidate(replicas=replicas, size=sizes[place], eviction=eviction)
        for replicas in question.replicas[first : first + REPLICAS_MAX]
        for place in spread
    ]


def miss_ratio(question: Question, points: Sequence[Prediction]) -> "Figure":
    """The part of the requests that load their model, over the memory of all replicas."""
    from matplotlib.ticker import PercentFormatter

    figure, axes = _figure()
    scale, unit = _unit(question)
    trace, count = question.trace, len(question.trace)
    totals = sorted({*default_sizes(trace, in_bytes=question.in_bytes), *(p.candidate.total for p in points)})
    distances = bounds.lru_distances(trace)
    rooms = np.unique(np.geomspace(totals[0], totals[-1], CURVE_POINTS).astype(np.int64))
    curve = distances.miss_ratio_bytes(rooms) if question.in_bytes else distances.miss_ratio(rooms)
    axes.plot(rooms / scale, curve, color="black", drawstyle="steps-post", label="one LRU cache")
    bound = bounds.least_loads if question.in_bytes else bounds.belady
    least = [bound(trace, total).loads / count for total in totals]
    axes.plot(np.array(totals) / scale, least, color="black", linestyle=":", label="one cache, offline optimum")
    for style, label, group in _groups(points):
        group = sorted(group, key=lambda p: p.candidate.total)
        style |= {"linestyle": "none"}
        axes.plot([p.candidate.total / scale for p in group], [p.cold_ratio for p in group], label=label, **style)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.set_ylabel("requests that load their model")
    _finish(axes, f"memory of all replicas ({unit})")
    return figure


def latency(question: Question, points: Sequence[Prediction]) -> "Figure":
    """The median and the 99th percentile over the memory of each replica."""
    from matplotlib.ticker import EngFormatter

    figure, axes = _figure()
    scale, unit = _unit(question)
    for style, label, group in _groups(points):
        group = sorted(group, key=lambda p: p.candidate.size)
        sizes = [p.candidate.size / scale for p in group]
        axes.plot(sizes, [p.p99_s for p in group], label=f"{label}, p99", **style)
        axes.plot(
            sizes, [p.p50_s for p in group], label=f"{label}, p50", **style | {"linestyle": "--", "fillstyle": "none"}
        )
    if question.p99_s is not None:
        axes.axhline(question.p99_s, color="black", linewidth=1, linestyle=":", label="target of p99")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(EngFormatter(unit="s"))
    axes.set_ylabel("latency")
    _finish(axes, f"memory of each replica ({unit})")
    return figure


def _groups(points: Sequence[Prediction]) -> list[tuple[dict[str, Any], str, list[Prediction]]]:
    """Style, label and points of each line: a number of replicas with a policy."""
    groups: dict[tuple[int, str], list[Prediction]] = {}
    for point in points:
        groups.setdefault((point.candidate.replicas, point.candidate.eviction), []).append(point)
    return [
        (
            {"color": _COLOURS[n % len(_COLOURS)], "marker": _MARKERS[n % len(_MARKERS)], "markersize": 5},
            f"{replicas} replica{'' if replicas == 1 else 's'}, {eviction}",
            group,
        )
        for n, ((replicas, eviction), group) in enumerate(sorted(groups.items()))
    ]


def _unit(question: Question) -> tuple[float, str]:
    """What a size is divided by on an axis, and its name."""
    if not question.in_bytes:
        return 1.0, "models"
    power = min(len(_UNITS) - 1, (max(question.sizes).bit_length() - 1) // 10)
    return 1024.0**power, _UNITS[power]


def _figure() -> "tuple[Figure, Axes]":
    # Not by pyplot, which would look for a display and keep every figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    return figure, figure.add_subplot()


def _finish(axes: "Axes", xlabel: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(xlabel)
    axes.grid(which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize="small", frameon=False)
