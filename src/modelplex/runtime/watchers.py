"""Those who watch a replica: told of each request that ended, in batches, and never waited for."""

import asyncio
from dataclasses import dataclass, field

from modelplex.runtime.link import Link
from modelplex.wire.messages import Record, Records, Taken, Unwatch

# A batch goes out when it has so many records, or when its first one is so old.
BATCH_RECORDS = 500
FLUSH_S = 0.5

# What is kept for a watcher that does not take it: some megabytes. What ends beyond that is only counted.
KEPT_RECORDS_MAX = 10_000


@dataclass(slots=True)
class _Watcher:
    records: list[Record] = field(default_factory=list)
    lost: int = 0
    busy: bool = False  # a batch is on its way, and has not been taken yet


class Watchers:
    """At most one batch is on its way to each: a watcher that does not read costs no more than what is kept for it."""

    def __init__(self) -> None:
        self._watchers: dict[Link, _Watcher] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def __bool__(self) -> bool:
        return bool(self._watchers)

    def add(self, link: Link) -> None:
        self._watchers.setdefault(link, _Watcher())

    def remove(self, link: Link) -> None:
        """Nothing happens if the link is no watcher's."""
        self._watchers.pop(link, None)

    def tell(self, record: Record) -> None:
        """A request has ended."""
        for link, watcher in self._watchers.items():
            if len(watcher.records) < KEPT_RECORDS_MAX:
                watcher.records.append(record)
            else:
                watcher.lost += 1
            if len(watcher.records) >= BATCH_RECORDS:
                self._send(link, watcher)
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_S, self._flush)

    def heard(self, link: Link, message: Taken | Unwatch) -> None:
        if isinstance(message, Taken):
            self.taken(link)
        else:
            self.dismiss(link)

    def taken(self, link: Link) -> None:
        """The watcher has taken its batch. One that fell due meanwhile goes out."""
        if (watcher := self._watchers.get(link)) is not None:
            watcher.busy = False
            if self._timer is None or len(watcher.records) >= BATCH_RECORDS:
                self._send(link, watcher)

    def dismiss(self, link: Link) -> None:
        """Send the watcher the rest, and close its link."""
        if (watcher := self._watchers.pop(link, None)) is not None:
            while watcher.records or watcher.lost:
                watcher.busy = False
                self._send(link, watcher)
            link.close()

    def close(self) -> None:
        """Dismiss them all."""
        for link in list(self._watchers):
            self.dismiss(link)
        if self._timer is not None:
            self._timer.cancel()

    def _flush(self) -> None:
        self._timer = None
        for link, watcher in self._watchers.items():
            self._send(link, watcher)

    def _send(self, link: Link, watcher: _Watcher) -> None:
        if not watcher.busy and (watcher.records or watcher.lost):
            batch, watcher.records = watcher.records[:BATCH_RECORDS], watcher.records[BATCH_RECORDS:]
            link.send(Records(batch, watcher.lost))
            watcher.lost, watcher.busy = 0, True
