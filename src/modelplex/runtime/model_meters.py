"""What a replica counts of the models of one loader, as `meters` does of requests."""

from collections import OrderedDict

from modelplex.core.cache import Reason
from modelplex.runtime.meters import LOAD_BOUNDS_S, Buckets, Counts

# Models of one loader that are remembered after they have gone, so that their counts go on when they come back.
REMEMBERED_MAX = 1000


class ModelMeter:
    """One model.

    Attributes:
        load_s: seconds of all its loads.
        size_bytes: as it was when it was loaded last; 0 if nobody needed to know.
    """

    __slots__ = ("load_s", "loads", "size_bytes", "uses")

    def __init__(self) -> None:
        self.uses = self.loads = self.size_bytes = 0
        self.load_s = 0.0


class ModelMeters:
    """Models of one loader.

    Attributes:
        asked: how often one was asked for.
        loads, unloads: seconds that these took.
        failures: failed loads, by the name of the error.
        evictions: by their reason.
        of: by model, of those that are loaded.
        gone: of the last of those that were.
        sent_away: models that somebody wants unloaded.
    """

    __slots__ = ("asked", "evictions", "failures", "gone", "loads", "of", "sent_away", "unloads")

    def __init__(self) -> None:
        self.asked = 0
        self.loads, self.unloads = Buckets(LOAD_BOUNDS_S), Buckets(LOAD_BOUNDS_S)
        self.failures, self.evictions = Counts(), Counts()
        self.of: dict[str, ModelMeter] = {}
        self.sent_away: set[str] = set()
        self.gone: OrderedDict[str, ModelMeter] = OrderedDict()

    def used(self, model_id: str) -> None:
        """A lease of it has been granted."""
        if (meter := self.of.get(model_id)) is not None:
            meter.uses += 1

    def loaded(self, model_id: str, load_s: float, size_bytes: int) -> None:
        self.loads.observe(load_s)
        meter = self.of[model_id] = self.gone.pop(model_id) if model_id in self.gone else ModelMeter()
        meter.loads += 1
        meter.load_s += load_s
        meter.size_bytes = size_bytes

    def evicted(self, model_id: str, reason: Reason) -> None:
        """It is to go."""
        asked = reason is Reason.RETIRED and model_id in self.sent_away
        self.sent_away.discard(model_id)
        self.evictions.add("asked" if asked else reason.value)
        if (meter := self.of.pop(model_id, None)) is not None:
            self.gone[model_id] = meter
            if len(self.gone) > REMEMBERED_MAX:
                self.gone.popitem(last=False)
