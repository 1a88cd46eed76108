"""The search finds what trying everything would find, and tries far less."""

import dataclasses
import multiprocessing
import random
import signal
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest

from modelplex.sim import bounds, log, planner
from modelplex.sim.planner import Plan, default_sizes, plan, sizes
from modelplex.sim.prediction import Candidate, Prediction, Question, predict
from modelplex.sim.trace import Catalog, Trace
from modelplex.sim.workloads import Workload

LOAD_S = 1.0


def cyclic(models: int, requests: int = 1_000, size_bytes: int = 1) -> Trace:
    """Each model in turn, one request every two seconds: LRU with room for one model less misses each time."""
    catalog = Catalog([f"m{n}" for n in range(models)], np.full(models, size_bytes), np.full(models, LOAD_S))
    numbers = np.arange(requests)
    return Trace(
        np.arange(0, 2.0 * requests, 2.0), (numbers % models).astype(np.int32), np.full(requests, 0.01), catalog
    )


def question(trace: Trace, **more: Any) -> Question:
    given: dict[str, Any] = {"p99_s": 0.5, "replicas": [1, 2, 4], "sizes": [1, 2, 3, 4], "in_bytes": False}
    return Question(trace=trace, **given | more)


def threads(count: int) -> Executor:
    return ThreadPoolExecutor(count)


def fleets(predictions: Any) -> list[tuple[int, int, str]]:
    return [(p.candidate.replicas, p.candidate.size, p.candidate.eviction) for p in predictions]


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[Candidate]:
    """What was simulated."""
    seen: list[Candidate] = []

    def predict_and_tell(question: Question, candidate: Candidate) -> Prediction | None:
        seen.append(candidate)
        return predict(question, candidate)

    monkeypatch.setattr(planner, "predict", predict_and_tell)
    return seen


def test_the_answer_has_the_least_memory_in_all_and_then_the_fewest_replicas() -> None:
    found = plan(question(cyclic(4), evictions=["lru"]), executor=threads)
    assert fleets(found.predictions) == [(1, 4, "lru"), (2, 2, "lru"), (4, 1, "lru")]
    assert found.answer is found.predictions[0]
    assert found.answer.loads == 4
    assert found.offline_loads == 4
    assert found.met


@pytest.mark.parametrize("seed", range(50))
def test_it_finds_each_least_memory_when_more_is_never_worse(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the memory that each number of replicas needs drawn at random: none at first, then less and less."""
    rng = random.Random(seed)
    asked = question(cyclic(4), replicas=[1, 2, 3, 4, 6, 8, 12], sizes=list(range(1, 101)))
    need: dict[tuple[int, str], int] = {}
    for eviction in asked.evictions:
        needs = sorted((rng.choice([rng.randint(1, 30), rng.randint(1, 130)]) for _ in asked.replicas), reverse=True)
        need |= {(replicas, eviction): size for replicas, size in zip(asked.replicas, needs, strict=True)}
    tried: list[Candidate] = []

    def meets(question: Question, candidate: Candidate) -> Prediction | None:
        tried.append(candidate)
        enough = candidate.size >= need[candidate.replicas, candidate.eviction]
        return Prediction(candidate, 0.0, len(candidate.eviction), 0.0, 0.0, 0.0, 0.0) if enough else None

    monkeypatch.setattr(planner, "predict", meets)
    found = plan(asked, executor=threads)
    least = [(*key, size) for key, size in need.items() if size <= 100]
    total, replicas, _ = min((replicas * size, replicas, len(eviction)) for replicas, eviction, size in least)
    assert found.answer is not None
    assert (found.answer.candidate.total, found.answer.candidate.replicas) == (total, replicas)
    expected = {(replicas, size, eviction) for replicas, eviction, size in least if replicas * size <= 2 * total}
    assert set(fleets(found.predictions)) == expected
    assert len(tried) <= 8 * len(need)
    assert len(set(tried)) == len(tried)


@pytest.mark.parametrize(("seed", "p99_s"), [(1, 0.2), (3, 0.35)])
def test_it_finds_what_trying_everything_finds(seed: int, p99_s: float, simulated: list[Candidate]) -> None:
    workload = Workload(requests=900, models=8, rate_per_s=30.0, zipf_s=2.0, load_fixed_s=0.1, seed=seed)
    trace = dataclasses.replace(workload, load_bytes_per_s=1e11, service_mean_s=0.02).trace()
    asked = question(trace, p99_s=p99_s, replicas=[1, 2, 3, 4, 6], sizes=list(range(1, 9)))
    tried = [
        predict(asked, Candidate(replicas=replicas, size=size, eviction=eviction))
        for replicas, size, eviction in product(asked.replicas, asked.sizes, asked.evictions)
    ]
    best = min((p for p in tried if p is not None), key=lambda p: (p.candidate.total, p.candidate.replicas, p.loads))
    found = plan(asked, executor=threads)
    assert found.answer is not None
    # What more memory does is not quite monotone, so bisection may end one step beside the best.
    assert (
        best.candidate.total <= found.answer.candidate.total <= best.candidate.total + found.answer.candidate.replicas
    )
    assert len(simulated) < len(tried) / 2


def test_of_what_needs_far_more_memory_than_the_cheapest_nothing_is_shown(simulated: list[Candidate]) -> None:
    found = plan(question(cyclic(4), replicas=[1, 2, 4, 8, 16], evictions=["lru"]), executor=threads)
    assert {p.candidate.total for p in found.predictions} == {4, 8}
    assert 16 not in {candidate.replicas for candidate in simulated}


def test_equal_questions_have_equal_answers_with_any_number_of_workers() -> None:
    workload = Workload(requests=500, models=24, rate_per_s=30.0, load_fixed_s=0.2, load_bytes_per_s=1e10)
    asked = question(workload.trace(), replicas=[2, 3, 4], sizes=list(range(2, 25)))
    one = plan(asked, executor=lambda count: ThreadPoolExecutor(1))
    assert one.predictions == plan(asked, executor=lambda count: ThreadPoolExecutor(4)).predictions


def test_when_nothing_meets_the_target_the_largest_fleet_tells_why() -> None:
    found = plan(question(cyclic(4), sizes=[1, 3], replicas=[1], evictions=["lru"]), executor=threads)
    assert (found.met, found.answer, found.predictions) == (False, None, [])
    assert found.largest is not None
    assert (found.largest.candidate.size, found.largest.cold_ratio) == (3, 1.0)


def test_models_that_do_not_fit_leave_nothing_to_simulate(simulated: list[Candidate]) -> None:
    found = plan(question(cyclic(4, size_bytes=10), sizes=[5, 9], in_bytes=True), executor=threads)
    assert (found.met, found.largest, simulated) == (False, None, [])


def test_without_a_target_every_fleet_is_simulated() -> None:
    asked = question(cyclic(4), p99_s=None, replicas=[1], sizes=[3, 4])
    found = plan(asked, executor=threads)
    assert fleets(found.predictions) == [(1, 3, "lru"), (1, 3, "gdsf"), (1, 4, "lru"), (1, 4, "gdsf")]
    assert [p.loads for p in found.predictions][::2] == [1_000, 4]
    assert found.met


def test_a_fleet_that_cannot_keep_up_is_told_apart() -> None:
    workload = Workload(requests=2_000, models=2, rate_per_s=10.0, service_mean_s=1.0, service_varies=False)
    found = plan(question(workload.trace(), p99_s=None, replicas=[1], sizes=[2], evictions=["lru"]), executor=threads)
    assert (found.met, found.predictions) == (False, [])
    assert found.overloaded == [Candidate(replicas=1, size=2, eviction="lru")]


def test_baselines_have_the_fleet_of_the_answer() -> None:
    found = plan(question(cyclic(4), evictions=["lru"]), with_baselines=True, executor=threads)
    assert [p.candidate.router for p in found.baselines] == ["like Ray Serve", "consistent hashing", "model-blind"]
    assert {(p.candidate.replicas, p.candidate.size) for p in found.baselines} == {(1, 4)}


def test_progress_ends_at_the_end() -> None:
    told: list[tuple[str, float]] = []
    plan(question(cyclic(4)), progress=lambda what, part: told.append((what, part)), executor=threads)
    assert [what for what, _ in told] == ["searching", "searching"]
    assert told[-1] == ("searching", 1.0)


def test_an_exception_ends_the_workers() -> None:
    """As Ctrl-C does: nothing that was begun runs on."""

    workers = []

    def interrupted(what: str, part: float) -> None:
        workers.extend(multiprocessing.active_children())
        raise KeyboardInterrupt

    workload = Workload(requests=20_000, models=50, rate_per_s=20.0)
    asked = question(workload.trace(), p99_s=None, replicas=[4], sizes=[1, *range(40, 50)])
    with pytest.raises(KeyboardInterrupt):
        plan(asked, progress=interrupted)
    assert workers
    assert {worker.exitcode for worker in workers} == {-signal.SIGTERM}


# Memory sizes


def test_sizes_go_from_a_64th_of_the_working_set_to_all_of_it() -> None:
    found = default_sizes(cyclic(640, size_bytes=100), in_bytes=True)
    assert (found[0], found[-1], len(found)) == (1_000, 64_000, 25)
    assert max(b / a for a, b in pairwise(found)) == pytest.approx(2**0.25, rel=0.01)
    assert default_sizes(cyclic(3, size_bytes=100), in_bytes=True)[0] == 100
    assert default_sizes(cyclic(3), in_bytes=False) == [1, 2, 3]


def test_sizes_are_bytes_where_the_log_knows_any() -> None:
    known, unknown = cyclic(4, size_bytes=100), cyclic(4, size_bytes=log.SIZE_BYTES)
    assert sizes(known) == (default_sizes(known, in_bytes=True), True)
    assert sizes(unknown) == ([1, 2, 3, 4], False)
    assert sizes(unknown, sized=True)[1]
    assert sizes(known, models_max=[4, 2]) == ([2, 4], False)
    assert sizes(known, bytes_max=[300]) == ([300], True)


def test_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="not both"):
        sizes(cyclic(4), [1], [1])
    with pytest.raises(ValueError, match="--size"):
        sizes(cyclic(4, size_bytes=log.SIZE_BYTES), bytes_max=[300])


def test_the_bound_counts_as_the_question_does() -> None:
    trace = Workload(requests=500, models=24, rate_per_s=5.0, size_sigma=1.0, load_bytes_per_s=1e12).trace()
    asked = question(trace, p99_s=0.7, sizes=default_sizes(trace, in_bytes=True), in_bytes=True, replicas=[2])
    found: Plan = plan(dataclasses.replace(asked, evictions=["lru"]), executor=threads)
    assert found.answer is not None
    assert found.offline_loads == bounds.least_loads(trace, found.answer.candidate.total).loads
