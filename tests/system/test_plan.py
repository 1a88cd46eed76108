"""`modelplex plan` on a log of a program that served: it predicts what happened, and answers as its docs say."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from served import call_from_many, serving, wait_until

from modelplex.sim import log

pytestmark = pytest.mark.system

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
