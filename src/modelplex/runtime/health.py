"""Asks replicas how they are, those that want to be asked, and says which are not well."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from modelplex.config import DeploymentConfig


class HealthWatch:
    """One task for each replica that is asked.

    Args:
        check: has a replica check itself; answers what is wrong with it, or nothing.
        unwell: told of a replica that has failed so often in a row that it is to be replaced, and why.
    """

    def __init__(self, check: Callable[[str], Awaitable[str]], unwell: Callable[[str, str], None]) -> None:
        self._check = check
        self._unwell = unwell
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._numbers: tuple[float, float, int] | None = None

    def follow(self, names: Iterable[str], options: DeploymentConfig) -> None:
        """Ask these from now on, each for the first time after the period, and no others.

        With other numbers than before, all of them begin anew.
        """
        numbers = (
            options.health_check_period_s,
            options.health_check_timeout_s,
            options.health_check_failure_threshold,
        )
        if numbers != self._numbers:
            self._numbers = numbers
            self.close()
        names = set(names)
        for name in self._tasks.keys() - names:
            self._tasks.pop(name).cancel()
        for name in names - self._tasks.keys():
            self._tasks[name] = self._loop.create_task(self._watch(name, options))

    def close(self) -> None:
        while self._tasks:
            self._tasks.popitem()[1].cancel()

    async def _watch(self, name: str, options: DeploymentConfig) -> None:
        failures = 0
        while failures < options.health_check_failure_threshold:
            await asyncio.sleep(options.health_check_period_s)
            try:
                async with asyncio.timeout(options.health_check_timeout_s):
                    wrong = await self._check(name)
            except TimeoutError:
                wrong = f"check_health took longer than {options.health_check_timeout_s:g} s"
            failures = failures + 1 if wrong else 0
        self._tasks.pop(name, None)
        self._unwell(name, f"failed its health check {failures} times: {wrong}")
