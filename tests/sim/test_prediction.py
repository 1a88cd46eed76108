"""One simulation says what it counts, and ends early exactly when its fleet misses the target."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from modelplex.core.admission import UNLIMITED
from modelplex.core.estimates import Estimates
from modelplex.core.routing import Command, Router
from modelplex.sim import prediction
from modelplex.sim.prediction import ROUTERS, Candidate, Question, predict
from modelplex.sim.trace import Catalog, Trace
from modelplex.sim.workloads import Workload
from modelplex.sim.world import Fleet, Outcome, simulate

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


@pytest.mark.parametrize(("max_ongoing", "p50_s"), [(1, 0.5), (2, 0.25)])
def test_slots_are_as_many_as_asked_for(max_ongoing: int, p50_s: float) -> None:
    found = predict(question(of_one_model([0.0, 2.0, 2.0]), max_ongoing=max_ongoing), candidate(1, 1))
    assert found is not None
    assert found.p50_s == pytest.approx(p50_s)


def test_memory_is_counted_as_the_question_says() -> None:
    trace = BUSY.trace()
    for in_bytes, size, fleet in (
        (False, 4, Fleet(replicas=3, models_max=4)),
        (True, 4 * 10**9, Fleet(replicas=3, bytes_max=4 * 10**9)),
    ):
        found = predict(question(trace, in_bytes=in_bytes), candidate(3, size))
        assert found is not None
        assert found.loads == simulate(trace, fleet).loads


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


def test_it_ends_at_the_first_request_that_is_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1,000 requests ten may be late; each is, and is over before the next."""
    submitted: list[int] = []

    class Counting(Router):
        def submit(self, number: int, *args: Any, **more: Any) -> list[Command]:
            submitted.append(number)
            return super().submit(number, *args, **more)

    monkeypatch.setitem(ROUTERS, "modelplex", lambda: Counting(UNLIMITED, 30.0, Estimates(1.0, 0.05)))
    trace = of_one_model([float(n) for n in range(1_000)], load_s=0.0)
    assert predict(question(trace, p99_s=0.2), candidate(1, 1)) is None
    assert len(submitted) == 11
    assert predict(question(trace, p99_s=0.3), candidate(1, 1)) is not None


def test_a_replica_like_those_of_ray_serve_counts_models_and_loads_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleets: list[Fleet] = []

    def simulate_and_tell(trace: Trace, fleet: Fleet) -> Outcome:
        fleets.append(fleet)
        return simulate(trace, fleet)

    monkeypatch.setattr(prediction, "simulate", simulate_and_tell)
    trace = of_one_model([0.0, 2.0])  # a model of ten bytes
    for router in ("like Ray Serve", "model-blind"):
        predict(question(trace, in_bytes=True), candidate(1, 35, router=router))
    assert [(f.models_max, f.bytes_max, f.loads_max) for f in fleets] == [
        (3, UNLIMITED, 1),
        (UNLIMITED, 35, UNLIMITED),
    ]
