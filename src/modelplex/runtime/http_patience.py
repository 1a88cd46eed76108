"""How long the server waits for a client to send something."""

import asyncio
import math
from enum import Enum
from typing import Protocol

from modelplex.runtime.http_exchange import Output

# From the first byte of a request's head to its last. No byte between begins it anew: Apache's RequestReadTimeout.
HEAD_TIMEOUT_S = 20.0

# So much of a request's body is progress: each has the body's time-out.
PROGRESS_BYTES = 1024


class Awaited(Enum):
    """What a client is to send next."""

    REQUEST = "a request"
    HEAD = "the rest of a request's head"
    BODY = "the rest of a request's body"
    NOTHING = "nothing: it waits itself, or is not read from"


class Connection(Protocol):
    """Whose client it is."""

    @property
    def awaits(self) -> Awaited: ...

    @property
    def output(self) -> Output: ...

    def abort(self) -> None: ...

    def time_is_up(self, awaited: Awaited) -> None:
        """Has not come in its time."""


class Patience:
    """Keeps the time of one connection, with one timer for all of its life: it finds out when it would have had to go
    off, and waits on.

    Args:
        keep_alive_timeout_s: for the next request to begin.
        body_timeout_s: for each `PROGRESS_BYTES` of a body, or its end.
    """

    def __init__(self, connection: Connection, keep_alive_timeout_s: float, body_timeout_s: float) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._timeouts_s = {
            Awaited.REQUEST: keep_alive_timeout_s,
            Awaited.HEAD: min(keep_alive_timeout_s, HEAD_TIMEOUT_S),
            Awaited.BODY: body_timeout_s,
            Awaited.NOTHING: math.inf,
        }
        self._tick_s = min(self._timeouts_s.values())
        self._since = self._progress_at = self._loop.time()
        self._progress_bytes = 0
        self._partial: object = None
        self._timer = self._loop.call_later(self._tick_s, self._check)

    def close(self) -> None:
        self._timer.cancel()

    def begin(self) -> None:
        """A request is awaited from now on, or the rest of one's head."""
        # Whose body was awaited is answered, and would be kept with its body.
        self._since, self._partial = self._loop.time(), None

    def part_received(self, request: object) -> None:
        """Not all of this request's body has come yet."""
        if request is not self._partial:
            self._partial = request
            self.begin_body()

    def begin_body(self) -> None:
        """The rest of a body is awaited from now on."""
        self._progress_at = self._loop.time()

    def body_received(self, size_bytes: int) -> None:
        self._progress_bytes += size_bytes
        if self._progress_bytes >= PROGRESS_BYTES:
            self._progress_bytes, self._progress_at = 0, self._loop.time()

    @property
    def waiting_since(self) -> float | None:
        """Since when the client is waited for; None if it is not."""
        awaited = self._connection.awaits
        return None if awaited is Awaited.NOTHING else self._began(awaited)

    def _began(self, awaited: Awaited) -> float:
        return max(self._progress_at, self._since) if awaited is Awaited.BODY else self._since

    def _check(self) -> None:
        now = self._loop.time()
        if self._connection.output.is_stalled(now):
            self._connection.abort()
        awaited = self._connection.awaits
        due = self._began(awaited) + self._timeouts_s[awaited]
        if due <= now:
            self._connection.time_is_up(awaited)
            due = math.inf
        self._timer = self._loop.call_at(min(due, now + self._tick_s), self._check)
