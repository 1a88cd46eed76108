"""`modelplex plan` on a log of a program that served: it predicts what happened, and answers as its docs say."""

import json
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from served import call_from_many, children_of, is_running, serving, wait_until
from typer.testing import CliRunner

from modelplex.cli import cli
from modelplex.sim import log

pytestmark = [pytest.mark.system, pytest.mark.long]

APP = """
import asyncio

from modelplex import serve


@serve.deployment(num_replicas=3, max_ongoing_requests=5)
class Planned:
    @serve.multiplexed(max_num_models_per_replica=4, eviction={eviction!r}, size_of=lambda model: 2**20)
    async def get_model(self, model_id):
        await asyncio.sleep(0.05)
        return model_id

    async def __call__(self, request):
        return await self.get_model(serve.get_multiplexed_model_id())


app = Planned.bind()
"""


def zipf(requests: int, models: int, seed: int) -> list[str]:
    weights = [1 / rank for rank in range(1, models + 1)]
    return [f"m{n}" for n in random.Random(seed).choices(range(models), weights, k=requests)]


def record(folder: Path, model_ids: list[str], *, eviction: str, clients: int) -> Path:
    """The log of these calls to three replicas of four models; it holds all of them."""
    (folder / "planned.py").write_text(APP.format(eviction=eviction))
    out, said = folder / "requests.csv", folder / "said"
    with serving("planned:app", folder) as served, said.open("w") as file:
        command = [sys.executable, "-m", "modelplex.cli", "record", str(out), "--force"]
        environment = {**os.environ, "TMPDIR": str(served.sockets_folder().parent)}
        process = subprocess.Popen(command, stderr=file, env=environment)
        try:
            wait_until(lambda: said.read_text().count("is being recorded") == 3, "three replicas are recorded")
            call_from_many(served.port, model_ids, clients=clients)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 0
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    assert len(log.read(out).trace) == len(model_ids)
    return out


def plan(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "modelplex.cli", "plan", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def predicted_and_recorded(path: Path, eviction: str) -> tuple[float, float]:
    done = plan(str(path), "--replicas", "3", "--models-max", "4", "--eviction", eviction, "--json", "-")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    [fleet] = found["fleets"]
    return fleet["cold_ratio"], found["recorded_cold_ratio"]


@pytest.mark.parametrize("eviction", ["lru", "gdsf"])
def test_it_predicts_what_happened_within_three_points(tmp_path: Path, eviction: str) -> None:
    path = record(tmp_path, zipf(2000, 40, seed=1), eviction=eviction, clients=8)
    predicted, recorded = predicted_and_recorded(path, eviction)
    assert recorded > 0.1  # or there would be nothing to predict
    assert abs(predicted - recorded) <= 0.03


def write_log(path: Path, requests: int = 600, *, rate_per_s: float = 1.0, load_s: float = 0.5) -> Path:
    """Four models in turn, each loaded once."""
    rows = [
        f"{n / rate_per_s},m{n % 4},{'cold' if n < 4 else 'warm'},{load_s if n < 4 else 0},0.01,{2**20}"
        for n in range(requests)
    ]
    path.write_text("\n".join(["arrival_s,model_id,start,load_s,service_s,size_bytes", *rows]))
    return path


def test_the_answer_is_a_table_and_a_sentence_and_its_pictures_are_drawn(tmp_path: Path) -> None:
    path, pictures, out = write_log(tmp_path / "log.csv"), tmp_path / "pictures", tmp_path / "plan.json"
    done = plan(str(path), "--p99", "150ms", "--replicas", "1-2", "--plot", str(pictures), "--json", str(out))
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 replica of 4.00 MiB with lru: p99 10.0 ms, 0.67% cold." in done.stdout
    assert "<- cheapest" in done.stdout
    assert sorted(p.name for p in pictures.iterdir()) == ["latency.png", "miss-ratio.png"]
    assert json.loads(out.read_text())["answer"]["max_bytes_per_replica"] == 4 * 2**20


def test_no_answer_is_exit_code_1_and_says_what_limits(tmp_path: Path) -> None:
    done = plan(str(write_log(tmp_path / "log.csv")), "--p99", "5ms")
    assert done.returncode == 1
    assert "The p99 of the service time alone is 10.0 ms" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.csv", "--p99", "1s"], "No such file"),
        (["log.csv"], "--p99, or --replicas and"),
        (["log.csv", "--p99", "fast"], "no duration"),
        (["log.csv", "--p99", "1s", "--replicas", "4-1"], "--replicas takes numbers"),
        (["log.csv", "--p99", "1s", "--models-max", "0"], "--models-max takes numbers"),
        (["log.csv", "--p99", "1s", "--models-max", "4", "--bytes", "8GiB"], "not both"),
        (["log.csv", "--p99", "1s", "--bytes", "8 potatoes"], "potatoes"),
        (["log.csv", "--p99", "1s", "--eviction", "lifo"], "no policy 'lifo'; there are lru, gdsf"),
    ],
)
def test_a_mistake_is_told_and_is_exit_code_2(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / "log.csv")
    done = CliRunner(env={"COLUMNS": "200"}).invoke(cli, ["plan", *arguments])
    assert done.exit_code == 2
    assert says in re.sub(r"\s+", " ", done.output)


@pytest.mark.parametrize("library", ["numpy", "rich", "matplotlib"])
def test_what_is_not_installed_is_named(tmp_path: Path, library: str) -> None:
    code = f"import sys; sys.modules[{library!r}] = None; from modelplex.cli import main; main()"
    words = ["plan", str(write_log(tmp_path / "log.csv")), "--p99", "1s", "--plot", str(tmp_path / "new")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"a plan needs {library}: pip install 'modelplex[plan]'" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_ends_at_once_with_all_of_its_processes(tmp_path: Path, number: signal.Signals) -> None:
    """Far too much to simulate, in requests that a single fleet of eight models can hardly serve."""
    path = write_log(tmp_path / "log.csv", 200_000, rate_per_s=20.0)
    command = [sys.executable, "-m", "modelplex.cli", "plan", str(path), "--p99", "90ms", "--replicas", "1-100"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: len(children_of(process.pid)) >= 2, "its workers run")
        workers = children_of(process.pid)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        assert process.returncode == (-number if number == signal.SIGKILL else 130)
        assert "Traceback" not in said
        wait_until(lambda: not any(map(is_running, workers)), "its workers have ended")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
