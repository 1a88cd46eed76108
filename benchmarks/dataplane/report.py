"""Results as Markdown, JSON and a picture."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from .figures import Round, Summary, summarize

BEGIN = "<!-- figures: begin; `make bench` replaces what stands between these lines -->"
END = "<!-- figures: end -->"
PLOTTED = ("64 connections, requests/s", "CPU of 10,000 requests, s", "memory, MiB")

Results = Mapping[int, Sequence[Round]]  # the rounds, by the number of replicas


def table(summaries: Mapping[str, Mapping[str, Summary]], titles: Mapping[str, str]) -> str:
    """A row for each figure, a column for each system that has any."""
    systems = [name for name in titles if any(name in row for row in summaries.values())]
    lines = ["| | " + " | ".join(titles[name] for name in systems) + " |", "|---|" + "---|" * len(systems)]
    for figure, row in summaries.items():
        cells = (str(row[name]) if name in row else "" for name in systems)
        lines.append(f"| {figure} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def markdown(results: Results, titles: Mapping[str, str], described: Sequence[str]) -> str:
    parts = ["\n".join(f"- {line}" for line in described)]
    for replicas, rounds in results.items():
        if rounds and any(rounds):
            parts += [f"### {replicas} replica{'s' * (replicas > 1)}", table(summarize(rounds), titles)]
    return "\n\n".join(parts)


def replace_between_markers(page: str, text: str) -> str:
    """The page with `text` between its marker lines. Raises ValueError if it has not each of them once, in order."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"the page must have the lines {BEGIN!r} and {END!r}, once each")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def as_json(results: Results, described: Sequence[str]) -> str:
    summaries = {
        replicas: {
            figure: {system: summary.as_dict() for system, summary in row.items()}
            for figure, row in summarize(rounds).items()
        }
        for replicas, rounds in results.items()
    }
    return json.dumps({"described": described, "replicas": summaries, "rounds": results}, indent=1)


def machine() -> str:
    cpu = Path("/proc/cpuinfo").read_text().partition("model name\t: ")[2].partition("\n")[0] or platform.machine()
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({cpu}), {memory_gib:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def draw(path: Path, results: Results, titles: Mapping[str, str]) -> None:
    """Bars of some figures, from the least to the most of the rounds at their ends."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(9, 3 * len(PLOTTED)), layout="constrained")
    for axes, figure in zip(picture.subplots(len(PLOTTED), squeeze=False)[:, 0], PLOTTED, strict=True):
        bars = [
            (f"{titles[system]}, {replicas}", summary)
            for replicas, rounds in results.items()
            for system, summary in summarize(rounds).get(figure, {}).items()
        ]
        axes.barh(
            [name for name, _ in bars],
            [s.median for _, s in bars],
            xerr=[[s.median - s.least for _, s in bars], [s.most - s.median for _, s in bars]],
        )
        axes.invert_yaxis()
        axes.set_xlabel(figure)
    picture.savefig(path)
