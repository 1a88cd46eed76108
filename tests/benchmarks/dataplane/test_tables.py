"""The page that a run writes into."""

import json
from pathlib import Path

import pytest

from benchmarks.dataplane import report
from benchmarks.dataplane.figures import Round, summarize

TITLES = {"modelplex": "Modelplex", "idle": "Idle", "other": "Other"}
ROUND: Round = {"modelplex": {"rate": 4.0}, "other": {"rate": 1.0, "memory": 2.0}}


def test_a_row_for_each_figure_and_a_column_for_each_system_that_was_measured() -> None:
    assert report.table(summarize([ROUND]), TITLES).splitlines() == [
        "| | Modelplex | Other |",
        "|---|---|---|",
        "| rate | 4 | 1, 0.25x |",
        "| memory |  | 2 |",
    ]


def test_replicas_without_figures_have_no_table() -> None:
    text = report.markdown({1: [ROUND], 2: [{}], 3: []}, TITLES, ["a machine", "versions"])
    assert text.startswith("- a machine\n- versions\n\n### 1 replica\n\n| |")
    assert text.count("###") == 1


def test_what_stands_between_the_markers_is_replaced_and_the_rest_stays() -> None:
    page = f"# Page\n\n{report.BEGIN}\nold\n{report.END}\n\nThe rest.\n"
    once = report.replace_between_markers(page, "new")
    assert once == f"# Page\n\n{report.BEGIN}\n\nnew\n\n{report.END}\n\nThe rest.\n"
    assert report.replace_between_markers(once, "new") == once


@pytest.mark.parametrize(
    "page",
    [
        "no markers",
        report.BEGIN,
        report.END + report.BEGIN,
        report.BEGIN + report.BEGIN + report.END,
        report.BEGIN + report.END + report.END,
    ],
)
def test_a_page_without_its_markers_is_not_touched(page: str) -> None:
    with pytest.raises(ValueError, match="must have the lines"):
        report.replace_between_markers(page, "new")


def test_the_page_of_figures_has_the_markers() -> None:
    page = Path(__file__).parents[3] / "docs" / "performance.md"
    assert "new" in report.replace_between_markers(page.read_text(), "new")


def test_programs_get_each_round_and_what_they_come_to() -> None:
    read = json.loads(report.as_json({1: [ROUND]}, ["a machine"]))
    assert read["described"] == ["a machine"]
    assert read["rounds"]["1"] == [ROUND]
    assert read["replicas"]["1"]["rate"]["other"] == {"median": 1.0, "least": 1.0, "most": 1.0, "ratio": 0.25}
