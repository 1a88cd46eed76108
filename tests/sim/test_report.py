"""What people and programs are told of a plan."""

import dataclasses
import json
import math
import re
from typing import Any

import numpy as np
import pytest

from modelplex.sim.log import Log
from modelplex.sim.planner import Plan
from modelplex.sim.prediction import Candidate, Prediction, Question
from modelplex.sim.report import duration, percent, size, text, to_json, why_not
from modelplex.sim.trace import Catalog, Trace

GIB = 2**30


def trace(requests: int = 1_000, models: int = 4, service_s: float = 0.05, load_s: float = 0.5) -> Trace:
    catalog = Catalog([f"m{n}" for n in range(models)], np.full(models, GIB), np.full(models, load_s))
    numbers = np.arange(requests)
    return Trace(
        np.linspace(0.0, 0.1 * (requests - 1), requests),
        (numbers % models).astype(np.int32),
        np.full(requests, service_s),
        catalog,
    )


def question(asked: Trace | None = None, **more: Any) -> Question:
    given: dict[str, Any] = {"p99_s": 0.2, "replicas": [1, 3], "sizes": [GIB, 4 * GIB], "in_bytes": True}
    return Question(trace=asked or trace(), **given | more)


def prediction(replicas: int = 3, size: int = 4 * GIB, eviction: str = "gdsf", **more: Any) -> Prediction:
    found = Prediction(
        candidate=Candidate(replicas=replicas, size=size, eviction=eviction),
        cold_ratio=0.0214,
        loads=1_200,
        load_time_s=612.0,
        p50_s=0.0125,
        p99_s=0.1432,
        utilisation=0.317,
    )
    return dataclasses.replace(found, **more)


def answered() -> Plan:
    answer, other = prediction(), prediction(1, 16 * GIB, "lru", p99_s=0.19)
    blind = prediction(p99_s=3.0)
    blind = dataclasses.replace(blind, candidate=dataclasses.replace(blind.candidate, router="model-blind"))
    return Plan(question=question(), predictions=[other, answer], answer=answer, baselines=[blind], offline_loads=900.0)


LOG = Log(trace(), 0.025, 7)


def test_the_whole_text() -> None:
    assert text(LOG, answered()).splitlines() == [
        "1,000 requests for 4 models of 4.00 GiB in 99.9 s; 7 left out",
        "",
        "replicas  memory each  policy        cold  loads  load time      p50     p99  busy slots",
        "       1     16.0 GiB  lru          2.14%  1,200      612 s  12.5 ms  190 ms       31.7%",
        "       3     4.00 GiB  gdsf         2.14%  1,200      612 s  12.5 ms  143 ms       31.7%  <- cheapest",
        "       3     4.00 GiB  model-blind  2.14%  1,200      612 s  12.5 ms  3.00 s       31.7%",
        "",
        "3 replicas of 4.00 GiB with gdsf: p99 143 ms, 2.14% cold.",
        "The offline optimum, one cache with all of that memory, has at least 900 loads; this has 1,200, of which "
        "25.0% at most could be saved.",
    ]


def test_without_a_target_it_is_compared_with_the_log() -> None:
    candidate = Candidate(replicas=1, size=2, eviction="lru")
    asked = question(p99_s=None, in_bytes=False, sizes=[1, 4], evictions=["lru"])
    found = Plan(question=asked, predictions=[prediction(3, 4, "lru")], overloaded=[candidate])
    lines = text(LOG, found).splitlines()
    assert lines[0] == "1,000 requests for 4 models in 99.9 s; 7 left out"
    assert lines[3].startswith("       3     4 models  lru ")
    assert lines[4] == "       1     2 models  lru     overloaded"
    assert lines[-1] == "Cold in the log: 2.50%; predicted: 2.14%."
    assert "Cold in the log" not in text(dataclasses.replace(LOG, cold_ratio=None), found)


@pytest.mark.parametrize(
    ("asked", "largest", "says"),
    [
        (question(trace(service_s=0.3)), None, "The p99 of the service time alone is 300 ms"),
        (question(sizes=[GIB // 4, GIB // 2]), None, "takes 1.00 GiB, and no replica has more than 512 MiB"),
        (
            question(trace(service_s=0.19), replicas=[1], max_ongoing=1),
            None,
            r"keep 1\.9 busy on average, and 1 replica of 1 have 1\.",
        ),
        (question(trace(requests=100)), None, r"4\.00% of the requests are the first for their model"),
        (question(), prediction(loads=4), r"0\.40% of the requests are the first for their model"),
        (question(), None, "3 replicas of 4.00 GiB cannot keep up"),
        (question(), prediction(p99_s=0.43), "too little: 3 replicas of 4.00 GiB with gdsf: p99 430 ms, 2.14% cold"),
    ],
)
def test_it_says_what_keeps_every_fleet_from_the_target(asked: Question, largest: Any, says: str) -> None:
    found = Plan(question=asked, predictions=[], largest=largest)
    assert re.search(says, why_not(found))
    log = Log(asked.trace, None, 0)
    assert text(log, found).splitlines()[-1].startswith("No fleet answers 99% of the requests within 200 ms. ")
    assert json.loads(to_json(log, found))["reason"] == why_not(found)


def test_json_has_stable_names_with_units() -> None:
    found = json.loads(to_json(LOG, answered()))
    assert found["answer"] == found["fleets"][1] == {
        "replicas": 3,
        "max_bytes_per_replica": 4 * GIB,
        "max_num_models_per_replica": None,
        "eviction": "gdsf",
        "router": "modelplex",
        "cold_ratio": 0.0214,
        "loads": 1_200,
        "load_time_s": 612.0,
        "p50_s": 0.0125,
        "p99_s": 0.1432,
        "utilisation": 0.317,
    }  # fmt: skip
    assert [fleet["router"] for fleet in found["fleets"]] == ["modelplex", "modelplex", "model-blind"]
    del found["answer"], found["fleets"]
    assert found == {
        "requests": 1_000,
        "requests_left_out": 7,
        "models": 4,
        "span_s": pytest.approx(99.9),
        "working_set_bytes": 4 * GIB,
        "recorded_cold_ratio": 0.025,
        "target_p99_s": 0.2,
        "max_ongoing_requests": 5,
        "reason": None,
        "offline_loads_min": 900.0,
        "overloaded": [],
    }


def test_json_has_no_infinity_and_counts_models_where_the_plan_does() -> None:
    asked = question(p99_s=None, in_bytes=False, sizes=[4])
    found = Plan(question=asked, predictions=[prediction(3, 4, p99_s=math.inf)])
    [fleet] = json.loads(to_json(LOG, found))["fleets"]
    assert (fleet["max_bytes_per_replica"], fleet["max_num_models_per_replica"], fleet["p99_s"]) == (None, 4, None)


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (0.0012, "1.20 ms"), (0.01251, "12.5 ms"), (0.1432, "143 ms"), (0.9999, "1000 ms"), (1, "1.00 s"),
        (9.999, "10.0 s"), (99.96, "100 s"), (math.inf, "never"),
    ],
)  # fmt: skip
def test_durations_have_three_digits(seconds: float, says: str) -> None:
    assert duration(seconds) == says


@pytest.mark.parametrize(
    ("amount", "says"), [(1, "1.00 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (5 * GIB // 2, "2.50 GiB")]
)
def test_sizes_have_units(amount: int, says: str) -> None:
    assert size(question(), amount) == says
    assert size(question(in_bytes=False), 1) == "1 model"


def test_percentages() -> None:
    assert [percent(ratio) for ratio in (0.00214, 0.0999, 0.1, 1.0)] == ["0.21%", "9.99%", "10.0%", "100.0%"]
