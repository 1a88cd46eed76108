"""What no cache can beat, and what LRU would do at every size: computed from the trace, without a simulation.

All of this is about one cache that serves requests in the order of their arrival. At each request its model has to be
in the cache; if it is not, it is loaded. Time is counted in requests. So:

- Who lets requests wait, and serves those for one model together, may need fewer loads.
- A cache that serves models without room for them (bypass) may need fewer too; a replica cannot.
- A fleet is bounded by one cache with the room of all replicas: it could hold whatever they hold.
- A request that joins a load counts as a hit. Leases forbid evictions, so they only make a real cache need more.
"""

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelplex.sim.trace import Trace

# The distance of a model's first request: it is in no cache, of whatever size.
NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Bound:
    """What any cache needs at the least. Both hold, but one cache need not reach both.

    Attributes:
        loads: least number of loads.
        load_s: least seconds of loads.
    """

    loads: float
    load_s: float


def belady(trace: Trace, models_max: int) -> Bound:
    """The fewest loads with room for `models_max` models: exact; the load seconds are a lower bound.

    Evicts what is asked for again last (MIN: Belady, "A study of replacement algorithms for a virtual-storage
    computer", IBM Systems Journal 5(2), 1966; that it is optimal: Mattson, Gecsei, Slutz, Traiger, "Evaluation
    techniques for storage hierarchies", IBM Systems Journal 9(2), 1970). Takes O(n log n) for n requests.

    Raises:
        ValueError: `models_max` is less than 1.
    """
    if models_max < 1:
        raise ValueError(f"a cache has room for at least one model, got {models_max}")
    nexts = _nexts(trace.models)
    # What is never asked for again gets a time of its own behind the end, so that a time names a model.
    last = nexts == len(nexts)
    nexts[last] += trace.models[last]
    model_of = np.zeros(len(nexts) + len(trace.catalog), np.int64)
    model_of[nexts] = trace.models
    loads = _min_loads(trace.models.tolist(), nexts.tolist(), model_of.tolist(), len(trace.catalog), models_max)
    ones = np.ones(len(trace.catalog), np.int64)
    return Bound(loads, _least_missed(trace, ones, models_max, trace.catalog.load_s))


def _min_loads(models: list[int], nexts: list[int], model_of: list[int], catalog: int, models_max: int) -> int:
    held = bytearray(catalog)
    # Next uses, latest first. Those that have come to pass stay in the heap and do no harm: they are earlier than all
    # that have not, and there is always one of these when room is needed.
    latest: list[int] = []
    room, loads = models_max, 0
    for model, next_use in zip(models, nexts, strict=True):
        if not held[model]:
            loads += 1
            held[model] = 1
            if room:
                room -= 1
            else:
                held[model_of[-heapq.heappop(latest)]] = 0
        heapq.heappush(latest, -next_use)
    return loads


def least_loads(trace: Trace, bytes_max: int) -> Bound:
    """What any cache of `bytes_max` bytes needs at the least, for models of different sizes and load times.

    The optimum is NP-hard to find; each of the two figures is at most its own. Berger, Beckmann, Harchol-Balter,
    "Practical bounds on optimal caching with variable object sizes", Proc. ACM Meas. Anal. Comput. Syst. 2(2), 2018
    (there PFOO-L), with the load as the value of a hit.

    Why it holds: a load is saved by keeping a model from one request for it to the next. Then its bytes are taken at
    each request in between; with those of all else that is kept there, and of the model that is asked for, they are at
    most `bytes_max`. Add this up over all requests: bytes x requests of what is kept are at most the sum of `bytes_max`
    less the model that is asked for. Each cache obeys that sum, so none saves more than the best choice under the sum
    alone, which may even keep fractions. That choice is greedy, by load for each byte x request (fractional knapsack:
    Dantzig, "Discrete-variable extremum problems", Operations Research 5(2), 1957). With bypass, the model that is
    asked for would need no room; that bound is lower, and holds here as well.

    Requests for models larger than `bytes_max` are left out, since nobody can serve them. Takes O(n log n) for n
    requests.

    Raises:
        ValueError: `bytes_max` is less than 1.
    """
    if bytes_max < 1:
        raise ValueError(f"a cache has room for at least one byte, got {bytes_max}")
    sizes = trace.catalog.size_bytes
    loads = _least_missed(trace, sizes, bytes_max, np.ones(len(trace.catalog)))
    return Bound(loads, _least_missed(trace, sizes, bytes_max, trace.catalog.load_s))


def _least_missed(trace: Trace, sizes: NDArray[np.int64], room: int, values: NDArray[np.float64]) -> float:
    """The least sum of the values of misses."""
    models = trace.models[sizes[trace.models] <= room]
    nexts = _nexts(models)
    kept = np.flatnonzero(nexts < len(models))
    saved = values[models[kept]]
    # As float64, since bytes x requests of a long trace can be more than an int64 holds.
    costs = (nexts[kept] - kept - 1) * sizes[models[kept]].astype(np.float64)
    budget = float(np.sum((room - sizes[models]).astype(np.float64)))
    density = np.divide(saved, costs, out=np.full(len(kept), np.inf), where=costs > 0)
    order = np.argsort(-density)
    spent = np.cumsum(costs[order])
    whole = int(np.searchsorted(spent, budget, side="right"))
    most_saved = float(np.sum(saved[order[:whole]]))
    if whole < len(order):
        part = order[whole]
        most_saved += float(saved[part] * (budget - spent[whole] + costs[part]) / costs[part])
    return float(np.sum(values[models])) - most_saved


@dataclass(frozen=True, slots=True)
class StackDistances:
    """How much room LRU needs for each request to be a hit: Mattson et al., as for `belady`.

    The models that were asked for since the same model's last request, with the model itself, must fit.

    Attributes:
        models: int64, how many they are; `NEVER` for a model's first request.
        size_bytes: int64, how many bytes they take; `NEVER` likewise.
    """

    models: NDArray[np.int64]
    size_bytes: NDArray[np.int64]

    def miss_ratio(self, models_max: ArrayLike) -> NDArray[np.float64]:
        """The part of the requests that are misses, for each number of models that LRU may hold."""
        return _ratio_above(self.models, models_max)

    def miss_ratio_bytes(self, bytes_max: ArrayLike) -> NDArray[np.float64]:
        """The part of the requests that are misses, for each number of bytes that LRU may hold.

        Exact where the largest model fits. A model larger than `bytes_max` counts as one that evicts all others.
        """
        return _ratio_above(self.size_bytes, bytes_max)


def lru_distances(trace: Trace) -> StackDistances:
    """The stack distances of all requests, from which follow LRU's misses for all sizes of a cache at once.

    Of the models between two requests for one, each counts at its first request after the earlier of the two: the
    requests before the later one whose model was last asked for before the earlier one. That is a count of pairs in two
    orders, by time and by last request, made as merge sort counts inversions: level by level, in pairs of neighbouring
    blocks of time, what the earlier block has for the later one. Takes O(n log n), in a few array operations a level.
    """
    models = trace.models
    count = len(models)
    lasts = np.full(count, -1, np.int64)
    nexts = _nexts(models)
    again = np.flatnonzero(nexts < count)
    lasts[nexts[again]] = again
    sizes = trace.catalog.size_bytes[models]
    by_count, by_size = _earlier_and_smaller(lasts, sizes)
    # Up to its last request, all were before it: they are counted though they are not in between. Sums of bytes may
    # leave the range of int64; they wrap round, and their differences are right all the same.
    seen = lasts >= 0
    sizes_to = np.cumsum(sizes)
    by_count[seen] -= lasts[seen]
    by_size[seen] += sizes[seen] - sizes_to[lasts[seen]]
    by_count[~seen] = by_size[~seen] = NEVER
    return StackDistances(by_count, by_size)


def _earlier_and_smaller(
    keys: NDArray[np.int64], weights: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each place, the number and the weight of the earlier places whose key is smaller (or equal)."""
    numbers, sums = np.zeros(len(keys), np.int64), np.zeros(len(keys), np.int64)
    # Places by key within blocks of places; the blocks halve from level to level, first one block of all.
    places = np.argsort(keys, kind="stable")
    indices = np.arange(len(keys))
    for bit in reversed(range(len(keys).bit_length())):
        starts = places >> (bit + 1) << (bit + 1)
        late = (places >> bit & 1).astype(np.bool_)
        early_to = np.concatenate([[0], np.cumsum(~late)])
        weight_to = np.concatenate([[0], np.cumsum(np.where(late, 0, weights[places]))])
        early = early_to[indices] - early_to[starts]
        numbers[places[late]] += early[late]
        sums[places[late]] += (weight_to[indices] - weight_to[starts])[late]
        # The early ones of each block, and behind them the late ones, in the order that they have.
        to = np.where(late, indices - early + (1 << bit), starts + early)
        halved = np.empty_like(places)
        halved[to] = places
        places = halved
    return numbers, sums


def _nexts(models: NDArray[np.int32]) -> NDArray[np.int64]:
    """The place of the next request for the same model; the number of requests where there is none."""
    order = np.argsort(models, kind="stable")
    nexts = np.full(len(models), len(models), np.int64)
    same = np.flatnonzero(models[order[1:]] == models[order[:-1]])
    nexts[order[same]] = order[same + 1]
    return nexts


def _ratio_above(distances: NDArray[np.int64], rooms: ArrayLike) -> NDArray[np.float64]:
    hits = np.searchsorted(np.sort(distances), np.asarray(rooms), side="right")
    ratio: NDArray[np.float64] = (len(distances) - hits) / max(1, len(distances))
    return ratio
