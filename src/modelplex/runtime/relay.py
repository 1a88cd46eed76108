"""A connection that goes on to another process: bytes both ways, no faster than either end takes them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from modelplex.errors import ProtocolError
from modelplex.runtime import keepalive

log = logging.getLogger(__name__)

# To reach the other process and to prove oneself there. Who asks waits about as long.
RELAY_TIMEOUT_S = 2.0

# Opens a proved connection, whose reading is paused, to an address; with what came after the handshake.
Open = Callable[[str], Awaitable[tuple[asyncio.Transport, bytes]]]


class _End(asyncio.Protocol):
    """One end of a relayed connection: what comes here goes out at the other one."""

    def __init__(self, transport: asyncio.Transport, over: "asyncio.Future[None]") -> None:
        self._over = over
        self.transport = transport
        self.other: asyncio.Transport | None = None

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.write(data)

    # The writing of this end sets the pace of the other's reading.

    def pause_writing(self) -> None:
        if self.other is not None and not self.other.is_closing():
            self.other.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and not self.other.is_closing():
            self.other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.close()  # what is on its way there still arrives
        if not self._over.done():
            self._over.set_result(None)


async def pass_on(near: asyncio.Transport, rest: bytes, address: str, connect: Open) -> None:
    """Connect to the address and pass bytes on until either side ends; then the other is ended, too.

    `near` is a connection whose reading is paused, of which `rest` was read already.
    """
    loop = asyncio.get_running_loop()
    both: list[asyncio.Future[None]] = [loop.create_future(), loop.create_future()]
    here = _End(near, both[0])
    near.set_protocol(here)
    far: asyncio.Transport | None = None
    try:
        async with asyncio.timeout(RELAY_TIMEOUT_S):
            far, far_rest = await connect(address)
        there = _End(far, both[1])
        far.set_protocol(there)
        here.other, there.other = far, near
        for transport, data in ((near, far_rest), (far, rest)):
            keepalive.watch(transport, transport.abort)
            transport.write(data)
            if not transport.is_closing():
                transport.resume_reading()
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        near.close()
        far.close()
        await asyncio.wait(both)
    except (OSError, ProtocolError) as error:
        log.debug("A link could not be relayed to %s: %s", address, error)
    finally:
        near.abort()
        if far is not None:
            far.abort()


class Relays:
    """The connections that this process passes on."""

    def __init__(self, connect: Open) -> None:
        self._connect = connect
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, near: asyncio.Transport, rest: bytes, address: str) -> None:
        task = asyncio.get_running_loop().create_task(pass_on(near, rest, address, self._connect))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End all of them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
