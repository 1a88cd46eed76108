"""Memory that unloaded models leave with the allocator of C goes back to the system."""

import asyncio
import contextvars
import ctypes
import functools
import time
from collections.abc import Callable

# After an unload: by then the next load, which may be what it made room for, has taken what it can use of the memory.
DELAY_S = 1.0

# It takes at most this part of the time: other threads wait for memory meanwhile.
SHARE_MAX = 0.01


class GiveBack:
    """Has the allocator give back what is free, some time after models were unloaded. One for each process.

    glibc keeps freed memory of small objects. Of six forests of scikit-learn (12 MB each, from skops files), five were
    dropped: of the 177 MB that the process had grown by, 105 stayed, and 22 after this, which took 5 ms. Where there is
    nothing to give back, it takes 0.1 ms.

    Args:
        trim: does it; None where the allocator cannot.
        clock: tells how long that has taken, in seconds.
    """

    def __init__(self, trim: "Callable[[], object] | None", clock: Callable[[], float] = time.perf_counter) -> None:
        self._trim = trim
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._not_before = 0.0

    def soon(self) -> None:
        """A model was unloaded."""
        if self._trim is not None and self._timer is None:
            at = max(self._loop.time() + DELAY_S, self._not_before)
            # In a context of its own: that of the request that had something unloaded could hold a model.
            self._timer = self._loop.call_at(at, self._start, context=contextvars.Context())

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _start(self) -> None:
        self._timer = None
        self._loop.run_in_executor(None, self._run)

    def _run(self) -> None:
        if self._trim is not None:
            began = self._clock()
            self._trim()
            self._not_before = self._loop.time() + (self._clock() - began) / SHARE_MAX


def malloc_trim() -> "Callable[[], object] | None":
    """The function of glibc that does so; None on other systems."""
    try:
        return functools.partial(ctypes.CDLL(None).malloc_trim, 0)
    except (AttributeError, OSError, TypeError):
        return None
