"""What is made of what replicas say of themselves."""

import pytest

from modelplex.core.replica_load import ReplicaLoad
from modelplex.runtime import replica_reports
from modelplex.runtime.replica_reports import FADING, ReplicaReports
from modelplex.status import ReplicaLeaks
from modelplex.wire.messages import Leaks, Load


def load(uses: dict[str, int] | None = None, *loads: tuple[str, float], ongoing: float = 1.0) -> Load:
    return Load(ongoing, uses or {}, list(loads), 3)


def of(*names: str) -> ReplicaReports:
    reports = ReplicaReports()
    reports.follow(names, 0.0)
    return reports


def test_a_report_says_what_ran_and_for_how_long_it_has_been_there() -> None:
    reports = ReplicaReports()
    reports.follow(["r"], 10.0)
    assert reports.loaded("r", load({"a": 2}, ongoing=1.5), 14.0) == ReplicaLoad(1.5, {"a": 2}, 3, 0.0, 4.0)


def test_reloads_are_loads_of_models_that_were_loaded_before_wherever_that_was() -> None:
    reports = of("r", "s")
    first = reports.loaded("r", load({}, ("a", 1.0), ("b", 2.0)), 1.0)
    second = reports.loaded("s", load({}, ("b", 4.0), ("c", 8.0)), 1.0)
    third = reports.loaded("r", load({}, ("c", 16.0), ("a", 32.0)), 2.0)
    assert [report and report.reload_s for report in (first, second, third)] == [0.0, 4.0, 48.0]
    quiet = reports.loaded("r", load(), 3.0)
    assert quiet is not None
    assert quiet.reload_s == 0.0


def test_a_model_that_was_loaded_twice_in_one_report_was_reloaded_once() -> None:
    report = of("r").loaded("r", load({}, ("a", 1.0), ("a", 2.0)), 1.0)
    assert report is not None
    assert report.reload_s == 2.0


def test_models_are_forgotten_that_were_loaded_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_reports, "SEEN_MAX", 2)
    reports = of("r")
    for model_id in ("a", "b", "a", "c"):
        reports.loaded("r", load({}, (model_id, 1.0)), 1.0)
    again = [reports.loaded("r", load({}, (model_id, 1.0)), 1.0) for model_id in ("a", "b")]
    assert [report and report.reload_s for report in again] == [1.0, 0.0]


def test_models_are_in_the_order_of_their_use_of_late() -> None:
    reports = of("r")
    reports.loaded("r", load({"old": 10, "steady": 4, "idle": 0}), 1.0)
    assert reports.models("r") == {"": ["old", "steady", "idle"]}
    for at in range(2, 12):
        reports.loaded("r", load({"old": 0, "steady": 4, "idle": 0}), float(at))
    assert reports.models("r") == {"": ["steady", "old", "idle"]}
    reports.loaded("r", load({"idle": 1}), 12.0)
    assert reports.models("r") == {"": ["idle"]}  # what it does not hold any more is not its own


def test_use_fades_with_time_although_an_idle_replica_reports_nothing() -> None:
    reports = of("busy", "idle")
    reports.loaded("idle", load({"a": 50}), 0.0)
    for at in range(60):
        reports.loaded("busy", load({"b": 5}), float(at))
    by_models = reports.by_models(["busy", "idle"], 60.0)
    assert by_models["idle"].models["a"] == pytest.approx(50 * FADING**60)
    assert by_models["idle"].models["a"] < by_models["busy"].models["b"]
    assert by_models["busy"].age_s == 60.0


def test_it_is_the_same_whether_an_idle_replica_says_so_or_not() -> None:
    reports = of("says", "silent")
    for name in ("says", "silent"):
        reports.loaded(name, load({"a": 8}), 0.0)
    for at in range(1, 10):
        reports.loaded("says", load({"a": 0}), float(at))
    by_models = reports.by_models(["says", "silent"], 10.0)
    assert by_models["says"].models["a"] == pytest.approx(by_models["silent"].models["a"])


def test_those_that_do_not_run_are_not_listened_to() -> None:
    reports = of("r", "s")
    reports.loaded("r", load({"a": 1}), 1.0)
    assert reports.follow(["s", "t"], 2.0) == {"r"}
    assert reports.loaded("r", load({"a": 1}, ("a", 1.0)), 3.0) is None
    reports.leaked("r", Leaks(5, []))
    assert (reports.models("r"), reports.leaks) == ({}, {})
    assert reports.by_models(["r"], 3.0) == {"r": ReplicaLoad()}
    came = reports.loaded("t", load({}, ("a", 1.0)), 3.0)
    assert came is not None
    assert (came.age_s, came.reload_s) == (1.0, 0.0)  # what a replica that is gone says late counts nowhere


def test_one_that_comes_back_by_its_name_begins_anew() -> None:
    reports = of("r")
    reports.loaded("r", load({"a": 1}), 1.0)
    reports.follow([], 2.0)
    reports.follow(["r"], 3.0)
    assert reports.models("r") == {"": []}
    assert reports.by_models(["r"], 4.0)["r"].age_s == 1.0


def test_following_the_same_changes_nothing() -> None:
    reports = of("r")
    reports.loaded("r", load({"a": 1}), 1.0)
    assert reports.follow(["r"], 2.0) == set()
    assert reports.models("r") == {"": ["a"]}


def test_what_runs_on_all() -> None:
    reports = of("r", "s", "t")
    reports.loaded("r", load(ongoing=1.5), 1.0)
    reports.loaded("s", load(ongoing=2.0), 1.0)
    assert reports.ongoing == 3.5
    reports.follow(["s"], 2.0)
    assert reports.ongoing == 2.0


def test_those_that_leak() -> None:
    reports = of("r", "s")
    reports.leaked("r", Leaks(300, [("a", 200), ("b", 100)]))
    reports.leaked("s", Leaks(0, []))
    assert reports.leaks == {"r": ReplicaLeaks(300, {"a": 200, "b": 100})}
    reports.leaked("r", Leaks(0, []))
    assert reports.leaks == {}


def test_models_of_several_loaders_are_told_apart() -> None:
    reports = ReplicaReports()
    reports.follow(["r"], 0.0)
    reports.loaded("r", Load(0.0, {"a": 1, "b": 2, "c": 0}, [], 3, {"get": ["a", "b"], "other": ["c", "a"]}), 1.0)
    assert reports.models("r") == {"get": ["b", "a"], "other": ["a", "c"]}
