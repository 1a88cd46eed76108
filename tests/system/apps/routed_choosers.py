"""Classes that choose replicas, which only this folder has."""

from collections.abc import Sequence

from modelplex.core.chooser import PendingRequest, ReplicaInfo


class ByLastDigit:
    """Whatever the replicas hold."""

    def __init__(self, digits: int) -> None:
        self.digits = digits

    def choose(self, request: PendingRequest, replicas: Sequence[ReplicaInfo]) -> str | None:
        ids = sorted(replica.replica_id for replica in replicas)
        return ids[int(request.model_id[-self.digits :]) % len(ids)]


class Broken(ByLastDigit):
    def choose(self, request: PendingRequest, replicas: Sequence[ReplicaInfo]) -> str | None:
        raise ValueError(f"cannot choose for {request.model_id}")
