"""One timer of the event loop, for a decision that is due at a time that moves."""

import asyncio
from collections.abc import Callable
from contextvars import Context


class TickTimer:
    """Goes off no later than it is to.

    Args:
        due: when it is to, by the event loop's clock; None for not at all.
        tick: called then. It may be called too early, if what it was for has come to nothing.
        context: the variables that it has then; unless given, those of whoever sets the timer.
    """

    def __init__(
        self, due: Callable[[], float | None], tick: Callable[[], None], context: Context | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = due
        self._tick = tick
        self._context = context
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def set(self) -> None:
        """What is due may have changed."""
        at = self._due()
        if at is None or (self._timer is not None and self._at <= at):
            return
        self.cancel()
        self._timer, self._at = self._loop.call_at(at, self._went_off, context=self._context), at

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _went_off(self) -> None:
        self._timer = None
        self._tick()
