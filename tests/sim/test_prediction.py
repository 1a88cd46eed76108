"""One simulation says what it counts, and ends early exactly when its fleet misses the target."""

import dataclasses

import numpy as np
import pytest

from modelplex.sim.prediction import ROUTERS, Candidate, Question, predict
from modelplex.sim.trace import Catalog, Trace
from modelplex.sim.workloads import Workload
from modelplex.sim.world import Fleet, simulate

BUSY = Workload(requests=1_000, models=20, rate_per_s=40.0, load_fixed_s=0.1, load_bytes_per_s=1e10, seed=3)


def question(trace: Trace, *, p99_s: float | None = None, max_ongoing: int = 5, in_bytes: bool = False) -> Question:
    return Question(
        trace=trace, p99_s=p99_s, replicas=[1], sizes=[1], in_bytes=in_bytes, max_ongoing=max_ongoing, evictions=["lru"]
    )


def candidate(replicas: int, size: int, eviction: str = "lru", router: str = "modelplex") -> Candidate:
    return Candidate(replicas=replicas, size=size, eviction=eviction, router=router)


def of_one_model(arrivals_s: list[float], load_s: float = 1.0) -> Trace:
    catalog = Catalog(["a"], np.array([10]), np.array([load_s]))
    count = len(arrivals_s)
    return Trace(np.array(arrivals_s), np.zeros(count, np.int32), np.full(count, 0.25), catalog)


def test_what_is_counted() -> None:
    found = predict(question(of_one_model([0.0, 2.0]), max_ongoing=2), candidate(1, 1))
    assert found is not None
    assert (found.cold_ratio, found.loads, found.load_time_s) == (0.5, 1, 1.0)
    assert (found.p50_s, found.p99_s) == (0.25, 1.25)
    assert found.utilisation == pytest.approx(1.5 / (2 * 2))  # busy for 1.25 s and 0.25 s, in two slots of 2 s


def test_memory_is_counted_as_the_question_says() -> None:
    trace = BUSY.trace()
    sizes = {
        in_bytes: predict(question(trace, in_bytes=in_bytes), candidate(3, size))
        for in_bytes, size in ((False, 4), (True, 4 * int(trace.catalog.size_bytes[0])))
    }
    assert sizes[False] is not None
    assert sizes[True] is not None
    same = simulate(trace, Fleet(replicas=3, models_max=4))
    assert sizes[False].loads == same.loads
    # Models of one size: sizes are learned with the first load, so that only the beginning may differ.
    assert sizes[True].loads == pytest.approx(same.loads, rel=0.1)


@pytest.mark.parametrize(("replicas", "size", "eviction"), [(3, 4, "lru"), (3, 6, "gdsf"), (2, 20, "lru")])
def test_a_simulation_ends_early_exactly_when_more_than_one_percent_is_late(
    replicas: int, size: int, eviction: str
) -> None:
    trace, fleet = BUSY.trace(), candidate(replicas, size, eviction)
    whole = predict(question(trace), fleet)
    assert whole is not None
    for factor in (0.5, 0.999, 1.001, 2.0):
        targeted = predict(question(trace, p99_s=factor * whole.p99_s), fleet)
        assert targeted == (whole if factor > 1 else None)


def test_what_cannot_keep_up_is_not_simulated_to_its_end() -> None:
    """Arrivals at 100 a second, and slots for 20: the end would be far away, and each step slower than the last."""
    trace = dataclasses.replace(BUSY, requests=20_000, rate_per_s=100.0, service_mean_s=0.25).trace()
    assert predict(question(trace), candidate(1, 20)) is None
    assert predict(question(trace), candidate(10, 20)) is not None


def test_rejected_requests_are_late() -> None:
    catalog = Catalog(["a", "b"], np.array([10, 99]), np.array([0.1, 0.1]))
    arrivals_s = np.arange(100, dtype=np.float64)
    trace = Trace(arrivals_s, (np.arange(100) % 2).astype(np.int32), np.full(100, 0.01), catalog)
    assert predict(question(trace, in_bytes=True), candidate(1, 50)) is None
    assert question(trace, in_bytes=True).largest == 99


@pytest.mark.parametrize("router", ROUTERS)
def test_every_router_can_be_asked(router: str) -> None:
    found = predict(question(BUSY.trace(), in_bytes=True), candidate(4, 12 * 10**9, router=router))
    assert found is not None
    assert 20 <= found.loads <= 1_000
