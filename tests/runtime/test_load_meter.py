"""What a replica counts between two reports."""

import random

import pytest

from modelplex.runtime import load_meter
from modelplex.runtime.load_meter import LoadMeter


class Clock:
    """In place of the module `time`."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(load_meter, "time", made)
    return made


def test_a_long_request_counts_in_every_interval_that_it_runs_in(clock: Clock) -> None:
    meter = LoadMeter()
    clock.now += 0.25
    began = clock.now
    means: list[float] = []
    for _ in range(3):
        clock.now = 100.0 + len(means) + 1
        means.append(meter.take([began], [], 3).ongoing)
    clock.now += 0.5
    meter.ended(began, "")
    clock.now += 0.5
    means.append(meter.take([], [], 3).ongoing)
    clock.now += 1
    means.append(meter.take([], [], 3).ongoing)
    assert means == [0.75, 1.0, 1.0, 0.5, 0.0]


def test_requests_within_an_interval_count_for_as_long_as_they_ran(clock: Clock) -> None:
    meter = LoadMeter()
    for _ in range(4):
        began = clock.now
        clock.now += 0.1
        meter.ended(began, "")
    clock.now += 0.4  # 0.4 s of 0.8 s
    assert meter.take([], [], 3).ongoing == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_is_exact_whatever_overlaps(clock: Clock, seed: int) -> None:
    rng = random.Random(seed)
    meter = LoadMeter()
    running: list[float] = []
    spans: list[tuple[float, float]] = []
    taken_at = clock.now
    for _ in range(300):
        clock.now += rng.random()
        what = rng.random()
        if what < 0.4:
            running.append(clock.now)
        elif what < 0.8 and running:
            began = running.pop(rng.randrange(len(running)))
            meter.ended(began, "")
            spans.append((began, clock.now))
        else:
            all_spans = [*spans, *((began, clock.now) for began in running)]
            ran_s = sum(max(0.0, min(end, clock.now) - max(began, taken_at)) for began, end in all_spans)
            mean = meter.take(running, [], 3).ongoing
            assert mean == pytest.approx(ran_s / (clock.now - taken_at), abs=1e-4)
            taken_at = clock.now


def test_two_takes_at_one_moment_divide_by_nothing(clock: Clock) -> None:
    meter = LoadMeter()
    assert meter.take([clock.now], [], 3).ongoing == 0.0


def test_uses_are_of_what_is_held_and_since_the_last_time(clock: Clock) -> None:
    meter = LoadMeter()
    for model_id in ("a", "a", "b", "evicted", ""):
        meter.ended(clock.now, model_id)
    assert meter.take([], ["b", "a", "idle"], 3).uses == {"b": 1, "a": 2, "idle": 0}
    assert meter.take([], ["a"], 3).uses == {"a": 0}


def test_loads_are_told_once(clock: Clock) -> None:
    meter = LoadMeter()
    meter.loads.append(("a", 0.5))
    report = meter.take([], [], -1)
    assert (report.loads, report.models_max) == ([("a", 0.5)], -1)
    meter.loads.append(("b", 1.5))
    assert report.loads == [("a", 0.5)]
    assert meter.take([], [], -1).loads == [("b", 1.5)]


def test_of_very_many_models_those_are_told_that_were_used(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_meter, "MODELS_MAX", 2)
    meter = LoadMeter()
    for model_id in ("c", "c", "d"):
        meter.ended(clock.now, model_id)
    assert meter.take([], ["a", "b", "c", "d"], -1).uses == {"c": 2, "d": 1}
