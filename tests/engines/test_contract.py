"""What every engine must do, checked on each: on the inline one under virtual time, on the others for real."""

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from ray_nodes import ray_nodes

from modelplex import config, errors
from modelplex.config import DeploymentConfig
from modelplex.context import Call
from modelplex.runtime.app_spec import Definition
from modelplex.runtime.directory import Directory
from modelplex.runtime.engine import Engine, Process
from modelplex.runtime.replica_spec import ReplicaSpec
from modelplex.testing import run_virtual
from modelplex.wire import messages


class Echo:
    async def __init__(self, prefix: str) -> None:  # type: ignore[misc]  # which deployments may have
        if prefix == "bad":
            raise ValueError("a bad prefix")
        if prefix == "slow":
            await asyncio.sleep(3600)
        self.prefix = prefix

    def __call__(self, text: str) -> str:
        return self.prefix + text

    async def wait(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "waited"


def spec(prefix: str = "> ") -> ReplicaSpec:
    return ReplicaSpec("app", secrets.token_hex(3), DeploymentConfig(name="Echo"), Definition(Echo, (prefix,)))


def call(method: str, *args: Any) -> Call:
    return Call("app", "Echo", method, "", None, "request", "/", args, {})


class Running:
    """An engine, and a directory that knows what it has started."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.directory = Directory(engine.connect)

    async def start(self, *specs: ReplicaSpec) -> list[Process]:
        processes = [await self.engine.start_replica(s) for s in specs]
        addresses = await asyncio.gather(*(asyncio.shield(p.started) for p in processes))
        infos = [messages.ReplicaInfo(s.context.replica_id, a) for s, a in zip(specs, addresses, strict=True)]
        app = messages.AppInfo("app", None, "Echo")
        self.directory.update(messages.Table([app], [messages.DeploymentInfo("app", "Echo", -1, infos)]))
        return processes


Check = Callable[[Running], Awaitable[None]]


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[Running]:
    world = Running(engine)
    yield world
    await world.directory.close()
    await engine.close()


@pytest.fixture(scope="module")
def three_ray_nodes() -> Iterator[None]:
    with ray_nodes():
        yield


ENGINES = [
    "inline",
    pytest.param("local", marks=pytest.mark.system),
    pytest.param("ray", marks=[pytest.mark.system, pytest.mark.cluster]),
]


@pytest.fixture(params=ENGINES)
def on_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Check], None]:
    """Runs a check on one engine."""
    if request.param == "ray":
        request.getfixturevalue("three_ray_nodes")

    def run(check: Check) -> None:
        async def main() -> None:
            with tempfile.TemporaryDirectory(prefix="modelplex-", ignore_cleanup_errors=True) as folder:
                engine = config.load(config.ENGINES[request.param])(log_dir=str(tmp_path), folder=folder)
                async with running(engine) as world:
                    await check(world)

        if request.param == "inline":
            run_virtual(main())
        else:
            asyncio.run(main())

    return run


async def stop(process: Process) -> str:
    process.send(messages.Stop(5.0))
    return await asyncio.wait_for(asyncio.shield(process.exited), 30)


def test_a_replica_that_has_started_answers(on_engine: Callable[[Check], None]) -> None:
    async def check(world: Running) -> None:
        (process,) = await world.start(spec())
        assert await world.directory.call(call("__call__", "hello")) == "> hello"
        await stop(process)

    on_engine(check)


def test_replicas_are_separate(on_engine: Callable[[Check], None]) -> None:
    async def check(world: Running) -> None:
        processes = await world.start(spec("1 "), spec("2 "))
        answers = {await world.directory.call(call("__call__", "x")) for _ in range(6)}
        assert answers == {"1 x", "2 x"}
        await asyncio.gather(*(stop(p) for p in processes))

    on_engine(check)


def test_a_constructor_that_raises_fails_the_start_with_its_traceback(on_engine: Callable[[Check], None]) -> None:
    async def check(world: Running) -> None:
        process = await world.engine.start_replica(spec("bad"))
        with pytest.raises(errors.DeploymentFailedError, match="a bad prefix"):
            await asyncio.shield(process.started)
        await asyncio.shield(process.exited)

    on_engine(check)


def test_a_replica_that_is_stopped_ends_what_runs_first(on_engine: Callable[[Check], None]) -> None:
    async def check(world: Running) -> None:
        (process,) = await world.start(spec())
        waiting = asyncio.create_task(world.directory.call(call("wait", 0.5)))
        await asyncio.sleep(0.25)
        await stop(process)
        assert await waiting == "waited"

    on_engine(check)


def test_a_replica_that_is_killed_is_noticed_and_its_request_goes_elsewhere(
    on_engine: Callable[[Check], None],
) -> None:
    async def check(world: Running) -> None:
        one, two = await world.start(spec(), spec())
        calls = [asyncio.create_task(world.directory.call(call("wait", 0.5))) for _ in range(4)]
        await asyncio.sleep(0.25)
        one.kill()
        await asyncio.wait_for(asyncio.shield(one.exited), 10)
        assert await asyncio.gather(*calls) == ["waited"] * 4
        assert not two.exited.done()
        await stop(two)

    on_engine(check)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_replica_that_is_killed_before_it_is_ready_has_failed_to_start(
    on_engine: Callable[[Check], None], stopped: bool
) -> None:
    async def check(world: Running) -> None:
        process = await world.engine.start_replica(spec("slow"))
        if stopped:
            process.send(messages.Stop(0.0))
        await asyncio.sleep(0.25)
        process.kill()
        with pytest.raises(errors.DeploymentFailedError, match="killed"):
            await asyncio.wait_for(asyncio.shield(process.started), 30)
        await asyncio.wait_for(asyncio.shield(process.exited), 30)

    on_engine(check)


def test_killing_and_telling_what_has_ended_does_nothing(on_engine: Callable[[Check], None]) -> None:
    async def check(world: Running) -> None:
        (process,) = await world.start(spec())
        await stop(process)
        process.kill()
        process.send(messages.Stop(1.0))

    on_engine(check)
