"""Actors on the machines of a Ray cluster, linked by TCP, and by Unix sockets within one machine."""

import asyncio
import contextlib
import logging
import secrets
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from modelplex import errors
from modelplex.config import HTTPOptions
from modelplex.engines import ray_cluster
from modelplex.engines.ray_actor import Membership, ProcessActor, RaySite
from modelplex.engines.ray_process import PLACE_S, Caller, Newcomer, RayProcess
from modelplex.runtime import payload
from modelplex.runtime.app_spec import Environment
from modelplex.runtime.engine import Machine, Process
from modelplex.runtime.link import Connect, Link
from modelplex.runtime.process import Listening, ProxySpec
from modelplex.runtime.replica_spec import ReplicaSpec
from modelplex.wire import messages
from modelplex.wire.handshake import SECRET_BYTES
from modelplex.wire.messages import Register

log = logging.getLogger(__name__)

# How often Ray is asked for its machines.
MACHINES_S = 1.0

# What a replica takes unless its options say otherwise, as in Ray Serve.
_NUM_CPUS = 1


class RayEngine:
    """Has Ray start actors. This process must be one of the cluster's.

    Args:
        log_dir: each process writes a log file there, on its machine; beside Ray's own unless given.
        folder: not used.
        console: whether replicas log to the console, too.
        register_at: the name of the actor in which they find the next controller; they end with this process unless
            given.
        membership: what makes its processes one system; a new one unless given.

    Attributes:
        register: called with each process that comes by itself; answers whether it is wanted.
        joined: called with each other one that has come, or come again: what it was told before, it has not heard.
    """

    def __init__(
        self,
        log_dir: str = "",
        folder: str = "",
        *,
        console: bool = True,
        register_at: str = "",
        membership: Membership | None = None,
    ) -> None:
        self.membership = membership or Membership(
            secrets.token_hex(4), secrets.token_bytes(SECRET_BYTES), register_at, console, log_dir
        )
        self.register: Callable[[Register, Process], bool] = lambda register, process: False
        self.joined: Callable[[Process], None] = lambda process: None
        self._site = RaySite(self.membership, f"controller#{secrets.token_hex(3)}")
        self._processes: dict[str, RayProcess] = {}
        self._placing: set[str] = set()  # those that have, or get, a placement group
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: Listening | None = None
        self._begins_to_listen = asyncio.Lock()

    @property
    def connect(self) -> Connect:
        return self._site.connect

    async def listen(self) -> str:
        """The address that processes come to."""
        async with self._begins_to_listen:
            if self._listening is None:
                self._listening = await self._site.listen(lambda: Newcomer(self._welcome))
        return self._listening.address

    async def start_replica(self, spec: ReplicaSpec) -> RayProcess:
        options = replica_options(spec)
        environment = spec.environment
        bundles = spec.config.placement_group_bundles
        if bundles is None:
            return await self._start(spec.context.replica_id, spec, options, environment)
        self._placing.add(spec.context.replica_id)
        group = await asyncio.to_thread(self._place, spec, bundles)
        strategy = PlacementGroupSchedulingStrategy(group, 0, placement_group_capture_child_tasks=True)
        try:
            return await self._start(
                spec.context.replica_id, spec, {**options, "scheduling_strategy": strategy}, environment, group
            )
        except BaseException:
            self._placing.discard(spec.context.replica_id)
            ray.util.remove_placement_group(group)
            raise

    def _place(self, spec: ReplicaSpec, bundles: list[dict[str, float]]) -> PlacementGroup:
        try:
            group: PlacementGroup = ray.util.placement_group(
                bundles,
                spec.config.placement_group_strategy or "PACK",
                name=ray_cluster.group_name(spec.context.replica_id),
                lifetime="detached" if self.membership.controller else None,
            )
            return group
        except ValueError as error:
            raise errors.DeploymentFailedError(f"Ray does not take its placement group: {error}") from error

    def follow_machines(self, told: Callable[[Sequence[Machine]], None]) -> None:
        self._own(self._follow_machines(told))

    async def _follow_machines(self, told: Callable[[Sequence[Machine]], None]) -> None:
        known: list[Machine] = []
        answers = True
        while True:
            try:
                now = await asyncio.to_thread(ray_cluster.machines)
                answers = True
            except Exception as error:  # noqa: BLE001 - the head may be away, which Ray tells in many ways
                if answers:  # else it has been said
                    log.warning("Ray does not say what machines there are: %s", error)
                answers = False
            else:
                if now != known:
                    known = now
                    told(now)
            await asyncio.sleep(MACHINES_S)

    async def start_proxy(
        self, tag: str, options: HTTPOptions, listener: socket.socket | None, machine: str = ""
    ) -> RayProcess:
        strategy = NodeAffinitySchedulingStrategy(machine, soft=False)
        actor_options = {"num_cpus": 0, "scheduling_strategy": strategy}
        return await self._start(f"proxy#{tag}", ProxySpec(options, tag), actor_options, Environment())

    def adopt(self, name: str, gpus: Mapping[str, float], exited: "asyncio.Future[str]") -> None:
        """Ray knows itself who has which GPUs."""

    def end_strangers_after(self, seconds: float) -> None:
        """Have what an earlier controller has started time to come; then `end_strangers`."""

        async def wait() -> None:
            await asyncio.sleep(seconds)
            await self.end_strangers()

        self._own(wait())

    async def end_strangers(self) -> None:
        """End those of the system's processes that this engine knows nothing of, and nobody else does.

        An earlier controller has asked Ray for them, and was gone before they were there.
        """
        try:
            groups = await asyncio.to_thread(ray_cluster.groups)
            actors = await asyncio.to_thread(ray_cluster.actors_of, ProcessActor.__name__)
        except Exception as error:  # noqa: BLE001 - the head may be away, which Ray tells in many ways
            log.warning("What an earlier controller may have left cannot be known: %s", error)
            return
        for name in (name for name in actors if name not in self._processes):
            log.warning("%s was started by an earlier controller, and has not come to this one: it is ended.", name)
            with contextlib.suppress(ValueError):  # it has ended meanwhile
                ray.kill(ray.get_actor(name, namespace=ray_cluster.NAMESPACE), no_restart=True)
        for name in (name for name in groups if name not in self._processes and name not in self._placing):
            ray_cluster.remove_group(name)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listening is not None:
            await self._listening.close()
        await self._site.leave()

    async def _start(
        self,
        name: str,
        spec: object,
        options: Mapping[str, Any],
        environment: Environment,
        group: PlacementGroup | None = None,
    ) -> RayProcess:
        address = await self.listen()
        data = payload.dumps(spec)

        def left() -> None:
            self._processes.pop(name, None)
            if group is not None:
                self._placing.discard(name)
                ray.util.remove_placement_group(group)

        def create() -> tuple[Any, Any]:
            kind: Any = ray.remote(ProcessActor)
            actor = kind.options(
                name=name,
                namespace=ray_cluster.NAMESPACE,
                lifetime="detached" if self.membership.controller else None,
                **options,
            ).remote(name, self.membership, address, list(environment.sys_path or sys.path), data)
            return actor, actor.run.remote()

        process = self._processes[name] = RayProcess(name, left)
        try:
            process.actor, run = await asyncio.to_thread(create)
        except (ValueError, TypeError) as error:
            del self._processes[name]
            raise errors.DeploymentFailedError(f"Ray does not take the options of {name}: {error}") from error
        self._own(process.watch(run))
        asyncio.get_running_loop().call_later(PLACE_S + 0.1, process.say_what_it_waits_for)
        return process

    def _welcome(self, link: Link, register: Register) -> RayProcess | Caller | None:
        who: RayProcess | Caller
        if register.kind == "caller":
            who = Caller(link)
        elif (known := self._processes.get(register.name)) is not None:
            known.linked(link)
            self.joined(known)
            return known
        else:
            try:
                actor = ray.get_actor(register.name, namespace=ray_cluster.NAMESPACE)
            except ValueError:
                link.close()  # it is gone, or about to be
                return None
            who = self._processes[register.name] = RayProcess(register.name, lambda: self._left(register.name))
            who.actor = actor
            who.linked(link)
            who.started.set_result(register.address)
            self._own(who.watch(actor.ended.remote()))
        if not self.register(register, who):
            who.send(messages.Stop(0.0))
        return who

    def _left(self, name: str) -> None:
        self._processes.pop(name, None)
        ray_cluster.remove_group(name)  # that of a replica which an earlier controller has started

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def replica_options(spec: ReplicaSpec) -> dict[str, Any]:
    """What Ray is asked for: `ray_actor_options`, spread over machines, at most `max_replicas_per_node` on each."""
    config, environment = spec.config, spec.environment
    options: dict[str, Any] = {
        "num_cpus": _NUM_CPUS,
        "scheduling_strategy": "SPREAD",
        **(config.ray_actor_options or {}),
    }
    if config.max_replicas_per_node is not None:
        limit = ray_cluster.at_most_each(spec.app_name, config.name, config.max_replicas_per_node)
        options["resources"] = {**(options.get("resources") or {}), **limit}
    own = options.get("runtime_env") or {}
    env_vars = {
        **(environment.runtime_env.get("env_vars") or {}),
        **environment.env_vars,
        **(own.get("env_vars") or {}),
    }
    options["runtime_env"] = {**environment.runtime_env, **own, **({"env_vars": env_vars} if env_vars else {})}
    return options
