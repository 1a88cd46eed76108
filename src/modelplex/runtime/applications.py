"""One application as it runs: begun, changed into another one, rolled back, stopped."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any

from modelplex import errors
from modelplex.runtime.app_spec import AppSpec
from modelplex.runtime.deployments import Owner, ServedDeployment
from modelplex.runtime.desired_state import SavedApp
from modelplex.runtime.engine import Engine
from modelplex.status import ApplicationState, ApplicationStatus


class ServedApp:
    """The deployments of one application.

    Args:
        spec: what it is to be.
        engine: starts replicas.
        owner: told of changes.

    Attributes:
        before: what it was when it ran last, while it is being changed.
        task: what begins or changes it at the moment.
        called_off: the last such task that was called off.
    """

    def __init__(self, spec: AppSpec, engine: Engine, owner: Owner) -> None:
        self.spec = spec
        self.state = ApplicationState.DEPLOYING
        self.before: AppSpec | None = None
        self.task: asyncio.Task[Any] | None = None
        self.called_off: asyncio.Task[Any] | None = None
        self.deployments: dict[str, ServedDeployment] = {}
        self._engine = engine
        self._owner = owner
        self._deployed_at = time.time()
        self._message = ""

    @property
    def served(self) -> AppSpec:
        """What callers see: its ingress and its route."""
        return self.before or self.spec

    async def begin(self) -> None:
        """Bring it to run. Raises `DeploymentFailedError`."""
        for deployment in self.spec.deployments:
            self._add(self.spec, deployment.name)
        self._owner.changed()
        await asyncio.gather(*(deployment.begin() for deployment in self.deployments.values()))
        self.state = ApplicationState.RUNNING

    def note(self, message: str) -> None:
        """Say this in its status, until it is changed."""
        self._message = message

    async def call_off(self) -> None:
        """End what begins or changes it; it is what it was before then, or nothing."""
        if self.task is not None:
            self.called_off = self.task
            self.task.cancel()
            await asyncio.wait([self.task])

    async def fail(self, why: str) -> None:
        """It could not be brought to run: nothing of it stays."""
        self.state, self._message = ApplicationState.DEPLOY_FAILED, why
        await self.stop()

    def recover(self, counts: Mapping[str, int], wait_s: float) -> None:
        """It ran before, with so many replicas of its deployments, which are about to register."""
        self.state = ApplicationState.RUNNING
        for deployment in self.spec.deployments:
            self._add(self.spec, deployment.name, counts.get(deployment.name)).recover(wait_s)

    async def change(self, spec: AppSpec) -> None:
        """Become another one: new deployments first, then callees before their callers.

        Raises `DeploymentFailedError` when it is what it was again; what has become new already goes back by itself.
        """
        self.before = self.spec
        self.spec, self.state, self._message = spec, ApplicationState.DEPLOYING, ""
        self._owner.changed()
        added = [d.name for d in spec.deployments if d.name not in self.deployments]
        updated: list[str] = []
        try:
            for name in added:
                self._add(spec, name)
            await asyncio.gather(*(self.deployments[name].begin() for name in added))
            for deployment in spec.deployments:
                if deployment.name not in added:
                    updated.append(deployment.name)
                    await self.deployments[deployment.name].update(deployment, spec.environment)
        except BaseException as error:
            self._message = f"The last change was rolled back: {str(error) or 'it was called off.'}"
            await self._go_back(self.before, updated[:-1], added)
            raise
        self.before, self.state, self._deployed_at = None, ApplicationState.RUNNING, time.time()
        self._owner.changed()
        self._owner.tell_now()  # callers find its new ingress before those go that are not needed any more
        await self.stop([name for name in self.deployments if spec.deployment(name) is None])

    async def _go_back(self, before: AppSpec, updated: list[str], added: list[str]) -> None:
        """Those that had become other ones become what they were; the one that failed has done so itself."""
        self.spec, self.before, self.state = before, None, ApplicationState.RUNNING
        self._owner.changed()
        self._owner.tell_now()
        for name in reversed(updated):
            spec = before.deployment(name)
            assert spec is not None
            self.deployments[name].go_back(spec, before.environment)
        await self.stop(added)

    async def stop(self, names: Iterable[str] | None = None) -> None:
        """Stop these deployments, or all: callers before those they call, which they may still need."""
        for name in reversed(list(self.deployments if names is None else names)):
            if (deployment := self.deployments.pop(name, None)) is not None:
                await deployment.stop()
        self._owner.changed()
        self._owner.tell_now()

    def _add(self, spec: AppSpec, name: str, count: int | None = None) -> ServedDeployment:
        deployment = spec.deployment(name)
        assert deployment is not None
        served = ServedDeployment(spec.name, deployment, spec.environment, self._engine, self._owner, count)
        self.deployments[name] = served
        return served

    def saved(self) -> SavedApp:
        counts = {name: deployment.count for name, deployment in self.deployments.items()}
        return SavedApp(self.spec, self.before, self.state is ApplicationState.DEPLOYING, counts)

    def status(self) -> ApplicationStatus:
        state = self.state
        runs = all(deployment.processes.running or not deployment.count for deployment in self.deployments.values())
        if state is ApplicationState.RUNNING and not runs:
            state = ApplicationState.UNHEALTHY
        deployments = {name: deployment.status() for name, deployment in self.deployments.items()}
        return ApplicationStatus(state, self._message, self._deployed_at, deployments)


def check_route(spec: AppSpec, others: Iterable[AppSpec]) -> None:
    """Raise `DeploymentFailedError` if another application is served under the same route."""
    for other in others:
        if other.name != spec.name and other.route_prefix == spec.route_prefix is not None:
            raise errors.DeploymentFailedError(
                f"The application {other.name} is served under {spec.route_prefix!r} already."
            )
