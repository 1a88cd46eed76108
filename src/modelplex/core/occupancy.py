"""The slots of a replica, what each router believes of them, and room that is promised to requests on their way."""

from collections.abc import Sequence
from itertools import islice
from typing import Generic, TypeVar

from modelplex.core.admission import Slots

R = TypeVar("R")

# Of many routers that wait for a slot, so many are told at a time that one is free, or twice as many as there are free
# slots: all of them would come for it, and all but one in vain.
TOLD_MAX = 8


class Occupancy(Generic[R]):
    """The replica's last word on `max_ongoing_requests`.

    A router hears how many requests run whenever one of its own is answered or refused. `mistaken`, to be asked after
    each beginning and end, says who must be told besides: a router that believes that there is no slot for it would not
    send what could run.
    """

    def __init__(self, slots_max: int) -> None:
        self._slots = Slots(slots_max)
        self._beliefs: dict[R, int] = {}  # how many requests run here, as each router believes
        self._doubters: dict[R, None] = {}  # the routers that believe that there is no slot, in the order since when

    def __contains__(self, router: R) -> bool:
        return router in self._beliefs

    @property
    def routers(self) -> list[R]:
        """Those that have joined and not left."""
        return list(self._beliefs)

    @property
    def limit(self) -> int:
        return self._slots.limit

    @property
    def ongoing(self) -> int:
        """How many requests run."""
        return self._slots.own

    @property
    def has_doubters(self) -> bool:
        """Whether any router believes that there is no slot."""
        return bool(self._doubters)

    def join(self, router: R) -> None:
        """A router that has just been told how many requests run."""
        self._believe(router, self.ongoing)

    def leave(self, router: R) -> None:
        """Nothing happens if it had not joined."""
        self._beliefs.pop(router, None)
        self._doubters.pop(router, None)

    def begin(self, router: R) -> bool:
        """Take a slot for a request of this router; False if there is none."""
        belief = self._beliefs[router]
        if not self._slots.take():
            return False
        self._believe(router, belief + 1)
        return True

    def end(self, router: R) -> None:
        """A request of this router, which is told so unless it has left, no longer needs its slot."""
        self._slots.give_back()
        self.told(router)

    def told(self, router: R) -> None:
        """The router has been told how many requests run."""
        if router in self._beliefs:
            self._believe(router, self._slots.own)

    def mistaken(self) -> Sequence[R]:
        """Routers that believe that there is no slot, when there is one. They are taken to be told.

        Those come first that have believed it longest. If there are `more_mistaken` then, this is to be asked again
        soon, since it may be that none of these needs the slot.
        """
        if not self.more_mistaken:
            return ()
        mistaken = list(islice(self._doubters, max(TOLD_MAX, 2 * self._slots.free)))
        for router in mistaken:
            self.told(router)
        return mistaken

    @property
    def more_mistaken(self) -> bool:
        """Whether there are any such routers."""
        return bool(self._doubters) and self._slots.free > 0

    def _believe(self, router: R, ongoing: int) -> None:
        self._beliefs[router] = ongoing
        if ongoing >= self._slots.limit:
            self._doubters[router] = None
        elif self._doubters:
            self._doubters.pop(router, None)


class Promises(Generic[R]):
    """Room for models that requests are on their way to load, until the cache knows of them.

    Several routers may have heard of the same free room. The first request that comes for it gets it, another is to be
    refused, so that nothing is evicted here while there is room elsewhere.
    """

    def __init__(self) -> None:
        self._models: dict[R, str] = {}

    def __contains__(self, model_id: str) -> bool:
        return model_id in self._models.values()

    @property
    def models(self) -> set[str]:
        """What room is promised to."""
        return set(self._models.values())

    def make(self, request: R, model_id: str, room: int | None) -> bool:
        """Promise a place of the `room` that the cache has left to a model that it does not know; False if none is."""
        promised = self.models
        if model_id not in promised and room is not None and len(promised) >= room:
            return False
        self._models[request] = model_id
        return True

    def keep(self, model_id: str) -> None:
        """The cache knows of the model now, and counts it itself."""
        for request in [request for request, promised in self._models.items() if promised == model_id]:
            del self._models[request]

    def end(self, request: R) -> None:
        """The request is over. Nothing happens if it was promised nothing, or has it."""
        self._models.pop(request, None)
