"""Synthetic traces: how popular models are, how large, and when they are asked for.

A `Workload` is what all of them share; what makes one special is a part that is added to it:

    Workload(requests=1_000_000, models=10_000, rate_per_s=200.0, zipf_s=0.8, bursts=Bursts(mean_requests=5.0)).trace()

Equal workloads give equal traces. Each aspect draws from random numbers of its own, so two workloads that differ in one
aspect differ in nothing else: with another rate the same requests come faster, and a sweep is added to the same trace.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelplex.sim.trace import Catalog, Trace

DAY_S = 86_400.0

# Points at which the integral of a daily rate is known; between them the rate counts as constant.
_DIURNAL_STEPS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Bursts:
    """Who asks for a model asks again soon: load that is correlated in time, model by model.

    Attributes:
        mean_requests: mean length of a burst, at least 1; lengths are geometric.
        mean_gap_s: mean time from one request of a burst to the next; gaps are exponential.
    """

    mean_requests: float
    mean_gap_s: float = 1.0

    def __post_init__(self) -> None:
        _check(self.mean_requests >= 1, "a burst has at least one request")
        _check(self.mean_gap_s >= 0, "the gaps of a burst are not negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Diurnal:
    """The rate follows a sine round its mean; it is at the mean, and rising, when the trace begins.

    Attributes:
        amplitude: of the sine, as a part of the mean rate, 0..1.
        period_s: of the sine.
    """

    amplitude: float
    period_s: float = DAY_S

    def __post_init__(self) -> None:
        _check(0 <= self.amplitude <= 1, "an amplitude is a part of the mean rate, from 0 to 1")
        _check(self.period_s > 0, "a period is positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashCrowd:
    """The least popular model takes a share of all requests for a while; they would have been for others.

    Attributes:
        start_s: when it begins.
        duration_s: how long it lasts.
        share: the part of the requests that it takes, 0..1.
    """

    start_s: float
    duration_s: float
    share: float

    def __post_init__(self) -> None:
        _check(0 <= self.share <= 1, "a share is a part of the requests, from 0 to 1")
        _check(self.duration_s >= 0, "no time is negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A job that asks for every model once, in the order of the catalog, besides all other requests.

    Attributes:
        start_s: when it begins for the first time.
        rate_per_s: requests a second while it lasts.
        period_s: from one beginning to the next.
    """

    start_s: float
    rate_per_s: float
    period_s: float = DAY_S

    def __post_init__(self) -> None:
        _check(self.rate_per_s > 0 and self.period_s > 0, "a sweep has a positive rate and a positive period")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests for models by a Zipf law, at Poisson times unless a part says otherwise.

    The popularity of the r-th most popular model is proportional to r ** -zipf_s. Popularity, size and place in the
    catalog are independent of each other.

    Attributes:
        requests: how many; those of a sweep come on top.
        models: how many.
        rate_per_s: mean requests a second.
        zipf_s: exponent of the Zipf law; 0 makes all models equally popular.
        size_median_bytes: median of the models' log-normal sizes.
        size_sigma: standard deviation of the logarithm of a size; 0 makes all models equally large.
        load_fixed_s: the part of a load's time that does not depend on the size.
        load_bytes_per_s: bandwidth, for the part that does.
        service_mean_s: mean time that a request runs once it has its model.
        service_varies: whether service times are exponential, or all the mean.
        bursts, diurnal, flash_crowd, sweep: see there; None for none.
        seed: of all that is random.
    """

    requests: int
    models: int
    rate_per_s: float
    zipf_s: float = 1.0
    size_median_bytes: float = 1e9
    size_sigma: float = 0.0
    load_fixed_s: float = 0.5
    load_bytes_per_s: float = 1e9
    service_mean_s: float = 0.05
    service_varies: bool = True
    bursts: Bursts | None = None
    diurnal: Diurnal | None = None
    flash_crowd: FlashCrowd | None = None
    sweep: Sweep | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.requests >= 0 and self.models >= 1, "a workload has at least one model")
        _check(self.rate_per_s > 0 and self.load_bytes_per_s > 0, "rate and bandwidth are positive")
        _check(self.size_median_bytes >= 1 and self.size_sigma >= 0, "a model has at least one byte")
        _check(self.load_fixed_s >= 0 and self.service_mean_s >= 0, "no time is negative")

    def trace(self) -> Trace:
        """The requests, drawn anew from the seed: the same each time."""
        # New streams of random numbers go to the end, or all traces would change.
        sizes, ranks, times, popular, crowd, service, swept = np.random.default_rng(self.seed).spawn(7)
        catalog = self._catalog(sizes)
        # Where in the catalog the most popular model is, the second, and so on.
        by_rank = ranks.permutation(self.models).astype(np.int32)
        lengths = self._burst_lengths(times)
        arrivals_s = self._arrivals_s(times, lengths)
        models = by_rank[self._popularity_ranks(popular, len(lengths))]
        if self.bursts is not None:
            order = np.argsort(arrivals_s, kind="stable")
            arrivals_s, models = arrivals_s[order], np.repeat(models, lengths)[order]
        if self.flash_crowd is not None:
            begin_s = self.flash_crowd.start_s
            at, end = np.searchsorted(arrivals_s, [begin_s, begin_s + self.flash_crowd.duration_s])
            models[at:end][crowd.random(end - at) < self.flash_crowd.share] = by_rank[-1]
        service_s = self._service_s(service, len(models))
        if self.sweep is not None and len(arrivals_s):
            begins_s = np.arange(self.sweep.start_s, arrivals_s[-1], self.sweep.period_s)
            sweep_s = np.add.outer(begins_s, np.arange(self.models) / self.sweep.rate_per_s).ravel()
            arrivals_s = np.concatenate([arrivals_s, sweep_s])
            models = np.concatenate([models, np.arange(len(sweep_s), dtype=np.int32) % self.models])
            service_s = np.concatenate([service_s, self._service_s(swept, len(sweep_s))])
            order = np.argsort(arrivals_s, kind="stable")
            arrivals_s, models, service_s = arrivals_s[order], models[order], service_s[order]
        return Trace(arrivals_s, models, service_s, catalog)

    def _catalog(self, rng: np.random.Generator) -> Catalog:
        sizes = self.size_median_bytes * np.exp(self.size_sigma * rng.standard_normal(self.models))
        size_bytes = np.maximum(1, np.rint(sizes)).astype(np.int64)
        load_s = self.load_fixed_s + size_bytes / self.load_bytes_per_s
        return Catalog([f"m{number}" for number in range(self.models)], size_bytes, load_s)

    def _popularity_ranks(self, rng: np.random.Generator, count: int) -> NDArray[np.intp]:
        """Ranks from 0, by inversion of the distribution."""
        cumulated = np.cumsum(np.arange(1, self.models + 1, dtype=np.float64) ** -self.zipf_s)
        # Never its end, or rounding could answer a rank that there is not.
        drawn = rng.random(count) * np.nextafter(cumulated[-1], 0)
        ranks: NDArray[np.intp] = np.searchsorted(cumulated, drawn, side="right")
        return ranks

    def _burst_lengths(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """How many requests come of each burst, `requests` together; without bursts, a burst is one request."""
        if self.bursts is None:
            return np.ones(self.requests, np.int64)
        # As many as there can be, since what is drawn later may not depend on how long the bursts turned out.
        ends = np.cumsum(rng.geometric(1 / self.bursts.mean_requests, self.requests))
        count = int(np.searchsorted(ends, self.requests)) + 1
        return np.diff(np.minimum(ends[:count], self.requests), prepend=0)

    def _arrivals_s(self, rng: np.random.Generator, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        """When each request arrives, burst by burst."""
        burst_rate_per_s = self.rate_per_s if self.bursts is None else self.rate_per_s / self.bursts.mean_requests
        starts_s = np.cumsum(rng.standard_exponential(len(lengths))) / burst_rate_per_s
        if self.diurnal is not None:
            starts_s = _warped_s(starts_s, self.diurnal)
        if self.bursts is None:
            return starts_s
        first = np.cumsum(lengths) - lengths
        elapsed_s = np.cumsum(rng.standard_exponential(self.requests)) * self.bursts.mean_gap_s
        arrivals_s: NDArray[np.float64] = elapsed_s + np.repeat(starts_s - elapsed_s[first], lengths)
        return arrivals_s

    def _service_s(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        if self.service_varies:
            return rng.standard_exponential(count) * self.service_mean_s
        return np.full(count, self.service_mean_s)


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _warped_s(times_s: NDArray[np.float64], diurnal: Diurnal) -> NDArray[np.float64]:
    """Times of a process at its mean rate, moved to where the process with the sinusoidal rate has as many behind it.

    A Poisson process stays one under a change of time (Çinlar, "Introduction to Stochastic Processes", 1975, chapter
    4). A whole period has as much in it as at the mean rate, so one period is enough to know.
    """
    phases = np.linspace(0.0, 1.0, _DIURNAL_STEPS + 1)
    passed = phases + diurnal.amplitude * (1 - np.cos(2 * np.pi * phases)) / (2 * np.pi)
    periods, rest = np.divmod(times_s / diurnal.period_s, 1.0)
    warped: NDArray[np.float64] = diurnal.period_s * (periods + np.interp(rest, passed, phases))
    return warped
