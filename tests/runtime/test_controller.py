"""From what should run to what does, with an engine that does as it is told."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from scripted_engine import ScriptedEngine, ScriptedProcess

from modelplex import errors, serve
from modelplex.deployment import Application, flatten
from modelplex.runtime.app_spec import AppSpec
from modelplex.runtime.controller import Controller
from modelplex.runtime.directory import Directory
from modelplex.status import ReplicaLeaks
from modelplex.testing import run_virtual
from modelplex.wire.messages import Leaks, Message, Stop, encode


@serve.deployment(num_replicas=2, graceful_shutdown_timeout_s=3)
class Below:
    pass


@serve.deployment
class Above:
    def __init__(self, below: serve.DeploymentHandle) -> None:
        pass


class Plain:
    pass


def app() -> Application:
    return Above.bind(Below.bind())  # type: ignore[attr-defined, no-any-return]


class World:
    def __init__(self) -> None:
        self.engine = ScriptedEngine()
        self.directory = Directory(self.engine.connect)
        self.controller = Controller(self.engine, self.directory)

    async def deploy(self, name: str = "a", prefix: str | None = "/a") -> None:
        await self.controller.deploy(AppSpec.of(name, flatten(app(), name), prefix))

    def states(self) -> dict[str, str]:
        return {name: a.status.value for name, a in self.controller.status().applications.items()}


def in_world(check: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        world = World()
        await check(world)
        await world.controller.stop()
        await world.directory.close()
        assert world.engine.closed
        assert all(p.exited.done() for _, p in world.engine.replicas)

    run_virtual(main())


def test_an_application_runs_when_all_its_replicas_do() -> None:
    async def check(world: World) -> None:
        world.engine.at_once = False
        deploying = asyncio.create_task(world.deploy())
        await asyncio.sleep(1)
        assert world.states() == {"a": "DEPLOYING"}
        assert (len(world.engine.of("Below")), len(world.engine.of("Above"))) == (2, 1)
        for _, process in world.engine.replicas:
            process.starts()
        await deploying
        assert world.states() == {"a": "RUNNING"}

    in_world(check)


def test_every_process_is_told_of_every_replica() -> None:
    async def check(world: World) -> None:
        await world.deploy()
        for _, process in world.engine.replicas:
            table = process.table
            assert [(a.name, a.route_prefix, a.ingress) for a in table.apps] == [("a", "/a", "Above")]
            assert {d.name: len(d.replicas) for d in table.deployments} == {"Below": 2, "Above": 1}
        assert world.directory.ingress("a") == "Above"

    in_world(check)


def test_a_replica_that_died_leaves_the_table_and_its_successor_joins_it() -> None:
    async def check(world: World) -> None:
        await world.deploy()
        dead, other = world.engine.of("Below")
        dead.dies()
        await asyncio.sleep(0)
        await asyncio.sleep(0.5)
        names = {r.replica_id for d in other.table.deployments if d.name == "Below" for r in d.replicas}
        assert len(names) == 2
        assert dead.name not in names

    in_world(check)


def test_a_deployment_that_cannot_start_fails_the_application_and_leaves_nothing_running() -> None:
    async def check(world: World) -> None:
        world.engine.failing = "ImportError: no module named nothing"
        with pytest.raises(errors.DeploymentFailedError, match="no module named nothing"):
            await world.deploy()
        assert world.states() == {"a": "DEPLOY_FAILED"}
        assert "no module named nothing" in world.controller.status().applications["a"].message
        assert not world.engine.of("Below")

    in_world(check)


def test_an_application_goes_on_when_its_successor_cannot_start() -> None:
    async def check(world: World) -> None:
        await world.deploy()
        running = world.engine.of("Below")
        world.engine.failing = "bad version"
        with pytest.raises(errors.DeploymentFailedError, match="bad version"):
            await world.deploy()
        assert world.states() == {"a": "RUNNING"}
        assert world.engine.of("Below") == running

    in_world(check)


def test_an_application_is_replaced_only_when_its_successor_runs() -> None:
    async def check(world: World) -> None:
        await world.deploy()
        old = world.engine.of("Below")
        world.engine.at_once = False
        deploying = asyncio.create_task(world.deploy())
        await asyncio.sleep(1)
        assert not any(p.exited.done() for p in old)
        world.engine.at_once = True
        for _, process in world.engine.replicas[3:]:
            process.starts()
        await deploying
        assert all(p.exited.done() for p in old)
        assert len(world.engine.of("Below")) == 2

    in_world(check)


def test_deleting_stops_callers_before_those_they_call() -> None:
    async def check(world: World) -> None:
        await world.deploy()
        above, below = world.engine.of("Above")[0], world.engine.of("Below")
        below[0].stubborn = True
        deleting = asyncio.create_task(world.controller.delete("a"))
        await asyncio.sleep(0.1)
        assert above.exited.done()
        assert not below[0].exited.done()
        await deleting
        assert world.states() == {}
        assert world.directory.ingress("a") is None
        await world.controller.delete("a")

    in_world(check)


def test_two_applications_cannot_have_one_route() -> None:
    async def check(world: World) -> None:
        await world.deploy("a", "/x")
        with pytest.raises(errors.DeploymentFailedError, match="'/x'"):
            await world.deploy("b", "/x")
        await world.deploy("b", "/y")
        await world.deploy("c", None)
        await world.deploy("d", None)
        assert world.states() == dict.fromkeys("abcd", "RUNNING")

    in_world(check)


def test_status_tells_of_replicas_that_are_missing() -> None:
    async def check(world: World) -> None:
        await world.deploy()
        world.engine.at_once = False
        world.engine.of("Below")[0].dies()
        await asyncio.sleep(0.1)
        below = world.controller.status().applications["a"].deployments["Below"]
        assert (below.status.value, below.replica_states) == ("UPDATING", {"RUNNING": 1, "STARTING": 1})
        world.engine.of("Above")[0].dies()
        await asyncio.sleep(0.1)
        assert world.states() == {"a": "UNHEALTHY"}

    in_world(check)


def leaking_app() -> Application:
    options = {"max_leaked_bytes": "1KiB"}
    return Above.bind(Below.options(**options).bind())  # type: ignore[attr-defined, no-any-return]


def test_status_tells_of_replicas_that_leak_and_of_no_others() -> None:
    async def check(world: World) -> None:
        await world.deploy()
        one, other = world.engine.of("Below")
        one.heard(Leaks(300, [("a", 200), ("b", 100)]))
        other.heard(Leaks(0, []))
        below = world.controller.status().applications["a"].deployments["Below"]
        assert below.leaks == {one.name: ReplicaLeaks(300, {"a": 200, "b": 100})}
        assert world.controller.status().applications["a"].deployments["Above"].leaks == {}
        one.heard(Leaks(0, []))
        assert world.controller.status().applications["a"].deployments["Below"].leaks == {}
        one.heard(Leaks(300, []))
        one.dies()
        await asyncio.sleep(0.5)
        assert world.controller.status().applications["a"].deployments["Below"].leaks == {}

    in_world(check)


def test_a_replica_that_leaks_too_much_is_replaced_without_a_gap() -> None:
    async def check(world: World) -> None:
        await world.controller.deploy(AppSpec.of("a", flatten(leaking_app(), "a"), "/a"))
        old, other = world.engine.of("Below")
        world.engine.at_once = False
        old.heard(Leaks(1024, []))
        await asyncio.sleep(1)
        assert len(world.engine.of("Below")) == 2
        for leaked_bytes in (1025, 2000):
            old.heard(Leaks(leaked_bytes, []))
            await asyncio.sleep(1)
        successor = world.engine.of("Below")[2]
        below = world.controller.status().applications["a"].deployments["Below"]
        assert (below.status.value, below.replica_states) == ("HEALTHY", {"RUNNING": 2})
        successor.starts()
        await asyncio.sleep(0.1)
        assert {r.replica_id for d in other.table.deployments for r in d.replicas} >= {old.name, successor.name}
        below = world.controller.status().applications["a"].deployments["Below"]
        assert (below.status.value, below.replica_states) == ("HEALTHY", {"RUNNING": 3})
        await asyncio.sleep(5)
        assert world.engine.of("Below") == [other, successor]
        assert Stop(3) in old.said
        assert old.name not in {r.replica_id for d in other.table.deployments for r in d.replicas}
        assert len(world.engine.replicas) == 4

    in_world(check)


def test_without_a_limit_no_leak_is_too_large() -> None:
    async def check(world: World) -> None:
        await world.deploy()
        before = world.engine.of("Below")
        before[0].heard(Leaks(10**15, []))
        await asyncio.sleep(60)
        assert world.engine.of("Below") == before

    in_world(check)


def test_deleting_an_application_ends_a_replacement() -> None:
    async def check(world: World) -> None:
        await world.controller.deploy(AppSpec.of("a", flatten(leaking_app(), "a"), "/a"))
        world.engine.at_once = False
        for process in world.engine.of("Below"):
            process.heard(Leaks(2000, []))
        await asyncio.sleep(1)
        await world.controller.delete("a")
        assert all(p.exited.done() for _, p in world.engine.replicas)
        assert len(world.engine.replicas) == 4

    in_world(check)


@pytest.mark.parametrize("turns", range(6))
def test_a_deployment_that_is_called_off_leaves_nothing_running(turns: int) -> None:
    async def check(world: World) -> None:
        world.engine.at_once = False
        deploying = asyncio.create_task(world.deploy())
        for _ in range(turns):
            await asyncio.sleep(0)
        deploying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await deploying
        assert not world.engine.of("Below")
        assert not world.engine.of("Above")

    in_world(check)


def test_a_replica_leaves_the_table_of_every_process_before_it_is_told_to_stop() -> None:
    async def check(world: World) -> None:
        await world.deploy()
        [above] = world.engine.of("Above")
        first, _ = world.engine.of("Below")
        known: list[set[str]] = []

        def send(message: Message) -> None:
            if isinstance(message, Stop):
                known.append({r.replica_id for d in above.table.deployments for r in d.replicas})
            ScriptedProcess.send(first, message)

        first.send = send  # type: ignore[method-assign]
        for tick in range(1000):
            world.controller.changed()  # something was always told a moment ago
            await asyncio.sleep(0.01)
            if tick == 2:
                world.controller._apps["a"].deployments["Below"].processes.replace(first.name, "is old")
        assert known
        assert first.name not in known[0]

    in_world(check)


def test_a_thousand_replicas_cost_each_process_one_table_and_the_changes() -> None:
    async def check(world: World) -> None:
        many = serve.deployment(num_replicas=1000, name="Many")(Plain)
        await world.controller.deploy(AppSpec.of("a", flatten(many.bind(), "a"), "/a"))
        [first, *_] = world.engine.of("Many")
        assert len(first.table.deployments[0].replicas) == 1000
        assert sum(len(encode(message)) for message in first.said) < 200_000
        before = len(first.said)
        world.engine.of("Many")[-1].dies()
        await asyncio.sleep(1)
        assert len(first.table.deployments[0].replicas) == 1000
        assert 0 < sum(len(encode(message)) for message in first.said[before:]) < 500

    in_world(check)
