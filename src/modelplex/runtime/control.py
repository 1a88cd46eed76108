"""A process's end of the channel between it and the controller."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from modelplex.runtime.link import Link, Receiver
from modelplex.runtime.streams import Incoming
from modelplex.wire import messages
from modelplex.wire.messages import Message, Register, Setup, Table, TableChange
from modelplex.wire.table_change import applied

# What a process may take to end when the controller has died: long enough for most requests, short enough for nobody to
# wonder what is still running.
ORPHAN_TIMEOUT_S = 5.0

# How often a process whose controller has died looks for another one.
REGISTER_AGAIN_S = 0.1

# Opens a link to the next controller, says there who one is, and hands descriptors on. Raises OSError if there is none
# yet, `EOFError` if there will be none.
Reach = Callable[[Receiver, Register, Sequence[int]], Awaitable[Link]]


class Control:
    """Follows the controller.

    Attributes:
        setup: the first word.
        spec: the bytes that follow it.
        stop: when the process is to end, and within how many seconds.
        link: to the controller, while there is one.
        orphaned: whether the controller has died, and no other one is waited for.
        heard: told of what is not for the process itself.
        reach: how to come to the next controller, if this one dies; unless given, the process ends with this one.
        register: what to say to that one; until this is given, the process ends with this one as well.
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
        self.reach: Reach | None = None
        self.register: Register | None = None
        self.handed_on: list[int] = []
        self.registered: Callable[[], None] = lambda: None
        self._leaving = False
        self._registering: asyncio.Task[None] | None = None
        self._table: Table | None = None
        self._follow: Callable[[Table], None] | None = None

    def received(self, link: Link, message: Message, body: bytes) -> None:
        match message:
            case Setup():
                self.setup.set_result(message)
            case messages.Chunk(more=more):
                self.spec.feed(body, more=more)
            case Table():
                self._told(message)
            case TableChange() if self._table is not None:
                self._told(applied(self._table, message))
            case messages.Stop(timeout_s):
                if not self.stop.done():
                    self.stop.set_result(timeout_s)
            case _:
                self.heard(message)

    def _told(self, table: Table) -> None:
        self._table = table
        if self._follow is not None:
            self._follow(table)

    def lost(self, link: Link) -> None:
        if link is not self.link:
            return
        self.link = None
        if self.reach is not None and self.register is not None and not self.stop.done():
            self._registering = self._loop.create_task(self._register_again(self.reach, self.register))
        else:
            self._orphan()

    def _orphan(self) -> None:
        self.orphaned = True
        if not self.setup.done():
            self.setup.set_exception(EOFError())
        self.spec.fail(EOFError())
        self.end()

    async def _register_again(self, reach: Reach, register: Register) -> None:
        """Find the next controller; there may be none for any time."""
        while not self.stop.done():
            await asyncio.sleep(REGISTER_AGAIN_S)
            try:
                with contextlib.suppress(OSError):
                    self.link = await reach(self, register, self.handed_on)
                    self.registered()
                    return
            except EOFError:
                self._orphan()

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
