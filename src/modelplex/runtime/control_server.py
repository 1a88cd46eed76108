"""Where processes come that a controller did not start: those of an earlier one, and callers in other programs."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any

from modelplex import errors
from modelplex.runtime.controller import Controller
from modelplex.runtime.link import Link, SocketLink
from modelplex.wire import messages
from modelplex.wire.messages import Message

log = logging.getLogger(__name__)

# For a process that has connected, to greet, and then to say who it is.
GREETING_TIMEOUT_S = 5.0

# For a process whose link has ended to be gone, of which nobody here is the parent; and how often that is looked at.
END_TIMEOUT_S = 5.0
END_POLL_S = 0.01

BACKLOG = 256


class RegisteredProcess:
    """A process that has registered (`engine.Process`). It ends when its link has ended."""

    waits_for = ""

    def __init__(self, register: Callable[[messages.Register, "RegisteredProcess"], bool]) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self.started: asyncio.Future[str] = loop.create_future()
        self.exited: asyncio.Future[str] = loop.create_future()
        self.heard: Callable[[Message], None] = lambda message: None
        self._register = register
        self._link: Link | None = None
        self._pid = 0

    def send(self, message: Message) -> None:
        if self._link is not None:
            self._link.send(message)

    def kill(self) -> None:
        """Not when its link is gone: its number may be another's then."""
        if self._pid and self._link is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    @property
    def is_known(self) -> bool:
        """Whether it has said who it is."""
        return self.started.done()

    # link.Receiver

    def received(self, link: Link, message: Message, body: bytes) -> None:
        if self._link is not None:
            self.heard(message)
        elif isinstance(message, messages.Register) and not self.is_known:
            self._link, self._pid = link, message.pid
            self.started.set_result(message.address)
            if not self._register(message, self):
                self.send(messages.Stop(0.0))
        else:
            raise errors.ProtocolError("its first message does not say who it is")

    def lost(self, link: Link) -> None:
        self._link = None
        self._wait_for_end(self._loop.time() + END_TIMEOUT_S)

    def _wait_for_end(self, until: float) -> None:
        """A process is there for a moment after its last link has gone."""
        if self._pid and _runs(self._pid) and self._loop.time() < until:
            self._loop.call_later(END_POLL_S, self._wait_for_end, until)
        elif not self.exited.done():
            self.exited.set_result("has ended")


class ControlServer:
    """Listens on a Unix socket.

    A connection begins with one byte, which a proxy sends along with its listening socket (`registration`).

    Args:
        path: of the socket, in a folder of this user's alone.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._controller: asyncio.Future[Controller] = self._loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._links: set[Link] = set()
        self.listener: asyncio.Future[socket.socket] = self._loop.create_future()  # the first that a proxy sends
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setblocking(False)
        self._socket.bind(path)
        self._socket.listen(BACKLOG)
        self._own(self._accept())

    def serve(self, controller: Controller) -> None:
        """Whoever registers goes to this controller from now on; those that have come before wait."""
        self._controller.set_result(controller)

    async def stop(self) -> None:
        """Let nobody else in."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def close(self) -> None:
        """Close the links to those that are there."""
        for link in list(self._links):
            link.close()
        if self.listener.done():
            self.listener.result().close()  # perhaps nobody has taken it

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        while True:
            sock, _ = await self._loop.sock_accept(self._socket)
            self._own(self._greet(sock))

    async def _greet(self, sock: socket.socket) -> None:
        try:
            _check_user(sock)
            async with asyncio.timeout(GREETING_TIMEOUT_S):
                await self._take_greeting(sock)
            controller = await asyncio.shield(self._controller)
            process = RegisteredProcess(controller.register)
            _, link = await self._loop.create_unix_connection(lambda: SocketLink(process), sock=sock)
        except (OSError, errors.ProtocolError) as error:
            log.warning("A process could not register: %s", error)
            sock.close()
            return
        except asyncio.CancelledError:
            sock.close()
            raise
        self._links.add(link)
        process.exited.add_done_callback(lambda _: self._links.discard(link))
        self._own(_part_with_the_silent(process, link))

    async def _take_greeting(self, sock: socket.socket) -> None:
        readable: asyncio.Future[None] = self._loop.create_future()

        def is_readable() -> None:
            if not readable.done():
                readable.set_result(None)

        self._loop.add_reader(sock, is_readable)
        try:
            await readable
        finally:
            self._loop.remove_reader(sock)
        greeting, descriptors, _, _ = socket.recv_fds(sock, 1, 1)
        for descriptor in descriptors:
            try:
                sent = socket.socket(fileno=descriptor)
            except OSError:
                os.close(descriptor)
                raise
            if self.listener.done():
                sent.close()
            else:
                self.listener.set_result(sent)
        if not greeting:
            raise errors.ProtocolError("it said nothing")


async def _part_with_the_silent(process: RegisteredProcess, link: Link) -> None:
    said_or_gone = [process.started, process.exited]
    await asyncio.wait(said_or_gone, timeout=GREETING_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
    if not process.is_known and not process.exited.done():
        log.warning("A process could not register: it did not say who it is")
        link.close()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _check_user(sock: socket.socket) -> None:
    """The folder is closed to others; this holds even if somebody opens it. Linux only."""
    if hasattr(socket, "SO_PEERCRED"):
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", data)[1] not in (os.getuid(), 0):
            raise errors.ProtocolError("it is another user's")
