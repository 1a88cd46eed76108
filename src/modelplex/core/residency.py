"""What a router believes about one replica: the models it holds, and the room and slots it has left."""

from dataclasses import dataclass

from modelplex.core import rendezvous
from modelplex.core.admission import UNLIMITED, Request, Slots


@dataclass(slots=True)
class Residence:
    """One model on one replica.

    `bookings` are the requests for it that this router has sent there or has waiting there. They keep the belief alive
    between the decision to load it there and the replica's word that it does, or its refusal.
    """

    loaded: bool = False
    loading: bool = False
    bookings: int = 0
    fits: bool = False  # it was expected to need no eviction when it was booked
    refused: bool = False  # for want of room: what else is on its way there will be refused too
    ahead: bool = False  # it was asked to load it ahead of demand, and has not said yet whether it does

    @property
    def told(self) -> bool:
        """Whether the replica itself has said that it holds or loads the model."""
        return self.loaded or self.loading


class ReplicaView:
    """One replica as a router sees it: what it has said, and what has been sent to it since.

    Args:
        replica_id: its name.
        max_ongoing: requests that may run there at a time.
        room: how many models it said it could load without evicting one; None for any number.
        now: of any clock that does not go backwards.
        loads_max: loads that it runs at a time.
        harm_s: what it said its next eviction would cost (`ModelCache.harm_s`).
        machine: the machine that it is on; empty if it has no name.
        near: whether that is the router's own machine, which has a name.
    """

    def __init__(
        self,
        replica_id: str,
        max_ongoing: int,
        room: int | None,
        now: float = 0.0,
        *,
        loads_max: int = UNLIMITED,
        harm_s: float = 0.0,
        machine: str = "",
        near: bool = False,
    ) -> None:
        self.replica_id = replica_id
        self.point = rendezvous.point(replica_id)
        self.machine = machine
        self.near, self.far = near, not near
        self.slots = Slots(max_ongoing)
        self.models: dict[str, Residence] = {}
        self.running: dict[int, Request] = {}  # those that this router has sent
        self.loading: dict[str, float] = {}  # models that it loads, and since when
        self.queued = 0  # requests that wait for it
        self.slot_freed = now  # when a request was last known to have ended there
        self.sent_last = 0  # number of the request that was sent here last
        self._room = room
        self._harm_s = harm_s
        self._loads_max = loads_max
        self._untold = 0  # models booked here of which the replica has not spoken

    @property
    def busy(self) -> float:
        """The part of its slots that is taken."""
        return 1.0 - self.slots.free / self.slots.limit

    @property
    def loads(self) -> int:
        """Models that it loads, or is about to."""
        return len(self.loading) + self._untold

    @property
    def room(self) -> int | None:
        """How many models can be loaded without evicting one, as the replica has said; None for any number."""
        return self._room

    @property
    def has_room(self) -> bool:
        """Whether one more model can be loaded without evicting one, as the replica has said.

        What this router has on its way there does not count: other routers do not know of it, and each would find
        another place for the same cold model. The replica refuses what does not fit after all.
        """
        return self._room is None or self._room > 0

    def expects(self, model_id: str) -> bool:
        """Whether the replica holds or loads the model, or is booked to."""
        residence = self.models.get(model_id)
        return residence is not None and not residence.refused

    def fits(self, model_id: str) -> bool:
        """Whether a model that is booked here is expected to need no eviction: it is here, or there is room for it."""
        residence = self.models.get(model_id)
        return residence is not None and (residence.told or residence.fits)

    def has_loaded(self, model_id: str) -> bool:
        residence = self.models.get(model_id)
        return residence is not None and residence.loaded

    def load_elapsed_s(self, model_id: str, now: float) -> float:
        """How long the replica has been loading the model; 0 when it does not, or has not said so yet."""
        return now - self.loading.get(model_id, now)

    @property
    def harm_s(self) -> float:
        """What one more eviction costs (`ModelCache.harm_s`); those for what is booked here come before it."""
        return self._harm_s * (1 + self._untold)

    @property
    def backlog(self) -> float:
        """By how many loads one more would be delayed, by the limit of those that run at a time."""
        if self._loads_max == UNLIMITED:
            return 0.0
        return max(0, self.loads + 1 - self._loads_max) / self._loads_max

    def book(self, model_id: str) -> bool:
        """Record a request for the model at the moment of the decision. Answers whether the model is new here."""
        residence = self.models.get(model_id)
        if residence is None:
            self.models[model_id] = Residence(bookings=1, fits=bool(self._room))
            self._untold += 1
            return True
        residence.bookings += 1
        if not residence.refused:
            return False
        residence.refused, residence.fits = False, bool(self._room)
        return True

    def prefetch(self, model_id: str) -> None:
        """Record that it is asked to load a model ahead of demand, of which it has not spoken."""
        self.book(model_id)
        residence = self.models[model_id]
        residence.bookings -= 1
        residence.ahead = True

    def takes(self, worth_s: float) -> bool:
        """Whether one more model would find room here, or evict only what is worth less to it."""
        return self._room is None or self._room > self._untold or self.harm_s < worth_s

    def unbook(self, model_id: str) -> bool:
        """The request is over, or goes elsewhere. Answers whether the model is now gone from here."""
        residence = self.models[model_id]
        residence.bookings -= 1
        if residence.bookings or residence.told or residence.ahead:
            return False
        self._untold -= 1
        del self.models[model_id]
        return True

    def told_room(self, room: int | None, harm_s: float | None = None) -> None:
        self._room = room
        if harm_s is not None:
            self._harm_s = harm_s

    def told_harm(self, harm_s: float | None) -> None:
        """What its next eviction would cost, if it has said so."""
        if harm_s is not None:
            self._harm_s = harm_s

    def told_loading(self, model_id: str, now: float) -> None:
        residence = self._told(model_id)
        residence.loading, residence.loaded = True, False
        self.loading[model_id] = now

    def told_coming(self, model_id: str, now: float) -> None:
        """It holds the model, or loads it, or is about to: what it had said before stands."""
        if not self.models[model_id].told:
            self.told_loading(model_id, now)

    def told_loaded(self, model_id: str) -> None:
        residence = self._told(model_id)
        residence.loading, residence.loaded = False, True
        self.loading.pop(model_id, None)

    def told_gone(self, model_id: str) -> None:
        residence = self.models.get(model_id)
        if residence is None or not (residence.told or residence.ahead):
            return
        self._untold -= not residence.told
        residence.loading = residence.loaded = residence.ahead = False
        self.loading.pop(model_id, None)
        if residence.bookings:
            residence.fits = bool(self._room)
            self._untold += 1
        else:
            del self.models[model_id]

    def told_no_room(self, model_id: str) -> None:
        """It had no room for the model, which is booked here."""
        self.told_room(0)
        self.told_gone(model_id)
        self.models[model_id].refused = True

    def _told(self, model_id: str) -> Residence:
        residence = self.models.get(model_id)
        if residence is None:
            residence = self.models[model_id] = Residence()
        elif not residence.told:
            self._untold -= 1
            residence.refused = residence.ahead = False
        return residence
