"""`modelplex record` beside a program that serves: the log holds what was asked, whatever dies meanwhile."""

import collections
import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import Served, call_from_many, serving, wait_until

from modelplex.sim import log

pytestmark = pytest.mark.system


class Record:
    """A running `modelplex record`. What it says and what it writes to its output stand in two files."""

    def __init__(self, process: "subprocess.Popen[bytes]", said: Path, output: Path) -> None:
        self.process = process
        self._said = said
        self._output = output

    @property
    def said(self) -> str:
        return self._said.read_text()

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_until_said(self, words: str, times: int) -> None:
        wait_until(lambda: self.said.count(words) == times, f"{words!r} is said {times} times")

    def end(self, number: int = signal.SIGINT) -> str:
        """End it as a user would. It has to end well; answers what it said last."""
        self.process.send_signal(number)
        assert self.process.wait(timeout=30) == 0, self.said
        return self.said.splitlines()[-1]


@contextlib.contextmanager
def recording(served: Served, tmp_path: Path, *arguments: str, replicas: int) -> Iterator[Record]:
    """Record a program; it is watched already when this begins."""
    command = [sys.executable, "-m", "modelplex.cli", "record", *arguments]
    environment = {**os.environ, "TMPDIR": str(served.sockets_folder().parent)}
    with (tmp_path / "said").open("w") as said, (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=said, env=environment)
    try:
        record = Record(process, tmp_path / "said", tmp_path / "output")
        record.wait_until_said("is being recorded", replicas)
        yield record
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_log_holds_each_request_once_and_a_killed_replica_does_not_end_it(tmp_path: Path) -> None:
    out = tmp_path / "log.csv"
    with serving("many:three") as served:
        dead = served.sockets_folder().parent / "modelplex-dead"
        dead.mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(dead / "Ab12Cd.sock"))
        with recording(served, tmp_path, str(out), replicas=3) as record:
            first = [f"m{n % 12}" for n in range(300)]
            replies = call_from_many(served.port, first, clients=4)
            wait_until(lambda: len(rows(out)) == len(first), "all that was asked so far has reached the file")

            os.kill(int(served.call("m1", "/pid").body), signal.SIGKILL)
            record.wait_until_said("has gone", 1)
            record.wait_until_said("is being recorded", 4)

            second = [f"m{n % 12}" for n in range(200)]
            replies += call_from_many(served.port, second, clients=4)
            assert recorded_of(record.end()) >= len(first) + len(second)

        # What asked for the replica's process id may have died with it.
        asked, told = collections.Counter(first + second), rows(out)
        extra = collections.Counter(row["model_id"] for row in told) - asked
        assert sum(extra.values()) <= 1
        assert not asked - collections.Counter(row["model_id"] for row in told)
        started = collections.Counter((r.replica, r.start) for r in replies)
        assert started <= collections.Counter((row["replica"], row["start"]) for row in told)
        assert {row["outcome"] for row in told} == {"ok"}

    read = log.read(out)
    assert read.left_out == 0
    assert read.cold_ratio == pytest.approx(sum(r.start == "cold" for r in replies) / len(told))
    assert all(read.trace.catalog.load_s >= 0.01)


def recorded_of(summary: str) -> int:
    words = summary.split()
    assert summary.endswith("; 0 were lost.")
    return int(words[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_asked_last_is_in_the_log_however_soon_it_ends(tmp_path: Path, number: signal.Signals) -> None:
    with (
        serving("many:one", LOAD_S="0.5") as served,
        recording(served, tmp_path, "-", "--app", "default", replicas=1) as record,
    ):
        replies = call_from_many(served.port, ["m1"] * 5, clients=5)
        replies += [served.call("m1"), served.call("broken1")]
        assert record.end(number) == "7 requests are recorded in -; 0 were lost."
        told = list(csv.DictReader(record.output.splitlines()))
        assert collections.Counter(row["start"] for row in told) == {"cold": 1, "joined": 4, "warm": 1, "": 1}
        assert [row["outcome"] for row in told if not row["start"]] == ["error"]
        [load_s] = [float(row["load_s"]) for row in told if row["start"] == "cold"]
        assert load_s >= 0.49
        assert served.call("m1").start == "warm"


def test_a_recording_may_end_with_the_program_or_with_its_time(tmp_path: Path) -> None:
    out = tmp_path / "log.jsonl"
    with serving("many:one") as served:
        with recording(served, tmp_path, str(out), "--for", "1s", replicas=1) as record:
            served.call("m1")
            assert record.process.wait(timeout=30) == 0
        assert [json.loads(line)["model_id"] for line in out.read_text().splitlines()] == ["m1"]
        with recording(served, tmp_path, str(out), "--force", replicas=1) as record:
            served.call("m2")
            assert served.stop() == 0
            record.wait_until_said("has gone", 1)
            assert record.end() == f"1 requests are recorded in {out}; 0 were lost."
        assert [json.loads(line)["model_id"] for line in out.read_text().splitlines()] == ["m2"]


def test_an_output_that_is_closed_ends_it_in_words(tmp_path: Path) -> None:
    with serving("many:one") as served:
        environment = {**os.environ, "TMPDIR": str(served.sockets_folder().parent)}
        reader, writer = os.pipe()
        os.close(reader)
        with (tmp_path / "said").open("w") as said:
            command = [sys.executable, "-m", "modelplex.cli", "record", "-"]
            done = subprocess.run(command, stdout=writer, stderr=said, env=environment, timeout=60, check=False)
        os.close(writer)
        text = (tmp_path / "said").read_text()
        assert (done.returncode, text.splitlines()[-1]) == (1, "Error: - cannot be written: Broken pipe.")
        assert served.call("m1").status == 200
