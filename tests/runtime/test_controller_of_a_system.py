"""A controller that begins without applications, and one that takes the place of another, in virtual time."""

import asyncio
import socket
from typing import Any

import inline_app
import pytest
from scripted_engine import ScriptedEngine, ScriptedProcess

from modelplex import config
from modelplex.config import HTTPOptions
from modelplex.deployment import flatten
from modelplex.runtime.app_spec import AppSpec
from modelplex.runtime.controller import Controller
from modelplex.runtime.directory import Directory
from modelplex.testing import run_virtual
from modelplex.wire import messages
from modelplex.wire.messages import Message


class PatientProxy(ScriptedProcess):
    """Is ready when it knows an application, as a real one is."""

    def send(self, message: Message) -> None:
        super().send(message)
        if isinstance(message, messages.Table | messages.TableChange) and self.table.apps and not self.started.done():
            self.starts()


class EngineOfAProxy(ScriptedEngine):
    async def start_proxy(
        self, tag: str, options: HTTPOptions, listener: socket.socket | None, machine: str = ""
    ) -> Any:
        process = PatientProxy("proxy")
        self.proxies.append(process)
        return process


class D:
    pass


def app_of(**options: Any) -> AppSpec:
    return AppSpec.of("a", flatten(inline_app.app_of(D, **options), "a"), "/")


async def started() -> tuple[EngineOfAProxy, Controller]:
    """With a proxy that has been told that there are no applications."""
    engine = EngineOfAProxy()
    controller = Controller(engine, Directory(engine.connect))
    with socket.socket() as listener:
        controller.start_proxies(HTTPOptions(), listener)
        await asyncio.sleep(1)
    return engine, controller


def test_a_proxy_that_is_ready_with_the_first_application_does_not_hold_it_up() -> None:
    async def main() -> None:
        _, controller = await started()
        async with asyncio.timeout(10):
            await controller.deploy(app_of())
        await controller.stop()

    run_virtual(main())


def test_the_first_application_may_have_no_replicas_at_first() -> None:
    async def main() -> None:
        _, controller = await started()
        try:
            async with asyncio.timeout(60):
                await controller.deploy(app_of(autoscaling_config={"min_replicas": 0}))
        finally:
            await controller.stop()

    run_virtual(main())


def test_a_proxy_that_is_replaced_has_time_to_end_what_it_answers() -> None:
    async def main() -> None:
        engine, controller = await started()
        await controller.deploy(app_of(graceful_shutdown_timeout_s=7))
        [name] = controller.status().proxies
        controller.heard(name, messages.Leaving())
        await asyncio.sleep(config.HANDOVER_S + 1)
        told = [message for message in engine.proxies[0].said if isinstance(message, messages.Stop)]
        await controller.stop()
        assert told == [messages.Stop(7.0)]

    run_virtual(main())


QUICK = {
    "min_replicas": 1,
    "max_replicas": 3,
    "target_ongoing_requests": 1,
    "metrics_interval_s": 1,
    "look_back_period_s": 1,
    "upscale_delay_s": 0,
    "downscale_delay_s": 1,
}


@pytest.mark.parametrize("who", ["proxy", "replica", "caller"])
def test_what_waited_in_a_process_that_has_ended_is_not_waited_for(who: str) -> None:
    async def main() -> None:
        engine, controller = await started()
        await controller.deploy(app_of(autoscaling_config=QUICK))
        [(spec, replica)] = engine.replicas
        process, name = replica, replica.name
        if who == "proxy":
            process, [name] = engine.proxies[0], controller.status().proxies
        elif who == "caller":
            process, name = ScriptedProcess("caller#1"), "caller#1"
            process.starts()
            controller.register(messages.Register("caller", name), process)
        process.heard(messages.Waiting("a", spec.config.name, 3))
        for _, running in engine.replicas:
            running.heard(messages.Load(0.0, {}, [], -1))
        await asyncio.sleep(5)
        assert len(engine.of(spec.config.name)) == 3
        process.dies()
        await asyncio.sleep(1)
        for _, running in engine.replicas:
            running.heard(messages.Load(0.0, {}, [], -1))
        await asyncio.sleep(20)
        assert len(engine.of(spec.config.name)) == 1
        await controller.stop()

    run_virtual(main())
