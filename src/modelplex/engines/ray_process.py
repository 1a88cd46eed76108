"""An actor as the controller sees it, and whoever else comes to the controller."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import ray

from modelplex import errors
from modelplex.runtime.link import Link
from modelplex.wire import messages
from modelplex.wire.messages import Message, Register

log = logging.getLogger(__name__)

# An actor that Ray cannot reach, and that has no link to here, is given up after so long: Ray itself takes about 15 s
# to find that a machine is gone.
UNREACHABLE_S = 5.0
ASK_AGAIN_S = 0.5

# A process that waits for a place for longer is spoken of.
PLACE_S = 10.0


class RayProcess:
    """One actor, with the link to it (`engine.Process`)."""

    def __init__(self, name: str, left: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self.name = name
        self.started: asyncio.Future[str] = loop.create_future()
        self.exited: asyncio.Future[str] = loop.create_future()
        self.heard: Callable[[Message], None] = lambda message: None
        self.actor: Any = None
        self._left = left
        self._link: Link | None = None
        self._alone_since = time.monotonic()
        self._has_come = False
        self._stop: messages.Stop | None = None

    def linked(self, link: Link) -> None:
        """It has come, or come again."""
        self._link = link
        self._has_come = True
        if self._stop is not None:
            link.send(self._stop)

    def send(self, message: Message) -> None:
        if isinstance(message, messages.Stop):
            self._stop = message  # it ends, however often its link is lost
            if not self._has_come:
                self.kill()  # there is nothing that it has to end, and perhaps never a place for it
        if self._link is not None:
            self._link.send(message)

    def kill(self) -> None:
        if not self.exited.done():
            ray.kill(self.actor, no_restart=True)

    async def watch(self, run: Any) -> None:
        """Wait for the end of the actor; `run` is a call that lasts as long as it lives."""
        how = ""
        while not how:
            try:
                await run
                how = "has ended"
            except ray.exceptions.ActorUnavailableError:
                if self._link is None and time.monotonic() - self._alone_since > UNREACHABLE_S:
                    self.kill()
                    how = "cannot be reached"
                await asyncio.sleep(ASK_AGAIN_S)
                run = self.actor.ended.remote()
            except ray.exceptions.RayTaskError as error:
                self.kill()  # its process has failed, and Ray lets it be
                how = _last_line(error)
            except ray.exceptions.RayError as error:
                how = _last_line(error)
        if self._link is not None:
            self._link.close()
        if not self.started.done():
            self._fail(f"the process {how} before it was ready")
        self.exited.set_result(how)
        self._left()

    @property
    def waits_for(self) -> str:
        is_late = self._link is None and not self.started.done() and time.monotonic() - self._alone_since > PLACE_S
        return "Ray has not found it a place yet, or is preparing its runtime_env: see `ray status`" if is_late else ""

    def say_what_it_waits_for(self) -> None:
        if self.waits_for:
            log.warning("%s has not started: %s.", self.name, self.waits_for)

    def _fail(self, why: str) -> None:
        self.started.set_exception(errors.DeploymentFailedError(why))
        self.started.exception()  # it may be that nobody waits any more

    # What its link brings

    def received(self, message: Message) -> None:
        match message:
            case messages.Ready(address) if not self.started.done():
                self.heard(message)
                self.started.set_result(address)
            case messages.StartFailed(text) if not self.started.done():
                self._fail(text)
            case _:
                self.heard(message)

    def lost(self, link: Link) -> None:
        """Nothing happens if it has come again by another one: of a cut, each side finds out by itself."""
        if link is not self._link:
            return
        self._link = None
        self._alone_since = time.monotonic()


class Caller:
    """A program that follows the table (`engine.Process`). It has ended when its link has."""

    waits_for = ""

    def __init__(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[str] = loop.create_future()
        self.exited: asyncio.Future[str] = loop.create_future()
        self.heard: Callable[[Message], None] = lambda message: None
        self.send = link.send
        self.kill = link.close

    def received(self, message: Message) -> None:
        self.heard(message)

    def lost(self, link: Link) -> None:
        if not self.exited.done():
            self.exited.set_result("has ended")


class Newcomer:
    """Whoever opens a link to the controller; when it has said who it is, that one's ear (`link.Receiver`)."""

    def __init__(self, welcome: Callable[[Link, Register], RayProcess | Caller | None]) -> None:
        self._welcome = welcome
        self._who: RayProcess | Caller | None = None

    def received(self, link: Link, message: Message, body: bytes) -> None:
        if self._who is not None:
            self._who.received(message)
        elif isinstance(message, Register):
            self._who = self._welcome(link, message)
        else:
            raise errors.ProtocolError("its first message does not say who it is")

    def lost(self, link: Link) -> None:
        if self._who is not None:
            self._who.lost(link)


def _last_line(error: Exception) -> str:
    """Why an actor is gone, which Ray says after what it is."""
    if isinstance(error, ray.exceptions.RuntimeEnvSetupError):
        return f"cannot have its runtime_env: {error.error_message}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("The actor is dead")), lines[-1] if lines else repr(error))
