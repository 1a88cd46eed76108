"""From what should run to processes that do, and the table that tells every process of them."""

import asyncio
import logging
import secrets
import socket
import string
import time
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

from modelplex import config, errors
from modelplex.core.rollout import Goal
from modelplex.runtime.app_spec import AppSpec
from modelplex.runtime.applications import ServedApp, check_route
from modelplex.runtime.deployments import ServedDeployment
from modelplex.runtime.desired_state import DesiredState, NotKept, SavedApp
from modelplex.runtime.directory import Directory
from modelplex.runtime.engine import Engine, Process
from modelplex.runtime.process_set import ProcessSet
from modelplex.status import ApplicationState, ApplicationStatus, ServeStatus
from modelplex.wire import messages
from modelplex.wire.messages import Message

log = logging.getLogger(__name__)

PROXY_STARTS_MAX = 3

_TAG_LETTERS = string.ascii_letters + string.digits


class Controller:
    """Runs applications. It is in no request's path: what it starts serves on while it is busy, or away.

    Args:
        engine: starts the processes.
        directory: this process's own view of the table.
        kept: where what is wanted is kept, for the next controller; nowhere unless given.
    """

    def __init__(self, engine: Engine, directory: Directory, kept: DesiredState | None = None) -> None:
        self._engine = engine
        self._directory = directory
        self._kept = kept or NotKept()
        self._apps: dict[str, ServedApp] = {}
        self._not_built: dict[str, ApplicationStatus] = {}
        self._proxies: ProcessSet | None = None
        self._followers: set[Process] = set()
        self._recovering: asyncio.TimerHandle | None = None  # as long as not all is known that runs
        self._tasks: set[asyncio.Task[None]] = set()
        directory.tell = lambda message: self.heard("controller", message)

    def start_proxies(self, options: config.HTTPOptions, listener: socket.socket, *, recover_s: float = 0.0) -> None:
        """Serve HTTP on a listening socket, which stays open here: a proxy that is replaced loses no connection.

        `recover_s` is how long to wait for proxies that run, and are about to register.
        """

        async def start(version: str, in_place_of: str | None) -> tuple[str, Process]:
            tag = self.tag()
            name = f"proxy#{tag}"
            process = await self._engine.start_proxy(tag, options, listener)
            self._hear(name, process)
            process.send(self.table())
            return name, process

        self._proxies = ProcessSet("The HTTP proxy", start, lambda: None)
        goal = Goal("proxy", options.num_proxies, failures_max=PROXY_STARTS_MAX)
        if recover_s:
            self._proxies.recover(goal, goal, recover_s)
        else:
            self._proxies.want(goal)

    # Applications

    async def deploy(self, spec: AppSpec) -> None:
        """Run an application, in place of one of the same name if there is one, and return when it is ready.

        Of one that runs, deployments that are the same stay as they are; others are replaced gradually.
        Raises `DeploymentFailedError`; then an application that it was to replace goes on.
        """
        check_route(spec, self.specs)
        self._not_built.pop(spec.name, None)
        if (app := self._apps.get(spec.name)) is not None:
            await app.call_off()  # what is wanted now is something else
        app = self._apps.get(spec.name)
        is_new = app is None or app.state is ApplicationState.DEPLOY_FAILED
        if app is None or is_new:
            app = self._apps[spec.name] = ServedApp(spec, self._engine, self)
        app.task = task = asyncio.current_task()
        try:
            await (self._begin(app) if is_new else app.change(spec))
        except asyncio.CancelledError:
            if app.called_off is not task or task is None:
                raise
            task.uncancel()
            raise errors.DeploymentFailedError(f"What {spec.name} was to be has been called off.") from None
        finally:
            app.task = None

    async def _begin(self, app: ServedApp) -> None:
        try:
            await app.begin()
            self.changed()  # one without replicas, too, is to be found
            if self._proxies is not None:
                await asyncio.shield(self._proxies.outcome)
        except errors.DeploymentFailedError as error:
            await app.fail(str(error))
            raise
        except BaseException:
            if self._apps.get(app.spec.name) is app:
                del self._apps[app.spec.name]
            await app.stop()
            raise
        self.changed()

    async def delete(self, name: str) -> None:
        """Stop an application. Nothing happens if there is none of that name."""
        self._not_built.pop(name, None)
        app = self._apps.pop(name, None)
        if app is not None:
            await app.call_off()
            app.state = ApplicationState.DELETING
            self.changed()
            await app.stop()

    def not_built(self, failures: Mapping[str, str]) -> None:
        """These, and no others, were to run, or to become others, and could not be built. For the status."""
        self._not_built.clear()
        for name, why in failures.items():
            if (app := self._apps.get(name)) is not None:
                app.note(f"The last change could not be built: {why}")
            else:
                self._not_built[name] = ApplicationStatus(ApplicationState.DEPLOY_FAILED, why, time.time(), {})

    def own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something in the background; that a deployment fails is told in the log."""
        task = asyncio.get_running_loop().create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Its own beginning and end

    def recover(self, saved: Iterable[SavedApp], wait_s: float) -> None:
        """Run what an earlier controller ran. Its processes are about to register; no others start for so long."""
        for record in saved:
            spec = record.before or record.spec
            app = self._apps[spec.name] = ServedApp(spec, self._engine, self)
            app.recover(record.counts, wait_s)
            if record.changing:
                self.own(self.deploy(record.spec))
        self._recovering = asyncio.get_running_loop().call_later(wait_s, self._recovered)
        self._directory.update(self.table())

    def _recovered(self) -> None:
        """All that runs has registered, or is not waited for any more."""
        if self._recovering is not None:
            self._recovering.cancel()
            self._recovering = None
            self.changed()

    def register(self, register: messages.Register, process: Process) -> bool:
        """A process has come by itself. Answers whether it is wanted."""
        if register.kind == "caller" or (register.kind == "proxy" and self._proxies is not None):
            self._hear(register.name, process)
            if self._recovering is None:
                process.send(self.table())
            if register.kind == "proxy" and self._proxies is not None:
                self._proxies.adopt(register.name, "proxy", process, "")
            else:
                self._followers.add(process)
                process.exited.add_done_callback(lambda _: self._followers.discard(process))
            return True
        app = self._apps.get(register.app_name)
        deployment = None if app is None else app.deployments.get(register.deployment)
        if deployment is not None:
            deployment.adopt(register, process)
        return deployment is not None

    def _hear(self, name: str, process: Process) -> None:
        """Listen to a proxy or a caller until it ends."""
        process.heard = lambda message: self.heard(name, message)
        process.exited.add_done_callback(lambda _: self.ended(name))

    @property
    def specs(self) -> list[AppSpec]:
        """The applications."""
        return [app.spec for app in self._apps.values()]

    def forget(self) -> None:
        """Nothing is kept any more of what is wanted."""
        self._kept = NotKept()

    async def stop(self) -> None:
        """Stop taking requests, let those that run end, and end every process. What is kept of what is wanted stays."""
        self.forget()
        if self._proxies is not None:
            await self._proxies.stop(self._grace_s)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(self.delete(name) for name in list(self._apps)))
        await self._engine.close()

    async def kill(self) -> None:
        """End every process at once."""
        if self._proxies is not None:
            self._proxies.kill()
        for deployment in self._deployments:
            deployment.processes.kill()
        await self._engine.close()

    # What others are told (deployments.Owner)

    @property
    def _deployments(self) -> Iterable[ServedDeployment]:
        return [deployment for app in self._apps.values() for deployment in app.deployments.values()]

    @property
    def _grace_s(self) -> float:
        """How long what runs anywhere may take to end."""
        return max((d.spec.config.graceful_shutdown_timeout_s for d in self._deployments), default=0.0)

    def tag(self) -> str:
        return "".join(secrets.choice(_TAG_LETTERS) for _ in range(6))

    def table(self) -> messages.Table:
        served = [app.served for app in self._apps.values()]
        apps = [messages.AppInfo(spec.name, spec.route_prefix, spec.ingress) for spec in served]
        return messages.Table(apps, [deployment.info() for deployment in self._deployments])

    def changed(self) -> None:
        if self._recovering is not None:
            if all(len(deployment.processes.running) >= deployment.count for deployment in self._deployments):
                self._recovered()
            return  # half a table would have callers leave the other half
        table = self.table()
        self._directory.update(table)
        if self._proxies is not None:
            self._proxies.send(table)
        for deployment in self._deployments:
            deployment.processes.send(table)
        for follower in self._followers:
            follower.send(table)
        self._save()

    def heard(self, name: str, message: Message) -> None:
        """A proxy or a caller has said something, or a replica what is not about itself."""
        if isinstance(message, messages.Leaving) and self._proxies is not None:
            self._proxies.grace_s = self._grace_s
            self._proxies.replace(name, "is to stop")
        if isinstance(message, messages.Waiting):
            app = self._apps.get(message.app_name)
            deployment = None if app is None else app.deployments.get(message.deployment)
            if deployment is not None:
                deployment.waiting(name, message.count)

    def ended(self, name: str) -> None:
        for deployment in self._deployments:
            deployment.source_gone(name)

    def _save(self) -> None:
        apps = [app for app in self._apps.values() if app.state is not ApplicationState.DEPLOY_FAILED]
        try:
            self._kept.save([app.saved() for app in apps])
        except OSError as error:
            log.error("What is wanted could not be written, and would be lost with this controller: %s", error)

    def status(self) -> ServeStatus:
        proxies = {} if self._proxies is None else dict.fromkeys(self._proxies.running, "HEALTHY")
        return ServeStatus(proxies, self._not_built | {name: app.status() for name, app in self._apps.items()})


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except errors.DeploymentFailedError as error:
        log.error("%s", error)
