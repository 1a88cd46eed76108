"""Processes of one kind, as `core.rollout` wants them: the shell that starts them, hears of them, and ends them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from modelplex import config, errors
from modelplex.core.backoff import Backoff
from modelplex.core.rollout import Command, Complete, Failing, GivenUp, Goal, Retire, Rollout, Start
from modelplex.runtime.engine import Process
from modelplex.wire import messages
from modelplex.wire.messages import Message

log = logging.getLogger(__name__)

_BACKOFF = Backoff(config.RESTART_BACKOFF_S, config.RESTART_BACKOFF_MAX_S)

# Starts a process of a version, to do the work of another one that has this name; answers its own name and the process.
StartProcess = Callable[[str, str | None], Awaitable[tuple[str, Process]]]


@dataclass(slots=True, eq=False)
class _Member:
    """One process, from its start to its exit. `retired` comes with how long it may take to end what it does."""

    number: int
    version: str
    in_place_of: str | None
    retired: "asyncio.Future[float]"
    name: str = ""
    process: Process | None = None
    outdated: bool = False


class ProcessSet:
    """Keeps as many running as are wanted, of the version that is wanted.

    Args:
        title: what the processes are, for the log.
        start: starts one.
        changed: called when one is ready, and when one that was takes no more work, or has gone.
        grace_s: how long one that is retired may take to end what it does.
        stop_order: of the names of those that run, which are to go first when there are too many; the last one that
            was started unless given.
        before_stop: called after `changed`, and before any that was ready is told to stop.

    Attributes:
        running: the addresses of those that are ready, by name.
        message: why one could not start; empty when one could since. `lost`: how many died, or were unwell.
        outcome: whether the version that was wanted last has come to run, or why it has not.
    """

    def __init__(
        self,
        title: str,
        start: StartProcess,
        changed: Callable[[], None],
        grace_s: float = 0.0,
        stop_order: Callable[[list[str]], Iterable[str]] = lambda names: names[::-1],
        before_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._title = title
        self._start = start
        self._changed = changed
        self._stop_order = stop_order
        self._before_stop = before_stop
        self._core = Rollout(config.HANDOVER_S, _BACKOFF, config.RESTART_FORGET_S, self._ordered)
        self._members: dict[int, _Member] = {}
        self._named: dict[str, _Member] = {}
        self._tasks: dict[_Member, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._stopping, self.grace_s = False, grace_s
        self.running: dict[str, str] = {}
        self.message, self.lost = "", 0
        self.outcome: asyncio.Future[None] = self._loop.create_future()

    @property
    def goal(self) -> Goal | None:
        return self._core.goal

    @property
    def count(self) -> int:
        return 0 if self._core.goal is None else self._core.goal.count

    @property
    def is_empty(self) -> bool:
        """Whether all that were started have exited."""
        return not self._members

    @property
    def waits_for(self) -> str:
        """What keeps one of them from starting, if that is known."""
        return next((p.waits_for for m in self._members.values() if (p := m.process) is not None and p.waits_for), "")

    def version_of(self, name: str) -> str:
        """The version of one that has been started, and has not exited."""
        return self._named[name].version if name in self._named else ""

    # What is wanted

    def want(self, goal: Goal) -> "asyncio.Future[None]":
        """Bring so many of a version to run. Answers `outcome`."""
        if self._stopping:
            return self.outcome
        if self._core.goal is not None and self._core.goal.version != goal.version:
            self._conclude(f"{self._title} is to be of another version by now.")
        if self.outcome.done():
            self.outcome = self._loop.create_future()
        self._obey(self._core.want(goal, self._loop.time()))
        return self.outcome

    def recover(self, goal: Goal, fallback: Goal | None, wait_s: float) -> None:
        """This was wanted before this process began. What runs is adopted; for so long nothing else is started."""
        now = self._loop.time()
        self._obey(self._core.recover(goal, fallback, now + wait_s, now))

    def adopt(self, name: str, version: str, process: Process, address: str) -> None:
        """This one was started by somebody else."""
        number, commands = self._core.adopt(version, self._loop.time())
        member = _Member(number, version, None, self._loop.create_future(), name, process)
        self._members[number] = self._named[name] = member
        self.running[name] = address
        self._tasks[member] = self._loop.create_task(self._live(member, process))
        self._obey(commands)
        self._changed()

    def give_up(self, why: str) -> None:
        """Go back to the version before, unless the present one runs."""
        self._obey(self._core.give_up(why, self._loop.time()))

    def replace(self, name: str, why: str) -> None:
        """Have another process take the place of this one, without a gap.

        Nothing happens if it does not run any more, or is to be replaced already.
        """
        member = self._running_member(name)
        if member is not None and not member.outdated:
            member.outdated = True
            log.warning("%s %s; starting another in its place.", name, why)
            self._obey(self._core.replace(member.number, self._loop.time()))

    def unwell(self, name: str, why: str) -> None:
        """Take this one out of use at once, and start another."""
        member = self._running_member(name)
        if member is not None:
            self.message, self.lost = f"{name} {why}", self.lost + 1
            log.error("%s %s; starting another.", name, why)
            self._obey(self._core.unwell(member.number, self.message, self._loop.time()))

    def tell(self, name: str, message: Message) -> bool:
        """Tell one of those that run. Answers whether it does."""
        member = self._running_member(name)
        if member is None or member.process is None:
            return False
        member.process.send(message)
        return True

    def kill(self) -> None:
        """End every process at once, and start no others."""
        self._stopping = True
        for member in self._members.values():
            if member.process is not None:
                member.process.kill()

    async def stop(self, grace_s: float | None = None) -> None:
        """Let every process end what it does, then end it. Returns when all have exited."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
        self._conclude(f"{self._title} was stopped before it was ready.")
        served, grace_s = set(self.running), self.grace_s if grace_s is None else grace_s
        self.running.clear()
        for member in self._members.values():
            _retire(member, grace_s if member.name in served else 0.0)
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks.values(), timeout=grace_s + config.STOP_MARGIN_S)
        if late:  # which were retired before, with more time
            self.kill()
            await asyncio.wait(late, timeout=config.STOP_MARGIN_S)

    # What the core decides

    def _obey(self, commands: list[Command]) -> None:
        if self._stopping:
            return
        retired = False
        for command in commands:
            match command:
                case Start(number, version, in_place_of):
                    before = None if in_place_of is None else self._members[in_place_of].name
                    member = _Member(number, version, before, self._loop.create_future())
                    self._members[number] = member
                    self._tasks[member] = self._loop.create_task(self._begin(member))
                case Retire(number):
                    member = self._members[number]
                    served = self.running.pop(member.name, None) is not None
                    _retire(member, self.grace_s if served else 0.0)
                    retired |= served
                case Complete(version) if not self.outcome.done():
                    if self.goal is not None and version == self.goal.version:
                        self.outcome.set_result(None)
                case GivenUp(why=why, instead=instead):
                    self._conclude(f"{self._title} could not start: {why}")
                    if instead is not None:
                        self.message = ""  # of what runs again there is nothing to say
                case Failing(why=why):
                    self._conclude(f"{self._title} could not start: {why}")
        if retired:
            self._changed()
            self._before_stop()
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (at := self._core.next_tick) is not None:
            self._timer = self._loop.call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._obey(self._core.tick(self._loop.time()))

    def _conclude(self, why: str) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(errors.DeploymentFailedError(why))
            self.outcome.exception()  # it may be that nobody waits

    def _ordered(self, numbers: list[int]) -> list[int]:
        named = {self._members[number].name: number for number in numbers if number in self._members}
        adopted = [number for number in numbers if number not in self._members]  # just now, as one too many
        return [*adopted, *(named[name] for name in self._stop_order(list(named)))]

    def _running_member(self, name: str) -> _Member | None:
        return self._named.get(name) if name in self.running else None

    # The life of one process

    async def _begin(self, member: _Member) -> None:
        try:
            # What is half started has to be finished, or nobody would know what to stop.
            member.name, process = await self._start(member.version, member.in_place_of)
        except Exception as error:  # noqa: BLE001 - code that cannot be pickled may raise anything
            known = isinstance(error, OSError | errors.DeploymentFailedError)
            self._failed(self._title, f"no process can be started: {error if known else repr(error)}")
            self._gone(member, self.message)
            return
        member.process = process
        self._named[member.name] = member
        await _first(process.started, member.retired)
        if not member.retired.done():
            if (error_ := process.started.exception()) is not None:
                self._failed(member.name, str(error_))
                await _end(process, 0.0)
                self._gone(member, str(error_))
                return
            self.running[member.name] = process.started.result()
            self.message = ""
            self._obey(self._core.ready(member.number, self._loop.time()))
            self._changed()
        await self._live(member, process)

    async def _live(self, member: _Member, process: Process) -> None:
        await _first(process.exited, member.retired)
        how = process.exited.result() if process.exited.done() else ""
        if member.retired.done():
            await _end(process, member.retired.result())
        elif self.running.pop(member.name, None) is not None:
            log.warning("%s %s; starting another.", member.name, how)
            self.lost += 1
            self._changed()
        self._gone(member, how)

    def _gone(self, member: _Member, why: str) -> None:
        del self._members[member.number], self._tasks[member]
        if self._named.get(member.name) is member:
            del self._named[member.name]
        self._obey(self._core.exited(member.number, why, self._loop.time()))

    def _failed(self, name: str, why: str) -> None:
        self.message = why
        log.error("%s could not start: %s", name, why)


async def _first(*futures: "asyncio.Future[Any]") -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _retire(member: _Member, grace_s: float) -> None:
    if not member.retired.done():
        member.retired.set_result(grace_s)


async def _end(process: Process, grace_s: float) -> None:
    """Let a process end what it does, then end it. Returns when it has exited."""
    process.send(messages.Stop(grace_s))
    await asyncio.wait([process.exited], timeout=grace_s + config.STOP_MARGIN_S)
    process.kill()
    await asyncio.wait([process.exited], timeout=config.STOP_MARGIN_S)
