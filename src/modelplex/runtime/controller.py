"""From what should run to processes that do, and the table that tells every process of them."""

import asyncio
import logging
import secrets
import socket
import string
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from modelplex import config, errors
from modelplex.deployment import Node
from modelplex.runtime.directory import Directory
from modelplex.runtime.engine import Engine, Process
from modelplex.runtime.process_set import ProcessSet
from modelplex.runtime.replica import ReplicaSpec
from modelplex.runtime.servable import Definition
from modelplex.status import (
    ApplicationState,
    ApplicationStatus,
    DeploymentState,
    DeploymentStatus,
    ReplicaLeaks,
    ServeStatus,
)
from modelplex.wire import messages

log = logging.getLogger(__name__)

# A deployment that fails to start is tried so often for each replica, unless its own limit is lower.
STARTS_PER_REPLICA = 3

PROXY_STARTS_MAX = 3

_TAG_LETTERS = string.ascii_letters + string.digits


@dataclass(slots=True, eq=False)
class _App:
    name: str
    route_prefix: str | None
    ingress: str
    state: ApplicationState
    replicas: dict[str, ProcessSet]
    nodes: dict[str, Node]
    deployed_at: float = field(default_factory=time.time)
    message: str = ""


class Controller:
    """Runs applications. It is in no request's path: what it starts serves on while it is busy.

    Args:
        engine: starts the processes.
        directory: this process's own view of the table.
    """

    def __init__(self, engine: Engine, directory: Directory) -> None:
        self._engine = engine
        self._directory = directory
        self._apps: dict[str, _App] = {}
        self._sets: set[ProcessSet] = set()  # all that have not been stopped yet
        self._leaks: dict[str, messages.Leaks] = {}  # by replica
        self._proxies: ProcessSet | None = None

    def start_proxies(self, options: config.HTTPOptions, listener: socket.socket) -> None:
        """Serve HTTP on a listening socket, which stays open here: a proxy that is replaced loses no connection."""

        async def start() -> tuple[str, Process]:
            tag = _tag()
            process = await self._engine.start_proxy(tag, options, listener)
            process.send(self._table())
            return f"proxy#{tag}", process

        self._proxies = ProcessSet("The HTTP proxy", options.num_proxies, start, lambda: None, PROXY_STARTS_MAX)
        self._sets.add(self._proxies)

    async def deploy(self, name: str, nodes: list[Node], route_prefix: str | None) -> None:
        """Run an application, in place of one of the same name if there is one, and return when it is ready.

        Raises `DeploymentFailedError`; then an application that it was to replace goes on.
        """
        self._check_route(name, route_prefix)
        app = _App(name, route_prefix, nodes[-1].deployment.name, ApplicationState.DEPLOYING, {}, {})
        for node in nodes:
            app.nodes[node.deployment.name] = node
            app.replicas[node.deployment.name] = self._start_replicas(name, node)
        before, self._apps[name] = self._apps.get(name), app
        if before is not None and before.state is ApplicationState.RUNNING:
            self._apps[name] = before
        self._publish()
        try:
            await asyncio.gather(*(asyncio.shield(replicas.ready) for replicas in app.replicas.values()))
            if self._proxies is not None:
                await asyncio.shield(self._proxies.ready)
        except errors.DeploymentFailedError as error:
            app.state, app.message = ApplicationState.DEPLOY_FAILED, str(error)
            await self._stop_replicas(app)
            raise
        except asyncio.CancelledError:
            if self._apps.get(name) is app:
                del self._apps[name]
            await self._stop_replicas(app)
            raise
        app.state = ApplicationState.RUNNING
        self._apps[name] = app
        self._publish()
        if before is not None:
            await self._stop_replicas(before)

    async def delete(self, name: str) -> None:
        """Stop an application. Nothing happens if there is none of that name."""
        app = self._apps.pop(name, None)
        if app is not None:
            app.state = ApplicationState.DELETING
            self._publish()
            await self._stop_replicas(app)

    async def stop(self) -> None:
        """Stop taking requests, let those that run end, and end every process."""
        if self._proxies is not None:
            await self._proxies.stop(max((self._grace_s(app) for app in self._apps.values()), default=0.0))
        await asyncio.gather(*(self.delete(name) for name in list(self._apps)))
        await self._engine.close()

    async def kill(self) -> None:
        """End every process at once."""
        for processes in self._sets:
            processes.kill()
        await self._engine.close()

    def status(self) -> ServeStatus:
        proxies = {} if self._proxies is None else dict.fromkeys(self._proxies.running, "HEALTHY")
        return ServeStatus(proxies, {app.name: _status(app, self._leaks) for app in self._apps.values()})

    def _check_route(self, name: str, route_prefix: str | None) -> None:
        taken = [a.name for a in self._apps.values() if a.name != name and a.route_prefix == route_prefix is not None]
        if taken:
            raise errors.DeploymentFailedError(f"The application {taken[0]} is served under {route_prefix!r} already.")

    def _start_replicas(self, app_name: str, node: Node) -> ProcessSet:
        options = node.deployment.config
        definition = Definition(node.deployment.func_or_class, node.args, node.kwargs)

        async def start() -> tuple[str, Process]:
            spec = ReplicaSpec(app_name, _tag(), options, definition)
            replica_id = spec.context.replica_id
            process = await self._engine.start_replica(spec)
            process.heard = lambda message: self._heard(replicas, options, replica_id, message)
            process.exited.add_done_callback(lambda _: self._leaks.pop(replica_id, None))
            process.send(self._table())
            return replica_id, process

        failed_starts_max = max(
            1, min(options.max_constructor_retry_count, STARTS_PER_REPLICA * options.first_replicas)
        )
        title = f"{app_name}_{options.name}"
        replicas = ProcessSet(title, options.first_replicas, start, self._publish, failed_starts_max)
        self._sets.add(replicas)
        return replicas

    def _heard(
        self, replicas: ProcessSet, options: config.DeploymentConfig, replica_id: str, message: messages.Message
    ) -> None:
        if not isinstance(message, messages.Leaks):
            return
        self._leaks[replica_id] = message
        limit = options.max_leaked_bytes
        if isinstance(limit, int) and message.leaked_bytes > limit:
            why = f"has leaked {message.leaked_bytes} bytes, more than max_leaked_bytes={limit}"
            replicas.replace(replica_id, options.graceful_shutdown_timeout_s, why)

    async def _stop_replicas(self, app: _App) -> None:
        # Callers before those they call, so that what runs can still reach what it needs.
        for name, replicas in reversed(app.replicas.items()):
            await replicas.stop(app.nodes[name].deployment.config.graceful_shutdown_timeout_s)
            self._sets.discard(replicas)
        self._publish()

    def _grace_s(self, app: _App) -> float:
        return max(node.deployment.config.graceful_shutdown_timeout_s for node in app.nodes.values())

    def _table(self) -> messages.Table:
        apps = [messages.AppInfo(a.name, a.route_prefix, a.ingress) for a in self._apps.values()]
        deployments = [_info(app, name) for app in self._apps.values() for name in app.nodes]
        return messages.Table(apps, deployments)

    def _publish(self) -> None:
        table = self._table()
        self._directory.update(table)
        for processes in self._all_processes():
            processes.send(table)

    def _all_processes(self) -> Iterable[ProcessSet]:
        if self._proxies is not None:
            yield self._proxies
        for app in self._apps.values():
            yield from app.replicas.values()


def _info(app: _App, name: str) -> messages.DeploymentInfo:
    replicas = [messages.ReplicaInfo(*running) for running in app.replicas[name].running.items()]
    options = app.nodes[name].deployment.config
    return messages.DeploymentInfo(
        app_name=app.name,
        name=name,
        max_queued_requests=options.max_queued_requests,
        replicas=replicas,
        retry_lost_requests=options.retry_lost_requests,
        backpressure_status=options.backpressure.status_code,
        backpressure_retry_after_s=options.backpressure.retry_after_s,
    )


def _tag() -> str:
    return "".join(secrets.choice(_TAG_LETTERS) for _ in range(6))


def _status(app: _App, leaks: dict[str, messages.Leaks]) -> ApplicationStatus:
    deployments = {}
    for name, replicas in app.replicas.items():
        running = len(replicas.running)
        state = DeploymentState.HEALTHY if running >= replicas.count else DeploymentState.UPDATING
        if replicas.message:
            state = DeploymentState.UNHEALTHY
        # While one is replaced, there is one more than are wanted.
        states = {"RUNNING": running, "STARTING": max(0, replicas.count - running)}
        leaking = {
            i: ReplicaLeaks(leaks[i].leaked_bytes, dict(leaks[i].models))
            for i in replicas.running
            if i in leaks and leaks[i].leaked_bytes
        }
        deployments[name] = DeploymentStatus(state, {k: v for k, v in states.items() if v}, replicas.message, leaking)
    state_of_app = app.state
    if state_of_app is ApplicationState.RUNNING and not all(r.running for r in app.replicas.values()):
        state_of_app = ApplicationState.UNHEALTHY
    return ApplicationStatus(state_of_app, app.message, app.deployed_at, deployments)
