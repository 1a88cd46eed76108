"""One deployment as it runs: its versions, its replicas, how they are, and how many there are to be."""

import asyncio
import logging
import math
from collections.abc import Collection, Coroutine
from typing import Any, Protocol

from modelplex import config, errors
from modelplex.core.replica_load import stop_order
from modelplex.core.rollout import Goal
from modelplex.core.tenant_lines import LineLimits
from modelplex.runtime import own_router
from modelplex.runtime.app_spec import DeploymentSpec, Environment
from modelplex.runtime.engine import Engine, Process
from modelplex.runtime.health import HealthWatch
from modelplex.runtime.process_set import ProcessSet
from modelplex.runtime.questions import Questions
from modelplex.runtime.replica_machines import ReplicaMachines
from modelplex.runtime.replica_reports import ReplicaReports
from modelplex.runtime.replica_spec import ReplicaSpec
from modelplex.runtime.scaling import Scaling
from modelplex.runtime.user_configs import UserConfigs
from modelplex.status import DeploymentState, DeploymentStatus
from modelplex.wire import messages
from modelplex.wire.messages import Message

log = logging.getLogger(__name__)

# A deployment that fails to start is tried so often for each replica, unless its own limit is lower.
STARTS_PER_REPLICA = 3


class Owner(Protocol):
    """Whoever runs the deployment."""

    @property
    def draining(self) -> Collection[str]:
        """The machines that are to be gone soon."""

    def changed(self) -> None:
        """Its replicas, or its options, are others now. Others are told so soon."""

    def tell_now(self) -> None:
        """Tell others of all changes up to now, before something ends."""

    def joined(self, process: Process) -> None:
        """This process is to be told of them, too."""

    def tag(self) -> str:
        """A part of a name that no other process has."""

    def heard(self, name: str, message: Message) -> None:
        """A process has said what is not about itself."""

    def ended(self, name: str) -> None:
        """A process has ended, and with it what waited there."""

    def own(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run something in the background; that a deployment fails is told in the log."""


class ServedDeployment:
    """Keeps the replicas of one deployment as they are wanted.

    Args:
        app_name: the application.
        spec: the deployment.
        environment: of its processes.
        engine: starts replicas.
        owner: told of changes.
        count: how many replicas there were when it ran before; as its options say unless given.

    Attributes:
        rolled_back: why the version that was wanted last is not the one that runs; empty if it is.
        processes: its replicas.
        machines: where those are.
    """

    def __init__(
        self,
        app_name: str,
        spec: DeploymentSpec,
        environment: Environment,
        engine: Engine,
        owner: Owner,
        count: int | None = None,
    ) -> None:
        self.app_name = app_name
        self.spec = spec
        self.rolled_back = ""
        self._title = f"{app_name}_{spec.name}"
        self._engine = engine
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._versions: dict[str, tuple[DeploymentSpec, Environment]] = {}
        self._reports = ReplicaReports()
        self._checks_health: set[str] = set()
        self._updates = 0
        self.processes = ProcessSet(self._title, self._start, self._changed, 0.0, self._stop_order, owner.tell_now)
        self.machines = ReplicaMachines(self.processes, lambda: owner.draining)
        self._questions = Questions(self.processes.tell)
        self._user_configs = UserConfigs(self._title, self._questions)
        self._health = HealthWatch(lambda name: self._questions.ask(name, messages.CheckHealth), self.processes.unwell)
        self._scaling: Scaling | None = None
        self._count = spec.config.first_replicas if count is None else count
        self._take(spec, environment)

    # What is wanted

    @property
    def count(self) -> int:
        """How many replicas are wanted."""
        return self._count

    async def begin(self) -> None:
        """Bring it to run. Raises `DeploymentFailedError`."""
        await asyncio.shield(self._want(self._first_count()))

    def recover(self, wait_s: float) -> None:
        """It ran before, and its replicas are about to register: for so long no others are started."""
        goal = _goal(self.spec, self._count)
        self.processes.recover(goal, goal, wait_s)

    def adopt(self, register: messages.Register, process: Process) -> None:
        """A replica that an earlier controller has started."""
        if register.checks_health:
            self._checks_health.add(register.name)
        self._engine.adopt(register.name, register.gpus, process.exited)
        self._hear(register.name, process)
        self.processes.adopt(register.name, register.version, process, register.address)

    async def update(self, spec: DeploymentSpec, environment: Environment) -> None:
        """Have this run in place of what runs: by new replicas, one after another, if it takes new ones.

        Raises `DeploymentFailedError`; what ran before runs on then, or again.
        """
        self._updates += 1
        update = self._updates
        before, self.rolled_back = self._versions[self.spec.process_version], ""
        takes_config = _takes_config(before[0], spec)
        try:
            self._take(spec, environment)
            outcome = self._want(self._first_count())
            self._owner.changed()
            if takes_config:
                await self._reconfigure(spec)
            await asyncio.shield(outcome)
        except BaseException as error:
            if update != self._updates:  # something else is wanted by now
                raise
            self.rolled_back = str(error) or "It was called off."
            self.processes.give_up(self.rolled_back)
            configuring = self.go_back(*before)
            if configuring is not None and isinstance(error, errors.DeploymentFailedError):
                await asyncio.shield(configuring)
            raise
        if update == self._updates:
            self._versions = {spec.process_version: (spec, environment)}

    def go_back(self, spec: DeploymentSpec, environment: Environment) -> "asyncio.Task[None] | None":
        """Become again what it was; begun at once. Answers what gives replicas their `user_config`, if that is so."""
        self._updates += 1
        takes_config = _takes_config(self.spec, spec)
        self._take(spec, environment)
        self._want(self._first_count())
        self._owner.changed()
        return self._owner.own(self._reconfigure(spec)) if takes_config else None

    async def stop(self) -> None:
        """Let its replicas end what they do, then end them."""
        self._health.close()
        if self._scaling is not None:
            self._scaling.close()
        await self.processes.stop()

    def _take(self, spec: DeploymentSpec, environment: Environment) -> None:
        self.spec = spec
        self._versions[spec.process_version] = spec, environment
        self.processes.grace_s = spec.config.graceful_shutdown_timeout_s
        self._health.follow(self._checks_health & self.processes.running.keys(), spec.config)
        options = spec.config.scaling
        if options is None:
            if self._scaling is not None:
                self._scaling.close()
            self._scaling = None
        elif self._scaling is None:
            known = self._reports.loads  # replicas that are idle say nothing anew
            self._scaling = Scaling(self.app_name, spec.name, options, self._count, self._resize, known)
        else:
            self._scaling.set_options(options)

    def _first_count(self) -> int:
        return self.spec.config.first_replicas if self._scaling is None else self._scaling.target

    def _resize(self, count: int) -> None:
        self._want(count)
        self._owner.changed()

    def _want(self, count: int) -> "asyncio.Future[None]":
        self._count = count
        return self.processes.want(_goal(self.spec, count))

    async def _reconfigure(self, spec: DeploymentSpec) -> None:
        """Raises `DeploymentFailedError` if a replica does not take the new `user_config`."""
        await self._user_configs.give(self._of_version(spec), spec.config.user_config)

    def _of_version(self, spec: DeploymentSpec) -> list[str]:
        version = spec.process_version  # of many, all of the same
        return [name for name in self.processes.running if self.processes.version_of(name) == version]

    async def _catch_up(self, name: str) -> None:
        """Give a replica the `user_config` that has been changed while it started."""
        try:
            await self._user_configs.give([name], self.spec.config.user_config)
        except errors.DeploymentFailedError as error:
            self.processes.unwell(name, str(error))

    # Its replicas

    async def _start(self, version: str, in_place_of: str | None) -> tuple[str, Process]:
        spec, environment = self._versions[version]
        models = {} if in_place_of is None else self._reports.models(in_place_of)
        replica = ReplicaSpec(
            self.app_name, self._owner.tag(), spec.config, spec.definition, version, environment, models
        )
        name = replica.context.replica_id
        self._user_configs.started(name, spec.config.user_config)
        process = await self._engine.start_replica(replica)
        self._hear(name, process)
        return name, process

    def _hear(self, name: str, process: Process) -> None:
        process.heard = lambda message: self._heard(name, message)
        process.exited.add_done_callback(lambda _: self._owner.ended(name))
        self._owner.joined(process)

    def _changed(self) -> None:
        running = self.processes.running
        for name in self._reports.follow(running, self._loop.time()):
            self._checks_health.discard(name)
            self._user_configs.gone(name)
            self._questions.gone(name)
            if self._scaling is not None:
                self._scaling.replica_gone(name)
        for name in self._of_version(self.spec):
            if not self._user_configs.has(name, self.spec.config.user_config):
                self._owner.own(self._catch_up(name))
        self._health.follow(self._checks_health & running.keys(), self.spec.config)
        self.machines.follow()
        self._owner.changed()

    def _heard(self, name: str, message: Message) -> None:
        match message:
            case messages.Ready(checks_health=True):
                self._checks_health.add(name)
            case messages.Leaving():
                self.processes.replace(name, "is to stop")
            case messages.Done():
                self._questions.answered(message)
                self._owner.heard(name, message)  # who has asked for it is known by its number
            case messages.Load():
                load = self._reports.loaded(name, message, self._loop.time())
                if load is not None and self._scaling is not None:
                    self._scaling.told_replica(name, load)
            case messages.Leaks():
                self._reports.leaked(name, message)
                limit = self.spec.config.max_leaked_bytes
                if isinstance(limit, int) and message.leaked_bytes > limit:
                    why = f"has leaked {message.leaked_bytes} bytes, more than max_leaked_bytes={limit}"
                    self.processes.replace(name, why)
            case _:
                self._owner.heard(name, message)

    def _stop_order(self, names: list[str]) -> list[str]:
        return stop_order(self._reports.by_models(names, self._loop.time()))

    # What others are told

    def waiting(self, source: str, count: int) -> None:
        """So many requests wait for it in a process."""
        if self._scaling is not None:
            self._scaling.told_waiting(source, count)

    def source_gone(self, source: str) -> None:
        if self._scaling is not None:
            self._scaling.source_gone(source)

    def info(self) -> messages.DeploymentInfo:
        options = self.spec.config
        return messages.DeploymentInfo(
            self.app_name,
            options.name,
            max_queued_requests=options.max_queued_requests,
            replicas=[messages.ReplicaInfo(*running) for running in self.processes.running.items()],
            retry_lost_requests=options.retry_lost_requests,
            backpressure_status=options.backpressure.status_code,
            backpressure_retry_after_s=options.backpressure.retry_after_s,
            no_replica_wait_s=_no_replica_wait_s(options),
            tenants=_tenant_lines(options),
            own_router=own_router.packed(self._title, *self._versions[self.spec.process_version]),
        )

    def status(self) -> DeploymentStatus:
        running, wanted = len(self.processes.running), self.processes.count
        message = self.processes.message or self.processes.waits_for or self.rolled_back
        state = DeploymentState.HEALTHY if running >= wanted else DeploymentState.UPDATING
        if self.processes.message:
            state = DeploymentState.UNHEALTHY
        # While one is replaced, there is one more than are wanted.
        states = {"RUNNING": running, "STARTING": max(0, wanted - running)}
        return DeploymentStatus(state, {k: v for k, v in states.items() if v}, message, self._reports.leaks)


def _no_replica_wait_s(options: config.DeploymentConfig) -> float:
    comes_from_zero = options.scaling is not None and options.scaling.min_replicas == 0
    return config.FROM_ZERO_WAIT_S if comes_from_zero else config.NO_REPLICA_WAIT_S


def _tenant_lines(options: config.DeploymentConfig) -> dict[str, LineLimits] | None:
    """What routers have to know of the deployment's tenants."""
    if not options.tenants:
        return None
    lines = {}
    for name, given in options.tenants.items():
        assert isinstance(given, config.TenantConfig)
        queued_max = given.max_queued_requests
        queued_max = options.max_queued_requests if queued_max is None else queued_max
        lines[name] = LineLimits(queued_max, given.request_share)
    return lines


def _takes_config(before: DeploymentSpec, after: DeploymentSpec) -> bool:
    """Whether the replicas of the one become those of the other by another `user_config`."""
    return before.process_version == after.process_version and before.config.user_config != after.config.user_config


def _goal(spec: DeploymentSpec, count: int) -> Goal:
    options = spec.config
    step = max(1, round(options.rolling_update_percentage * count))
    surge = step if options.max_surge_percent is None else math.ceil(options.max_surge_percent * count)
    failures = max(1, min(options.max_constructor_retry_count, STARTS_PER_REPLICA * max(1, count)))
    return Goal(spec.process_version, count, step, surge, failures)
