"""The controller on a Ray cluster: an actor that outlives who began it, and is begun again when it dies."""

import asyncio
import contextlib
import dataclasses
import logging
import os
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from modelplex import errors
from modelplex.config import RAY, HTTPOptions
from modelplex.config_file import SystemConfig
from modelplex.engines import ray_cluster
from modelplex.engines.ray import RayEngine
from modelplex.engines.ray_actor import Membership
from modelplex.engines.ray_caller import controller_named
from modelplex.observe import logs
from modelplex.runtime import config_deployer, payload
from modelplex.runtime.admin import Admin
from modelplex.runtime.admin_table import JSON, Request
from modelplex.runtime.app_spec import AppSpec
from modelplex.runtime.controller import Controller
from modelplex.runtime.desired_state import SavedApp
from modelplex.runtime.directory import Directory
from modelplex.status import ServeStatus
from modelplex.wire.handshake import SECRET_BYTES

log = logging.getLogger(__name__)

# The name of the actor.
CONTROLLER = "controller"
SYSTEM = f"{RAY}{CONTROLLER}"

# For processes to come to a controller that has been begun again; it waits no longer when all are there.
REGISTER_S = 10.0

# Uploaded folders are held for so long at a time, so that they are there when all replicas have gone, and come again.
HOLD_S = 600

# From the last word of a controller that has been shut down to its end.
EXIT_S = 0.1

# For it to be gone then.
END_TIMEOUT_S = 10.0

# For an answer to a question; what is to be done takes as long as it takes.
ANSWER_TIMEOUT_S = 60.0

# For somebody to answer where a cluster is to be.
CONNECT_TIMEOUT_S = 5.0


class StateOnHead:
    """What is wanted, kept by the cluster's head (`desired_state.DesiredState`).

    Args:
        system: whose state it is: what another one has left is of no use.
    """

    def __init__(self, system: str) -> None:
        self._system = system
        self._written: list[SavedApp] | None = None

    def save(self, apps: Sequence[SavedApp]) -> None:
        if self._written != list(apps):
            ray_cluster.keep("state", payload.dumps((self._system, list(apps))))
            self._written = list(apps)

    def read(self) -> list[SavedApp] | None:
        """What was saved; None if nothing was."""
        data = ray_cluster.kept("state")
        system, apps = (None, None) if data is None else payload.loads(data)
        return apps if system == self._system else None


class ControllerActor:
    """Runs applications on a cluster.

    Ray begins it again, with the same arguments, when its process or its machine dies.

    Args:
        membership: what makes its processes one system.
        http: where proxies serve HTTP, on each machine; None for handles alone.
    """

    async def __init__(self, membership: Membership, http: HTTPOptions | None) -> None:  # type: ignore[misc]
        self._membership = membership
        self._http = http
        self._log_dir = membership.log_dir or ray_cluster.log_dir()
        logs.start("controller", CONTROLLER, self._log_dir, console=membership.console, logger="modelplex")
        self._engine = RayEngine(membership=membership)
        self._kept = StateOnHead(membership.system)
        directory = Directory(self._engine.connect)
        self._controller = Controller(self._engine, directory, self._kept)
        self._admin = Admin(self._controller, self._status, {}, lambda: None, directory)
        self._engine.register, self._engine.joined = self._controller.register, self._controller.joined
        saved = self._kept.read()
        wait_s = 0.0 if saved is None else REGISTER_S
        if http is not None:
            self._controller.start_proxies(http, None, recover_s=wait_s)
        if saved is None:
            self._kept.save([])
        else:
            self._controller.recover(saved, wait_s)
        self._engine.end_strangers_after(REGISTER_S)  # or an earlier system has
        self._address = await self._engine.listen()
        self._holding = asyncio.get_running_loop().create_task(self._hold())

    async def _hold(self) -> None:
        while True:
            await self._hold_folders()
            await asyncio.sleep(HOLD_S / 2)

    async def _hold_folders(self) -> None:
        environments = [spec.environment.runtime_env for spec in self._controller.specs]
        try:
            await asyncio.to_thread(ray_cluster.hold, environments, HOLD_S)
        except Exception as error:  # noqa: BLE001 - the head may be away, which Ray tells in many ways
            log.warning("Ray does not say that it keeps the folders of applications: %s", error)

    async def membership(self) -> Membership:
        return self._membership

    async def address(self) -> tuple[str, str]:
        """The system's name, and where processes come to."""
        return self._membership.system, self._address

    async def http_options(self) -> HTTPOptions | None:
        return self._http

    async def deploy(self, spec: AppSpec) -> None:
        """Run an application; returns when it is ready. Raises `DeploymentFailedError`."""
        await self._controller.deploy(spec)
        await self._hold_folders()

    async def deploy_built(self, built: Mapping[str, config_deployer.Built]) -> None:
        """Run the applications of a configuration file, and none of an earlier one (`config_deployer.run`)."""
        try:
            await config_deployer.run(self._controller, built)
        finally:
            await self._hold_folders()

    async def config(self) -> dict[str, Any]:
        """What configuration files have been deployed, as one."""
        given = SystemConfig(http_options=self._http or HTTPOptions(), applications=()).as_dict()
        return config_deployer.as_config(self._controller, given.get("http_options", {}))

    async def delete(self, name: str) -> None:
        await self._controller.delete(name)

    async def status(self) -> ServeStatus:
        return self._status()

    def _status(self) -> ServeStatus:
        return dataclasses.replace(self._controller.status(), log_dir=self._log_dir)

    async def admin(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        """The status and the body of what the admin interface answers, as far as it is about models and replicas."""
        path, _, query = target.partition("?")
        if path in ("/v1/config", "/v1/shutdown") or path.startswith("/v1/applications/"):
            return 404, b'{"error": "On a Ray cluster this is asked in another way."}'
        answer = await self._admin.answer(Request(method, path, query.encode(), JSON, body))
        return answer.status, answer.body

    async def shutdown(self) -> None:
        """End every process of the system, and this one."""
        self._holding.cancel()
        await self._controller.stop()
        await self._engine.end_strangers()
        ray_cluster.forget("state")
        itself = ray.get_runtime_context().current_actor
        asyncio.get_running_loop().call_later(EXIT_S, lambda: ray.kill(itself, no_restart=True))


def controller() -> Any | None:
    """The cluster's controller, or None if nothing runs."""
    return controller_named(CONTROLLER)


def ask(actor: Any, method: str, *args: Any, timeout_s: float | None = None) -> Any:
    """Call a method of the controller.

    Raises what it raises, or `NothingRunsError` if it has ended, or does not answer within the time.
    """
    answer = getattr(actor, method).remote(*args)
    try:
        return ray.get(answer, timeout=timeout_s)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.GetTimeoutError as error:
        raise errors.NothingRunsError("The controller on the Ray cluster does not answer.") from error
    except ray.exceptions.RayActorError as error:
        raise errors.NothingRunsError(f"The controller on the Ray cluster has ended: {error}") from error
    except KeyboardInterrupt:
        ray.cancel(answer)
        raise


def ask_only(actor: Any, method: str, *args: Any) -> None:
    """The same, without waiting."""
    getattr(actor, method).remote(*args)


def end(actor: Any) -> None:
    """End everything that runs on the cluster, and return when that is so."""
    with contextlib.suppress(errors.NothingRunsError):
        ask(actor, "shutdown")
    until = time.monotonic() + END_TIMEOUT_S
    while controller() is not None and time.monotonic() < until:
        time.sleep(0.02)


def connect(address: str | None = None, *, console: bool = True) -> None:
    """Connect this program to a cluster, unless it is.

    Raises `NothingRunsError` if there is none, `ModelplexError` if this program cannot be connected to it.

    Args:
        address: as `ray.init` has it.
        console: whether what runs on the cluster for this program is shown on its console.
    """
    if ray.is_initialized():
        return
    _check_that_somebody_listens(address)
    try:
        ray.init(address=address, namespace=ray_cluster.NAMESPACE, log_to_driver=console)
    except ConnectionError as error:
        raise errors.NothingRunsError(f"There is no Ray cluster to connect to: {error}") from error
    except (ValueError, RuntimeError) as error:
        raise errors.ModelplexError(f"This program cannot be connected to a Ray cluster: {error}") from error


def _check_that_somebody_listens(address: str | None) -> None:
    """Ray itself would try for minutes."""
    if address in (None, "auto"):
        address = os.environ.get("RAY_ADDRESS")
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
        except OSError as error:
            raise errors.NothingRunsError(f"There is no Ray cluster at {address}: {error}.") from error


def shipped(spec: AppSpec) -> AppSpec:
    """An application that was built here, with its folder uploaded, so that all machines have it."""
    folder = spec.environment.working_dir
    if folder is None:
        return spec
    runtime_env = {"working_dir": ray_cluster.upload(folder)}
    return dataclasses.replace(
        spec, environment=dataclasses.replace(spec.environment, working_dir=None, runtime_env=runtime_env)
    )


def built_here(config: Mapping[str, Any], app_dir: str) -> dict[str, config_deployer.Built]:
    """The applications of a configuration, ready for the cluster (`config_deployer.build_all`)."""
    built = asyncio.run(config_deployer.build_all(config, app_dir))
    return {name: shipped(found) if isinstance(found, AppSpec) else found for name, found in built.items()}


def begun(http: HTTPOptions | None, *, console: bool) -> Any:
    """The cluster's controller, begun if there is none: on the head, if that has room, since all else hangs on it.

    Args:
        http: where proxies serve HTTP; None for handles alone. A system that runs already serves as it does.
        console: whether what runs logs to the console, which Ray shows to who began it.
    """
    membership = Membership(secrets.token_hex(4), secrets.token_bytes(SECRET_BYTES), CONTROLLER, console)
    head = ray_cluster.head()
    strategy: Any = "DEFAULT" if head is None else NodeAffinitySchedulingStrategy(head, soft=True)
    kind: Any = ray.remote(ControllerActor)
    return kind.options(
        name=CONTROLLER,
        namespace=ray_cluster.NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=-1,
        num_cpus=0,
        scheduling_strategy=strategy,
    ).remote(membership, http)
