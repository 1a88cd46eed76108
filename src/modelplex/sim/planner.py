"""How many replicas, of how much memory, with which eviction policy: the cheapest fleet that answers a trace in time.

Requests get faster, and loads fewer, with more replicas and with more memory. So the least memory of each number of
replicas is found by bisection, and a simulation ends as soon as too many of its requests are late.
"""

import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

from modelplex import errors
from modelplex.sim import bounds
from modelplex.sim.log import SIZE_BYTES
from modelplex.sim.prediction import ROUTERS, Candidate, Prediction, Question, predict
from modelplex.sim.trace import Trace

# Told what is done, and which part of that, 0 to 1.
Progress = Callable[[str, float], None]

# Numbers of replicas that are tried unless others are asked for.
REPLICAS = (1, 2, 3, 4, 6, 8, 12, 16)

# Of a number of replicas that needs more than this many times the memory of the cheapest fleet, nothing is found out.
TOTAL_FACTOR_MAX = 2.0

# Memory sizes that are tried, as parts of the working set: 1/64 at the least, and so many for each factor of 2.
SIZE_DOUBLINGS = 6
SIZES_PER_DOUBLING = 4

# Searches that run before the next ones are narrowed by what was found: so many on any machine, for equal results.
WAVE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An answer.

    Attributes:
        predictions: with a target, the fleets that meet it, each with the least memory for its replicas and policy, by
            replicas; without one, all that were asked for, but for those that are overloaded.
        overloaded: fleets of which nothing is told since they cannot keep up.
        answer: of the former, the one with the least memory in all, then the fewest replicas, then the fewest loads.
        largest: with a target that nothing meets, what the largest fleet would do instead; None if it is overloaded.
        baselines: the answer's fleet, or those that were asked for, with other routers.
        offline_loads: what one cache with all memory of the answer would need at the least (`sim.bounds`).
    """

    question: Question
    predictions: Sequence[Prediction]
    overloaded: Sequence[Candidate] = ()
    answer: Prediction | None = None
    largest: Prediction | None = None
    baselines: Sequence[Prediction] = ()
    offline_loads: float | None = None

    @property
    def met(self) -> bool:
        """Whether a fleet meets the target, or all that were asked for can keep up."""
        return self.answer is not None if self.question.p99_s is not None else bool(self.predictions)


def sizes(
    trace: Trace, models_max: Sequence[int] = (), bytes_max: Sequence[int] = (), *, sized: bool = False
) -> tuple[list[int], bool]:
    """The memory sizes to try, and whether they are bytes rather than models.

    Args:
        trace: whose models are to be held.
        models_max, bytes_max: sizes that were asked for, of one kind; else they are derived from the trace, in bytes if
            it knows of any, rather than those that `log.read` makes up.
        sized: whether the sizes of the models are known although they are just those.

    Raises:
        ValueError: both kinds were asked for, or bytes without any known sizes.
    """
    sized = sized or bool((trace.catalog.size_bytes != SIZE_BYTES).any())
    if models_max and bytes_max:
        raise ValueError("Either the models or the bytes of a replica can be given, not both.")
    if bytes_max and not sized:
        raise ValueError("The log knows no model's size: say with --size what a model takes, or count --models-max.")
    in_bytes = bool(bytes_max) or (sized and not models_max)
    return sorted(models_max or bytes_max) or default_sizes(trace, in_bytes=in_bytes), in_bytes


def default_sizes(trace: Trace, *, in_bytes: bool) -> list[int]:
    """Memory sizes from a small part of the working set to all of it: bytes, or models.

    No size is less than the largest model.
    """
    largest, working_set = 1, len(trace.catalog)
    if in_bytes:
        largest, working_set = int(trace.catalog.size_bytes.max()), int(trace.catalog.size_bytes.sum())
    steps = range(SIZE_DOUBLINGS * SIZES_PER_DOUBLING + 1)
    return sorted({max(largest, math.ceil(working_set * 2 ** (-step / SIZES_PER_DOUBLING))) for step in steps})


def least_memory(question: Question, candidates: Sequence[Candidate]) -> Prediction | None:
    """The first of these fleets, which differ in size and ascend, that meets the target; None if the last misses it."""
    if not candidates or (found := predict(question, candidates[-1])) is None:
        return None
    misses, meets = -1, len(candidates) - 1
    while meets - misses > 1:
        middle = (misses + meets) // 2
        if (prediction := predict(question, candidates[middle])) is None:
            misses = middle
        else:
            found, meets = prediction, middle
    return found


# The search


def plan(
    question: Question,
    *,
    with_baselines: bool = False,
    progress: Progress = lambda what, part: None,
    executor: Callable[[int], Executor] | None = None,
) -> Plan:
    """Find the cheapest fleet that meets the target, or simulate every fleet if there is none.

    Args:
        question: what is to be found.
        with_baselines: whether to simulate other routers as well.
        progress: told what is done, and which part of that, 0 to 1.
        executor: makes one of so many workers; one of processes unless given.

    Raises:
        ModelplexError: a process died.
    """
    with _workers(executor) as pool:
        if question.p99_s is None:
            found = _all(question, pool, progress)
            candidates = [*(prediction.candidate for prediction in found.predictions), *found.overloaded]
        else:
            found = _search(question, pool, progress)
            candidates = [found.answer.candidate] if found.answer is not None else []
        if not with_baselines:
            return found
        # They evict by LRU, and are simulated whether they meet the target or not.
        fleets = dict.fromkeys((c.replicas, c.size) for c in candidates)
        others = [
            Candidate(replicas=replicas, size=size, eviction="lru", router=router)
            for (replicas, size), router in product(fleets, list(ROUTERS)[1:])
        ]
        compared, overloaded = _predict_all("comparing", untargeted(question), others, pool, progress)
        return replace(found, baselines=compared, overloaded=[*found.overloaded, *overloaded])


def untargeted(question: Question) -> Question:
    """The same, without a target."""
    return replace(question, p99_s=None)


def grid(question: Question, candidates: Sequence[Candidate], progress: Progress) -> list[Prediction]:
    """What each of these fleets does, but for those that are overloaded."""
    with _workers(None) as pool:
        return _predict_all("drawing", untargeted(question), candidates, pool, progress)[0]


def _all(question: Question, pool: Executor, progress: Progress) -> Plan:
    candidates = [
        Candidate(replicas=replicas, size=size, eviction=eviction)
        for replicas, size, eviction in product(question.replicas, question.sizes_that_fit, question.evictions)
    ]
    predictions, overloaded = _predict_all("simulating", question, candidates, pool, progress)
    return Plan(question=question, predictions=predictions, overloaded=overloaded)


def _search(question: Question, pool: Executor, progress: Progress) -> Plan:
    pairs = list(product(question.replicas, question.evictions))
    found: list[Prediction] = []
    for at in range(0, len(pairs), WAVE):
        wave = [_worth_trying(question, found, *pair) for pair in pairs[at : at + WAVE]]
        found += [p for p in pool.map(partial(least_memory, question), wave) if p is not None]
        progress("searching", min(1.0, (at + WAVE) / len(pairs)))
    if not found:
        most = Candidate(replicas=question.replicas[-1], size=max(question.sizes), eviction=question.evictions[-1])
        largest = pool.submit(predict, untargeted(question), most).result() if question.sizes_that_fit else None
        return Plan(question=question, predictions=[], largest=largest)
    answer = min(found, key=_cost)
    rows = [p for p in found if p.candidate.total <= TOTAL_FACTOR_MAX * answer.candidate.total]
    return Plan(question=question, predictions=rows, answer=answer, offline_loads=_offline_loads(question, answer))


def _cost(prediction: Prediction) -> tuple[int, int, int]:
    return prediction.candidate.total, prediction.candidate.replicas, prediction.loads


def _worth_trying(question: Question, found: Sequence[Prediction], replicas: int, eviction: str) -> list[Candidate]:
    """Fleets of so many replicas, by size: none that is larger than one of fewer replicas with the same policy has to
    be, and none that is far from the cheapest.
    """
    total_max = TOTAL_FACTOR_MAX * min((p.candidate.total for p in found), default=math.inf)
    enough = min((p.candidate.size for p in found if p.candidate.eviction == eviction), default=math.inf)
    fleets = [Candidate(replicas=replicas, size=size, eviction=eviction) for size in question.sizes_that_fit]
    return [fleet for fleet in fleets if fleet.total <= total_max and fleet.size <= enough]


def _offline_loads(question: Question, prediction: Prediction) -> float:
    bound = bounds.least_loads if question.in_bytes else bounds.belady
    return bound(question.trace, prediction.candidate.total).loads


# Processes


def _predict_all(
    what: str, question: Question, candidates: Sequence[Candidate], pool: Executor, progress: Progress
) -> tuple[list[Prediction], list[Candidate]]:
    """What these fleets do, and those among them that are overloaded."""
    predictions: list[Prediction] = []
    overloaded: list[Candidate] = []
    for done, (candidate, prediction) in enumerate(
        zip(candidates, pool.map(partial(predict, question), candidates), strict=True), 1
    ):
        if prediction is None:
            overloaded.append(candidate)
        else:
            predictions.append(prediction)
        progress(what, done / len(candidates))
    return predictions, overloaded


@contextmanager
def _workers(make: Callable[[int], Executor] | None) -> Iterator[Executor]:
    """An executor; if the block ends with an exception, as Ctrl-C is one, what it runs ends at once."""
    pool = (make or _processes)(os.cpu_count() or 1)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise errors.ModelplexError("A process that simulated has died; perhaps memory was short.") from error
    except BaseException:
        # Until Python 3.11.8 and 3.12.2, this process would not end while something is left to be sent to a worker that
        # has (python/cpython#94777).
        if (calls := getattr(pool, "_call_queue", None)) is not None:
            calls.cancel_join_thread()
        for process in multiprocessing.active_children():
            process.terminate()
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _processes(count: int) -> Executor:
    # Not forked: numpy and the progress bar have threads, whose locks a fork would copy as they are.
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_begin)


def _begin() -> None:
    """A worker leaves Ctrl-C to its parent, and ends when that does, however it dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
