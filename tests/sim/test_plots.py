"""The pictures show what was computed, and can be read."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from modelplex.sim import bounds, plots
from modelplex.sim.planner import Plan, default_sizes
from modelplex.sim.prediction import Candidate, Prediction, Question, predict
from modelplex.sim.trace import Trace
from modelplex.sim.workloads import Workload


@pytest.fixture(scope="module")
def trace() -> Trace:
    return Workload(requests=400, models=16, rate_per_s=10.0, size_sigma=0.5, load_bytes_per_s=1e10).trace()


def question(trace: Trace, *, in_bytes: bool = True, p99_s: float | None = 0.4) -> Question:
    sizes = default_sizes(trace, in_bytes=in_bytes)
    return Question(trace=trace, p99_s=p99_s, replicas=[1, 2, 3, 4, 6, 8], sizes=sizes, in_bytes=in_bytes)


def points(asked: Question, replicas: int = 2) -> list[Prediction]:
    candidates = [Candidate(replicas=replicas, size=size, eviction="lru") for size in asked.sizes[-3:]]
    return [p for candidate in candidates if (p := predict(asked, candidate)) is not None]


def lines(figure: Figure) -> dict[str, tuple[list[float], list[float]]]:
    """The points of each line, by its name in the legend."""
    return {
        str(line.get_label()): (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for line in figure.axes[0].get_lines()
    }


@pytest.mark.parametrize("in_bytes", [True, False])
def test_the_miss_ratio_is_drawn_over_the_memory_of_all_replicas(trace: Trace, in_bytes: bool) -> None:
    asked = question(trace, in_bytes=in_bytes, p99_s=None)
    found = points(asked)
    figure = plots.miss_ratio(asked, found)
    drawn = lines(figure)
    scale = 2**30 if in_bytes else 1
    sizes, ratios = drawn["2 replicas, lru"]
    assert np.multiply(sizes, scale) == pytest.approx([p.candidate.total for p in found])
    assert ratios == [p.cold_ratio for p in found]
    sizes, ratios = drawn["one LRU cache"]
    distances = bounds.lru_distances(trace)
    totals = np.rint(np.multiply(sizes, scale))
    assert ratios == list(distances.miss_ratio_bytes(totals) if in_bytes else distances.miss_ratio(totals))
    sizes, least = drawn["one cache, offline optimum"]
    bound = bounds.least_loads if in_bytes else bounds.belady
    assert least == [bound(trace, round(size * scale)).loads / len(trace) for size in sizes]
    assert figure.axes[0].get_xlabel() == f"memory of all replicas ({'GiB' if in_bytes else 'models'})"


def test_latency_is_drawn_over_the_memory_of_each(trace: Trace) -> None:
    asked = question(trace, p99_s=60.0)
    found = points(asked)
    figure = plots.latency(asked, found)
    drawn = lines(figure)
    assert drawn["2 replicas, lru, p99"][1] == [p.p99_s for p in found]
    assert drawn["2 replicas, lru, p50"][1] == [p.p50_s for p in found]
    assert drawn["2 replicas, lru, p50"][0] == pytest.approx([p.candidate.size / 2**30 for p in found])
    assert drawn["target of p99"][1] == [60.0, 60.0]
    assert (figure.axes[0].get_yscale(), figure.axes[0].get_ylabel()) == ("log", "latency")
    assert figure.axes[0].get_legend() is not None


def test_lines_differ_by_colour_and_by_marker(trace: Trace) -> None:
    asked = question(trace, p99_s=None)
    axes = plots.latency(asked, [p for replicas in (1, 2, 3, 4) for p in points(asked, replicas)]).axes[0]
    solid = [line for line in axes.get_lines() if line.get_linestyle() == "-"]
    assert len({line.get_color() for line in solid}) == len({line.get_marker() for line in solid}) == len(solid) == 4


@pytest.mark.parametrize(("replicas", "drawn"), [(1, [1, 2, 3, 4]), (2, [1, 2, 3, 4]), (4, [3, 4, 6, 8])])
def test_the_answer_and_its_neighbours_are_drawn(trace: Trace, replicas: int, drawn: list[int]) -> None:
    asked = question(trace)
    [*_, answer] = points(question(trace, p99_s=None), replicas)
    candidates = plots.to_draw(Plan(question=asked, predictions=[answer], answer=answer))
    assert sorted({c.replicas for c in candidates}) == drawn
    assert {c.eviction for c in candidates} == {"lru"}
    sizes = [c.size for c in candidates if c.replicas == replicas]
    assert (sizes[0], sizes[-1], len(sizes)) == (asked.sizes[0], asked.sizes[-1], plots.SIZES_MAX)
    assert sorted({c.replicas for c in plots.to_draw(Plan(question=asked, predictions=[]))}) == [3, 4, 6, 8]


def test_two_files_are_written(trace: Trace, tmp_path: Path) -> None:
    asked = question(trace, p99_s=None)
    paths = plots.draw(tmp_path / "new", Plan(question=asked, predictions=points(asked)))
    assert [path.name for path in paths] == ["miss-ratio.png", "latency.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
