"""Keeps a number of processes of one kind running: starts them, replaces those that die, stops them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from modelplex import config, errors
from modelplex.core.backoff import Backoff
from modelplex.runtime.engine import Process
from modelplex.wire import messages
from modelplex.wire.messages import Message

log = logging.getLogger(__name__)


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
        loop = asyncio.get_running_loop()
        self.running: dict[str, str] = {}  # name -> address
        self.message = ""
        self.count = count
        self.ready: asyncio.Future[None] = loop.create_future()  # all run for the first time, or why they will not
        self._title = title
        self._start = start
        self._changed = changed
        self._failed_starts = 0
        self._failed_starts_max = failed_starts_max
        self._processes: dict[str, Process] = {}
        self._backoff = Backoff(config.RESTART_BACKOFF_S, config.RESTART_BACKOFF_MAX_S)
        self._tasks = [loop.create_task(self._keep_one()) for _ in range(count)]

    def send(self, message: Message) -> None:
        """Tell all processes."""
        for process in self._processes.values():
            process.send(message)

    def kill(self) -> None:
        """End every process at once."""
        for process in self._processes.values():
            process.kill()

    async def stop(self, timeout_s: float) -> None:
        """Let every process end what it does, then end it. Returns when all have exited."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self.ready.done():
            self.ready.set_exception(errors.DeploymentFailedError(f"{self._title} was stopped before it was ready."))
            self.ready.exception()
        self.running.clear()
        self.send(messages.Stop(timeout_s))
        exits = [process.exited for process in self._processes.values()]
        if exits:
            await asyncio.wait(exits, timeout=timeout_s + config.STOP_MARGIN_S)
        self.kill()
        if exits:
            await asyncio.wait(exits, timeout=config.STOP_MARGIN_S)

    async def _keep_one(self) -> None:
        loop = asyncio.get_running_loop()
        deaths = 0
        while True:
            since = loop.time()
            if not await self._run_one():
                return
            deaths = 1 if loop.time() - since > config.RESTART_FORGET_S else deaths + 1
            if deaths > 1:
                await asyncio.sleep(self._backoff.delay_s(deaths - 1))

    async def _run_one(self) -> bool:
        """One process, from its start to its end. Answers whether to start another."""
        try:
            name, process = await self._start_one()
        except OSError as error:
            return not self._gives_up(self._title, errors.DeploymentFailedError(f"no process can be started: {error}"))
        go_on = True
        try:
            address = await asyncio.shield(process.started)
        except errors.DeploymentFailedError as error:
            go_on = not self._gives_up(name, error)
        else:
            self._runs(name, address)
            log.warning("%s %s; starting another.", name, await asyncio.shield(process.exited))
        await asyncio.shield(process.exited)
        del self._processes[name]
        if self.running.pop(name, None) is not None:
            self._changed()
        return go_on

    async def _start_one(self) -> tuple[str, Process]:
        starting = asyncio.ensure_future(self._start())
        try:
            name, process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # What is half started has to be finished, or nobody would know what to stop.
            name, process = await starting
            self._processes[name] = process
            raise
        self._processes[name] = process
        return name, process

    def _runs(self, name: str, address: str) -> None:
        self.running[name] = address
        self.message = ""
        if len(self.running) == self.count and not self.ready.done():
            self.ready.set_result(None)
        self._changed()

    def _gives_up(self, name: str, error: errors.DeploymentFailedError) -> bool:
        self._failed_starts += 1
        self.message = str(error)
        log.error("%s could not start: %s", name, error)
        if self.ready.done() and self.ready.exception() is None:
            return False  # it has run before: what keeps it from running may pass
        if self._failed_starts >= self._failed_starts_max and not self.ready.done():
            self.ready.set_exception(errors.DeploymentFailedError(f"{self._title} could not start: {error}"))
            self.ready.exception()
        return self.ready.done()
