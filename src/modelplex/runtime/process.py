"""A process that the local engine starts: a replica or a proxy, from its first instruction to its last.

The control channel is a socket whose other end the controller holds. When that end closes, by its will or by its death,
the process ends too, so that nothing is ever left behind; unless it was told where another controller will be, which it
then waits for while it serves on.
"""

import asyncio
import contextlib
import gc
import math
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from modelplex import context, errors
from modelplex.config import ADMIN, CONTROL, HTTPOptions
from modelplex.observe import logs
from modelplex.runtime import registration
from modelplex.runtime.directory import Directory
from modelplex.runtime.link import Link, SocketLink, connect_unix
from modelplex.runtime.streams import Incoming
from modelplex.wire import messages
from modelplex.wire.messages import Message, Register, Setup, Table

if TYPE_CHECKING:
    from modelplex.runtime.replica import ReplicaSpec

# What a process may take to end when the controller has died: long enough for most requests, short enough for nobody to
# wonder what is still running.
ORPHAN_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class ProxySpec:
    """What a proxy is to serve, and on which inherited socket."""

    options: HTTPOptions
    listener_fd: int
    tag: str


# How often a process whose controller has died looks for another one.
REGISTER_AGAIN_S = 0.1

# Set when the process is to outlive its controller.
_survives = threading.Event()


class Control:
    """This end of the control channel.

    Attributes:
        heard: told of what is not for the process itself.
        register: what to say to the next controller, if this one dies.
        handed_on: descriptors that the next controller needs.
        registered: called when the next controller is there.
    """

    def __init__(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self.setup: asyncio.Future[Setup] = loop.create_future()
        self.stop: asyncio.Future[float] = loop.create_future()
        self.spec = Incoming(lambda size: None)
        self.link: Link | None = None
        self.orphaned = False
        self.heard: Callable[[Message], None] = lambda message: None
        self.register: Register | None = None
        self.handed_on: list[int] = []
        self.registered: Callable[[], None] = lambda: None
        self._register_at = ""
        self._leaving = False
        self._registering: asyncio.Task[None] | None = None
        self._table: Table | None = None
        self._follow: Callable[[Table], None] | None = None

    def received(self, link: Link, message: Message, body: bytes) -> None:
        match message:
            case Setup():
                self._register_at = message.register_at
                if message.register_at:
                    _survives.set()
                self.setup.set_result(message)
            case messages.Chunk(more=more):
                self.spec.feed(body, more=more)
            case Table():
                self._table = message
                if self._follow is not None:
                    self._follow(message)
            case messages.Stop(timeout_s):
                if not self.stop.done():
                    self.stop.set_result(timeout_s)
            case _:
                self.heard(message)

    def lost(self, link: Link) -> None:
        if link is not self.link:
            return
        self.link = None
        if self._register_at and self.register is not None and not self.stop.done():
            self._registering = self._loop.create_task(self._register_again(self.register))
            return
        self.orphaned = True
        if not self.setup.done():
            self.setup.set_exception(EOFError())
        self.spec.fail(EOFError())
        self.end()

    async def _register_again(self, register: Register) -> None:
        """Find the next controller; there may be none for any time."""
        while not self.stop.done():
            await asyncio.sleep(REGISTER_AGAIN_S)
            with contextlib.suppress(OSError):
                self.link = await registration.register(self._register_at, self, register, self.handed_on)
                self.registered()
                return

    async def close(self) -> None:
        if self._registering is not None:
            self._registering.cancel()
            await asyncio.gather(self._registering, return_exceptions=True)
        if self.link is not None:
            await self.link.flushed(1.0)

    def leave(self) -> None:
        """Somebody else than the controller has asked for the end. Being asked again, the process waits for nothing."""
        if self.link is None or self._leaving:
            self.end()
        self._leaving = True
        self.send(messages.Leaving())

    def end(self) -> None:
        """End the process although the controller has not said so."""
        if not self.stop.done():
            self.stop.set_result(ORPHAN_TIMEOUT_S)

    def follow(self, update: Callable[[Table], None]) -> None:
        """Have the table, and each that replaces it, passed to this function."""
        self._follow = update
        if self._table is not None:
            update(self._table)

    def send(self, message: Message) -> None:
        if self.link is not None:
            self.link.send(message)


async def _run(fd: int, address: str) -> None:
    # Imported here, while the controller is still busy: both take their time.
    from modelplex.runtime import payload

    control = Control()
    sock = socket.socket(fileno=fd)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, control.leave)
    _, link = await loop.create_unix_connection(lambda: SocketLink(control), sock=sock)
    control.link = link
    try:
        setup = await control.setup
        data = await control.spec.read_all()
    except EOFError:
        return  # the controller has changed its mind
    sys.path[:] = setup.sys_path
    try:
        spec = payload.loads(data)
    except Exception as error:  # noqa: BLE001 - unpickling runs the user's imports
        from modelplex.runtime.replica import failure

        control.send(messages.StartFailed(str(failure(error))))
        await link.flushed(1.0)
        return
    # The modules that came with it are here to stay: no collection looks at them again, which is most of what it costs.
    gc.collect()
    gc.freeze()
    if isinstance(spec, ProxySpec):
        await _run_proxy(spec, control)
    else:
        await _run_replica(spec, setup, address, control)
    await control.close()
    if control.orphaned:
        _remove_folder(address)


async def _run_replica(spec: "ReplicaSpec", setup: Setup, address: str, control: Control) -> None:
    from modelplex.core.memory_growth import MemoryGrowth
    from modelplex.runtime.give_back import GiveBack, malloc_trim
    from modelplex.runtime.replica import Replica, failure
    from modelplex.runtime.upkeep import Upkeep

    identity = spec.context
    component = f"{identity.app_name}_{identity.deployment}"
    try:
        handler = logs.start(
            component, identity.replica_id, setup.log_dir, console=setup.console, options=spec.config.logs
        )
    except OSError as error:
        control.send(messages.StartFailed(f"Its log cannot be written: {error}"))
        return
    directory = Directory(connect_unix)
    context.set_caller(directory, os.path.join(os.path.dirname(address), CONTROL))
    directory.tell = control.send
    control.follow(directory.update)
    replica = Replica(spec)
    replica.leaks.follow(control.send, MemoryGrowth(), GiveBack(malloc_trim()))
    try:
        await replica.start()
    except Exception as error:  # noqa: BLE001 - a constructor of the user's may raise anything
        control.send(messages.StartFailed(str(failure(error))))
        handler.close()
        return
    server = await asyncio.get_running_loop().create_unix_server(lambda: SocketLink(replica), address)
    upkeep = Upkeep(replica, control.send)
    checks_health = replica.servable.checks_health
    who = (identity.replica_id, address, identity.app_name, identity.deployment, spec.version)
    control.register = Register("replica", *who, checks_health, spec.gpus, os.getpid())
    control.heard = upkeep.received

    def registered() -> None:
        upkeep.report()
        directory.tell_again()

    control.registered = registered
    try:
        control.send(messages.Ready(address, checks_health))
        timeout_s = await control.stop
        server.close()
        await upkeep.close()
        await replica.stop(timeout_s)
        await directory.close()
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)
        handler.close()


async def _run_proxy(spec: ProxySpec, control: Control) -> None:
    from modelplex.runtime.http_server import HTTPServer
    from modelplex.runtime.proxy import Proxy
    from modelplex.runtime.tls import server_context

    try:
        tls = server_context(spec.options)
    except errors.DeploymentFailedError as error:
        control.send(messages.StartFailed(str(error)))
        return
    handler = logs.start("proxy", f"proxy#{spec.tag}")
    directory = Directory(partial(connect_unix, together_s=math.inf))  # no user code runs here
    listener = socket.socket(fileno=spec.listener_fd)
    routed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def update(table: Table) -> None:
        directory.update(table)
        if table.apps and not routed.done():
            routed.set_result(None)

    directory.tell = control.send
    control.register = Register("proxy", f"proxy#{spec.tag}", pid=os.getpid())
    control.handed_on = [listener.fileno()]
    control.registered = directory.tell_again
    control.follow(update)
    first: list[asyncio.Future[Any]] = [routed, control.stop]
    # Clients that come before there is any route wait in the listener's backlog, rather than be told 404.
    await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    try:
        if not control.stop.done():
            server = HTTPServer(Proxy(directory, spec.options), spec.options, tls)
            await server.start(listener)
            control.send(messages.Ready(""))
            await server.stop(await control.stop)
        await directory.close()
    finally:
        handler.close()


def _end_with_controller(fd: int, address: str) -> None:
    """In a thread of its own, since user code may block the event loop: end the process some time after the controller.

    The event loop hears of the same event and ends in good order if it can.
    """
    poll = select.poll()
    poll.register(fd, 0)  # a hang-up is always reported
    poll.poll()
    if _survives.is_set():
        return
    threading.Event().wait(2 * ORPHAN_TIMEOUT_S)
    with contextlib.suppress(OSError):
        os.unlink(address)
    _remove_folder(address)
    os._exit(1)


def _remove_folder(address: str) -> None:
    """Without the controller, the last process to end removes the folder of the sockets, and the controller's own."""
    folder = os.path.dirname(address)
    with contextlib.suppress(OSError):
        if not any(name.endswith(".sock") for name in os.listdir(folder)):
            for name in {CONTROL, ADMIN} & set(os.listdir(folder)):
                os.unlink(os.path.join(folder, name))
            os.rmdir(folder)


def main() -> None:
    """Entry of the process. Its arguments are the descriptor of the control channel and the path of its own socket."""
    import uvloop

    fd, address = int(sys.argv[1]), sys.argv[2]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the controller's to act upon
    threading.Thread(target=_end_with_controller, args=(os.dup(fd), address), daemon=True).start()
    uvloop.run(_run(fd, address))
