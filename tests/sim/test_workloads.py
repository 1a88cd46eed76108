"""Traces have the statistics that were asked for, and each part of a workload changes only what it is about."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from modelplex.sim.trace import Trace
from modelplex.sim.workloads import Bursts, Diurnal, FlashCrowd, Sweep, Workload

PLAIN = Workload(requests=100_000, models=50, rate_per_s=20.0, seed=1)


def with_part(**parts: object) -> Trace:
    return dataclasses.replace(PLAIN, **parts).trace()  # type: ignore[arg-type]


def counts(trace: Trace) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.bincount(trace.models, minlength=len(trace.catalog))


def test_equal_workloads_give_equal_traces_and_other_seeds_others() -> None:
    trace, again, other = PLAIN.trace(), PLAIN.trace(), with_part(seed=2)
    for column in ("arrivals_s", "models", "service_s"):
        assert np.array_equal(getattr(trace, column), getattr(again, column))
        assert not np.array_equal(getattr(trace, column), getattr(other, column))


@pytest.mark.parametrize("zipf_s", [0.0, 0.8, 1.0, 1.3])
def test_popularity_follows_a_zipf_law(zipf_s: float) -> None:
    seen = np.sort(counts(with_part(zipf_s=zipf_s)))[::-1] / PLAIN.requests
    weights = [rank**-zipf_s for rank in range(1, 51)]
    for share, weight in zip(seen, weights, strict=True):
        expected = weight / sum(weights)
        assert share == pytest.approx(expected, abs=5 * math.sqrt(expected / PLAIN.requests))


def test_neither_the_place_in_the_catalog_nor_the_size_tells_the_popularity() -> None:
    trace = with_part(models=2_000, size_sigma=1.0)
    popularity = np.log1p(counts(trace))
    for other in (np.arange(2_000), np.log(trace.catalog.size_bytes)):
        assert abs(np.corrcoef(popularity, other)[0, 1]) < 0.1


def test_requests_arrive_as_a_poisson_process() -> None:
    trace = PLAIN.trace()
    gaps_s = np.diff(trace.arrivals_s)
    assert len(trace) == PLAIN.requests
    assert gaps_s.mean() == pytest.approx(1 / 20.0, rel=0.02)
    assert gaps_s.std() == pytest.approx(1 / 20.0, rel=0.02)
    assert abs(np.corrcoef(gaps_s[1:], gaps_s[:-1])[0, 1]) < 0.02


def test_sizes_are_log_normal_and_loads_take_a_fixed_time_and_one_for_each_byte() -> None:
    catalog = with_part(
        models=20_000, size_median_bytes=4e9, size_sigma=0.7, load_fixed_s=2.0, load_bytes_per_s=5e8
    ).catalog
    logs = np.log(catalog.size_bytes)
    assert np.median(logs) == pytest.approx(math.log(4e9), abs=0.03)
    assert logs.std() == pytest.approx(0.7, rel=0.03)
    assert catalog.load_s == pytest.approx(2.0 + catalog.size_bytes / 5e8)
    assert len(set(catalog.ids)) == 20_000


def test_models_are_equally_large_unless_told_otherwise() -> None:
    assert set(with_part(size_median_bytes=3e9).catalog.size_bytes) == {3_000_000_000}


def test_service_times_are_exponential_or_all_the_mean() -> None:
    service_s = with_part(service_mean_s=0.2).service_s
    assert service_s.mean() == pytest.approx(0.2, rel=0.02)
    assert service_s.std() == pytest.approx(0.2, rel=0.02)
    assert set(with_part(service_mean_s=0.2, service_varies=False).service_s) == {0.2}


def test_with_another_rate_the_same_requests_come_faster() -> None:
    slow, fast = PLAIN.trace(), with_part(rate_per_s=40.0)
    assert fast.arrivals_s == pytest.approx(slow.arrivals_s / 2)
    assert np.array_equal(fast.models, slow.models)
    assert np.array_equal(fast.service_s, slow.service_s)


def test_what_one_aspect_draws_changes_no_other() -> None:
    plain, more_models = PLAIN.trace(), with_part(models=80)
    assert np.array_equal(plain.arrivals_s, more_models.arrivals_s)
    assert np.array_equal(plain.service_s, more_models.service_s)
    sized, in_bursts = with_part(size_sigma=1.0), with_part(size_sigma=1.0, bursts=Bursts(mean_requests=4.0))
    assert np.array_equal(sized.catalog.size_bytes, in_bursts.catalog.size_bytes)
    assert np.array_equal(sized.service_s, in_bursts.service_s)


# Bursts


def bursts_of(trace: Trace, apart_s: float) -> tuple[list[int], list[float]]:
    """Lengths of the bursts, and gaps within; requests for one model are one burst unless they are far apart."""
    lengths: list[int] = []
    gaps: list[float] = []
    order = np.lexsort((trace.arrivals_s, trace.models))
    last_model, last_s = -1, 0.0
    for model, arrived in zip(trace.models[order].tolist(), trace.arrivals_s[order].tolist(), strict=True):
        if model == last_model and arrived - last_s < apart_s:
            lengths[-1] += 1
            gaps.append(arrived - last_s)
        else:
            lengths.append(1)
        last_model, last_s = model, arrived
    return lengths, gaps


def test_bursts_have_geometric_lengths_and_exponential_gaps_and_keep_the_rate() -> None:
    # So many models that two bursts of one are far from each other.
    trace = with_part(models=100_000, zipf_s=0.0, bursts=Bursts(mean_requests=4.0, mean_gap_s=0.5))
    lengths, gaps_s = bursts_of(trace, apart_s=10.0)
    assert len(trace) == PLAIN.requests
    assert np.mean(lengths) == pytest.approx(4.0, rel=0.03)
    for length in (1, 2, 3):
        assert lengths.count(length) / len(lengths) == pytest.approx(0.25 * 0.75 ** (length - 1), abs=0.01)
    assert np.mean(gaps_s) == pytest.approx(0.5, rel=0.03)
    assert np.std(gaps_s) == pytest.approx(0.5, rel=0.05)
    assert trace.arrivals_s[-1] == pytest.approx(PLAIN.requests / PLAIN.rate_per_s, rel=0.03)


def test_bursts_leave_popularity_as_it_is() -> None:
    seen = np.sort(counts(with_part(bursts=Bursts(mean_requests=4.0))))[::-1] / PLAIN.requests
    weights = [1 / rank for rank in range(1, 51)]
    assert seen[:5] == pytest.approx([weight / sum(weights) for weight in weights[:5]], rel=0.1)


# Diurnal


def test_the_rate_follows_a_sine_and_keeps_its_mean() -> None:
    trace = with_part(diurnal=Diurnal(amplitude=0.6, period_s=500.0))
    phases = trace.arrivals_s[trace.arrivals_s < 4500.0] / 500.0 % 1.0
    seen = np.histogram(phases, bins=10, range=(0, 1))[0] / len(phases)
    edges = np.linspace(0, 1, 11)
    expected = 0.1 - 0.6 * np.diff(np.cos(2 * np.pi * edges)) / (2 * np.pi)
    assert seen == pytest.approx(expected, abs=0.005)
    assert trace.arrivals_s[-1] == pytest.approx(PLAIN.requests / PLAIN.rate_per_s, rel=0.03)


def test_the_rate_may_fall_to_nothing() -> None:
    phases = with_part(diurnal=Diurnal(amplitude=1.0, period_s=500.0)).arrivals_s / 500.0 % 1.0
    assert np.histogram(phases, bins=100, range=(0, 1))[0][74:76].sum() < 20


# Flash crowd


def test_a_flash_crowd_gives_the_least_popular_model_its_share_for_its_time() -> None:
    trace, before = with_part(flash_crowd=FlashCrowd(start_s=1000.0, duration_s=500.0, share=0.4)), PLAIN.trace()
    during = (trace.arrivals_s >= 1000.0) & (trace.arrivals_s < 1500.0)
    changed = trace.models != before.models
    assert not changed[~during].any()
    (hot,) = set(trace.models[changed].tolist())
    assert counts(before)[hot] <= np.sort(counts(before))[10]
    assert (trace.models[during] == hot).mean() == pytest.approx(0.4, abs=0.03)
    assert np.array_equal(trace.arrivals_s, before.arrivals_s)


# Sweep


def test_a_sweep_asks_for_every_model_once_in_a_row_on_top_of_the_rest() -> None:
    trace, rest = with_part(sweep=Sweep(start_s=100.0, rate_per_s=5.0, period_s=2000.0)), PLAIN.trace()
    added = ~np.isin(trace.arrivals_s, rest.arrivals_s)
    for column in ("arrivals_s", "models", "service_s"):
        assert np.array_equal(getattr(trace, column)[~added], getattr(rest, column))
    begins_s = [100.0, 2100.0, 4100.0]
    assert rest.arrivals_s[-1] < 6100.0
    assert trace.models[added].tolist() == list(range(50)) * len(begins_s)
    assert trace.arrivals_s[added] == pytest.approx([begin + at / 5.0 for begin in begins_s for at in range(50)])
    assert trace.service_s[added].mean() == pytest.approx(PLAIN.service_mean_s, rel=0.4)


# All of them


def test_parts_can_be_combined() -> None:
    trace = with_part(
        bursts=Bursts(mean_requests=3.0),
        diurnal=Diurnal(amplitude=0.5, period_s=1000.0),
        flash_crowd=FlashCrowd(start_s=1000.0, duration_s=200.0, share=0.5),
        sweep=Sweep(start_s=0.0, rate_per_s=10.0, period_s=100_000.0),
    )
    assert len(trace) == PLAIN.requests + PLAIN.models
    assert np.all(np.diff(trace.arrivals_s) >= 0)
    during = (trace.arrivals_s >= 1000.0) & (trace.arrivals_s < 1200.0)
    assert np.bincount(trace.models[during]).max() / during.sum() == pytest.approx(0.5, abs=0.05)


def test_a_workload_may_be_empty() -> None:
    everything = {"bursts": Bursts(mean_requests=2.0), "sweep": Sweep(start_s=0.0, rate_per_s=1.0)}
    assert len(with_part(requests=0)) == len(with_part(requests=0, **everything)) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: with_part(models=0),
        lambda: with_part(requests=-1),
        lambda: with_part(rate_per_s=0.0),
        lambda: with_part(size_median_bytes=0.0),
        lambda: with_part(service_mean_s=-1.0),
        lambda: Bursts(mean_requests=0.5),
        lambda: Bursts(mean_requests=2.0, mean_gap_s=-1.0),
        lambda: Diurnal(amplitude=1.1),
        lambda: Diurnal(amplitude=0.5, period_s=0.0),
        lambda: FlashCrowd(start_s=0.0, duration_s=1.0, share=1.5),
        lambda: FlashCrowd(start_s=0.0, duration_s=-1.0, share=0.5),
        lambda: Sweep(start_s=0.0, rate_per_s=0.0),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        wrong()
