"""Calls to a system that another program runs: an event loop in a thread, which follows that system's table."""

import asyncio
import contextlib
import os
import secrets
import threading
from concurrent.futures import Future

from modelplex import errors
from modelplex.runtime.directory import Directory
from modelplex.runtime.link import Link, connect_unix
from modelplex.runtime.registration import register
from modelplex.wire import messages
from modelplex.wire.messages import Message

# For the system's first word.
TABLE_TIMEOUT_S = 10.0

# How often a system that does not answer any more is looked for again.
AGAIN_S = 0.2


class Follower:
    """Follows one system for as long as the program lives.

    Args:
        address: the system's control socket.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._loop = asyncio.new_event_loop()
        self._link: Link | None = None
        self._lost = asyncio.Event()
        self._first: Future[Directory] = Future()
        self._thread = threading.Thread(target=self._run, name="modelplex-follower", daemon=True)
        self._thread.start()
        try:
            self.directory = self._first.result(TABLE_TIMEOUT_S)
        except TimeoutError:
            self._end()
            raise errors.ModelplexError(f"The system at {address} does not answer; does it run?") from None
        except BaseException:
            self._end()
            raise

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._following = self._loop.create_task(self._follow())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._following)
        self._loop.run_until_complete(self._directory.close())
        self._loop.close()

    def _end(self) -> None:
        """Nobody is to follow any more."""
        self._loop.call_soon_threadsafe(lambda: self._following.cancel())
        self._thread.join()

    async def _follow(self) -> None:
        self._directory = Directory(connect_unix)
        self._directory.tell = self._tell
        name = f"caller#{os.getpid()}-{secrets.token_hex(3)}"
        while True:
            self._lost.clear()
            try:
                self._link = await register(self._address, self, messages.Register("caller", name))
            except OSError as error:
                # Without its folder the system has ended; else its controller may be about to come again.
                if not self._first.done() and not self._may_come(error):
                    text = f"The system at {self._address} cannot be reached; does it run? ({error})"
                    self._first.set_exception(errors.ModelplexError(text))
            else:
                self._directory.tell_again()
                await self._lost.wait()
            await asyncio.sleep(AGAIN_S)

    def _may_come(self, error: OSError) -> bool:
        is_absent = isinstance(error, ConnectionRefusedError | FileNotFoundError)
        return is_absent and os.path.isdir(os.path.dirname(self._address))

    def _tell(self, message: Message) -> None:
        if self._link is not None:
            self._link.send(message)

    # link.Receiver

    def received(self, link: Link, message: Message, body: bytes) -> None:
        if isinstance(message, messages.Table):
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
            _followed[address] = Follower(address)
        return _followed[address].directory
