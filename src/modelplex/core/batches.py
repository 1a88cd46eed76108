"""Which calls make up a batch, and when it runs.

There is a line for each model, so that no batch has two. A batch is begun when a line has enough for a whole one, or
its first call has waited long enough; of several such lines, the one whose first call has waited longest. So many run
at a time, over all models, and while none may begin, lines grow: under load batches are whole.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

C = TypeVar("C")


@dataclass(slots=True)
class Batch(Generic[C]):
    """To be run now, together; `Batcher.ended` is to be told when it is over."""

    model_id: str
    calls: list[C]


class Batcher(Generic[C]):
    """Puts calls together. A call is any hashable object, which names itself.

    Args:
        size_max: of a batch. It may be changed, and so may `wait_s`; what waits is looked at again by `tick`.
        wait_s: how long the first of a line waits for others.
        running_max: batches that run at a time.
        size_of: the size of some calls together; it grows with each call. Their number unless given.
    """

    def __init__(
        self, size_max: int, wait_s: float, running_max: int, size_of: Callable[[Sequence[C]], int] = len
    ) -> None:
        self.size_max = size_max
        self.wait_s = wait_s
        self._running_max = running_max
        self._size_of = size_of
        self._running = 0
        self._lines: dict[str, dict[C, float]] = {}  # each call with the time of its arrival
        self._models: dict[C, str] = {}
        self._heads: list[tuple[float, int, str]] = []  # a heap of the first arrivals of lines, and of some that were
        self._order = 0

    def __len__(self) -> int:
        """How many calls wait."""
        return len(self._models)

    @property
    def running(self) -> int:
        """How many batches run."""
        return self._running

    @property
    def next_tick(self) -> float | None:
        """When to call `tick`; None while nothing waits, or only for a batch that runs."""
        if self._running >= self._running_max or (head := self._oldest()) is None:
            return None
        return head[0] + self.wait_s

    def add(self, call: C, model_id: str, now: float) -> list[Batch[C]]:
        """A new call. Raises ValueError if it is larger than a batch may be."""
        if (size := self._size_of([call])) > self.size_max:
            raise ValueError(f"it has size {size}, and a batch at most {self.size_max}")
        line = self._lines.setdefault(model_id, {})
        line[call] = now
        self._models[call] = model_id
        if len(line) == 1:
            self._push(model_id, now)
        return self._begin(now, model_id)

    def remove(self, call: C) -> bool:
        """The caller of one that waits has left. False if it does not wait."""
        model_id = self._models.pop(call, None)
        if model_id is None:
            return False
        line = self._lines[model_id]
        was_first = next(iter(line)) is call
        del line[call]
        if was_first:
            self._new_head(model_id)
        return True

    def ended(self, now: float) -> list[Batch[C]]:
        """A batch is over."""
        self._running -= 1
        return self.tick(now)

    def tick(self, now: float) -> list[Batch[C]]:
        """Time has passed, or a limit has changed."""
        return self._begin(now, *self._lines)

    def _begin(self, now: float, *candidates: str) -> list[Batch[C]]:
        """Begin what can be begun; of lines that are not due, only the candidates may have become whole."""
        batches: list[Batch[C]] = []
        while self._running < self._running_max:
            head = self._oldest()
            if head is not None and head[0] + self.wait_s <= now:
                model_id = head[2]
            else:
                whole = [m for m in candidates if self._is_whole(self._lines.get(m, {}))]
                if not whole:
                    break
                model_id = min(whole, key=self._arrival)
            batches.append(Batch(model_id, self._take(model_id)))
            self._running += 1
        return batches

    def _take(self, model_id: str) -> list[C]:
        line = self._lines[model_id]
        calls = list(self._prefix(line))
        for call in calls:
            del line[call], self._models[call]
        self._new_head(model_id)
        return calls

    def _prefix(self, line: dict[C, float]) -> Iterator[C]:
        """The calls that the next batch of a line has room for."""
        if self._size_of is len:
            yield from islice(line, self.size_max)
            return
        calls: list[C] = []
        for call in line:
            calls.append(call)
            if len(calls) > 1 and self._size_of(calls) > self.size_max:
                return
            yield call

    def _is_whole(self, line: dict[C, float]) -> bool:
        """Whether the next batch of the line is as large as it can be."""
        if self._size_of is len:
            return len(line) >= self.size_max
        taken = list(self._prefix(line))
        return len(taken) < len(line) or bool(taken and self._size_of(taken) >= self.size_max)

    # The lines by their first arrivals

    def _arrival(self, model_id: str) -> float:
        return next(iter(self._lines[model_id].values()))

    def _new_head(self, model_id: str) -> None:
        if self._lines[model_id]:
            self._push(model_id, self._arrival(model_id))
        else:
            del self._lines[model_id]

    def _push(self, model_id: str, arrival: float) -> None:
        self._order += 1
        heapq.heappush(self._heads, (arrival, self._order, model_id))

    def _oldest(self) -> tuple[float, int, str] | None:
        """The line whose first call has waited longest."""
        heads = self._heads
        while heads:
            arrival, _, model_id = heads[0]
            if model_id in self._lines and self._arrival(model_id) == arrival:
                return heads[0]
            heapq.heappop(heads)
        return None
