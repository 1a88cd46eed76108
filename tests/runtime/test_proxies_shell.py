"""Proxies on the machines of a cluster, with processes that do what the test says, in virtual time."""

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import inline_app
import pytest
from scripted_engine import ScriptedEngine, ScriptedProcess

from modelplex import config, errors
from modelplex.config import HTTPOptions
from modelplex.deployment import flatten
from modelplex.runtime.app_spec import AppSpec
from modelplex.runtime.controller import Controller
from modelplex.runtime.directory import Directory
from modelplex.runtime.engine import Machine
from modelplex.runtime.proxies import MACHINES_TIMEOUT_S, STARTS_MAX
from modelplex.status import ApplicationState
from modelplex.testing import run_virtual
from modelplex.wire import messages

HEAD = Machine("head")
ONE = Machine("one", is_head=False)
TWO = Machine("two", is_head=False)


def drained(machine: Machine) -> Machine:
    return Machine(machine.name, machine.is_head, is_draining=True)


class D:
    pass


def app_of(name: str = "a", **options: Any) -> AppSpec:
    return AppSpec.of(name, flatten(inline_app.app_of(D, **options), name), f"/{name}")


class Cluster:
    """A controller whose engine has three machines; replicas start on the one that the engine is told."""

    def __init__(self, *, recover_s: float = 0.0, **options: Any) -> None:
        self.engine = ScriptedEngine()
        self.engine.machines = [ONE, HEAD, TWO]
        self.engine.replicas_on = "one"
        self.controller = Controller(self.engine, Directory(self.engine.connect))
        self.controller.start_proxies(HTTPOptions(**options), None, recover_s=recover_s)

    @property
    def proxies(self) -> dict[str, int]:
        """How many run on each machine, retired ones left out."""
        machines = [p.machine for p in self.engine.proxies if not p.exited.done() and not self.told_to_stop(p)]
        return {machine: machines.count(machine) for machine in sorted(set(machines))}

    def told_to_stop(self, process: ScriptedProcess) -> bool:
        return any(isinstance(message, messages.Stop) for message in process.said)

    @property
    def urls(self) -> list[str]:
        return list(self.controller.status().proxy_addresses.values())


def in_cluster(**options: Any) -> Callable[[Callable[[Cluster], Coroutine[Any, Any, None]]], Callable[[], None]]:
    def decorate(test: Callable[[Cluster], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        def run() -> None:
            async def main() -> None:
                before = asyncio.all_tasks()
                cluster = Cluster(**options)
                await test(cluster)
                await cluster.controller.stop()
                assert asyncio.all_tasks() <= before

            run_virtual(main())

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return run

    return decorate


@in_cluster(num_proxies=2)
async def test_each_machine_with_a_replica_has_proxies_and_the_head(cluster: Cluster) -> None:
    await cluster.controller.deploy(app_of())
    await asyncio.sleep(1)
    assert cluster.proxies == {"head": 2, "one": 2}
    assert cluster.urls == ["http://head:8000"] * 2 + ["http://one:8000"] * 2
    assert cluster.controller.status().address == "http://head:8000"
    assert [table.deployments[0].name for table in (p.table for p in cluster.engine.proxies)] == ["D"] * 4


@pytest.mark.parametrize(
    ("location", "expected"),
    [("AllNodes", {"head": 1, "one": 1, "two": 1}), ("HeadOnly", {"head": 1}), ("Disabled", {})],
)
def test_the_location_says_where_they_are(location: str, expected: dict[str, int]) -> None:
    @in_cluster(location=location)
    async def main(cluster: Cluster) -> None:
        await cluster.controller.deploy(app_of())
        await asyncio.sleep(1)
        assert cluster.proxies == expected
        assert set(cluster.urls) == {f"http://{machine}:8000" for machine in expected}

    main()


@in_cluster()
async def test_a_machine_whose_replicas_go_keeps_its_proxy_for_a_while(cluster: Cluster) -> None:
    await cluster.controller.deploy(app_of(graceful_shutdown_timeout_s=7))
    await cluster.controller.deploy(app_of("b"))
    cluster.engine.replicas_on = "two"
    await cluster.controller.deploy(app_of("c", graceful_shutdown_timeout_s=9))
    await cluster.controller.delete("a")
    await cluster.controller.delete("b")
    await asyncio.sleep(config.PROXY_LINGER_S - 5)
    assert cluster.proxies == {"head": 1, "one": 1, "two": 1}
    (proxy,) = cluster.engine.proxies_on("one")
    await asyncio.sleep(10)
    assert cluster.proxies == {"head": 1, "two": 1}
    assert messages.Stop(9.0) in proxy.said  # what it answers may take as long as anything
    cluster.engine.replicas_on = "one"
    await cluster.controller.deploy(app_of())
    await asyncio.sleep(1)
    assert cluster.proxies == {"head": 1, "one": 1, "two": 1}


@in_cluster()
async def test_the_last_proxies_that_serve_stay_until_others_do(cluster: Cluster) -> None:
    cluster.engine.taken = {"head"}
    await cluster.controller.deploy(app_of())
    await cluster.controller.delete("a")
    await asyncio.sleep(10 * config.PROXY_LINGER_S)
    assert cluster.urls == ["http://one:8000"]
    cluster.engine.taken = set()
    await asyncio.sleep(config.RESTART_BACKOFF_MAX_S + 1)
    assert cluster.urls == ["http://head:8000"]


@in_cluster()
async def test_machines_that_have_been_there_are_forgotten(cluster: Cluster) -> None:
    await cluster.controller.deploy(app_of())
    for number in range(20):
        cluster.engine.replicas_on = name = f"short-lived-{number}"
        cluster.engine.set_machines(HEAD, Machine(name, is_head=False))
        cluster.engine.of("D")[0].dies()
        await asyncio.sleep(config.RESTART_FORGET_S + 5)
    assert len(cluster.engine.proxies) > 20
    assert len(cluster.controller._proxies._sets) <= 3


@in_cluster()
async def test_a_proxy_that_dies_is_replaced_on_its_machine(cluster: Cluster) -> None:
    await cluster.controller.deploy(app_of())
    await asyncio.sleep(1)
    cluster.engine.proxies_on("one")[0].dies()
    await asyncio.sleep(1)
    assert cluster.proxies == {"head": 1, "one": 1}


@in_cluster()
async def test_a_proxy_that_is_to_leave_has_a_successor_on_its_machine(cluster: Cluster) -> None:
    await cluster.controller.deploy(app_of(graceful_shutdown_timeout_s=7))
    await asyncio.sleep(1)
    (before,) = cluster.engine.proxies_on("one")
    before.heard(messages.Leaving())
    await asyncio.sleep(config.HANDOVER_S + 1)
    (after,) = cluster.engine.proxies_on("one")
    assert after is not before
    assert messages.Stop(7.0) in before.said


@in_cluster()
async def test_a_machine_that_is_gone_has_nothing_started_again(cluster: Cluster) -> None:
    await cluster.controller.deploy(app_of())
    await asyncio.sleep(1)
    (proxy,), [(_, replica)] = cluster.engine.proxies_on("one"), cluster.engine.replicas
    proxy.stubborn = replica.stubborn = True  # nobody hears them any more
    cluster.engine.replicas_on = "two"
    cluster.engine.set_machines(HEAD, TWO)
    await asyncio.sleep(0.1)
    assert cluster.urls == ["http://head:8000"]
    proxy.dies()
    replica.dies()
    await asyncio.sleep(5)
    assert [p.machine for p in cluster.engine.proxies] == ["head", "one", "two"]
    assert cluster.proxies == {"head": 1, "two": 1}


# Starting


@in_cluster()
async def test_an_application_runs_when_one_machine_serves_and_others_are_tried_on(
    cluster: Cluster,
) -> None:
    cluster.engine.taken = {"head"}
    await cluster.controller.deploy(app_of())
    status = cluster.controller.status()
    assert status.applications["a"].status is ApplicationState.RUNNING
    assert status.address == "http://one:8000"
    await asyncio.sleep(60)
    assert cluster.controller.status().proxy_failures == {"head": "the port is taken"}
    assert len(cluster.engine.proxies) < 30, "it is tried without a pause"
    cluster.engine.taken = set()
    await asyncio.sleep(config.RESTART_BACKOFF_MAX_S + 1)
    status = cluster.controller.status()
    assert (status.proxy_failures, status.address) == ({}, "http://head:8000")


@in_cluster()
async def test_if_none_can_start_the_application_fails_and_says_where_and_why(cluster: Cluster) -> None:
    cluster.engine.taken = {"head", "one"}
    with pytest.raises(errors.DeploymentFailedError) as caught:
        await cluster.controller.deploy(app_of())
    assert "on head: the port is taken" in str(caught.value)
    assert "on one: the port is taken" in str(caught.value)
    assert cluster.controller.status().applications["a"].status is ApplicationState.DEPLOY_FAILED
    assert len(cluster.engine.proxies) >= 2 * STARTS_MAX
    cluster.engine.taken = set()
    await asyncio.sleep(config.RESTART_BACKOFF_MAX_S)
    await cluster.controller.deploy(app_of())


@in_cluster()
async def test_that_all_proxies_are_away_for_a_while_is_not_the_fault_of_an_application(cluster: Cluster) -> None:
    await cluster.controller.deploy(app_of())
    await asyncio.sleep(1)
    cluster.engine.taken = {"head", "one"}
    for proxy in cluster.engine.proxies:
        proxy.dies()
    await asyncio.sleep(1)
    assert cluster.urls == []
    await cluster.controller.deploy(app_of("b"))


def test_a_failure_is_told_in_the_log_with_its_machine(caplog: pytest.LogCaptureFixture) -> None:
    @in_cluster()
    async def main(cluster: Cluster) -> None:
        cluster.engine.taken = {"head"}
        await cluster.controller.deploy(app_of())
        await asyncio.sleep(1)

    with caplog.at_level(logging.INFO):
        main()
    said = [record.getMessage() for record in caplog.records]
    failed = [line.split()[0] for line in said if line.endswith("could not start: the port is taken")]
    assert len(failed) >= STARTS_MAX
    assert all(f"Starting {name} on the machine head." in said for name in failed)


@in_cluster(location="HeadOnly")
async def test_that_there_is_no_machine_for_a_proxy_is_told_after_a_while(cluster: Cluster) -> None:
    cluster.engine.set_machines(ONE)
    began = asyncio.get_running_loop().time()
    with pytest.raises(errors.DeploymentFailedError, match=r"no machine for a proxy \(proxy_location is HeadOnly\)"):
        await cluster.controller.deploy(app_of())
    assert asyncio.get_running_loop().time() - began == pytest.approx(MACHINES_TIMEOUT_S, abs=1)


@in_cluster(location="HeadOnly")
async def test_a_machine_that_comes_in_time_is_waited_for(cluster: Cluster) -> None:
    cluster.engine.set_machines(ONE)
    deploying = asyncio.create_task(cluster.controller.deploy(app_of()))
    await asyncio.sleep(5)
    assert not deploying.done()
    cluster.engine.set_machines(ONE, HEAD)
    async with asyncio.timeout(1):
        await deploying
    assert cluster.urls == ["http://head:8000"]


@in_cluster(location="HeadOnly", num_proxies=2)
async def test_the_first_proxy_of_several_is_enough_for_an_application(cluster: Cluster) -> None:
    cluster.engine.at_once = False
    deploying = asyncio.create_task(cluster.controller.deploy(app_of()))
    await asyncio.sleep(1)
    cluster.engine.replicas[0][1].starts()
    await asyncio.sleep(1)
    assert not deploying.done()
    cluster.engine.proxies[-1].starts()
    async with asyncio.timeout(1):
        await deploying
    assert cluster.urls == ["http://head:8000"]


@in_cluster()
async def test_who_waits_for_a_proxy_can_be_called_off(cluster: Cluster) -> None:
    cluster.engine.at_once = False
    deploying = asyncio.create_task(cluster.controller.deploy(app_of()))
    await asyncio.sleep(1)
    cluster.engine.replicas[0][1].starts()
    await asyncio.sleep(1)
    await cluster.controller.delete("a")
    with pytest.raises(errors.DeploymentFailedError, match="called off"):
        await deploying
    cluster.engine.proxies[0].starts()  # it was not the application's
    await asyncio.sleep(1)
    assert cluster.urls == ["http://head:8000"]


# A controller that takes the place of another


def registered(name: str, machine: str) -> tuple[messages.Register, ScriptedProcess]:
    process = ScriptedProcess(name)
    process.machine, process.address = machine, f"http://{machine}:8000"
    process.starts()
    return messages.Register("proxy", name, process.address, machine=machine), process


@in_cluster(recover_s=2.0)
async def test_proxies_of_an_earlier_controller_are_adopted_where_they_are(cluster: Cluster) -> None:
    for name, machine in [("proxy#h", "head"), ("proxy#t", "two")]:
        assert cluster.controller.register(*registered(name, machine))
    await asyncio.sleep(3)
    assert cluster.engine.proxies == []
    assert cluster.controller.status().proxy_addresses == {
        "proxy#h": "http://head:8000",
        "proxy#t": "http://two:8000",
    }
    await asyncio.sleep(config.PROXY_LINGER_S)
    assert cluster.urls == ["http://head:8000"]


@in_cluster(recover_s=2.0)
async def test_what_has_not_registered_in_time_is_started(cluster: Cluster) -> None:
    await asyncio.sleep(1.5)
    assert cluster.engine.proxies == []
    await asyncio.sleep(1)
    assert cluster.proxies == {"head": 1}


@in_cluster()
async def test_one_proxy_too_many_is_told_to_stop(cluster: Cluster) -> None:
    await cluster.controller.deploy(app_of())
    register, process = registered("proxy#x", "head")
    assert cluster.controller.register(register, process)
    await asyncio.sleep(1)
    assert len([p for p in (*cluster.engine.proxies_on("head"), process) if not p.exited.done()]) == 1


# Draining


@in_cluster()
async def test_a_machine_that_is_drained_is_handed_over_before_its_proxies_go(cluster: Cluster) -> None:
    await cluster.controller.deploy(app_of())
    await asyncio.sleep(1)
    (old,), (proxy,) = cluster.engine.of("D"), cluster.engine.proxies_on("one")
    cluster.engine.at_once = False
    cluster.engine.set_machines(HEAD, drained(ONE), TWO)
    cluster.engine.replicas_on = "two"
    await asyncio.sleep(60)
    assert len(cluster.engine.replicas) == 2, "it is asked for once"
    assert not cluster.told_to_stop(old), "it goes before its successor serves"
    assert not cluster.told_to_stop(proxy)
    cluster.engine.replicas[1][1].starts()
    await asyncio.sleep(config.HANDOVER_S + 1)
    assert cluster.told_to_stop(old)
    assert cluster.told_to_stop(proxy)
    cluster.engine.proxies_on("two")[0].starts()
    await asyncio.sleep(60)
    assert cluster.proxies == {"head": 1, "two": 1}


def test_on_a_listening_socket_all_proxies_are_on_one_machine_without_a_name() -> None:
    async def main() -> None:
        engine = ScriptedEngine()
        controller = Controller(engine, Directory(engine.connect))
        with socket.socket() as listener:
            controller.start_proxies(HTTPOptions(num_proxies=2, location="HeadOnly"), listener)
            await controller.deploy(app_of())
            assert [proxy.machine for proxy in engine.proxies] == ["", ""]
            engine.set_machines(HEAD, ONE)  # means nothing: one socket is on one machine
            await asyncio.sleep(60)
        assert len(engine.proxies) == len(controller.status().proxies) == 2
        await controller.stop()

    run_virtual(main())


def test_on_a_listening_socket_proxies_that_cannot_start_are_given_up_and_told() -> None:
    async def main() -> None:
        engine = ScriptedEngine()
        engine.taken = {""}
        controller = Controller(engine, Directory(engine.connect))
        with socket.socket() as listener:
            controller.start_proxies(HTTPOptions(), listener)
            with pytest.raises(errors.DeploymentFailedError, match="The HTTP proxy could not start: the port is taken"):
                await controller.deploy(app_of())
            await asyncio.sleep(60)
        assert len(engine.proxies) == STARTS_MAX
        assert controller.status().proxy_failures == {"": "the port is taken"}
        await controller.stop()

    run_virtual(main())
