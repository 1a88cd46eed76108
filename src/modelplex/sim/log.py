"""Logs of who asked for which model when: written by `modelplex record`, read from there or from anywhere else.

A log is CSV with a header, or JSON lines. These columns, or keys, are read; the others are passed over:

- `arrival_s` (or `arrival`, `time`, `timestamp`, `ts`): seconds since 1970, or since any other moment; or ISO 8601, in
  UTC if it names no zone.
- `model_id` (or `model`).
- `start`: how the request met its model, `cold` if it had it loaded.
- `load_s`, `service_s`: seconds that it waited for its model, and that it ran besides.
- `size_bytes`: of its model.
- `outcome`: `error` if it failed.

The first two have to be there. Rows may be in any order. An empty cell, or null, is one that nobody knows.
"""

import csv
import itertools
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from modelplex import config, errors
from modelplex.wire.messages import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from modelplex.sim.trace import Trace

# What is written, in this order.
FIELDS = ("arrival_s", "model_id", "start", "queue_s", "load_s", "service_s", "size_bytes", "replica", "outcome")

# What is read, in the order of `_Rows.add`, each by the first of its names that is there.
_NAMES = (
    ("arrival_s", "arrival", "time", "timestamp", "ts"),
    ("model_id", "model"),
    ("start",),
    ("load_s",),
    ("service_s",),
    ("size_bytes",),
    ("outcome",),
)

# What a log that knows no size at all is taken to mean, unless `read` is told better.
SIZE_BYTES = 100 * 2**20

# No time in seconds is as late; one in milliseconds is.
_ARRIVAL_S_MAX = 1e11

# Sizes are counted in 64 bits.
_AMOUNT_MAX = 2.0**63


class LogWriter:
    """Writes what replicas tell of requests.

    Args:
        file: opened as text, with `newline=""`.
        as_json: JSON lines, rather than CSV with a header.
    """

    def __init__(self, file: TextIO, *, as_json: bool) -> None:
        self._file = file
        self._csv = None if as_json else csv.writer(file, lineterminator="\n")
        if self._csv is not None:
            self._csv.writerow(FIELDS)
            file.flush()

    def write(self, replica_id: str, records: Iterable[Record]) -> None:
        """Write a line for each. They have left this process when this returns. Raises OSError."""
        rows = (_row(replica_id, record) for record in records)
        if self._csv is not None:
            self._csv.writerows(rows)
        else:
            for row in rows:
                self._file.write(msgspec.json.encode(dict(zip(FIELDS, row, strict=True))).decode() + "\n")
        self._file.flush()


def _row(replica_id: str, record: Record) -> tuple[Any, ...]:
    durations = (round(seconds, 6) for seconds in (record.queue_s, record.load_s, record.service_s))
    outcome = "ok" if record.ok else "error"
    arrival_s = round(record.arrived_at, 6)
    return arrival_s, record.model_id, record.start, *durations, record.size_bytes, replica_id, outcome


@dataclass(frozen=True, slots=True)
class Log:
    """What a log says.

    Attributes:
        trace: the requests, to be replayed.
        cold_ratio: of those that say how they met their model, how many had it loaded, from 0 to 1; None if none says.
        left_out: requests that are not in the trace: they name no model, or failed before they had met it.
    """

    trace: "Trace"
    cold_ratio: float | None
    left_out: int


def read(
    path: str | Path, *, service_s: float | None = None, load_s: float | None = None, size_bytes: int | None = None
) -> Log:
    """Read a log.

    A model's size is the last one that is told of it; its load time is the median of its requests that are `cold`, or,
    in a log without `start`, of those that waited for it at all.

    Args:
        path: a file of UTF-8.
        service_s: seconds that a request runs whose row does not say; else the median of the others, else
            `config.EXPECTED_SERVICE_S`.
        load_s: seconds that the load of a model takes of which no row says; else the median of the other models, else
            `config.EXPECTED_LOAD_S`.
        size_bytes: of a model of which no row says; else the median of the other models, else `SIZE_BYTES`.

    Raises:
        ModelplexError: the file is no such log; names the line, and what would be right.
        OSError: the file cannot be read.
    """
    rows = _Rows()
    with open(path, encoding="utf-8-sig", newline="") as file:
        lines = _Lines(file)
        try:
            for cells in _cells(lines):
                rows.add(*cells)
        except UnicodeDecodeError as error:
            raise errors.ModelplexError(f"{path} is no text in UTF-8: {error}") from error
        except (ValueError, csv.Error, msgspec.DecodeError) as error:
            raise errors.ModelplexError(f"{path}:{lines.number}: {error}") from error
    if not rows.models:
        raise errors.ModelplexError(f"{path} has no request that can be replayed; {rows.left_out} are left out.")
    return rows.log(service_s, load_s, size_bytes)


class _Lines:
    """The lines of a file, and the number of the one that was read last."""

    def __init__(self, file: TextIO) -> None:
        self.number = 0
        self._file = file

    def __iter__(self) -> Iterator[str]:
        for self.number, line in enumerate(self._file, 1):  # noqa: B020 - the number is to be seen from outside
            yield line


def _cells(lines: Iterable[str]) -> Iterator[Sequence[Any]]:
    """The cells of each row, in the order of `_NAMES`. Raises ValueError, csv.Error or msgspec.DecodeError."""
    lines = iter(lines)
    first = next(lines, "")
    rows = _json_cells if first.lstrip().startswith("{") else _csv_cells
    return rows(itertools.chain([first], lines))


def _csv_cells(lines: Iterator[str]) -> Iterator[Sequence[Any]]:
    reader = csv.reader(lines, strict=True)
    header = next(reader, [])
    pick = _picker([name.strip().lower() for name in header])
    for row in reader:
        if len(row) == len(header):
            row.append("")
            yield pick(row)
        elif row:
            raise ValueError(f"the row has {len(row)} cells; it takes {len(header)}, as the header has.")


def _json_cells(lines: Iterator[str]) -> Iterator[Sequence[Any]]:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    pickers: dict[tuple[str, ...], Callable[[list[Any]], Sequence[Any]]] = {}
    for line in lines:
        if line.isspace():
            continue
        row = decode(line)
        names = tuple(row)
        if names not in pickers:
            pickers[names] = _picker(names)
        yield pickers[names]([*row.values(), ""])


def _picker(names: Sequence[str]) -> Callable[[list[Any]], Sequence[Any]]:
    """Picks the cells of a row with these columns, behind which there is an empty one for those that are not there."""
    places = []
    for wanted in _NAMES:
        place = next((names.index(name) for name in wanted if name in names), len(names))
        if place == len(names) and wanted in _NAMES[:2]:
            raise ValueError(f"there is no column {' or '.join(wanted)}; the columns are {', '.join(names) or 'none'}.")
        places.append(place)
    return itemgetter(*places)


class _Rows:
    """What was read, by columns."""

    def __init__(self) -> None:
        self.arrivals = array("d")
        self.models = array("i")
        self.colds = array("b")  # -1 where nobody knows
        self.loads_s = array("d")
        self.services_s = array("d")
        self.sizes_bytes = array("d")
        self.places: dict[str, int] = {}
        self.left_out = 0

    def add(
        self, arrival: Any, model: Any, start: Any, load_s: Any, service_s: Any, size_bytes: Any, outcome: Any
    ) -> None:
        """Raises ValueError that says what is wrong with a cell."""
        if model in ("", None) or (outcome == "error" and not start):
            self.left_out += 1
            return
        self.arrivals.append(_seconds(arrival))
        self.models.append(self.places.setdefault(str(model), len(self.places)))
        self.colds.append(start == "cold" if start else -1)
        self.loads_s.append(_amount("load_s", load_s))
        self.services_s.append(_amount("service_s", service_s))
        self.sizes_bytes.append(_amount("size_bytes", size_bytes))

    def log(self, service_s: float | None, load_s: float | None, size_bytes: int | None) -> Log:
        import numpy as np

        from modelplex.sim.trace import Catalog, Trace

        order = np.argsort(self.arrivals, kind="stable")
        arrivals, models, colds, loads, services, sizes = (
            np.array(column)[order]
            for column in (self.arrivals, self.models, self.colds, self.loads_s, self.services_s, self.sizes_bytes)
        )
        told = colds >= 0
        # A load is what a cold request waits for; where nobody says which are cold, any wait will have been for one.
        loaded = (colds == 1) & ~np.isnan(loads) if told.any() else loads > 0
        size_of_each = np.full(len(self.places), np.nan)
        sized = ~np.isnan(sizes)
        size_of_each[models[sized]] = sizes[sized]  # of several sizes of one model, the last stays
        catalog = Catalog(
            list(self.places),
            np.rint(_filled(size_of_each, size_bytes, SIZE_BYTES)).astype(np.int64),
            _filled(_medians(models[loaded], loads[loaded], len(self.places)), load_s, config.EXPECTED_LOAD_S),
        )
        trace = Trace(arrivals - arrivals[0], models, _filled(services, service_s, config.EXPECTED_SERVICE_S), catalog)
        return Log(trace, float(np.mean(colds[told] == 1)) if told.any() else None, self.left_out)


def _seconds(cell: Any) -> float:
    """A time, in seconds since whatever the log counts from."""
    try:
        seconds = float(cell)
    except (ValueError, TypeError, OverflowError):
        try:
            when = datetime.fromisoformat(cell)
        except (ValueError, TypeError, OverflowError):
            seconds = math.nan
        else:
            seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    if not abs(seconds) < _ARRIVAL_S_MAX:
        raise ValueError(
            f"{cell!r} is no time; it takes seconds, as 1767225600.5, or ISO 8601, as 2026-01-01T00:00:00Z."
        )
    return seconds


def _amount(name: str, cell: Any) -> float:
    """A number, or NaN where nobody knows."""
    if cell in ("", None):
        return math.nan
    try:
        amount = float(cell)
    except (ValueError, TypeError, OverflowError):
        amount = math.nan
    if not 0 <= amount < _AMOUNT_MAX:
        raise ValueError(f"{cell!r} is no {name}; it takes a number of at least 0, or nothing.")
    return amount


def _medians(groups: "NDArray[np.int32]", values: "NDArray[np.float64]", count: int) -> "NDArray[np.float64]":
    """The median of the values of each of so many groups; NaN where a group has none."""
    import numpy as np

    order = np.lexsort((values, groups))
    first = np.searchsorted(groups[order], np.arange(count + 1))
    begin, size = first[:-1], np.diff(first)
    medians = np.full(count, np.nan)
    some = size > 0
    low, high = begin + (size - 1) // 2, begin + size // 2
    medians[some] = (values[order[low[some]]] + values[order[high[some]]]) / 2
    return medians


def _filled(values: "NDArray[np.float64]", given: float | None, default: float) -> "NDArray[np.float64]":
    """The values, with what was given in the place of those that nobody knows, else their median, else the default."""
    import numpy as np

    unknown = np.isnan(values)
    if unknown.any():
        median = default if unknown.all() else np.median(values[~unknown])
        values[unknown] = median if given is None else given
    return values
