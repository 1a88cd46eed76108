"""What the local engine alone does: GPUs, environment variables, log files."""

import asyncio
import json
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from scripted_engine import ScriptedProcess

from modelplex import errors
from modelplex.config import DeploymentConfig
from modelplex.context import Call
from modelplex.engines.local import LocalEngine, LocalProcess
from modelplex.runtime.app_spec import Definition, Environment
from modelplex.runtime.directory import Directory
from modelplex.runtime.replica_spec import ReplicaSpec
from modelplex.wire import messages


class Says:
    def __call__(self, name: str) -> str | None:
        return os.environ.get(name)


def spec(app_env: dict[str, str] | None = None, **options: Any) -> ReplicaSpec:
    environment = Environment(env_vars=app_env or {})
    config = DeploymentConfig(name="D", **options)
    return ReplicaSpec("app", secrets.token_hex(3), config, Definition(Says), environment=environment)


def wanting(num_gpus: float | None, **options: Any) -> ReplicaSpec:
    return spec(ray_actor_options={"num_gpus": num_gpus}, **options)


@asynccontextmanager
async def engine_with(gpus: Sequence[str] = (), log_dir: Path | str = "") -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(str(log_dir), tempfile.mkdtemp(prefix="modelplex-"), console=False, find_gpus=lambda: gpus)
    started: list[LocalProcess] = []
    start = engine._start

    async def noted(*args: Any) -> LocalProcess:
        started.append(await start(*args))
        return started[-1]

    engine._start = noted  # type: ignore[method-assign,assignment]
    try:
        yield engine
    finally:
        for process in started:
            process.kill()
            await process.exited
        await engine.close()


async def asked(engine: LocalEngine, replica: ReplicaSpec, process: LocalProcess, name: str) -> str | None:
    """What the replica has as this environment variable."""
    address = await asyncio.shield(process.started)
    directory = Directory(engine.connect)
    info = messages.DeploymentInfo("app", "D", -1, [messages.ReplicaInfo(replica.context.replica_id, address)])
    directory.update(messages.Table([messages.AppInfo("app", None, "D")], [info]))
    answer: str | None = await directory.call(Call("app", "D", "__call__", "", None, "r", "/", (name,), {}))
    await directory.close()
    return answer


def only_log(folder: Path) -> Path:
    [path] = folder.rglob("*.log")
    return path


# What is booked, without children


class Bookings:
    """An engine that starts scripted processes."""

    def __init__(self, gpus: Sequence[str] = ()) -> None:
        self.gpus = gpus
        self.looks = 0
        self.specs: list[ReplicaSpec] = []
        self.failing: BaseException | None = None
        self.engine = LocalEngine("", "", console=False, find_gpus=self.find)
        self.engine._start = self._start  # type: ignore[method-assign,assignment]

    def find(self) -> Sequence[str]:
        self.looks += 1
        return self.gpus

    async def _start(self, name: str, replica: ReplicaSpec, *others: object) -> ScriptedProcess:
        await asyncio.sleep(0)
        if self.failing is not None:
            raise self.failing
        self.specs.append(replica)
        return ScriptedProcess(name)

    async def start(self, replica: ReplicaSpec) -> ScriptedProcess:
        process = await self.engine.start_replica(replica)
        assert isinstance(process, ScriptedProcess)
        return process


@asynccontextmanager
async def bookings(*gpus: str) -> AsyncIterator[Bookings]:
    made = Bookings(gpus)
    yield made
    await made.engine.close()


async def test_too_few_gpus_fail_the_start_and_those_of_a_process_that_ended_are_free_again() -> None:
    async with bookings("0") as world:
        first = await world.start(wanting(1))
        with pytest.raises(errors.DeploymentFailedError, match=r"num_gpus=1, and of the 1 GPUs .* app_D#\w+ has 0"):
            await world.start(wanting(1))
        first.dies()
        await asyncio.sleep(0)
        await world.start(wanting(1))
        assert [replica.gpus for replica in world.specs] == [{"0": 1.0}, {"0": 1.0}]


@pytest.mark.parametrize("error", [OSError("no memory"), asyncio.CancelledError()])
async def test_a_process_that_cannot_be_spawned_gives_its_gpus_back(error: BaseException) -> None:
    async with bookings("0") as world:
        world.failing = error
        with pytest.raises(type(error)):
            await world.start(wanting(1))
        world.failing = None
        await world.start(wanting(1))


async def test_gpus_that_a_replica_of_another_engine_has_are_not_handed_out_until_it_exits() -> None:
    async with bookings("0") as world:
        old = ScriptedProcess()
        world.engine.adopt("app_E#old", {"0": 1.0}, old.exited)
        with pytest.raises(errors.DeploymentFailedError, match="app_E#old has 0"):
            await world.start(wanting(0.5))
        old.dies()
        await asyncio.sleep(0)
        await world.start(wanting(0.5))


async def test_gpus_are_looked_for_once_and_only_when_they_are_wanted() -> None:
    async with bookings("0", "1") as world:
        await world.start(wanting(0))
        await world.start(spec())
        assert world.looks == 0
        await asyncio.gather(world.start(wanting(1)), world.start(wanting(1)))
        assert world.looks == 1
        assert [replica.gpus for replica in world.specs[2:]] == [{"0": 1.0}, {"1": 1.0}]


async def test_options_that_have_no_effect_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async with bookings() as world:
        options: dict[str, Any] = {"num_gpus": 0, "num_cpus": 2, "runtime_env": {"pip": ["torch"], "env_vars": {}}}
        for _ in range(2):
            await world.start(spec(ray_actor_options=options, max_replicas_per_node=1))
        await world.start(spec(ray_actor_options={"num_gpus": 0}))
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("app_D: ignored")
    named = line.rpartition(": ")[2]
    assert named == "ray_actor_options['num_cpus'], ray_actor_options['runtime_env']['pip'], max_replicas_per_node"


# With real replicas


@pytest.mark.system
async def test_each_replica_sees_its_own_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,7,9")
    async with engine_with(["GPU-a", "7", "9"]) as engine:
        specs = [wanting(2), wanting(0.5), wanting(0.5), wanting(0), spec()]
        processes = [await engine.start_replica(s) for s in specs]
        seen = [await asked(engine, s, p, "CUDA_VISIBLE_DEVICES") for s, p in zip(specs, processes, strict=True)]
    assert seen == ["GPU-a,7", "9", "9", "", "GPU-a,7,9"]


@pytest.mark.system
async def test_environment_variables_of_a_deployment_go_over_those_of_its_application(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ONE", "of the controller")
    replica = spec(
        {"ONE": "of the application", "TWO": "of the application"},
        ray_actor_options={"runtime_env": {"env_vars": {"TWO": "of the deployment"}}},
    )
    async with engine_with() as engine:
        process = await engine.start_replica(replica)
        assert await asked(engine, replica, process, "ONE") == "of the application"
        assert await asked(engine, replica, process, "TWO") == "of the deployment"


@pytest.mark.system
async def test_a_replica_writes_json_into_the_folder_of_its_deployment(tmp_path: Path) -> None:
    options = {"encoding": "JSON", "logs_dir": str(tmp_path / "own")}
    replica = spec(logging_config=options)
    async with engine_with(log_dir=tmp_path / "of the run") as engine:
        process = await engine.start_replica(replica)
        await asked(engine, replica, process, "ANY")
        process.send(messages.Stop(1.0))
        await asyncio.wait_for(asyncio.shield(process.exited), 30)
    path = only_log(tmp_path)
    assert path.parent == tmp_path / "own"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    begin, end = [line for line in lines if line["request_id"] == "r"]
    assert begin["message"] == "Started executing request r"
    assert end["message"].startswith("__CALL__ OK")
    assert begin["replica"] == replica.context.replica_id
    assert (begin["levelname"], begin["deployment"], begin["filename"]) == ("INFO", "app_D", "serving.py")


@pytest.mark.system
async def test_a_replica_without_an_access_log_writes_none(tmp_path: Path) -> None:
    replica = spec(logging_config={"enable_access_log": False})
    async with engine_with(log_dir=tmp_path) as engine:
        process = await engine.start_replica(replica)
        await asked(engine, replica, process, "ANY")
        process.send(messages.Stop(1.0))
        await asyncio.wait_for(asyncio.shield(process.exited), 30)
    path = only_log(tmp_path)
    assert "CALL" not in path.read_text()


@pytest.mark.system
async def test_a_log_that_cannot_be_written_fails_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with engine_with() as engine:
        process = await engine.start_replica(spec(logging_config={"logs_dir": str(tmp_path / "file" / "folder")}))
        with pytest.raises(errors.DeploymentFailedError, match=r"log cannot be written: .*file"):
            await asyncio.shield(process.started)
