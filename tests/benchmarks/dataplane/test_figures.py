"""Medians, spreads and ratios."""

import pytest

from benchmarks.dataplane.figures import Round, Summary, number, summarize

RATE, MEMORY = "requests/s", "memory, MiB"


def test_the_ratio_is_taken_within_each_round() -> None:
    """A machine that is twice as slow in one round changes no ratio; that of the medians would be 0.3."""
    rounds = [
        {"modelplex": {RATE: 1000.0}, "other": {RATE: 500.0}},
        {"modelplex": {RATE: 500.0}, "other": {RATE: 250.0}},
        {"modelplex": {RATE: 900.0}, "other": {RATE: 270.0}},
    ]
    assert summarize(rounds)[RATE] == {
        "modelplex": Summary(900.0, 500.0, 1000.0, None),
        "other": Summary(270.0, 250.0, 500.0, 0.5),
    }


def test_a_figure_that_one_system_lacks_has_neither_cell_nor_ratio() -> None:
    rounds: list[Round] = [{"other": {RATE: 1.0, MEMORY: 2.0}, "modelplex": {RATE: 4.0}}]
    found = summarize(rounds)
    assert list(found) == [RATE, MEMORY]
    assert found[MEMORY] == {"other": Summary(2.0, 2.0, 2.0, None)}
    assert found[RATE]["other"].ratio == 0.25


def test_a_round_that_ended_early_is_left_out() -> None:
    rounds: list[Round] = [{"modelplex": {RATE: 2.0}, "other": {RATE: 4.0}}, {"modelplex": {RATE: 6.0}}]
    assert summarize(rounds)[RATE]["other"] == Summary(4.0, 4.0, 4.0, 2.0)
    assert summarize(rounds)[RATE]["modelplex"].median == 4.0


def test_nothing_measured_as_zero_is_divided_by() -> None:
    assert summarize([{"modelplex": {RATE: 0.0}, "other": {RATE: 1.0}}])[RATE]["other"].ratio is None


@pytest.mark.parametrize(
    ("value", "shown"), [(12345.6, "12,346"), (999.7, "1,000"), (12.345, "12.3"), (0.01234, "0.0123"), (0, "0")]
)
def test_numbers_are_as_exact_as_they_are_meant(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("summary", "shown"),
    [
        (Summary(5.0, 4.0, 6.0, 0.5), "5 (4-6), 0.5x"),
        (Summary(5.0, 5.0, 5.0, None), "5"),
        (Summary(5.0, 4.0, 6.0, None), "5 (4-6)"),
    ],
)
def test_a_cell_has_its_spread_and_its_ratio(summary: Summary, shown: str) -> None:
    assert str(summary) == shown
