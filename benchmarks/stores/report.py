"""Results as Markdown and JSON."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions

from benchmarks.dataplane.figures import Round, summarize
from benchmarks.dataplane.report import table

Results = Mapping[str, Sequence[Round]]  # the rounds, by the title of the table

# By the names of systems, in the order of columns; ratios are to `modelplex`.
TITLES = {
    "modelplex": "Modelplex",
    "aioboto3": "aioboto3",
    "boto3": "boto3",
    "s3fs": "s3fs",
    "obstore-stream": "obstore, in parts",
    "obstore-whole": "obstore, at once",
    "library": "the library's plain call",
    "mapped": "`torch.load`, `mmap=True`",
    "constructed": "constructed anew",
    "shared-safetensors": "loader `safetensors`",
    "shared-safetensors-torch": "loader `safetensors-torch`",
    "shared-torch": "loader `torch`",
    "copied": "`torch.load` without mmap",
}
PACKAGES = (
    "modelplex",
    "aioboto3",
    "boto3",
    "s3fs",
    "obstore",
    "moto",
    "torch",
    "safetensors",
    "numpy",
    "onnxruntime",
    "skops",
    "xgboost-cpu",
    "lightgbm",
)


def markdown(results: Results, described: Sequence[str]) -> str:
    parts = ["\n".join(f"- {line}" for line in described)]
    for title, rounds in results.items():
        if any(rounds):
            parts += [f"### {title}", table(summarize(rounds), TITLES)]
    return "\n\n".join(parts)


def as_json(results: Results, described: Sequence[str]) -> str:
    """Every figure of every round, and what they come to."""
    summaries = {
        title: {
            figure: {system: summary.as_dict() for system, summary in row.items()}
            for figure, row in summarize(rounds).items()
        }
        for title, rounds in results.items()
    }
    return json.dumps({"described": described, "tables": summaries, "rounds": results}, indent=1)


def versions() -> str:
    """Of what is installed."""
    found = {distribution.name.lower(): distribution.version for distribution in distributions()}
    return ", ".join(f"{package} {found[package]}" for package in PACKAGES if package in found)
