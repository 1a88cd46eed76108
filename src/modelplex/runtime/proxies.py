"""The proxies: on one listening socket, or on each machine of a cluster where `core.proxy_places` wants them."""

import asyncio
import logging
import socket
from collections.abc import Collection, Sequence
from typing import Protocol

from modelplex import config, errors
from modelplex.config import HTTPOptions
from modelplex.core.proxy_places import DISABLED, Close, Open, ProxyPlaces
from modelplex.core.rollout import Goal
from modelplex.runtime.engine import Engine, Machine, Process
from modelplex.runtime.process_set import ProcessSet, StartProcess
from modelplex.wire import messages

log = logging.getLogger(__name__)

# Failed starts after which it is told that HTTP is not served.
STARTS_MAX = 3

# How long a machine that may have proxies is waited for.
MACHINES_TIMEOUT_S = 60.0

_VERSION = "proxy"  # there is only one


class Owner(Protocol):
    """Whoever runs the proxies."""

    @property
    def grace_s(self) -> float:
        """How long what a proxy answers may take to end."""

    @property
    def used_machines(self) -> Collection[str]:
        """Those that have a replica."""

    def tag(self) -> str:
        """A part of a name that no other process has."""

    def hear(self, name: str, process: Process) -> None:
        """Listen to a process until it ends."""


class Proxies:
    """Keeps `num_proxies` running on each machine where they are wanted: nowhere before `serve`.

    Args:
        engine: starts them.
        owner: told of what they say.
    """

    def __init__(self, engine: Engine, owner: Owner) -> None:
        self._loop = asyncio.get_running_loop()
        self._engine = engine
        self._owner = owner
        self._options = HTTPOptions(location=DISABLED)
        self._listener: socket.socket | None = None
        self._goal = Goal(_VERSION, 0)
        self._recovered_at = 0.0
        self._places = ProxyPlaces(DISABLED, config.PROXY_LINGER_S)
        self._machines: Sequence[Machine] | None = None  # not told yet
        self._sets: dict[str, ProcessSet] = {}
        self._deciding: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._news: asyncio.Future[None] = self._loop.create_future()
        self._stopping = False

    def serve(self, options: HTTPOptions, listener: socket.socket | None, recover_s: float = 0.0) -> None:
        """Serve HTTP from now on.

        Args:
            options: how, and where.
            listener: the socket that proxies take requests from, which stays open here: one that is replaced loses no
                connection. Without, each machine that is wanted has a socket of its own.
            recover_s: how long to wait for proxies that run, and are about to register.
        """
        self._options, self._listener = options, listener
        self._goal = Goal(_VERSION, options.num_proxies, failures_max=STARTS_MAX)
        self._places = ProxyPlaces(options.location, config.PROXY_LINGER_S)
        self._recovered_at = self._loop.time() + recover_s
        if self.is_serving and listener is not None:
            self._sets[""] = self._new_set("")
        self._decide_soon()

    @property
    def is_serving(self) -> bool:
        """Whether there are to be any."""
        return self._options.location != DISABLED

    # What they are told

    def machines_are(self, machines: Sequence[Machine]) -> None:
        """These are all machines that there are."""
        self._machines = machines
        self._decide_soon()

    def look_again(self) -> None:
        """Replicas have come or gone, and perhaps on other machines."""
        self._decide_soon()

    def adopt(self, register: messages.Register, process: Process) -> None:
        """This one was started by an earlier controller."""
        machine = register.machine if self._listener is None else ""
        if machine not in self._sets:
            self._sets[machine] = self._new_set(machine)
            self._places.adopt(machine)
        self._sets[machine].adopt(register.name, _VERSION, process, register.address)

    def replace(self, name: str, why: str) -> None:
        """Have another one take the place of this one, which may end what it does."""
        for processes in self._sets.values():
            processes.grace_s = self._owner.grace_s
            processes.replace(name, why)

    async def ready(self) -> None:
        """Return when clients can be served, if they are to be. Raises `DeploymentFailedError` if on no machine."""
        if not self.is_serving:
            return
        if self._listener is not None:
            await asyncio.shield(self._sets[""].outcome)
            return
        until = self._loop.time() + MACHINES_TIMEOUT_S
        while not self._has_served:
            if self._stopping:
                raise errors.DeploymentFailedError("The HTTP proxies were stopped before one was ready.")
            starting = [each.outcome for each in self._open.values() if not each.outcome.done()]
            if self._open and not starting:
                why = "; ".join(f"on {machine}: {why}" for machine, why in self.failures.items())
                raise errors.DeploymentFailedError(f"No HTTP proxy could start. {why}")
            if not starting and self._loop.time() >= until:
                raise errors.DeploymentFailedError(
                    f"HTTP cannot be served: for {MACHINES_TIMEOUT_S:g} s there was no machine for a proxy "
                    f"(proxy_location is {self._options.location})."
                )
            rest_s = None if starting else until - self._loop.time()
            await asyncio.wait([*starting, self._news], timeout=rest_s, return_when=asyncio.FIRST_COMPLETED)

    @property
    def _has_served(self) -> bool:
        """Whether proxies serve somewhere, or have, so that they will again."""
        return any(
            each.running or (each.outcome.done() and each.outcome.exception() is None) for each in self._open.values()
        )

    async def stop(self, grace_s: float) -> None:
        """Let all of them end what they do, then end them."""
        self._end()
        await asyncio.gather(*(processes.stop(grace_s) for processes in self._sets.values()))

    def kill(self) -> None:
        """End all of them at once."""
        self._end()
        for processes in self._sets.values():
            processes.kill()

    def _end(self) -> None:
        self._stopping = True
        for handle in (self._deciding, self._timer):
            if handle is not None:
                handle.cancel()
        self._tell_those_who_wait()

    # What others are told

    @property
    def sets(self) -> list[ProcessSet]:
        """All of them, by machines."""
        return list(self._sets.values())

    @property
    def addresses(self) -> dict[str, str]:
        """Of those that serve, by name, the URL that each has said; empty if it is that of the listening socket."""
        return {name: url for processes in self._open.values() for name, url in processes.running.items()}

    @property
    def failures(self) -> dict[str, str]:
        """By machine, why a proxy could not start there."""
        return {machine: each.message for machine, each in self._open.items() if each.message}

    @property
    def _open(self) -> dict[str, ProcessSet]:
        """The machines where they are wanted, or linger: the head before all others."""
        heads = [machine.name for machine in self._machines or () if machine.is_head]
        order = sorted(self._sets, key=lambda machine: machine not in heads)
        # On one machine what could not start is given up, so that none is wanted any more; yet it is to be told.
        return {m: self._sets[m] for m in order if self._sets[m].count or self._listener is not None}

    # Where they are wanted

    def _decide_soon(self) -> None:
        """Not at once: whoever calls may be in the middle of a decision about one of them."""
        if self.is_serving and self._listener is None and self._deciding is None and not self._stopping:
            self._deciding = self._loop.call_soon(self._decide)

    def _decide(self) -> None:
        self._deciding = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._machines is None or self._stopping:
            return
        ready = {machine for machine, processes in self._open.items() if processes.running}
        for command in self._places.decide(self._machines, self._owner.used_machines, ready, self._loop.time()):
            match command:
                case Open(machine) if machine in self._sets:
                    self._sets[machine].want(self._goal)
                case Open(machine):
                    self._sets[machine] = self._new_set(machine)
                case Close(machine):
                    self._sets[machine].grace_s = self._owner.grace_s
                    self._sets[machine].want(Goal(_VERSION, 0))
        for machine in [m for m, each in self._sets.items() if not each.count and each.is_empty]:
            del self._sets[machine]
        if (at := self._places.next_tick) is not None:
            self._timer = self._loop.call_at(at, self._decide)
        self._tell_those_who_wait()

    def _tell_those_who_wait(self) -> None:
        self._news.set_result(None)
        self._news = self._loop.create_future()

    def _new_set(self, machine: str) -> ProcessSet:
        title = f"The HTTP proxy on {machine}" if machine else "The HTTP proxy"
        processes = ProcessSet(title, self._starter(machine), self._decide_soon)
        rest_s = max(0.0, self._recovered_at - self._loop.time())
        if self._listener is None or rest_s:
            # As one that has served before: of a machine where it cannot start, it is tried on and on.
            processes.recover(self._goal, self._goal, rest_s)
        else:
            processes.want(self._goal)
        return processes

    def _starter(self, machine: str) -> StartProcess:
        async def start(version: str, in_place_of: str | None) -> tuple[str, Process]:
            tag = self._owner.tag()
            name = f"proxy#{tag}"
            if machine:
                log.info("Starting %s on the machine %s.", name, machine)
            process = await self._engine.start_proxy(tag, self._options, self._listener, machine)
            self._owner.hear(name, process)
            return name, process

        return start
