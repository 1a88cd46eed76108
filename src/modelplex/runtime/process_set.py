"""Keeps a number of processes of one kind running: starts them, replaces those that die or are to go, stops them."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from modelplex import config, errors
from modelplex.core.backoff import Backoff
from modelplex.runtime.engine import Process
from modelplex.wire import messages
from modelplex.wire.messages import Message

log = logging.getLogger(__name__)

_BACKOFF = Backoff(config.RESTART_BACKOFF_S, config.RESTART_BACKOFF_MAX_S)


@dataclass(slots=True, eq=False)
class _Member:
    """One process, until it has exited.

    `turn` comes when another one is to take its place, with how long it may take to end what it does.
    """

    name: str
    process: Process
    turn: "asyncio.Future[float]"

    @property
    def exited(self) -> bool:
        return self.process.exited.done()


@dataclass(slots=True, eq=False)
class _Place:
    """One process that is wanted, whichever it is at the moment, and how often in a row one of them did not last."""

    began: float | None = None
    short_lives: int = 0

    def pause_s(self, now: float) -> float:
        """How long to wait before the next one is started in place of the last."""
        if self.began is not None:
            self.short_lives = 1 if now - self.began > config.RESTART_FORGET_S else self.short_lives + 1
        return _BACKOFF.delay_s(self.short_lives - 1) if self.short_lives > 1 else 0.0


class ProcessSet:
    """One task for each process that is wanted; each replaces its process when that dies, with back-off.

    Args:
        title: what the processes are, for the log.
        count: how many are wanted.
        start: starts one; answers its name and the process.
        changed: called when one is ready, and when one that was has gone.
        failed_starts_max: after so many failed starts, if none ever succeeded, the set gives up.
    """

    def __init__(
        self,
        title: str,
        count: int,
        start: Callable[[], Awaitable[tuple[str, Process]]],
        changed: Callable[[], None],
        failed_starts_max: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.running: dict[str, str] = {}  # name -> address
        self.message = ""
        self.count = count
        self.ready: asyncio.Future[None] = self._loop.create_future()  # all run for the first time, or why they won't
        self._title = title
        self._start = start
        self._changed = changed
        self._failed_starts = 0
        self._failed_starts_max = failed_starts_max
        self._members: dict[str, _Member] = {}
        self._to_replace: dict[str, float] = {}  # name -> time-out, in order; the first one has its turn
        self._tasks = {self._loop.create_task(self._keep_one()) for _ in range(count)}

    def send(self, message: Message) -> None:
        """Tell all processes."""
        for member in self._members.values():
            member.process.send(message)

    def kill(self) -> None:
        """End every process at once."""
        for member in self._members.values():
            member.process.kill()

    def replace(self, name: str, timeout_s: float, why: str) -> None:
        """Have another process take the place of this one, without a gap.

        The new one is started first. When it is ready, both run until callers have found it; only then the old one
        takes no more requests, ends within the time what it does, and exits. One at a time is replaced, with the
        back-off of those that die. If the new one cannot start, the old one goes on, and it is tried again.
        Nothing happens if it does not run any more, or is to be replaced already.

        Args:
            name: one of `running`.
            timeout_s: how long the old one may take over what it does.
            why: for the log.
        """
        if name in self.running and name not in self._to_replace:
            log.warning("%s %s; starting another in its place.", name, why)
            self._to_replace[name] = timeout_s
            self._give_turn()

    async def stop(self, timeout_s: float) -> None:
        """Let every process end what it does, then end it. Returns when all have exited."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not self.ready.done():
            self.ready.set_exception(errors.DeploymentFailedError(f"{self._title} was stopped before it was ready."))
            self.ready.exception()
        self.running.clear()
        await _end(list(self._members.values()), timeout_s)

    async def _keep_one(self) -> None:
        place = _Place()
        member: _Member | None = None
        while not self._has_given_up():
            member = await (self._start_next(place) if member is None else self._successor(member, place))

    async def _successor(self, member: _Member, place: _Place) -> _Member | None:
        """What has the place of this process, when it is no longer the process itself; None if it has died."""
        either: list[asyncio.Future[Any]] = [member.turn, member.process.exited]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if member.exited:
            return None
        successor = await self._start_next(place)
        if successor is None:
            return None if member.exited else member
        exits = [member.process.exited, successor.process.exited]
        await asyncio.wait(exits, timeout=config.HANDOVER_S, return_when=asyncio.FIRST_COMPLETED)
        if successor.exited and not member.exited:
            return member
        self._retire(member)
        return successor

    def _retire(self, member: _Member) -> None:
        """Have a process take no more requests and end. Nobody waits for it: its place is taken."""
        if self.running.pop(member.name, None) is not None:
            self._changed()
        task = self._loop.create_task(_end([member], member.turn.result()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start_next(self, place: _Place) -> _Member | None:
        """One more process, when it is ready; None if it could not start, which has been said."""
        if pause_s := place.pause_s(self._loop.time()):
            await asyncio.sleep(pause_s)
        place.began = self._loop.time()
        try:
            member = await self._start_one()
        except OSError as error:
            self._failed(self._title, errors.DeploymentFailedError(f"no process can be started: {error}"))
            return None
        try:
            address = await asyncio.shield(member.process.started)
        except errors.DeploymentFailedError as error:
            self._failed(member.name, error)
            await _end([member], 0.0)
            return None
        self._runs(member.name, address)
        return member

    async def _start_one(self) -> _Member:
        starting = asyncio.ensure_future(self._start())
        try:
            return self._add(*await asyncio.shield(starting))
        except asyncio.CancelledError:
            # What is half started has to be finished, or nobody would know what to stop.
            self._add(*await starting)
            raise

    def _add(self, name: str, process: Process) -> _Member:
        member = self._members[name] = _Member(name, process, self._loop.create_future())
        process.exited.add_done_callback(functools.partial(self._gone, name))
        return member

    def _runs(self, name: str, address: str) -> None:
        self.running[name] = address
        self.message = ""
        if len(self.running) == self.count and not self.ready.done():
            self.ready.set_result(None)
        self._changed()
        self._give_turn()

    def _gone(self, name: str, exited: "asyncio.Future[str]") -> None:
        del self._members[name]
        self._to_replace.pop(name, None)
        if self.running.pop(name, None) is not None:
            log.warning("%s %s; starting another.", name, exited.result())
            self._changed()
        self._give_turn()

    def _give_turn(self) -> None:
        """Let the first process that is to be replaced be so, when there are as many as are wanted."""
        name = next(iter(self._to_replace), None)
        if name is not None and self.ready.done() and not (turn := self._members[name].turn).done():
            turn.set_result(self._to_replace[name])

    def _has_given_up(self) -> bool:
        return self.ready.done() and self.ready.exception() is not None

    def _failed(self, name: str, error: errors.DeploymentFailedError) -> None:
        self._failed_starts += 1
        self.message = str(error)
        log.error("%s could not start: %s", name, error)
        # One that has run before is never given up: what keeps it from running may pass.
        if self._failed_starts >= self._failed_starts_max and not self.ready.done():
            self.ready.set_exception(errors.DeploymentFailedError(f"{self._title} could not start: {error}"))
            self.ready.exception()


async def _end(members: list[_Member], timeout_s: float) -> None:
    """Let processes end what they do, then end them. Returns when all have exited."""
    if not members:
        return
    exits = [member.process.exited for member in members]
    for member in members:
        member.process.send(messages.Stop(timeout_s))
    await asyncio.wait(exits, timeout=timeout_s + config.STOP_MARGIN_S)
    for member in members:
        member.process.kill()
    await asyncio.wait(exits, timeout=config.STOP_MARGIN_S)
