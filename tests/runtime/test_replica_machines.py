"""Replicas on machines that are to be gone are handed over, in virtual time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import inline_app
from scripted_engine import ScriptedEngine, ScriptedProcess

from modelplex import config
from modelplex.deployment import flatten
from modelplex.runtime.app_spec import AppSpec
from modelplex.runtime.controller import Controller
from modelplex.runtime.desired_state import SavedApp
from modelplex.runtime.directory import Directory
from modelplex.runtime.engine import Machine
from modelplex.testing import run_virtual
from modelplex.wire import messages

HEAD, ONE = Machine("head"), Machine("one", is_head=False)
DRAINED = Machine("one", is_head=False, is_draining=True)


class D:
    pass


def in_cluster(test: Callable[[ScriptedEngine, Controller], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            engine = ScriptedEngine()
            engine.machines, engine.replicas_on = [HEAD, ONE], "one"
            controller = Controller(engine, Directory(engine.connect))
            await test(engine, controller)
            await controller.stop()

        run_virtual(main())

    run.__name__ = test.__name__
    return run


def app_of(**options: Any) -> AppSpec:
    return AppSpec.of("a", flatten(inline_app.app_of(D, **options), "a"), "/")


def on(engine: ScriptedEngine, machine: str) -> list[ScriptedProcess]:
    return [process for process in engine.of("D") if process.machine == machine]


@in_cluster
async def test_each_replica_is_replaced_and_its_successor_is_told_its_models(
    engine: ScriptedEngine, controller: Controller
) -> None:
    await controller.deploy(app_of(num_replicas=2))
    before = on(engine, "one")
    for process in before:
        process.heard(messages.Load(0.0, {"m1": 2, "m2": 1}, [], -1))
    engine.replicas_on = "head"
    engine.set_machines(HEAD, DRAINED)
    await asyncio.sleep(2 * config.HANDOVER_S + 5)
    assert (len(on(engine, "one")), len(on(engine, "head"))) == (0, 2)
    assert all(isinstance(process.said[-1], messages.Stop) for process in before)
    assert [sorted(models) for spec, _ in engine.replicas[2:] for models in spec.models.values()] == [["m1", "m2"]] * 2


@in_cluster
async def test_one_that_starts_there_late_is_replaced_as_well(engine: ScriptedEngine, controller: Controller) -> None:
    engine.at_once = False
    deploying = asyncio.create_task(controller.deploy(app_of()))
    await asyncio.sleep(1)
    engine.set_machines(HEAD, DRAINED)
    await asyncio.sleep(1)
    engine.at_once, engine.replicas_on = True, "head"
    engine.replicas[0][1].starts()
    await deploying
    await asyncio.sleep(config.HANDOVER_S + 1)
    assert [process.machine for process in engine.of("D")] == ["head"]


@in_cluster
async def test_one_without_a_place_to_go_serves_on_until_its_machine_goes(
    engine: ScriptedEngine, controller: Controller
) -> None:
    await controller.deploy(app_of())
    (old,) = on(engine, "one")
    engine.at_once, engine.replicas_on = False, "head"
    engine.set_machines(HEAD, DRAINED)
    for _ in range(3):
        engine.set_machines(HEAD, DRAINED)  # told again, as often as anything of them changes
    await asyncio.sleep(300)
    assert len(engine.replicas) == 2
    assert list(controller.status().applications["a"].deployments["D"].replica_states.items()) == [("RUNNING", 1)]
    old.dies()
    engine.set_machines(HEAD)
    engine.replicas[1][1].starts()
    await asyncio.sleep(1)
    assert [process.machine for process in engine.of("D")] == ["head"]
    assert len(engine.replicas) == 2


@in_cluster
async def test_nothing_is_replaced_where_nothing_is_drained(engine: ScriptedEngine, controller: Controller) -> None:
    await controller.deploy(app_of())
    engine.set_machines(Machine("head", is_draining=True), ONE)
    await asyncio.sleep(10)
    assert len(engine.replicas) == 1


@in_cluster
async def test_those_of_an_earlier_controller_are_replaced_as_well(
    engine: ScriptedEngine, controller: Controller
) -> None:
    engine.set_machines(HEAD, DRAINED)
    engine.replicas_on = "head"
    spec = app_of()
    controller.recover([SavedApp(spec, None, changing=False, counts={"D": 1})], 2.0)
    old = ScriptedProcess("a_D#old")
    who = (old.name, "10.0.0.1:4711 one", "a", "D", spec.deployments[0].process_version)
    assert controller.register(messages.Register("replica", *who), old)
    await asyncio.sleep(config.HANDOVER_S + 3)
    assert old.exited.done()
    assert [process.machine for process in engine.of("D")] == ["head"]
