"""What a router believes about one replica: the models it holds, and the room and slots it has left."""

from dataclasses import dataclass

from modelplex.core.admission import Pending, Slots


@dataclass(slots=True)
class Residence:
    """One model on one replica.

    `bookings` are the requests for it that this router has sent there or has waiting there. They keep the belief alive
    between the decision to load it there and the replica's word that it does.
    """

    loaded: bool = False
    loading_since: float | None = None
    bookings: int = 0

    @property
    def told(self) -> bool:
        """Whether the replica itself has said that it holds or loads the model."""
        return self.loaded or self.loading_since is not None


@dataclass(slots=True)
class Flight:
    """A request that runs on a replica."""

    pending: Pending
    view: "ReplicaView"
    sent: float
    answered: bool = False


class ReplicaView:
    """One replica as a router sees it: what it has said, and what has been sent to it since.

    `room` is how many models it said it could load without evicting one; None means any number.
    """

    def __init__(self, replica_id: str, max_ongoing: int, room: int | None, now: float = 0.0) -> None:
        self.replica_id = replica_id
        self.slots = Slots(max_ongoing)
        self.models: dict[str, Residence] = {}
        self.flights: dict[int, Flight] = {}
        self.loads = 0  # that it is running
        self.queued = 0  # requests that wait for it
        self.slot_freed = now  # when a request was last known to have ended there
        self.sent_last = 0  # number of the request that was sent here last
        self._room = room
        self._untold = 0  # models booked here of which the replica has not spoken

    @property
    def has_room(self) -> bool:
        """Whether one more model can be loaded without evicting one, as far as is known."""
        return self._room is None or self._room > self._untold

    def has_loaded(self, model_id: str) -> bool:
        residence = self.models.get(model_id)
        return residence is not None and residence.loaded

    def load_elapsed_s(self, model_id: str, now: float) -> float:
        """How long the replica has been loading the model; 0 when it does not, or has not said so yet."""
        residence = self.models.get(model_id)
        return now - residence.loading_since if residence is not None and residence.loading_since is not None else 0.0

    def book(self, model_id: str) -> None:
        """Record a request for the model at the moment of the decision."""
        residence = self.models.get(model_id)
        if residence is None:
            residence = self.models[model_id] = Residence()
            self._untold += 1
        residence.bookings += 1

    def unbook(self, model_id: str) -> None:
        """The request is over, or goes elsewhere."""
        residence = self.models[model_id]
        residence.bookings -= 1
        if not residence.bookings and not residence.told:
            self._untold -= 1
            del self.models[model_id]

    def told_room(self, room: int | None) -> None:
        self._room = room

    def told_loading(self, model_id: str, now: float) -> None:
        residence = self._told(model_id)
        self.loads += residence.loading_since is None
        residence.loading_since, residence.loaded = now, False

    def told_loaded(self, model_id: str) -> None:
        residence = self._told(model_id)
        self.loads -= residence.loading_since is not None
        residence.loading_since, residence.loaded = None, True

    def told_gone(self, model_id: str) -> None:
        residence = self.models.get(model_id)
        if residence is None or not residence.told:
            return
        self.loads -= residence.loading_since is not None
        residence.loading_since, residence.loaded = None, False
        if residence.bookings:
            self._untold += 1
        else:
            del self.models[model_id]

    def _told(self, model_id: str) -> Residence:
        residence = self.models.get(model_id)
        if residence is None:
            residence = self.models[model_id] = Residence()
        elif not residence.told:
            self._untold -= 1
        return residence
