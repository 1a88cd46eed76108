"""What a simulation replays: who asked for which model when, and what is known of the models."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Catalog:
    """The models of a trace; a model is named by its place here.

    Attributes:
        ids: model ids, each once.
        size_bytes: int64, one for each model.
        load_s: float64, seconds that a load of each model takes.
    """

    ids: Sequence[str]
    size_bytes: NDArray[np.int64]
    load_s: NDArray[np.float64]

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.size_bytes) == len(self.load_s):
            raise ValueError("a catalog has one id, one size and one load time for each model")

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of their arrival.

    Attributes:
        arrivals_s: float64, seconds since the trace began, ascending.
        models: int32, the place of each request's model in the catalog.
        service_s: float64, seconds that each request runs once it has its model.
        catalog: the models.
    """

    arrivals_s: NDArray[np.float64]
    models: NDArray[np.int32]
    service_s: NDArray[np.float64]
    catalog: Catalog

    def __post_init__(self) -> None:
        if not len(self.arrivals_s) == len(self.models) == len(self.service_s):
            raise ValueError("a trace has one arrival, one model and one service time for each request")
        if len(self.arrivals_s) and bool(np.any(np.diff(self.arrivals_s) < 0)):
            raise ValueError("the requests of a trace are in the order of their arrival")

    def __len__(self) -> int:
        return len(self.models)
