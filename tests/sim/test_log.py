"""Logs of requests: what is written can be read, and what others have written is understood or refused in words."""

import contextlib
import csv
import io
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplex import config, errors
from modelplex.sim import log
from modelplex.wire.messages import Record

RECORDS = [
    Record(1_700_000_000.25, "b", "cold", 0.5, 2.0, 0.125, 2**40, ok=True),
    Record(1_700_000_000.0, "a", "cold", 0.0, 1.0, 0.25, None, ok=True),
    Record(1_700_000_001.5, "a,\n'\"ü", "warm", 0.0, 0.0, 1e-7, 5, ok=False),
    Record(1_700_000_001.0, "", "", 0.0, 0.0, 0.5, None, ok=True),
]


def written(tmp_path: Path, *lines: str, name: str = "log.csv") -> Path:
    path = tmp_path / name
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def as_text(records: list[Record], *, as_json: bool) -> str:
    file = io.StringIO(newline="")
    log.LogWriter(file, as_json=as_json).write("app_D#tag", records)
    return file.getvalue()


# Writing


@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_written_is_read(tmp_path: Path, as_json: bool) -> None:
    path = tmp_path / "log"
    path.write_text(as_text(RECORDS, as_json=as_json), newline="")
    read = log.read(path, load_s=7.0, size_bytes=3)
    trace, catalog = read.trace, read.trace.catalog
    assert trace.arrivals_s.tolist() == [0.0, 0.25, 1.5]
    assert [catalog.ids[n] for n in trace.models] == ["a", "b", "a,\n'\"ü"]
    assert trace.service_s.tolist() == pytest.approx([0.25, 0.125, 0.0], abs=1e-6)
    of = {model_id: (catalog.size_bytes[n], catalog.load_s[n]) for n, model_id in enumerate(catalog.ids)}
    assert of == {"a": (3, 1.0), "b": (2**40, 2.0), "a,\n'\"ü": (5, 7.0)}
    assert (read.cold_ratio, read.left_out) == (2 / 3, 1)


def test_the_columns_and_their_forms() -> None:
    first, second = csv.DictReader(io.StringIO(as_text(RECORDS[:2], as_json=False), newline=""))
    assert first == {
        "arrival_s": "1700000000.25",
        "model_id": "b",
        "start": "cold",
        "queue_s": "0.5",
        "load_s": "2.0",
        "service_s": "0.125",
        "size_bytes": "1099511627776",
        "replica": "app_D#tag",
        "outcome": "ok",
    }
    assert second["size_bytes"] == ""
    rows = [json.loads(line) for line in as_text(RECORDS[:3], as_json=True).splitlines()]
    assert [row.keys() for row in rows] == [first.keys()] * 3
    assert (rows[0]["arrival_s"], rows[1]["size_bytes"], rows[2]["outcome"]) == (1700000000.25, None, "error")


def test_the_page_names_what_is_written_and_what_is_assumed() -> None:
    page = (Path(__file__).parents[2] / "docs" / "recording.md").read_text()
    written_table, read_table = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    assert tuple(re.findall(r"^\| `(\w+)`", written_table, re.MULTILINE)) == log.FIELDS
    names = re.findall(r"`(\w+)`", "".join(row.split(" | ")[0] for row in read_table.splitlines()))
    assert sorted(names) == sorted(name for column in log._NAMES for name in column)
    load_s, service_s, size_mib = config.EXPECTED_LOAD_S, config.EXPECTED_SERVICE_S, log.SIZE_BYTES // 2**20
    assert f"a load of {load_s:g} s, a request of {service_s:g} s, a model of {size_mib} MiB" in " ".join(page.split())


def test_a_header_is_written_once_and_before_any_row(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    with path.open("w", newline="") as file:
        writer = log.LogWriter(file, as_json=False)
        assert path.read_text() == ",".join(log.FIELDS) + "\n"
        for count in (1, 2):
            writer.write("r", RECORDS[:1])
            assert len(path.read_text().splitlines()) == 1 + count  # on its way already, though the file is open


def test_writing_needs_no_numpy() -> None:
    code = "import sys; sys.modules['numpy'] = None; import modelplex.recorder, modelplex.sim.log"
    subprocess.run([sys.executable, "-c", code], check=True)


# What names and times may be


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where local time is not UTC."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("when", ["arrival_s", "arrival", "time", "timestamp", "ts", "Timestamp", " TIME "])
@pytest.mark.parametrize("model", ["model_id", "model", "Model"])
def test_columns_may_have_several_names(tmp_path: Path, when: str, model: str) -> None:
    read = log.read(written(tmp_path, f"other,{model},{when}", "x,a,1", "y,b,2.5"))
    assert read.trace.arrivals_s.tolist() == [0.0, 1.5]
    assert list(read.trace.catalog.ids) == ["a", "b"]


def test_of_several_columns_for_one_thing_the_first_name_counts(tmp_path: Path) -> None:
    read = log.read(written(tmp_path, "ts,time,model,model_id", "9,1,x,a", "8,3,x,b"))
    assert read.trace.arrivals_s.tolist() == [0.0, 2.0]
    assert list(read.trace.catalog.ids) == ["a", "b"]


def test_times_may_be_iso_8601_of_any_zone(tmp_path: Path, far_east: None) -> None:
    lines = ["2026-01-01T00:00:00Z", "2026-01-01T02:00:01+02:00", "2026-01-01 00:00:02.5", "2026-01-01T00:00:04"]
    read = log.read(written(tmp_path, "time,model", *(f"{line},a" for line in lines)))
    assert read.trace.arrivals_s.tolist() == [0.0, 1.0, 2.5, 4.0]


def test_rows_are_put_in_the_order_of_arrival_and_equal_ones_stay_in_theirs(tmp_path: Path) -> None:
    read = log.read(written(tmp_path, "time,model,service_s", "5,a,1", "-1,b,2", "5,c,3", "0,a,4"))
    assert read.trace.arrivals_s.tolist() == [0.0, 1.0, 6.0, 6.0]
    assert read.trace.service_s.tolist() == [2.0, 4.0, 1.0, 3.0]
    assert [read.trace.catalog.ids[n] for n in read.trace.models] == ["b", "a", "a", "c"]
    read = log.read(written(tmp_path, "time,model,service_s", *(f"{n % 2},a,{n}" for n in range(1000))))
    assert read.trace.service_s.tolist() == [*range(0, 1000, 2), *range(1, 1000, 2)]


def test_json_lines_need_not_have_the_same_keys(tmp_path: Path) -> None:
    rows = [
        {"ts": 0, "model": "a", "size_bytes": 10, "more": {"nested": [1]}},
        {"model": 7, "ts": "1970-01-01T00:00:02Z", "service_s": None},
        {"service_s": 0.5, "ts": 1.0, "model": "a", "start": "warm"},
    ]
    read = log.read(written(tmp_path, json.dumps(rows[0]), "", *map(json.dumps, rows[1:]), name="log.jsonl"))
    assert read.trace.arrivals_s.tolist() == [0.0, 1.0, 2.0]
    assert read.trace.service_s.tolist() == [0.5, 0.5, 0.5]
    assert list(read.trace.catalog.ids) == ["a", "7"]


def test_a_byte_order_mark_blank_lines_and_other_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes("\ufefftime,model\r\n1,a\r\n\r\n2,b\r\n".encode())
    assert len(log.read(path).trace) == 2


# What the log does not say


def test_a_model_has_its_last_size_and_the_median_of_its_cold_loads(tmp_path: Path) -> None:
    rows = ["3,a,cold,9,30", "1,a,cold,1,10", "2,a,cold,3,20", "4,a,joined,100,", "5,a,warm,200,", "0,b,cold,1,7"]
    catalog = log.read(written(tmp_path, "time,model,start,load_s,size_bytes", *rows)).trace.catalog
    assert list(catalog.ids) == ["a", "b"]
    assert catalog.size_bytes.tolist() == [30, 7]
    assert catalog.load_s.tolist() == [3.0, 1.0]


def test_without_start_any_wait_is_taken_for_a_load(tmp_path: Path) -> None:
    rows = ["0,a,4", "1,a,0", "2,a,2", "3,a,0", "4,a,0", "5,b,"]
    read = log.read(written(tmp_path, "time,model,load_s", *rows), load_s=9.0)
    assert read.trace.catalog.load_s.tolist() == [3.0, 9.0]
    assert read.cold_ratio is None


def test_what_is_not_known_is_as_given_else_the_median_of_the_others_else_the_default(tmp_path: Path) -> None:
    some = written(tmp_path, "time,model,load_s,service_s,size_bytes", "0,a,1,2,3", "1,b,3,4,9", "2,c,8,6,6", "3,d,,,")
    trace = log.read(some).trace
    assert (trace.catalog.load_s[3], trace.service_s[3], trace.catalog.size_bytes[3]) == (3.0, 4.0, 6)
    trace = log.read(some, load_s=0.5, service_s=0.25, size_bytes=1).trace
    assert trace.catalog.load_s.tolist() == [1.0, 3.0, 8.0, 0.5]
    assert trace.service_s.tolist() == [2.0, 4.0, 6.0, 0.25]
    assert trace.catalog.size_bytes.tolist() == [3, 9, 6, 1]
    trace = log.read(written(tmp_path, "time,model", "0,a", name="none.csv")).trace
    assert trace.catalog.load_s.tolist() == [config.EXPECTED_LOAD_S]
    assert trace.service_s.tolist() == [config.EXPECTED_SERVICE_S]
    assert trace.catalog.size_bytes.tolist() == [log.SIZE_BYTES]


def test_a_given_0_counts(tmp_path: Path) -> None:
    trace = log.read(written(tmp_path, "time,model,load_s", "0,a,1", "1,b,"), load_s=0.0, service_s=0.0).trace
    assert (trace.catalog.load_s.tolist(), trace.service_s.tolist()) == ([1.0, 0.0], [0.0, 0.0])


def test_requests_without_a_model_and_those_that_failed_before_they_had_one_are_left_out(tmp_path: Path) -> None:
    rows = ["0,,,ok", "1,a,cold,ok", "2,a,warm,error", "3,invented,,error", "4,a,,ok"]
    read = log.read(written(tmp_path, "time,model,start,outcome", *rows))
    assert (len(read.trace), read.left_out, list(read.trace.catalog.ids)) == (3, 2, ["a"])
    assert read.cold_ratio == 1 / 2
    assert read.trace.arrivals_s.tolist() == [0.0, 1.0, 3.0]


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(["cold", "warm", "joined"]), st.floats(0, 1e6)),
        min_size=1,
        max_size=40,
    )
)
def test_load_times_are_what_numpy_says_they_are(rows: list[tuple[int, str, float]]) -> None:
    cold = {n: [s for m, start, s in rows if m == n and start == "cold"] for n, _, _ in rows}
    known = {n: float(np.median(loads)) for n, loads in cold.items() if loads}
    fallback = float(np.median(list(known.values()))) if known else config.EXPECTED_LOAD_S
    read = _read(["time,model,start,load_s", *(f"{at},{n},{start},{s!r}" for at, (n, start, s) in enumerate(rows))])
    told = dict(zip(read.trace.catalog.ids, read.trace.catalog.load_s.tolist(), strict=True))
    assert told == pytest.approx({str(n): known.get(n, fallback) for n in cold})
    assert read.cold_ratio == pytest.approx(np.mean([start == "cold" for _, start, _ in rows]))


def _read(lines: list[str]) -> log.Log:
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        file.write("\n".join(lines))
        file.flush()
        return log.read(file.name)


# What is refused


@pytest.mark.parametrize(
    ("lines", "number", "says"),
    [
        (["time,model", "0,a", "yesterday,a"], 3, "'yesterday' is no time; it takes seconds"),
        (["time,model", "0,a", ",a"], 3, "'' is no time"),
        (["time,model", "nan,a"], 2, "'nan' is no time"),
        (["time,model", "1767225600000,a"], 2, "1767225600000' is no time"),  # milliseconds
        (["time,model", "0,a", "1,a,b"], 3, "3 cells; it takes 2"),
        (["time,model", "0,a", "", "1"], 4, "1 cells; it takes 2"),
        (["time,model,load_s", "0,a,1", "0,a,long"], 3, "'long' is no load_s; it takes a number of at least 0"),
        (["time,model,service_s", "0,a,-1"], 2, "'-1' is no service_s"),
        (["time,model,size_bytes", "0,a,1GB"], 2, "'1GB' is no size_bytes"),
        (["time,model,size_bytes", "0,a,inf"], 2, "'inf' is no size_bytes"),
        (["time,model,size_bytes", "0,a,1e20"], 2, "'1e20' is no size_bytes"),
        (['{"ts": 1' + "0" * 400 + ', "model": "a"}'], 1, "is no time|out of range"),
        (["when,model", "0,a"], 1, "no column arrival_s or arrival or time or timestamp or ts; the columns are when"),
        (["time,name", "0,a"], 1, "no column model_id or model; the columns are time, name"),
        ([], 0, "no column arrival_s.* none"),
        (["time,model", '0,"a', "1,b"], 3, "unexpected end of data"),
        (['{"ts": 1, "model": "a"}', '{"ts": 1, "model": "a"'], 2, "truncated"),
        (['{"ts": 1, "model": "a"}', "[1]"], 2, "Expected `object`"),
        (['{"ts": 1, "model": "a"}', '{"model": "a"}'], 2, "no column arrival_s"),
        (['{"ts": [1], "model": "a"}'], 1, r"\[1\] is no time"),
        (['{"ts": null, "model": "a"}'], 1, "None is no time"),
        (['{"ts": 1, "model": "a", "load_s": {}}'], 1, "{} is no load_s"),
    ],
)
def test_a_line_that_is_wrong_is_named_with_what_would_be_right(
    lines: list[str], number: int, says: str, tmp_path: Path
) -> None:
    path = written(tmp_path, *lines)
    with pytest.raises(errors.ModelplexError, match=says) as caught:
        log.read(path)
    assert str(caught.value).startswith(f"{path}:{number}: ")


def test_a_log_of_nothing_that_can_be_replayed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.ModelplexError, match="no request that can be replayed; 1 are left out"):
        log.read(written(tmp_path, "time,model", "0,"))


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"time,model\n0,\xff\n")
    with pytest.raises(errors.ModelplexError, match="no text in UTF-8"):
        log.read(path)
    with pytest.raises(OSError, match="No such file"):
        log.read(tmp_path / "nothing")


@given(st.binary(max_size=200))
def test_garbage_is_refused_in_words(garbage: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"time,model,load_s\n" + garbage)
        file.flush()
        with contextlib.suppress(errors.ModelplexError):
            assert all(math.isfinite(s) for s in log.read(file.name).trace.arrivals_s)
