"""How processes hear of the table: all of it when they come, and then what changes."""

import asyncio
import math
from collections.abc import Callable

from modelplex.runtime.engine import Process
from modelplex.wire.messages import Table
from modelplex.wire.table_change import change_of

# Changes that come within so long of the last one that was told are told together. Short beside the start of a process,
# and beside the handover (`config.HANDOVER_S`), in which routers are to have met a new replica.
TOGETHER_S = 0.05


class Announcements:
    """Tells each process of the table, in the order of the changes.

    All have been told the same: one that comes gets the table as the others know it, and with them what has changed
    since.

    Args:
        table: answers what there is now.
        told: called with what all are told, before they are.

    Attributes:
        held: nobody is told anything, since not all is known that there is.
    """

    def __init__(self, table: Callable[[], Table], told: Callable[[Table], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._table = table
        self._on_told = told
        self._told: Table | None = None
        self._told_at = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._followers: dict[Process, bool] = {}  # and whether it has a table
        self.held = False

    def join(self, process: Process) -> None:
        """Tell this process as well, until it has exited."""
        self._followers[process] = False
        process.exited.add_done_callback(lambda _: self._followers.pop(process, None))
        if self.held:
            return
        if self._told is None:
            self._told = self._table()
        self._tell_all_of_it(process, self._told)

    def changed(self) -> None:
        """The table is another one: that is told now or, if something was told a moment ago, soon."""
        due = self._told_at + TOGETHER_S
        if self._told is None or self._loop.time() >= due:
            self.tell_now()
        elif self._timer is None:
            self._timer = self._loop.call_at(due, self.tell_now)

    def tell_now(self) -> None:
        """Tell what has changed up to now, before something else happens."""
        self.close()
        if self.held:
            return
        before, self._told = self._told, self._table()
        self._told_at = self._loop.time()
        self._on_told(self._told)
        change = None if before is None else change_of(before, self._told)
        for process, has_table in list(self._followers.items()):
            if not has_table:
                self._tell_all_of_it(process, self._told)
            elif change is not None:
                process.send(change)

    def close(self) -> None:
        """Nothing is told later any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tell_all_of_it(self, process: Process, table: Table) -> None:
        self._followers[process] = True
        process.send(table)
