"""From what should run to processes that do, and the table that tells every process of them."""

import asyncio
import logging
import secrets
import socket
import string
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from modelplex import config, errors
from modelplex.runtime.announcements import Announcements
from modelplex.runtime.app_spec import AppSpec
from modelplex.runtime.applications import ServedApp, check_route
from modelplex.runtime.deployments import ServedDeployment
from modelplex.runtime.desired_state import DesiredState, NotKept, SavedApp
from modelplex.runtime.directory import Directory
from modelplex.runtime.engine import Engine, Machine, Process
from modelplex.runtime.inspection import Topic
from modelplex.runtime.process_metrics import of_controller
from modelplex.runtime.proxies import Proxies
from modelplex.runtime.survey import CONTROLLER, Survey
from modelplex.status import ApplicationState, ApplicationStatus, ServeStatus
from modelplex.wire import messages
from modelplex.wire.messages import Message

log = logging.getLogger(__name__)

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
        self._proxies = Proxies(engine, self)
        self._announcements = Announcements(self._table, self._tell_here)
        self._recovering: asyncio.TimerHandle | None = None  # as long as not all is known that runs
        self._tasks: set[asyncio.Task[None]] = set()
        self.draining: Collection[str] = ()
        self.survey = Survey(lambda: [*self._proxies.sets, *(each.processes for each in self.deployments)])
        self.survey.own_topics |= _own_topics(directory, lambda: self.deployments)
        directory.tell = lambda message: self.heard(CONTROLLER, message)
        engine.follow_machines(self._machines_are)

    def start_proxies(
        self, options: config.HTTPOptions, listener: socket.socket | None, *, recover_s: float = 0.0
    ) -> None:
        """Serve HTTP: see `Proxies.serve`."""
        self._proxies.serve(options, listener, recover_s)

    def _machines_are(self, machines: Sequence[Machine]) -> None:
        self.draining = {machine.name for machine in machines if machine.is_draining}
        self._proxies.machines_are(machines)
        for deployment in self.deployments:
            deployment.machines.follow()

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
            self.changed()
            self.tell_now()  # one without replicas, too, is to be found
            await self._proxies.ready()
        except errors.DeploymentFailedError as error:
            await app.fail(str(error))
            raise
        except BaseException:
            if self._apps.get(app.spec.name) is app:
                del self._apps[app.spec.name]
            await app.stop()
            raise
        self.changed()
        self.tell_now()

    async def delete(self, name: str) -> None:
        """Stop an application. Nothing happens if there is none of that name."""
        self._not_built.pop(name, None)
        app = self._apps.pop(name, None)
        if app is not None:
            await app.call_off()
            app.state = ApplicationState.DELETING
            self.changed()
            self.tell_now()
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
        self._announcements.held = True  # half a table would have callers leave the other half
        self._directory.update(self._table())

    def _recovered(self) -> None:
        """All that runs has registered, or is not waited for any more."""
        if self._recovering is not None:
            self._recovering.cancel()
            self._recovering = None
            self._announcements.held = False
            self.tell_now()

    def register(self, register: messages.Register, process: Process) -> bool:
        """A process has come by itself. Answers whether it is wanted."""
        if register.kind == "caller" or (register.kind == "proxy" and self._proxies.is_serving):
            self.hear(register.name, process)
            if register.kind == "proxy":
                self._proxies.adopt(register, process)
            return True
        app = self._apps.get(register.app_name)
        deployment = None if app is None else app.deployments.get(register.deployment)
        if deployment is not None:
            deployment.adopt(register, process)
        return deployment is not None

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
        await self._proxies.stop(self.grace_s)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(self.delete(name) for name in list(self._apps)))
        self._announcements.close()
        await self._engine.close()

    async def kill(self) -> None:
        """End every process at once."""
        self._announcements.close()
        self._proxies.kill()
        for deployment in self.deployments:
            deployment.processes.kill()
        await self._engine.close()

    # What others are told (deployments.Owner, proxies.Owner)

    @property
    def deployments(self) -> Iterable[ServedDeployment]:
        return [deployment for app in self._apps.values() for deployment in app.deployments.values()]

    @property
    def grace_s(self) -> float:
        """How long what runs anywhere may take to end."""
        return max((d.spec.config.graceful_shutdown_timeout_s for d in self.deployments), default=0.0)

    @property
    def used_machines(self) -> set[str]:
        """Those that have a replica."""
        return {machine for deployment in self.deployments for machine in deployment.machines.used}

    def tag(self) -> str:
        return "".join(secrets.choice(_TAG_LETTERS) for _ in range(6))

    def _table(self) -> messages.Table:
        served = [app.served for app in self._apps.values()]
        apps = [messages.AppInfo(spec.name, spec.route_prefix, spec.ingress, spec.protocols) for spec in served]
        return messages.Table(apps, [deployment.info() for deployment in self.deployments])

    def joined(self, process: Process) -> None:
        self._announcements.join(process)

    def changed(self) -> None:
        if self._recovering is None:
            self._announcements.changed()
        elif all(len(deployment.processes.running) >= deployment.count for deployment in self.deployments):
            self._recovered()

    def tell_now(self) -> None:
        self._announcements.tell_now()

    def _tell_here(self, table: messages.Table) -> None:
        """Others are about to be told of this."""
        self._directory.update(table)
        self._proxies.look_again()
        self._save()

    def hear(self, name: str, process: Process) -> None:
        """Listen to a proxy or a caller until it ends."""
        process.heard = lambda message: self.heard(name, message)
        process.exited.add_done_callback(lambda _: self.ended(name))
        self.joined(process)

    def heard(self, name: str, message: Message) -> None:
        """A proxy or a caller has said something, or a replica what is not about itself."""
        match message:
            case messages.Leaving():
                self._proxies.replace(name, "is to stop")
            case messages.Done():
                self.survey.answered(message)
            case messages.Waiting(app_name, deployment, count):
                if app_name in self._apps and (found := self._apps[app_name].deployments.get(deployment)) is not None:
                    found.waiting(name, count)

    def ended(self, name: str) -> None:
        self.survey.gone(name)
        for deployment in self.deployments:
            deployment.source_gone(name)

    def _save(self) -> None:
        apps = [app for app in self._apps.values() if app.state is not ApplicationState.DEPLOY_FAILED]
        try:
            self._kept.save([app.saved() for app in apps])
        except OSError as error:
            log.error("What is wanted could not be written, and would be lost with this controller: %s", error)

    def status(self) -> ServeStatus:
        apps = self._not_built | {name: app.status() for name, app in self._apps.items()}
        urls = self._proxies.addresses
        address = next(iter(urls.values()), "")
        proxies = dict.fromkeys(urls, "HEALTHY")
        return ServeStatus(proxies, apps, address, proxy_addresses=urls, proxy_failures=self._proxies.failures)


def _own_topics(directory: Directory, deployments: Callable[[], Iterable[ServedDeployment]]) -> dict[str, Topic]:
    """What the controller's process answers of itself."""
    directory.decisions.process = CONTROLLER
    return {
        "decisions": directory.decisions.answer,
        "metrics": lambda _: of_controller(CONTROLLER, deployments(), directory),
    }


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except errors.DeploymentFailedError as error:
        log.error("%s", error)
