"""Pictures of a running system in a terminal."""

import io
import time
from typing import Any

import pytest
from rich.console import Console

from modelplex import top


def loader(number: int, **more: Any) -> dict[str, Any]:
    models = [{"id": f"m{number}", "state": "resident"}]
    return {
        "name": "get_model",
        "models_max": 4,
        "bytes_max": -1,
        "size_bytes": 3 * 2**20,
        "total": 1,
        "models": models,
        **more,
    }


def replica(number: int, **more: Any) -> dict[str, Any]:
    return {
        "replica": f"default_Shop#{number}",
        "ongoing": 1,
        "max_ongoing": 5,
        "retiring": False,
        "loaders": [loader(number)],
        **more,
    }


def state(replicas: int = 2, **more: Any) -> dict[str, Any]:
    return {
        "time": 1000.0,
        "status": {"address": "http://127.0.0.1:8000", "applications": {"default": {"status": "RUNNING"}}},
        "replicas": [replica(number) for number in range(replicas)],
        "traffic": {"warm": 90, "cold": 6, "joined": 4, "none": 5, "errors": 1, "queued": 3},
        "slowest_loads": [
            {"model_id": f"slow{n}", "replica": "default_Shop#0", "load_s": 9 - n, "at": 0} for n in range(10)
        ],
        "decisions": [
            {"at": 1000 - n, "text": f"decision {n} " + "x" * 200, "kind": "", "model_id": "", "why": ""}
            for n in range(50)
        ],
        **more,
    }


def drawn(
    found: dict[str, Any], before: dict[str, Any] | None = None, *, columns: int = 80, lines: int = 24
) -> list[str]:
    console = Console(width=columns, height=lines, color_system=None, force_terminal=False)
    return top.text_of(top.frame(found, None, lines), console).splitlines()


@pytest.mark.parametrize("replicas", [0, 1, 2, 10, 200])
@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (60, 15), (200, 50)])
def test_a_picture_fits_the_terminal_however_much_there_is(replicas: int, columns: int, lines: int) -> None:
    found = drawn(state(replicas), columns=columns, lines=lines)
    assert len(found) <= lines
    assert max(map(len, found)) <= columns
    text = "\n".join(found)
    assert "RUNNING" in text
    assert "slow0" in text
    assert "decision 0" in text
    shown = text.count("1/5")
    assert shown >= min(replicas, 2)
    assert (f"and {replicas - shown} more" in text) == (shown < replicas)


def test_traffic_is_a_second_and_of_what_met_a_model() -> None:
    assert top.traffic(state(), None) == "105 requests so far  hits 90.0%  cold 6  errors 1  queued 3"
    later = state(time=1002.0, traffic={"warm": 96, "cold": 8, "joined": 4, "none": 7, "errors": 1, "queued": 0})
    assert top.traffic(later, state()) == "5 requests/s  hits 75.0%  cold 2  errors 0  queued 0"
    idle = state(time=1003.0, traffic=later["traffic"])
    assert top.traffic(idle, later) == "0 requests/s  hits -  cold 0  errors 0  queued 0"
    fallen = state(time=1004.0, traffic=dict.fromkeys(later["traffic"], 0))  # a controller that has begun anew
    assert top.traffic(fallen, idle).startswith("0 requests/s")


def test_what_a_replica_does_is_said_and_its_budget_is_drawn() -> None:
    loading = replica(1, loaders=[loader(1, models=[{"id": "m", "state": "loading"}], bytes_max=6 * 2**20)])
    lines = drawn({**state(), "replicas": [replica(0, retiring=True), loading, replica(2, loaders=[])]})
    [retiring] = [line for line in lines if "Shop#0" in line and "retiring" in line]
    [half] = [line for line in lines if "loading" in line]
    assert "1/4" in retiring
    assert "3.0MiB/6.0MiB" in half
    assert any("Shop#2" in line for line in lines)


def test_markup_in_names_means_nothing() -> None:
    text = "\n".join(drawn(state(slowest_loads=[{"model_id": "[bold]x", "replica": "r", "load_s": 1, "at": 0}])))
    assert "[bold]x" in text


def test_a_table_has_columns_as_wide_as_what_is_in_them_and_no_control_characters() -> None:
    assert (
        top.table(("A", "B"), [("long name", "1"), ("x", "\x1b[2J")]) == "A          B\nlong name  1\nx          ?[2J"
    )


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (2**30, "1.0GiB"), (2**50, "1024.0TiB")]
)
def test_sizes(size: int, text: str) -> None:
    assert top.size(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.35, "350ms"), (12, "12s"), (60, "1m"), (7200, "2h"), (172800, "2d")])
def test_durations(seconds: float, text: str) -> None:
    assert top.duration(seconds) == text


def test_pictures_follow_each_other_until_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter([state(), state(time=1001.0)])

    def ask() -> dict[str, Any]:
        try:
            return next(states)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(time, "sleep", lambda _: None)
    drawn_on = io.StringIO()
    console = Console(file=drawn_on, force_terminal=True, color_system=None, width=80, height=24)
    top.show(ask, 1.0, once=False, console=console)
    said = drawn_on.getvalue()
    assert "105 requests so far" in said
    assert "0 requests/s" in said


def test_one_picture_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def ask() -> dict[str, Any]:
        asked.append(1)
        return state()

    top.show(ask, 1.0, once=True)
    assert "105 requests so far" in capsys.readouterr().out
    assert len(asked) == 1
