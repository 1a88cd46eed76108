"""What the controller and a replica have to do with each other while it runs: reports, health, configuration."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from modelplex.runtime.inspection import Topic, answered
from modelplex.runtime.servable import Servable
from modelplex.wire import messages
from modelplex.wire.messages import Message

log = logging.getLogger(__name__)

REPORT_S = 1.0


class Subject(Protocol):
    """The replica, as far as the controller cares for it."""

    servable: Servable

    def load(self) -> messages.Load:
        """What it has done since it was asked last."""


class Upkeep:
    """The replica's end. Make it when the replica has started.

    Args:
        replica: the replica.
        send: tells the controller.
        topics: what the controller may ask.
    """

    def __init__(
        self, replica: Subject, send: Callable[[Message], None], topics: Mapping[str, Topic] | None = None
    ) -> None:
        self._replica = replica
        self._topics = topics or {}
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._told: messages.Load | None = None
        self._timer = self._loop.call_later(REPORT_S, self._report)

    def received(self, message: Message) -> None:
        """The controller has said something."""
        match message:
            case messages.Reconfigure(number, user_config):
                self._answer(number, lambda: self._replica.servable.reconfigure(json.loads(user_config)))
            case messages.CheckHealth(number):
                self._answer(number, self._replica.servable.check_health)
            case messages.Ask():
                self._send(answered(self._topics, message))

    def report(self) -> None:
        """Say now what would be said soon: whoever hears it may just have come."""
        self._told = None
        self._timer.cancel()
        self._report()

    def end(self) -> None:
        """Say nothing more, and break off what runs."""
        self._timer.cancel()
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """The same; returns when it has ended."""
        self.end()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _report(self) -> None:
        self._timer = self._loop.call_later(REPORT_S, self._report)
        load = self._replica.load()
        if load != self._told or load.loads or any(load.uses.values()):  # as much again is news
            self._told = load
            self._send(load)

    def _answer(self, number: int, work: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            error = ""
            try:
                await work()
            except GeneratorExit:
                raise  # the loop has ended, and this task with it
            except BaseException as raised:  # the user's method may raise anything: SystemExit, pytest.fail
                task = asyncio.current_task()
                if isinstance(raised, asyncio.CancelledError) and task is not None and task.cancelling():
                    raise
                error = _words(raised)
                log.error("The controller is told: %s", error, exc_info=raised)
            self._send(messages.Done(number, error))

        task = self._loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _words(error: BaseException) -> str:
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - the user's class may raise anything here, too
        text = type(error).__name__
    return text.encode("utf-8", "backslashreplace").decode()  # it may have lone surrogates, which no message takes
