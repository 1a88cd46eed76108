"""What the planner found, for people: a table and an answer in words; and for programs: JSON."""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from modelplex.sim.log import Log
from modelplex.sim.planner import Plan
from modelplex.sim.prediction import Candidate, Prediction, Question

_HEADER = (
    "replicas", "memory each", "policy", "cold", "loads", "load time", "p50", "p99", "busy slots", ""
)  # fmt: skip


def text(log: Log, plan: Plan) -> str:
    """The log in a line, the fleets as a table, and what follows."""
    return "\n".join([_log_line(log, plan.question), "", *_table(plan), *_conclusions(log, plan)])


def to_json(log: Log, plan: Plan) -> str:
    """The same as one JSON object; docs/planning.md says what its keys mean."""
    question = plan.question
    reason = why_not(plan) if question.p99_s is not None and plan.answer is None else None
    answer = None if plan.answer is None else _fleet_json(question, plan.answer)
    found = {
        "requests": len(log.trace),
        "requests_left_out": log.left_out,
        "models": len(log.trace.catalog),
        "span_s": question.span_s,
        "working_set_bytes": int(log.trace.catalog.size_bytes.sum()),
        "recorded_cold_ratio": log.cold_ratio,
        "target_p99_s": question.p99_s,
        "max_ongoing_requests": question.max_ongoing,
        "answer": answer,
        "reason": reason,
        "offline_loads_min": plan.offline_loads,
        "fleets": [_fleet_json(question, prediction) for prediction in [*plan.predictions, *plan.baselines]],
        "overloaded": [_candidate_json(question, candidate) for candidate in plan.overloaded],
    }
    return json.dumps(found, indent=2)


def why_not(plan: Plan) -> str:
    """What keeps every fleet from meeting the target, as a sentence."""
    question, trace, target_s = plan.question, plan.question.trace, plan.question.p99_s or math.inf
    service_p99_s = float(np.quantile(trace.service_s, 0.99, method="inverted_cdf"))
    if service_p99_s > target_s:
        return f"The p99 of the service time alone is {duration(service_p99_s)}: no fleet makes that shorter."
    if not question.sizes_that_fit:
        most = size(question, question.sizes[-1])
        return f"The largest model takes {size(question, question.largest)}, and no replica has more than {most}."
    replicas = question.replicas[-1]
    busy, slots = float(trace.service_s.sum()) / question.span_s, replicas * question.max_ongoing
    if busy >= slots:
        return (
            f"Too few slots: requests keep {busy:.1f} busy on average, and {_many(replicas, 'replica')} of "
            f"{question.max_ongoing} have {slots}."
        )
    # The first request for a model loads it, whatever memory there is.
    first = np.unique(trace.models, return_index=True)[1]
    slow = int(np.sum(trace.catalog.load_s[trace.models[first]] + trace.service_s[first] > target_s))
    if slow > 0.01 * len(trace) or (plan.largest is not None and plan.largest.loads <= slow):
        return (
            f"{percent(slow / len(trace))} of the requests are the first for their model, and its load takes longer "
            f"than {duration(target_s)}, however much memory there is. A longer log has fewer of them; preload= "
            "loads models before they are asked for."
        )
    if plan.largest is None:
        return f"{_many(replicas, 'replica')} of {size(question, question.sizes[-1])} cannot keep up with the requests."
    return f"The most that was tried is too little: {_fleet_in_words(question, plan.largest)}."


# For people


def duration(seconds: float) -> str:
    """Three digits and a unit: 1.50 ms, 143 ms, 2.10 s."""
    if seconds < 1:
        return f"{_digits(seconds * 1e3)} ms"
    return f"{_digits(seconds)} s" if math.isfinite(seconds) else "never"


def size(question: Question, amount: int) -> str:
    """Bytes, or models, as the question counts."""
    if not question.in_bytes:
        return _many(amount, "model")
    power = min(4, max(0, (amount.bit_length() - 1) // 10))
    return f"{_digits(amount / 1024**power)} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def percent(ratio: float) -> str:
    return f"{100 * ratio:.2f}%" if ratio < 0.1 else f"{100 * ratio:.1f}%"


def _digits(amount: float) -> str:
    return f"{amount:.{0 if amount >= 99.95 else 1 if amount >= 9.995 else 2}f}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _log_line(log: Log, question: Question) -> str:
    requests, models = _many(len(log.trace), "request"), _many(len(log.trace.catalog), "model")
    working_set = f" of {size(question, int(log.trace.catalog.size_bytes.sum()))}" if question.in_bytes else ""
    left_out = f"; {log.left_out:,} left out" if log.left_out else ""
    return f"{requests} for {models}{working_set} in {_span(question.span_s)}{left_out}"


def _span(seconds: float) -> str:
    for unit_s, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{_digits(seconds / unit_s)} {unit}"
    return duration(seconds)


def _table(plan: Plan) -> Iterator[str]:
    """Lines, the columns aligned."""
    rows = [_row(plan, prediction) for prediction in [*plan.predictions, *plan.baselines]]
    rows += [[*_cells(plan.question, candidate), "overloaded"] for candidate in plan.overloaded]
    if not rows:
        return
    rows = [[*row, *[""] * (len(_HEADER) - len(row))] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(_HEADER, *rows, strict=True)]
    for row in [list(_HEADER), *rows]:
        cells = [
            cell.ljust(width) if column == 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row[:-1], widths, strict=False))
        ]
        yield ("  ".join(cells) + f"  {row[-1]}").rstrip()
    yield ""


def _cells(question: Question, candidate: Candidate) -> list[str]:
    policy = candidate.eviction if candidate.router == "modelplex" else candidate.router
    return [str(candidate.replicas), size(question, candidate.size), policy]


def _row(plan: Plan, prediction: Prediction) -> list[str]:
    return [
        *_cells(plan.question, prediction.candidate),
        percent(prediction.cold_ratio),
        f"{prediction.loads:,}",
        duration(prediction.load_time_s),
        duration(prediction.p50_s),
        duration(prediction.p99_s),
        percent(prediction.utilisation),
        "<- cheapest" if prediction is plan.answer else "",
    ]


def _conclusions(log: Log, plan: Plan) -> Iterator[str]:
    question = plan.question
    if question.p99_s is None:
        if log.cold_ratio is not None:
            found = plan.predictions
            predicted = f"; predicted: {percent(found[0].cold_ratio)}" if len(found) == 1 else ""
            yield f"Cold in the log: {percent(log.cold_ratio)}{predicted}."
    elif plan.answer is None:
        yield f"No fleet answers 99% of the requests within {duration(question.p99_s)}. {why_not(plan)}"
    else:
        yield f"{_fleet_in_words(question, plan.answer)}."
        if plan.offline_loads is not None and plan.answer.loads:
            least = plan.offline_loads / plan.answer.loads
            yield (
                f"The offline optimum, one cache with all of that memory, has at least {plan.offline_loads:,.0f} "
                f"loads; this has {plan.answer.loads:,}, of which {percent(1 - least)} at most could be saved."
            )


def _fleet_in_words(question: Question, prediction: Prediction) -> str:
    candidate = prediction.candidate
    return (
        f"{_many(candidate.replicas, 'replica')} of {size(question, candidate.size)} with {candidate.eviction}: "
        f"p99 {duration(prediction.p99_s)}, {percent(prediction.cold_ratio)} cold"
    )


# For programs


def _candidate_json(question: Question, candidate: Candidate) -> dict[str, Any]:
    return {
        "replicas": candidate.replicas,
        "max_bytes_per_replica": candidate.size if question.in_bytes else None,
        "max_num_models_per_replica": None if question.in_bytes else candidate.size,
        "eviction": candidate.eviction,
        "router": candidate.router,
    }


def _fleet_json(question: Question, prediction: Prediction) -> dict[str, Any]:
    return _candidate_json(question, prediction.candidate) | {
        "cold_ratio": prediction.cold_ratio,
        "loads": prediction.loads,
        "load_time_s": prediction.load_time_s,
        "p50_s": _finite(prediction.p50_s),
        "p99_s": _finite(prediction.p99_s),
        "utilisation": prediction.utilisation,
    }


def _finite(seconds: float) -> float | None:
    """JSON has no infinity."""
    return seconds if math.isfinite(seconds) else None
