"""Messages that a simulation counts."""

import numpy as np

from modelplex.sim.trace import Catalog, Trace
from modelplex.sim.traffic import CountingWorld
from modelplex.sim.workloads import Workload
from modelplex.sim.world import Fleet, simulate


def trace_of(*models: int, gap_s: float = 10.0) -> Trace:
    count = len(models)
    catalog = Catalog(["a", "b"], np.ones(2, np.int64), np.ones(2))
    return Trace(np.arange(count, dtype=np.float64) * gap_s, np.array(models, np.int32), np.full(count, 0.25), catalog)


def sent(trace: Trace, **fleet: int) -> dict[str, int]:
    world = CountingWorld(trace, Fleet(**fleet))  # type: ignore[arg-type]
    world.run()
    return dict(world.sent)


def test_each_request_is_two_messages_and_each_load_is_told_to_every_router() -> None:
    counted = sent(trace_of(0, 0, 1), replicas=1, models_max=2, routers=3)
    assert counted == {"Begin": 3, "Answer": 3, "ModelLoading": 6, "ModelLoaded": 6}


def test_every_router_hears_of_an_eviction() -> None:
    assert sent(trace_of(0, 1), replicas=1, models_max=1, routers=4)["ModelGone"] == 4


def test_a_refusal_is_an_answer_to_another_begin_and_its_router_hears_of_the_free_slot() -> None:
    counted = sent(trace_of(0, 0, gap_s=0.0), replicas=1, models_max=1, routers=2, max_ongoing=1)
    assert (counted["Begin"], counted["Refuse"], counted["Answer"]) == (3, 1, 2)
    assert counted["Ongoing"] == 1


def test_counting_changes_nothing() -> None:
    trace = Workload(requests=2000, models=50, rate_per_s=200.0).trace()
    fleet = Fleet(replicas=5, models_max=6, routers=3, residency_delay_s=0.001)
    world = CountingWorld(trace, fleet)
    outcome = world.run()
    assert np.array_equal(outcome.latency_s, simulate(trace, fleet).latency_s, equal_nan=True)
    assert world.sent["Answer"] == 2000
    assert world.sent["Begin"] == 2000 + world.sent["Refuse"]
    assert world.sent["ModelLoading"] == outcome.loads * 3
