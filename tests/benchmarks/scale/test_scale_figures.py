"""What the benchmark of many replicas measures without other processes, at small sizes."""

import argparse

import pytest

from benchmarks.scale import simulated, state, table
from benchmarks.scale.__main__ import GROUPS, markdown


def test_what_a_start_sends_grows_no_faster_than_processes_times_replicas() -> None:
    few, many = (table.figures(replicas, 10, 0.1) for replicas in (50, 200))
    assert many["start: MB"] < 20 * few["start: MB"]
    assert many["one dies and is replaced: MB"] < 6 * few["one dies and is replaced: MB"]


def test_routing_state_grows_with_the_models_held() -> None:
    found = state.figures(replicas=20, models=10)
    assert 0 < found["bytes per model held"] < 2000
    assert 0 < found["bytes per replica"] < 10_000


def test_a_simulation_has_a_figure_for_each_kind_of_message() -> None:
    scenario = simulated.Scenario(replicas=10, routers=3, models=200, rate_per_s=200.0, requests=20_000)
    found = simulated.simulate(scenario)
    assert found["Answer per router/s"] == pytest.approx(200 / 3, rel=0.3)
    assert found["messages per router/s"] > 2 * found["Answer per router/s"]


def test_each_group_has_its_rows_in_the_table() -> None:
    options = argparse.Namespace(quick=True)
    columns = dict(GROUPS["table"](options))
    text = markdown(columns)
    assert all(name in text for figures in columns.values() for name in figures)
