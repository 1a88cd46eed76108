"""Requests of several tenants that wait in one router: a room for each, and whose turn it is."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter

from modelplex.core.admission import Request, WaitingRoom
from modelplex.core.residency import ReplicaView
from modelplex.core.tenants import EVERYONE_ELSE


@dataclass(frozen=True, slots=True)
class LineLimits:
    """What one tenant may take of a router.

    Attributes:
        queued_max: requests of it that may wait at a time, or `admission.UNLIMITED`.
        request_share: the part of each replica's slots that its requests may have at a time, at least one.
    """

    queued_max: int
    request_share: float = 1.0


class _Room(WaitingRoom):
    """The room of one tenant. `start` grows with each slot that somebody gets who has waited in it."""

    def __init__(self, limits: LineLimits) -> None:
        super().__init__(limits.queued_max)
        self.share = limits.request_share
        self.start = 0.0


class TenantRooms(WaitingRoom):
    """A waiting room of rooms. Those who wait get slots by turns between tenants, and as ever within one.

    A tenant that has as many requests on a replica as it may waits until one of them ends, and is passed over.

    Args:
        limit: of a tenant that is not listed otherwise; `EVERYONE_ELSE` is all that are not listed together.
        tenants: what each may take.
    """

    def __init__(self, limit: int, tenants: Mapping[str, LineLimits]) -> None:
        super().__init__(limit)
        self.limits = {EVERYONE_ELSE: LineLimits(limit), **tenants}
        self._rooms = {tenant: _Room(limits) for tenant, limits in self.limits.items()}
        self._others = self._rooms[EVERYONE_ELSE]
        self._turn = 0.0
        self._count = 0  # of all that wait

    def _room(self, request: Request) -> _Room:
        return self._rooms.get(request.tenant, self._others)

    # Whose turn it is

    def may_take(self, request: Request, view: ReplicaView) -> bool:
        """Whether the request's tenant may have one more slot there."""
        return self._has_share(self._room(request), view)

    def _has_share(self, room: _Room, view: ReplicaView) -> bool:
        if room.share >= 1.0:
            return True
        own = sum(1 for running in view.running.values() if self._room(running) is room)
        return own < max(1, int(room.share * view.slots.limit))

    def in_turn(self, view: ReplicaView) -> Iterator[WaitingRoom]:
        """The rooms from which the next request for this replica may come."""
        for room in sorted(self._rooms.values(), key=attrgetter("start")):
            if len(room) and self._has_share(room, view):
                yield room

    def served(self, request: Request) -> None:
        """One who has waited gets a slot."""
        room = self._room(request)
        self._turn, room.start = room.start, room.start + 1.0

    # As one room

    def full_for(self, tenant: str) -> bool:
        return self._rooms.get(tenant, self._others).full_for(tenant)

    def add(self, request: Request, line: str | None, look_at: float | None) -> None:
        room = self._room(request)
        if not len(room):
            room.start = max(room.start, self._turn)
        room.add(request, line, look_at)
        self._count += 1

    def postpone(self, request: Request, look_at: float) -> None:
        self._room(request).postpone(request, look_at)

    def remove(self, request: Request) -> None:
        self._room(request).remove(request)
        self._count -= 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Request]:
        return chain.from_iterable(self._rooms.values())

    def get(self, number: int) -> Request | None:
        return next((found for room in self._rooms.values() if (found := room.get(number)) is not None), None)

    @property
    def models(self) -> Iterable[str]:
        return dict.fromkeys(chain.from_iterable(room.models for room in self._rooms.values()))

    def of_model(self, model_id: str) -> Iterator[Request]:
        return chain.from_iterable(room.of_model(model_id) for room in self._rooms.values())

    def length(self, line: str | None) -> int:
        return sum(room.length(line) for room in self._rooms.values())

    def first(self, line: str | None) -> Request | None:
        firsts = (first for room in self._rooms.values() if (first := room.first(line)) is not None)
        return min(firsts, key=attrgetter("number"), default=None)

    def oldest(self, line: str | None, count: int) -> list[Request]:
        found = chain.from_iterable(room.oldest(line, count) for room in self._rooms.values())
        return sorted(found, key=attrgetter("number"))[:count]

    def all_in(self, line: str | None) -> list[Request]:
        found = chain.from_iterable(room.all_in(line) for room in self._rooms.values())
        return sorted(found, key=attrgetter("number"))

    def due(self, now: float) -> list[Request]:
        found = chain.from_iterable(room.due(now) for room in self._rooms.values())
        return sorted(found, key=attrgetter("number"))

    @property
    def next_look(self) -> float | None:
        return min((at for room in self._rooms.values() if (at := room.next_look) is not None), default=None)
