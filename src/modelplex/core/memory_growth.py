"""The memory that a process takes beyond its models: whether unloads make it grow without end."""

# Unloads for each look, or twice as many as there are models, so that in each the models are others than in the last.
UNLOADS_MIN = 16

# Growth is believed after so many looks in a row that each found more. What an allocator keeps, or a change to larger
# models, makes for one or two.
RISES = 4
RISE_BYTES_MIN = 2**20

GROWTH_BYTES_MIN = 64 * 2**20


class MemoryGrowth:
    """Told of the memory after each unload; says how much of it has come to stay.

    Memory does not come back at once, nor exactly: allocators keep pages, requests and loads take some meanwhile. What
    counts is the least of many unloads, against the most of the first ones. Allocators may keep as much as the models
    ever took at a time: growth within that is none.

    Attributes:
        growth_bytes: what the process takes more than at first; 0 until it is certain that it grows.
    """

    def __init__(self) -> None:
        self.growth_bytes = 0
        self._low: int | None = None  # the least since the last look
        self._unloads = 0
        self._lows: list[int] = []  # of the last looks
        self._high: int | None = None  # the most before the second look
        self._looks = 0
        self._models_peak_bytes = 0

    def unloaded(self, process_bytes: int, models_bytes: int, models: int) -> None:
        """A model has gone. So much does the process take now, and of it so much so many models that are left."""
        rest_bytes = process_bytes - models_bytes
        self._models_peak_bytes = max(self._models_peak_bytes, models_bytes)
        self._low = rest_bytes if self._low is None else min(self._low, rest_bytes)
        if self._looks < 2:
            self._high = rest_bytes if self._high is None else max(self._high, rest_bytes)
        self._unloads += 1
        if self._unloads >= max(UNLOADS_MIN, 2 * models):
            self._look(self._low)
            self._low, self._unloads = None, 0

    def _look(self, low: int) -> None:
        self._looks += 1
        self._lows = [*self._lows[-RISES:], low]
        growth = low - (self._high or 0)
        rises = [later - earlier for earlier, later in zip(self._lows, self._lows[1:], strict=False)]
        is_certain = len(rises) == RISES and min(rises) >= RISE_BYTES_MIN
        if is_certain and growth >= max(GROWTH_BYTES_MIN, self._models_peak_bytes):
            self.growth_bytes = growth
        else:
            self.growth_bytes = max(0, min(self.growth_bytes, growth))
