"""Bounds against brute force on small random traces, and against simple caches on larger ones."""

import dataclasses
import itertools
import random
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from modelplex.sim.bounds import NEVER, belady, least_loads, lru_distances
from modelplex.sim.trace import Catalog, Trace
from modelplex.sim.workloads import Bursts, FlashCrowd, Sweep, Workload

# A sequence that textbooks use; with room for three, the best is 9 loads and LRU needs 12.
TEXTBOOK = [7, 0, 1, 2, 0, 3, 0, 4, 2, 3, 0, 3, 2, 1, 2, 0, 1, 7, 0, 1]


def trace_of(models: Sequence[int], size_bytes: Sequence[int] = (), load_s: Sequence[float] = ()) -> Trace:
    count = max(len(size_bytes), len(load_s), 1 + max(models, default=0))
    catalog = Catalog(
        [f"m{number}" for number in range(count)],
        np.array(size_bytes or [1] * count, np.int64),
        np.array(load_s or [1.0] * count, np.float64),
    )
    return Trace(np.arange(len(models), dtype=np.float64), np.array(models, np.int32), np.ones(len(models)), catalog)


def small_traces(*, sized: bool) -> Iterator[tuple[Trace, int]]:
    """Random traces, each with some room in which every model fits."""
    rng = random.Random(1)
    for _ in range(300):
        count = rng.randint(1, 5)
        models = [rng.randrange(count) for _ in range(rng.randint(0, 14))]
        sizes = [rng.randint(1, 6) if sized else 1 for _ in range(count)]
        load_s = [rng.choice([0.5, 1.0, 3.0, 10.0]) for _ in range(count)]
        yield trace_of(models, sizes, load_s), rng.randint(max(sizes), max(max(sizes), sum(sizes)))


def least(trace: Trace, room: int, values: Sequence[float]) -> float:
    """The true optimum: all contents of the cache that there can be, request by request."""
    sizes = trace.catalog.size_bytes.tolist()
    costs: dict[frozenset[int], float] = {frozenset(): 0.0}
    for model in trace.models.tolist():
        after: dict[frozenset[int], float] = {}
        for held, cost in costs.items():
            others = held - {model}
            for count in range(len(others) + 1):
                for kept in itertools.combinations(sorted(others), count):
                    content = frozenset({*kept, model})
                    if sum(sizes[m] for m in content) <= room:
                        total = cost + (0.0 if model in held else values[model])
                        after[content] = min(total, after.get(content, total))
        costs = after
    return min(costs.values())


def lru_misses(trace: Trace, room: int) -> tuple[int, float]:
    """Loads, and their seconds, of a simple LRU cache."""
    sizes, load_s = trace.catalog.size_bytes.tolist(), trace.catalog.load_s.tolist()
    held: OrderedDict[int, int] = OrderedDict()
    loads, seconds = 0, 0.0
    for model in trace.models.tolist():
        if model in held:
            held.move_to_end(model)
            continue
        loads, seconds = loads + 1, seconds + load_s[model]
        while held and sum(held.values()) + sizes[model] > room:
            held.popitem(last=False)
        held[model] = sizes[model]
    return loads, seconds


def gdsf_misses(trace: Trace, room: int) -> tuple[int, float]:
    """The same of a simple GDSF cache."""
    sizes, load_s = trace.catalog.size_bytes.tolist(), trace.catalog.load_s.tolist()
    worth: dict[int, float] = {}
    uses = dict.fromkeys(range(len(sizes)), 0)
    clock, loads, seconds = 0.0, 0, 0.0
    for model in trace.models.tolist():
        uses[model] += 1
        if model not in worth:
            loads, seconds = loads + 1, seconds + load_s[model]
            while worth and sum(sizes[m] for m in worth) + sizes[model] > room:
                victim = min(worth, key=lambda m: worth[m])
                clock = worth.pop(victim)
        worth[model] = clock + uses[model] * load_s[model] / sizes[model]
    return loads, seconds


# Belady


def test_belady_on_a_known_sequence() -> None:
    assert belady(trace_of(TEXTBOOK), 3).loads == 9
    assert lru_misses(trace_of(TEXTBOOK), 3)[0] == 12


def test_belady_is_the_optimum_of_loads_and_no_more_than_that_of_load_seconds() -> None:
    for trace, room in small_traces(sized=False):
        bound = belady(trace, room)
        assert bound.loads == least(trace, room, [1.0] * len(trace.catalog))
        assert bound.load_s <= least(trace, room, trace.catalog.load_s.tolist()) + 1e-9


def test_with_room_for_all_each_model_is_loaded_once() -> None:
    trace = trace_of([2, 0, 1, 0, 2, 2, 1], load_s=[1.0, 2.0, 4.0])
    for bound in (belady(trace, 3), belady(trace, 30), least_loads(trace, 3), least_loads(trace, 30)):
        assert (bound.loads, bound.load_s) == (3, 7.0)


def test_with_room_for_one_each_change_is_a_load() -> None:
    trace = trace_of([0, 1, 1, 0, 1, 0, 0])
    assert belady(trace, 1).loads == least_loads(trace, 1).loads == 5


# Bytes


def test_the_bound_by_bytes_is_never_above_the_optimum() -> None:
    reached = 0
    for trace, room in small_traces(sized=True):
        bound = least_loads(trace, room)
        loads = least(trace, room, [1.0] * len(trace.catalog))
        load_s = least(trace, room, trace.catalog.load_s.tolist())
        assert bound.loads <= loads + 1e-9
        assert bound.load_s <= load_s + 1e-9
        reached += bound.load_s > load_s - 1e-9
    assert reached > 100


def test_the_bound_by_bytes_of_a_trace_by_hand() -> None:
    # Model 0 is kept at three requests for others, 6 in byte x requests; 2 likewise, 12; 1 at none.
    trace = trace_of([0, 2, 1, 1, 0, 2], [2, 3, 4], [6.0, 4.0, 5.0])
    # Of 6 bytes, there are 4 + 2 + 3 + 3 + 4 + 2 = 18 beside the requested models: all is kept.
    assert least_loads(trace, 6).load_s == 6.0 + 4.0 + 5.0
    # Of 5 bytes, there are 12: 0 and 1 as a whole, and half of 2.
    assert least_loads(trace, 5).load_s == 30.0 - 6.0 - 4.0 - 2.5
    assert least_loads(trace, 5).loads == 6 - 1 - 1 - 0.5


def test_a_model_that_is_asked_for_takes_room_even_if_it_is_not_kept() -> None:
    # With bypass, one of the two could stay: three loads.
    assert least_loads(trace_of([0, 1, 0, 1]), 1).loads == 4


def test_models_that_can_never_fit_are_left_out() -> None:
    trace = trace_of([0, 1, 0, 1], [1, 9])
    assert least_loads(trace, 8).loads == 1
    assert least_loads(trace, 10).loads == 2


# Both


WORKLOADS = [
    Workload(requests=20_000, models=300, rate_per_s=50.0, zipf_s=0.8),
    Workload(requests=20_000, models=300, rate_per_s=50.0, size_sigma=1.0, bursts=Bursts(mean_requests=3.0)),
    Workload(
        requests=20_000,
        models=300,
        rate_per_s=50.0,
        zipf_s=1.3,
        size_sigma=0.5,
        flash_crowd=FlashCrowd(start_s=100.0, duration_s=50.0, share=0.5),
        sweep=Sweep(start_s=50.0, rate_per_s=10.0, period_s=100.0),
    ),
]


@pytest.mark.parametrize("workload", WORKLOADS)
def test_neither_lru_nor_gdsf_is_better_than_a_bound(workload: Workload) -> None:
    trace = workload.trace()
    unit = dataclasses.replace(trace, catalog=trace_of([], [1] * 300, trace.catalog.load_s.tolist()).catalog)
    for part in (0.05, 0.3):
        by_count = belady(unit, int(300 * part))
        room = int(trace.catalog.size_bytes.sum() * part)
        by_bytes = least_loads(trace, room)
        for misses in (lru_misses, gdsf_misses):
            loads, load_s = misses(unit, int(300 * part))
            assert 300 <= by_count.loads <= loads
            assert by_count.load_s <= load_s
            loads, load_s = misses(trace, room)
            assert by_bytes.loads <= loads
            assert by_bytes.load_s <= load_s


def test_the_bound_by_bytes_is_close_to_the_optimum_of_models_of_one_size() -> None:
    trace = Workload(requests=100_000, models=1000, rate_per_s=1.0, size_median_bytes=1.0).trace()
    for models_max in (20, 100, 300):
        exact = belady(trace, models_max).loads
        assert 0.95 * exact <= least_loads(trace, models_max).loads <= exact


def test_bounds_of_no_requests_are_nothing() -> None:
    for bound in (belady(trace_of([]), 1), least_loads(trace_of([]), 1)):
        assert (bound.loads, bound.load_s) == (0, 0.0)


def test_a_cache_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one model"):
        belady(trace_of([0]), 0)
    with pytest.raises(ValueError, match="at least one byte"):
        least_loads(trace_of([0]), 0)


# LRU


def test_stack_distances_by_hand() -> None:
    distances = lru_distances(trace_of([0, 1, 2, 1, 1, 0, 2], [10, 200, 3000]))
    assert distances.models.tolist() == [NEVER, NEVER, NEVER, 2, 1, 3, 3]
    assert distances.size_bytes.tolist() == [NEVER, NEVER, NEVER, 3200, 200, 3210, 3210]


def test_the_miss_ratios_are_those_of_an_lru_cache() -> None:
    for trace, _ in small_traces(sized=True):
        distances = lru_distances(trace)
        sizes = trace.catalog.size_bytes
        rooms = range(int(sizes.max()), int(sizes.sum()) + 2)
        expected = [lru_misses(trace, room)[0] / max(1, len(trace)) for room in rooms]
        assert distances.miss_ratio_bytes(rooms).tolist() == pytest.approx(expected)
        unit = dataclasses.replace(trace, catalog=trace_of([], [1] * len(sizes)).catalog)
        expected = [lru_misses(unit, room)[0] / max(1, len(trace)) for room in range(1, 7)]
        assert distances.miss_ratio(range(1, 7)).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_the_miss_ratios_of_a_longer_trace_are_those_of_an_lru_cache(workload: Workload) -> None:
    trace = workload.trace()
    rooms = [int(trace.catalog.size_bytes.sum() * part) for part in (0.1, 0.3, 0.9)]
    assert rooms[0] > trace.catalog.size_bytes.max()
    expected = [lru_misses(trace, room)[0] / len(trace) for room in rooms]
    assert lru_distances(trace).miss_ratio_bytes(rooms).tolist() == pytest.approx(expected)
