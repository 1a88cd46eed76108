"""The command line: what it says to a mistake, and what it ends with."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from served import Client, processes_naming, serving, wait_until
from typer.testing import CliRunner

from modelplex.cli import cli

APP = """
from modelplex import serve

@serve.deployment
def answer():
    return {answer!r}

app = answer.bind()
"""


def modelplex(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "modelplex.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, check=False)


@pytest.mark.system
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--version"], 0, r"\d+\.\d+\.\d+"),
        (["--help"], 0, "demo"),
        (["run", "--help"], 0, "module:name"),
        (["run", "program"], 2, "module:name"),
        (["run", "nothing:app"], 2, "no module 'nothing'"),
        (["run", "program:nothing"], 2, "Its applications: app"),
        (["run", "program:answer"], 2, r"answer\.bind\(\)"),
        (["run", "program:app", "--app-dir", "nowhere"], 2, "no folder 'nowhere'"),
        (["run", "program:app", "--port", "70000"], 2, "65535"),
        (["run", "program:app", "--route-prefix", "x"], 2, "begins with '/'"),
        (["run", "program:app", "--proxies", "0"], 2, "--proxies"),
        (["fly"], 2, "fly"),
    ],
)
def test_a_mistake_is_told_and_is_exit_code_2(arguments: list[str], code: int, says: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(APP.format(answer="x"))
    if arguments[0] == "run" and "--port" not in arguments:
        arguments = [*arguments, "--port", "0"]
    done = modelplex(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert re.search(says, done.stdout + done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.system
def test_a_port_that_is_taken_is_told_and_is_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(APP.format(answer="x"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = modelplex("run", "program:app", "--port", str(taken.getsockname()[1]), cwd=tmp_path)
    assert (done.returncode, "Address already in use" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr


@pytest.mark.system
def test_a_deployment_that_cannot_start_is_told_and_is_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        APP.format(answer="x") + "\napp = serve.deployment(1 .real.bit_length).bind(1)\n"
    )
    done = modelplex("run", "program:app", "--port", "0", cwd=tmp_path)
    assert (done.returncode, "takes no arguments" in done.stderr) == (1, True), done.stderr


def test_reload_starts_over_with_the_same_options(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[str]] = []

    def keep(arguments: list[str], folder: Path) -> int:
        told.append(arguments)
        return 0

    monkeypatch.setattr("modelplex.cli.run_reloading", keep)
    given = ["--host", "::1", "--port", "1", "--app-dir", "d", "--name", "n", "--route-prefix", "/r", "--proxies", "3"]
    assert CliRunner().invoke(cli, ["run", "program:app", *given, "--reload"]).exit_code == 0
    assert told == [["run", "program:app", *given]]


@pytest.mark.system
def test_reload_starts_over_when_a_file_changes(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(APP.format(answer="one"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "modelplex.cli", "run", "program:app", "--port", str(port), "--reload"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers(text: bytes) -> bool:
        try:
            return Client(port, timeout_s=10).call().body == text
        except OSError:
            return False

    try:
        wait_until(lambda: answers(b"one"), "the first version answers")
        program.write_text(APP.format(answer="two"))
        os.utime(program, (time.time() + 5, time.time() + 5))
        wait_until(lambda: answers(b"two"), "the second version answers")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        if process.poll() is None:
            process.kill()


@pytest.mark.system
def test_the_demo_shows_itself_and_ends(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "modelplex.cli", "demo", "--once", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"shop-000 +default_Forecast#\w{6} +cold +[\d.]+ ms", done.stdout)
    assert re.search(r"warm +\d\d\.\d% +median", done.stdout)
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith("modelplex-logs")] == []


@pytest.mark.system
def test_a_served_program_says_where_it_is_and_where_its_logs_are() -> None:
    with serving("many:one") as served:
        served.call("m1", x_request_id="from-the-client")
        found = re.search(r"logs: (\S+)\)", served.first_line)
        assert found
        (log,) = Path(found[1]).glob("default_Many_*.log")
        wait_until(lambda: "__CALL__ OK" in log.read_text(), "the request is in the replica's own file")
        line = re.compile(
            r"INFO \d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} default_Many default_Many#\w{6} from-the-client / default "
            r"\w+\.py:\d+ - (.*)"
        )
        said = [m[1] for text in log.read_text().splitlines() if (m := line.fullmatch(text))]
        assert said[:2] == ["Started executing request from-the-client", "Loading model 'm1'."]
        assert re.fullmatch(r"Successfully loaded model 'm1' in \d+\.\dms\.", said[2])
        assert re.fullmatch(r"__CALL__ OK \d+\.\dms", said[3])


@pytest.mark.system
def test_what_reload_runs_ends_with_it_however_that_dies(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(APP.format(answer="one"))
    command = [sys.executable, "-m", "modelplex.cli", "run", "program:app", "--port", "0", "-rd", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(processes_naming(str(tmp_path))) == 2, "the command and its child run")
        time.sleep(1)  # to see that it does not start itself over and over
        assert len(processes_naming(str(tmp_path))) == 2
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not processes_naming(str(tmp_path)), "the child has ended, too")
