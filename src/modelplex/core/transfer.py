"""How one file is read from a store: which ranges, by how many requests at a time, and what is tried again.

A file is cut into blocks, numbered from 0. What is missing of it are runs of blocks, each read by one request from its
first block to its last. What holds after every step:

1. Each block that has not arrived is in exactly one run, which is read by one request or waits for one.
2. A run that is being read only shrinks: at its start by what has arrived, at its end by what another one takes.
3. The first file of a store begins with one request: that is cheapest for small files, and fastest where a store
   answers at the speed of the line. Others join if that is slow and the rest would take a while; if they do not pay,
   they end with their runs. Later files begin with as many as paid before.
4. A request that brings nothing is tried again, later each time; several in a row of those end the transfer.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from modelplex.core.backoff import Backoff

# The rest of a file is left to the requests that there are if they need no longer than this for it.
WORTH_S = 0.2

# A request that brings more than this a second is not what holds a file up: one connection to a store in the cloud
# brings less than half of it, whatever the line carries.
FAST_BYTES_S = 200e6

# So much faster, at least, has everything become after further requests joined; else no more of them join.
PAYS = 1.2

# A run is not split into parts of fewer blocks: a request costs a round trip.
SPLIT_BLOCKS_MIN = 2

# A first look at how fast a file comes is taken after so long. Those who join then have longer to show what they bring.
FIRST_LOOK_S = 0.05
LOOK_S = 0.4

TRIES_MAX = 5
BACKOFF = Backoff(0.2, 5.0)


@dataclass(frozen=True, slots=True)
class Read:
    """A request to make.

    Attributes:
        request: its number.
        start, end: bytes of the file, from the first to before the last; the end may come nearer later.
        delay_s: how long to wait before.
    """

    request: int
    start: int
    end: int
    delay_s: float = 0.0


@dataclass(slots=True)
class _Run:
    at: int  # the next block to arrive
    end: int

    @property
    def blocks(self) -> int:
        return self.end - self.at


class Transfer:
    """Decides for one file; the shell makes the requests.

    Times are seconds of any clock that does not go backwards.

    Args:
        size_bytes: of the file.
        block_bytes: of each block but the last.
        arrived: blocks that are there already.
        requests_max: requests at a time.
        requests_first: requests to begin with, as another file of the store has had them in the end (`requests_good`).
        tries_max: requests in a row that may bring nothing.
    """

    def __init__(
        self,
        size_bytes: int,
        block_bytes: int,
        arrived: Collection[int],
        requests_max: int,
        *,
        requests_first: int = 1,
        tries_max: int = TRIES_MAX,
    ) -> None:
        self._size_bytes = size_bytes
        self._block_bytes = block_bytes
        self._requests_max = requests_max
        self._tries_max = tries_max
        self._wanted = min(requests_first, requests_max)
        self._is_fast = False
        self._reading: dict[int, _Run] = {}
        self._waiting = _runs(-(-size_bytes // block_bytes), arrived)
        self._missing = sum(run.blocks for run in self._waiting)
        self._numbers = 0
        self._failures = 0
        self._looked_at: float | None = None  # since then it is counted what arrives; None before anything has
        self._arrived = 0  # blocks
        self._rate = 0.0  # blocks a second
        self._joined = 0  # requests that have joined and may not have paid
        self._rate_before = 0.0  # before they did

    @property
    def done(self) -> bool:
        return self._missing == 0

    @property
    def requests_good(self) -> int:
        """With how many requests to begin another file of the same store, by what this one has shown."""
        return 1 if self._is_fast else self._wanted

    def start(self) -> list[Read]:
        """The first requests; none if nothing is missing."""
        begun = self._take_waiting()
        return self._reads([*begun, *self._split()])

    def arrived(self, request: int, now: float) -> bool:
        """The next block of a request is there. Answers whether it is to go on; if not, it is over."""
        run = self._reading[request]
        run.at += 1
        self._missing -= 1
        if self._looked_at is None:
            self._looked_at = now  # how long an answer takes to begin says nothing of how fast it is
        else:
            self._arrived += 1
        self._failures = 0
        return run.at < run.end

    def over(self, request: int) -> list[Read] | None:
        """A request has ended, or failed. Answers those to make now; None if the transfer is to be given up."""
        run = self._reading.pop(request)
        delay_s = 0.0
        if run.blocks:
            self._waiting.append(run)
            self._failures += 1
            if self._failures >= self._tries_max:
                return None
            delay_s = BACKOFF.delay_s(self._failures)
        return self._fill(delay_s)

    def tick(self, now: float) -> list[Read]:
        """Some time has passed: further requests may join. To be called many times a second."""
        wait_s = LOOK_S if self._joined else FIRST_LOOK_S
        if self._looked_at is None or now < self._looked_at + wait_s or not 0 < len(self._reading) <= self._arrived:
            return []
        self._rate = self._arrived / (now - self._looked_at)
        self._looked_at, self._arrived = now, 0
        if self._joined and self._rate < PAYS * self._rate_before:
            self._wanted = self._requests_max = self._wanted - self._joined
        self._joined = 0
        self._is_fast = self._rate * self._block_bytes > FAST_BYTES_S * len(self._reading)
        if len(self._reading) == self._wanted < self._requests_max and not self._is_fast and self._is_worth_it():
            self._rate_before = self._rate
            self._joined = self._requests_max - self._wanted
            self._wanted = self._requests_max
        return self._fill(0.0)

    def _is_worth_it(self) -> bool:
        return self._rate > 0 and self._missing / self._rate > WORTH_S

    def _fill(self, delay_s: float) -> list[Read]:
        begun = self._take_waiting()
        joining = self._split() if self._is_worth_it() else []
        return self._reads(begun, delay_s) + self._reads(joining)

    def _take_waiting(self) -> list[int]:
        """Requests for runs that wait."""
        begun = []
        while self._waiting and len(self._reading) < self._wanted:
            begun.append(self._begin(self._waiting.pop(0)))
        return begun

    def _split(self) -> list[int]:
        """Requests for halves of what others read, as many as are wanted."""
        begun = []
        while self._reading and len(self._reading) < self._wanted:
            longest = max(self._reading.values(), key=lambda run: run.blocks)
            if longest.blocks < 2 * SPLIT_BLOCKS_MIN:
                break
            middle = longest.at + longest.blocks // 2
            begun.append(self._begin(_Run(middle, longest.end)))
            longest.end = middle
        return begun

    def _begin(self, run: _Run) -> int:
        self._numbers += 1
        self._reading[self._numbers] = run
        return self._numbers

    def _reads(self, requests: Iterable[int], delay_s: float = 0.0) -> list[Read]:
        """What to ask for. The runs have been split as much as they are to be: nobody asks for what others will."""
        runs = ((request, self._reading[request]) for request in requests)
        size, block = self._size_bytes, self._block_bytes
        return [Read(request, run.at * block, min(size, run.end * block), delay_s) for request, run in runs]


def _runs(blocks: int, arrived: Collection[int]) -> list[_Run]:
    """The runs of what is missing."""
    runs: list[_Run] = []
    for block in range(blocks):
        if block in arrived:
            continue
        if runs and runs[-1].end == block:
            runs[-1].end += 1
        else:
            runs.append(_Run(block, block + 1))
    return runs
