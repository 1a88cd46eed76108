"""A process that an engine has started: a replica or a proxy, from when it knows what it is to its end."""

import asyncio
import math
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from modelplex import context, errors
from modelplex.config import HTTPOptions
from modelplex.observe import logs
from modelplex.runtime.control import Control
from modelplex.runtime.directory import Directory
from modelplex.runtime.link import TOGETHER_S, Link, Receiver
from modelplex.wire import messages
from modelplex.wire.messages import Register, Table

if TYPE_CHECKING:
    from modelplex.runtime.grpc_calls import Gate
    from modelplex.runtime.grpc_server import GRPCServer
    from modelplex.runtime.replica_spec import ReplicaSpec


@dataclass(frozen=True)
class ProxySpec:
    """What a proxy is to serve: on an inherited socket, or on one of its own if there is none."""

    options: HTTPOptions
    tag: str
    listener_fd: int | None = None


class Listening(Protocol):
    """What others link to."""

    @property
    def address(self) -> str: ...

    async def close(self) -> None:
        """Let no more in. Links that are open stay."""


class Site(Protocol):
    """Where a process is.

    Attributes:
        machine: which one, if there are several.
        host: where other machines reach it; empty if there are none.
        system: how programs find the system that it belongs to (`context.set_caller`).
        log_dir: where it writes its log; empty for nowhere.
        console: whether it logs to the console as well.
        is_console_far: whether lines of the console travel to another process, which costs as much as a request does.
    """

    machine: str
    host: str
    system: str
    log_dir: str
    console: bool
    is_console_far: bool

    async def connect(self, address: str, receiver: Receiver, together_s: float = TOGETHER_S) -> Link:
        """Open a link to a replica (`link.Connect`)."""

    async def listen(self, receiver: Callable[[], Receiver]) -> Listening:
        """Let others link to this process."""


async def run_replica(spec: "ReplicaSpec", site: Site, control: Control) -> None:
    """Run a replica until it is told to stop."""
    from modelplex.core.memory_growth import MemoryGrowth
    from modelplex.runtime.give_back import GiveBack, malloc_trim
    from modelplex.runtime.replica import Replica, failure
    from modelplex.runtime.replica_topics import topics_of
    from modelplex.runtime.upkeep import Upkeep

    identity = spec.context
    component = f"{identity.app_name}_{identity.deployment}"
    try:
        handler = logs.start(
            *(component, identity.replica_id, site.log_dir),
            console=site.console,
            briefly=site.is_console_far,
            options=spec.config.logs,
        )
    except OSError as error:
        control.send(messages.StartFailed(f"Its log cannot be written: {error}"))
        return
    directory = Directory(site.connect, site.machine)
    context.set_caller(directory, site.system)
    directory.tell = control.send
    control.follow(directory.update)
    replica = Replica(spec)
    directory.decisions = replica.decisions
    replica.leaks.follow(control.send, MemoryGrowth(), GiveBack(malloc_trim()))
    try:
        await replica.start()
    except Exception as error:  # noqa: BLE001 - a constructor of the user's may raise anything
        control.send(messages.StartFailed(str(failure(error))))
        handler.close()
        return
    listening = await site.listen(lambda: replica)
    upkeep = Upkeep(replica, control.send, topics_of(replica))
    checks_health = replica.servable.checks_health
    who = (identity.replica_id, listening.address, identity.app_name, identity.deployment, spec.version)
    control.register = Register("replica", *who, checks_health, spec.gpus, os.getpid())
    control.heard = upkeep.received

    def registered() -> None:
        upkeep.report()
        directory.tell_again()

    control.registered = registered
    try:
        control.send(messages.Ready(listening.address, checks_health))
        timeout_s = await control.stop
        await listening.close()
        await upkeep.close()
        await replica.stop(timeout_s)
        await directory.close()
    finally:
        handler.close()


async def run_proxy(spec: ProxySpec, site: Site, control: Control) -> None:
    """Run a proxy until it is told to stop."""
    from modelplex.runtime.access import gate_of
    from modelplex.runtime.http_crowd import raise_open_files
    from modelplex.runtime.http_meters import HTTPMeters
    from modelplex.runtime.http_server import HTTPServer
    from modelplex.runtime.inspection import Inspection
    from modelplex.runtime.listening_sockets import listen, url
    from modelplex.runtime.process_metrics import of_proxy
    from modelplex.runtime.proxy import Proxy
    from modelplex.runtime.tls import server_context

    try:
        tls, gate = server_context(spec.options), gate_of(spec.options)
        own = spec.listener_fd is None
        listener = listen(spec.options, shared=True) if own else socket.socket(fileno=spec.listener_fd)
    except errors.DeploymentFailedError as error:
        control.send(messages.StartFailed(str(error)))
        return
    handler = logs.start("proxy", f"proxy#{spec.tag}")
    directory = Directory(partial(site.connect, together_s=math.inf), site.machine)  # no user code runs here
    routed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def update(table: Table) -> None:
        directory.update(table)
        if table.apps and not routed.done():
            routed.set_result(None)

    directory.tell = control.send
    inspection = Inspection(control.send)
    directory.decisions.process = f"proxy#{spec.tag}"
    inspection.topics["decisions"] = directory.decisions.answer
    control.heard = inspection.received
    address = url(spec.options, listener, site.host) if own else ""
    control.register = Register("proxy", f"proxy#{spec.tag}", address, pid=os.getpid(), machine=site.machine)
    control.handed_on = [] if own else [listener.fileno()]
    control.registered = directory.tell_again
    control.follow(update)
    # Clients that come before there is any route wait in the listener's backlog, rather than be told 404.
    await asyncio.wait(list[asyncio.Future[Any]]([routed, control.stop]), return_when=asyncio.FIRST_COMPLETED)
    try:
        if not control.stop.done():
            raise_open_files()
            meters = HTTPMeters()
            server = HTTPServer(Proxy(directory, spec.options, gate, meters), spec.options, tls)
            inspection.topics["metrics"] = lambda _: of_proxy(f"proxy#{spec.tag}", meters, server, directory)
            grpc = await _start_grpc(directory, spec.options, gate)
            await server.start(listener)
            following = None if gate is None else asyncio.create_task(gate.follow())
            control.send(messages.Ready(address))
            timeout_s = await control.stop
            await asyncio.gather(*(each.stop(timeout_s) for each in (server, grpc) if each is not None))
            if following is not None:
                following.cancel()
        await directory.close()
    except errors.DeploymentFailedError as error:
        control.send(messages.StartFailed(str(error)))
    finally:
        listener.close()
        handler.close()


async def _start_grpc(directory: Directory, options: HTTPOptions, gate: "Gate | None" = None) -> "GRPCServer | None":
    """The server, if there is to be one; `gate` decides which calls are taken. Raises `DeploymentFailedError`."""
    if options.grpc is None:
        return None
    from modelplex.runtime.grpc_server import GRPCServer

    server = GRPCServer(directory, options, gate)
    await server.start()
    return server
