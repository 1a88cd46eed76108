"""Request routers as they are written for Ray Serve: classes that rank replicas. See docs/own-router.md for ours."""

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from modelplex.core import chooser

__all__ = [
    "FIFOMixin",
    "LocalityMixin",
    "MultiplexMixin",
    "PendingRequest",
    "ReplicaID",
    "ReplicaResult",
    "RequestRouter",
    "RunningReplica",
]

ReplicaID = str
ReplicaResult = Any  # None: the answer goes to whoever called, not by way of the router

_NO_STATS: MappingProxyType[str, Any] = MappingProxyType({})


class RunningReplica:
    """A replica that a request may go to."""

    def __init__(self, info: chooser.ReplicaInfo) -> None:
        self.info = info

    @property
    def replica_id(self) -> ReplicaID:
        return self.info.replica_id

    @property
    def max_ongoing_requests(self) -> int:
        return self.info.max_ongoing

    @property
    def multiplexed_model_ids(self) -> set[str]:
        return set(self.info.models)

    @property
    def routing_stats(self) -> MappingProxyType[str, Any]:
        """Empty: replicas do not report any (`record_routing_stats` is not called)."""
        return _NO_STATS

    def __repr__(self) -> str:
        return f"RunningReplica({self.replica_id!r})"


@dataclass(frozen=True, slots=True)
class RequestMetadata:
    request_id: str
    call_method: str
    multiplexed_model_id: str


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A request to be sent somewhere. Its arguments are not known: they are on their way, or pickled."""

    metadata: RequestMetadata


class RequestRouter:
    """Ranks replicas. Override `choose_replicas`; an object is made in each process that calls the deployment."""

    def __init__(self, **kwargs: Any) -> None:
        self.initialize_state(**kwargs)

    def initialize_state(self, *args: Any, **kwargs: Any) -> None:
        """Gets the `request_router_kwargs`."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Groups of replicas, the best first. Of the first group that has a free one, the least busy one gets it.

        It must not wait for anything: the request goes out at once.
        """
        raise NotImplementedError(f"{type(self).__name__} must have choose_replicas.")

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        """Called when a request has been given a replica; `result` is None."""

    def select_available_replicas(self, candidates: list[RunningReplica]) -> list[RunningReplica]:
        """Those that could begin a request now."""
        return [replica for replica in candidates if replica.info.free > 0]

    def choose(self, request: chooser.PendingRequest, replicas: Sequence[chooser.ReplicaInfo]) -> str | None:
        """See `core.chooser.Chooser`."""
        pending = PendingRequest(RequestMetadata(request.request_id, request.method_name, request.model_id))
        candidates = [RunningReplica(info) for info in replicas]
        groups = _result(self.choose_replicas(candidate_replicas=candidates, pending_request=pending))
        for group in groups:
            free = self.select_available_replicas(group)
            if free:
                chosen = min(free, key=lambda replica: replica.info.ongoing).replica_id
                self.on_request_routed(pending, chosen, None)
                return chosen
        return None


class FIFOMixin:
    """Requests go in the order of their arrival; here they always do."""


class LocalityMixin:
    """Replicas that are near come first; here all are on one machine."""

    def rank_replicas_via_locality(self, replicas: list[RunningReplica]) -> list[list[RunningReplica]]:
        return [replicas]


class MultiplexMixin:
    """Replicas that have the model come first, then those with the fewest models."""

    def rank_replicas_via_multiplex(
        self, replicas: list[RunningReplica], multiplexed_model_id: str
    ) -> list[list[RunningReplica]]:
        groups: dict[int, list[RunningReplica]] = {}
        for replica in replicas:
            models = replica.multiplexed_model_ids
            groups.setdefault(-1 if multiplexed_model_id in models else len(models), []).append(replica)
        return [groups[number] for number in sorted(groups)]


def _result(ranking: Coroutine[Any, Any, list[list[RunningReplica]]]) -> list[list[RunningReplica]]:
    try:
        ranking.send(None)
    except StopIteration as done:
        found: list[list[RunningReplica]] = done.value
        return found
    ranking.close()
    raise RuntimeError("choose_replicas must not wait for anything: the request goes out at once.")
