"""The connections of one HTTP server, and who goes when they are too many."""

import asyncio
import heapq
import resource
from typing import Protocol

from modelplex.runtime.http_patience import Patience

# Files that a proxy has open besides its clients' connections: links, sockets, logs.
OTHER_FILES = 256
OPEN_FILES_MAX = 65_536

# Of those that wait, so many go at a time, the longest waiting first: to find them, all are looked at.
PART = 1 / 64

# When nobody can go, so long newcomers are refused without looking again.
LOOK_AGAIN_S = 0.1


class Guest(Protocol):
    """A connection."""

    client: tuple[str, int] | None

    @property
    def patience(self) -> Patience: ...

    def abort(self) -> None: ...


class Crowd:
    """Knows all connections, and bounds them.

    When one more comes than there may be, those go that have waited longest for their client: who says little, and
    slowly, keeps out nobody. If none of them waits, the newcomer is refused.

    Args:
        connections_max: in all.
        per_address_max: from one address; None for no such bound.
    """

    def __init__(self, connections_max: int, per_address_max: int | None = None) -> None:
        self._max, self._per_address_max = connections_max, per_address_max
        self._guests: set[Guest] = set()
        self._by_address: dict[str, set[Guest]] = {}
        self._full_until = 0.0
        self._loop = asyncio.get_running_loop()

    def add(self, guest: Guest) -> bool:
        """Answers whether it may stay. It counts until it is discarded in either case."""
        self._guests.add(guest)
        if self._per_address_max is not None:
            neighbours = self._by_address.setdefault(_address(guest), set())
            neighbours.add(guest)
            if len(neighbours) > self._per_address_max:
                return self._make_room(neighbours, guest)
        return len(self._guests) <= self._max or self._make_room(self._guests, guest)

    def discard(self, guest: Guest) -> None:
        """It is gone."""
        self._guests.discard(guest)
        neighbours = self._by_address.get(_address(guest))
        if neighbours is not None:
            neighbours.discard(guest)
            if not neighbours:
                del self._by_address[_address(guest)]

    def _make_room(self, among: set[Guest], newcomer: Guest) -> bool:
        now = self._loop.time()
        if among is self._guests and now < self._full_until:
            return False
        waiting = ((guest.patience.waiting_since, id(guest), guest) for guest in among if guest is not newcomer)
        idle = [(since, key, guest) for since, key, guest in waiting if since is not None]
        if not idle:
            self._full_until = now + LOOK_AGAIN_S if among is self._guests else self._full_until
            return False
        for _, _, guest in heapq.nsmallest(max(1, int(len(among) * PART)), idle):
            guest.abort()
        return True


def raise_open_files() -> None:
    """Let this process have as many files open as the system allows it, within reason."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def connections_max(wanted: int) -> int:
    """So many connections, or as many as the system lets this process have beside its other files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, max(soft // 2, soft - OTHER_FILES)))


def _address(guest: Guest) -> str:
    return guest.client[0] if guest.client is not None else ""
