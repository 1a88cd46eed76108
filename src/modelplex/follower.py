"""Calls to a system that another program runs: an event loop in a thread, which follows that system's table."""

import asyncio
import contextlib
import os
import secrets
import threading
from concurrent.futures import Future
from typing import Protocol

from modelplex import errors
from modelplex.config import RAY
from modelplex.runtime.directory import Directory
from modelplex.runtime.link import TOGETHER_S, Link, Receiver, connect_unix
from modelplex.runtime.registration import register
from modelplex.wire import messages
from modelplex.wire.messages import Message
from modelplex.wire.table_change import applied

# For the system's first word.
TABLE_TIMEOUT_S = 10.0

# How often a system that does not answer any more is looked for again.
AGAIN_S = 0.2


class Door(Protocol):
    """How to come to a system.

    Attributes:
        machine: the one that this program is on; empty if there is only one.
    """

    machine: str

    async def enter(self, receiver: Receiver, who: messages.Register) -> Link:
        """Open a link to its controller. Raises OSError if it is away, `ModelplexError` if there is no such system."""

    async def connect(self, address: str, receiver: Receiver, together_s: float = TOGETHER_S) -> Link:
        """Open a link to one of its replicas (`link.Connect`)."""


class UnixDoor:
    """Into a system on this machine (`Door`).

    Args:
        address: its control socket.
    """

    machine = ""

    def __init__(self, address: str) -> None:
        self._address = address

    async def enter(self, receiver: Receiver, who: messages.Register) -> Link:
        try:
            return await register(self._address, receiver, who)
        except OSError as error:
            if isinstance(error, ConnectionRefusedError | FileNotFoundError) and self._has_folder():
                raise
            # Without its folder the system has ended; else its controller may be about to come again.
            text = f"The system at {self._address} cannot be reached; does it run? ({error})"
            raise errors.ModelplexError(text) from error

    def _has_folder(self) -> bool:
        return os.path.isdir(os.path.dirname(self._address))

    async def connect(self, address: str, receiver: Receiver, together_s: float = TOGETHER_S) -> Link:
        return await connect_unix(address, receiver, together_s)


class Follower:
    """Follows one system for as long as the program lives.

    Args:
        address: the system's control socket, or what else names it.
        door: how to come to it.
    """

    def __init__(self, address: str, door: Door) -> None:
        self._address = address
        self._door = door
        self._loop = asyncio.new_event_loop()
        self._link: Link | None = None
        self._table: messages.Table | None = None
        self._lost = asyncio.Event()
        self._first: Future[Directory] = Future()
        self._thread = threading.Thread(target=self._run, name="modelplex-follower", daemon=True)
        self._thread.start()
        try:
            self.directory = self._first.result(TABLE_TIMEOUT_S)
        except TimeoutError:
            self.end()
            raise errors.ModelplexError(f"The system at {address} does not answer; does it run?") from None
        except BaseException:
            self.end()
            raise

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._following = self._loop.create_task(self._follow())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._following)
        self._loop.run_until_complete(self._directory.close())
        self._loop.close()

    def end(self) -> None:
        """Nobody is to follow any more."""
        self._loop.call_soon_threadsafe(lambda: self._following.cancel())
        self._thread.join()

    async def _follow(self) -> None:
        self._directory = Directory(self._door.connect, self._door.machine)
        self._directory.tell = self._tell
        name = f"caller#{os.getpid()}-{secrets.token_hex(3)}"
        while True:
            self._lost.clear()
            try:
                self._link = await self._door.enter(self, messages.Register("caller", name))
            except OSError:
                pass
            except errors.ModelplexError as error:
                if not self._first.done():
                    self._first.set_exception(error)
            else:
                self._directory.tell_again()
                await self._lost.wait()
            await asyncio.sleep(AGAIN_S)

    def _tell(self, message: Message) -> None:
        if self._link is not None:
            self._link.send(message)

    # link.Receiver

    def received(self, link: Link, message: Message, body: bytes) -> None:
        if isinstance(message, messages.TableChange) and self._table is not None:
            message = applied(self._table, message)
        if isinstance(message, messages.Table):
            self._table = message
            self._directory.update(message)
            if not self._first.done():
                self._first.set_result(self._directory)

    def lost(self, link: Link) -> None:
        self._link = None
        self._lost.set()


_followed: dict[str, Follower] = {}
_lock = threading.Lock()


def _forget() -> None:
    """In a child that was forked: the threads are not there."""
    global _lock
    _followed.clear()
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget)


def follow(address: str) -> Directory:
    """What calls the deployments of a system, by its control socket. Raises `ModelplexError` if it does not answer."""
    with _lock:
        if address not in _followed:
            _followed[address] = Follower(address, _door(address))
        return _followed[address].directory


def leave(address: str) -> None:
    """Follow this system no longer. Nothing happens if nobody does."""
    with _lock:
        follower = _followed.pop(address, None)
    if follower is not None:
        follower.end()


def _door(address: str) -> Door:
    if address.startswith(RAY):
        from modelplex.engines.ray_caller import RayDoor

        return RayDoor(address)
    return UnixDoor(address)
