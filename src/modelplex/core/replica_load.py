"""What a replica reports of its load, and which replicas stop first when there are to be fewer."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """What one replica reported last. Without arguments: that of one which has not reported yet.

    Attributes:
        ongoing: requests that ran on it, the mean since its report before.
        models: the models that it holds or loads, with how much each is used of late: uses per second, or any other
            measure that is the same for all replicas; 0 is idle.
        capacity_models: models that it may hold; -1 for any number.
        reload_s: seconds since its report before that went into loads of models which have been evicted, here or on
            another replica. Loads side by side all count.
        age_s: how long it has been there.
    """

    ongoing: float = 0.0
    models: Mapping[str, float] = field(default_factory=dict)
    capacity_models: int = -1
    reload_s: float = 0.0
    age_s: float = 0.0


def stop_order(replicas: Mapping[str, ReplicaLoad], count: int | None = None) -> list[str]:
    """The replicas in the order in which to stop them; all, or the first `count`.

    One after another, as if those before it had gone: the one that takes the least demand with it (uses, on all
    replicas, of the models that are nowhere else), so those that take none come first; of these, the one with the
    fewest ongoing requests, then the newest, then the first by id.
    """
    demand: dict[str, float] = {}
    holders: dict[str, set[str]] = {}
    for replica_id, load in replicas.items():
        for model_id, uses in load.models.items():
            demand[model_id] = demand.get(model_id, 0.0) + uses
            holders.setdefault(model_id, set()).add(replica_id)
    lost = dict.fromkeys(replicas, 0.0)  # of each that is left, what would go with it
    for model_id, ids in holders.items():
        _add_if_sole(lost, ids, demand[model_id])
    order: list[str] = []
    while lost and (count is None or len(order) < count):
        first = min(lost, key=lambda r: (lost[r], replicas[r].ongoing, replicas[r].age_s, r))
        order.append(first)
        del lost[first]
        for model_id in replicas[first].models:
            holders[model_id].discard(first)
            _add_if_sole(lost, holders[model_id], demand[model_id])
    return order


def _add_if_sole(lost: dict[str, float], holders: set[str], demand: float) -> None:
    if len(holders) == 1:
        (holder,) = holders
        lost[holder] += demand
