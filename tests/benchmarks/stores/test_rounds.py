"""Rounds, what fails in them, and what is written of them."""

import json
import tomllib
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.dataplane.processes import BenchmarkError
from benchmarks.dataplane.report import replace_between_markers
from benchmarks.stores import __main__ as program
from benchmarks.stores import report
from benchmarks.stores.clients import CLIENTS
from benchmarks.stores.memory import LOADERS
from benchmarks.stores.models import PLAIN
from benchmarks.stores.steps import Figures, Step, Stopwatch, in_process

ROOT = Path(__file__).parents[3]


def step(name: str, order: list[str], table: str = "Table") -> Step:
    def measure() -> dict[str, Figures]:
        order.append(name)
        return {name: {"s": float(len(order))}}

    return Step(table, name, measure)


def test_systems_take_turns() -> None:
    order: list[str] = []
    failures: list[str] = []
    results = program.run_rounds([step("a", order), step("b", order), step("c", order, "Other")], 2, failures)
    assert order == ["a", "b", "c", "a", "b", "c"]
    assert results["Table"] == [{"a": {"s": 1.0}, "b": {"s": 2.0}}, {"a": {"s": 4.0}, "b": {"s": 5.0}}]
    assert results["Other"] == [{"c": {"s": 3.0}}, {"c": {"s": 6.0}}]
    assert failures == []


def test_figures_of_a_system_add_up_within_a_round() -> None:
    steps = [Step("T", str(n), lambda n=n: {"a": {f"figure {n}": 1.0}}) for n in range(2)]  # type: ignore[misc]
    assert program.run_rounds(steps, 1, []) == {"T": [{"a": {"figure 0": 1.0, "figure 1": 1.0}}]}


def test_what_fails_is_named_and_the_rest_is_measured() -> None:
    def fail() -> dict[str, Figures]:
        raise BenchmarkError("it broke\nand its log")

    failures: list[str] = []
    results = program.run_rounds([Step("Table", "bad", fail), step("good", [])], 1, failures)
    assert results == {"Table": [{"good": {"s": 1.0}}]}
    assert failures == ["Table, bad: it broke"]


def test_a_group_that_cannot_be_prepared_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def group(folder: Path, sizes: object) -> None:
        raise BenchmarkError("no library")

    monkeypatch.setattr(program, "BENCH", tmp_path)
    monkeypatch.setattr(program, "GROUPS", {"fetch": group})
    assert program.run(Namespace(only="fetch", rounds=1, size_mib=0, quick=True)) == ["fetch: no library"]
    assert json.loads((tmp_path / "stores.json").read_text())["rounds"] == {}
    with pytest.raises(BenchmarkError, match="no group is called nothing"):
        program.run(Namespace(only="nothing", rounds=1, size_mib=0, quick=True))


def test_quick_is_small_and_a_size_of_ones_own_goes_before_it() -> None:
    small = program.sizes_of(Namespace(size_mib=0, quick=True))
    large = program.sizes_of(Namespace(size_mib=0, quick=False))
    assert (small.object_bytes, large.object_bytes) == (64 * 2**20, 2**30)
    assert small.model_bytes < large.model_bytes == 500_000_000
    assert program.sizes_of(Namespace(size_mib=5, quick=True)).object_bytes == 5 * 2**20


def test_each_system_has_a_column() -> None:
    systems = {*CLIENTS, *LOADERS, *(system for plain in PLAIN.values() for system in plain), "modelplex"}
    assert systems | {"constructed"} == report.TITLES.keys()


def test_tables_and_json() -> None:
    results: report.Results = {"Fetching": [{"modelplex": {"s": 2.0}, "boto3": {"s": 4.0}}], "Nothing": [{}]}
    text = report.markdown(results, ["a machine"])
    assert text.splitlines() == [
        "- a machine",
        "",
        "### Fetching",
        "",
        "| | Modelplex | boto3 |",
        "|---|---|---|",
        "| s | 2 | 4, 2x |",
    ]
    read = json.loads(report.as_json(results, ["a machine"]))
    assert read["rounds"]["Fetching"] == results["Fetching"]
    assert read["tables"]["Fetching"]["s"]["boto3"]["ratio"] == 2.0


def test_the_page_has_the_markers() -> None:
    assert "new" in replace_between_markers(program.PAGE.read_text(), "new")


def test_what_is_measured_is_installed_for_it() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    installed = " ".join(groups["bench"])
    assert [package for package in report.PACKAGES if package not in installed] == ["modelplex"]


def test_a_stopwatch_tells_wall_and_cpu() -> None:
    assert Stopwatch().figures("load").keys() == {"load, s", "load, CPU s"}


@pytest.mark.system
@pytest.mark.stores
def test_a_step_that_fails_says_why() -> None:
    with pytest.raises(BenchmarkError, match=r"ended with 1:(?s:.*)FileNotFoundError"):
        in_process("clients:measure", "nobody", "here", "/nonexistent/x/y", 0)
