"""What the rounds come to: medians with their spread, and ratios to Modelplex."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

BASELINE = "modelplex"

Round = Mapping[str, Mapping[str, float]]  # figures, by the name of the system
"""The figures of one round at one number of replicas."""


@dataclass(frozen=True)
class Summary:
    """One figure of one system. `ratio` is the median of each round's ratio to Modelplex in that round, if both are."""

    median: float
    least: float
    most: float
    ratio: float | None

    def __str__(self) -> str:
        spread = "" if self.least == self.most else f" ({number(self.least)}-{number(self.most)})"
        ratio = "" if self.ratio is None else f", {number(self.ratio)}x"
        return f"{number(self.median)}{spread}{ratio}"

    def as_dict(self) -> dict[str, float | None]:
        return asdict(self)


def number(value: float) -> str:
    """Three significant digits, or whole numbers with their thousands."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def summarize(rounds: Sequence[Round]) -> dict[str, dict[str, Summary]]:
    """By figure, in the order of their first appearance, by system."""
    found: dict[str, dict[str, Summary]] = {}
    for system, figure in dict.fromkeys((s, f) for each in rounds for s, figures in each.items() for f in figures):
        values = [each[system][figure] for each in rounds if figure in each.get(system, ())]
        ratios = [
            each[system][figure] / baseline
            for each in rounds
            if figure in each.get(system, ()) and (baseline := each.get(BASELINE, {}).get(figure))
        ]
        found.setdefault(figure, {})[system] = Summary(
            statistics.median(values),
            min(values),
            max(values),
            statistics.median(ratios) if ratios and system != BASELINE else None,
        )
    return found
