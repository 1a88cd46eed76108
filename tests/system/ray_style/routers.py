"""Request routers of one's own, as they are written for Ray Serve."""

import random

from modelplex import serve
from modelplex.serve.config import RequestRouterConfig
from modelplex.serve.context import _get_internal_replica_context
from modelplex.serve.request_router import (
    FIFOMixin,
    LocalityMixin,
    MultiplexMixin,
    PendingRequest,
    ReplicaID,
    ReplicaResult,
    RequestRouter,
    RunningReplica,
)


class AtRandom(RequestRouter):
    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        return [random.sample(candidate_replicas, 1), candidate_replicas]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult):
        assert replica_id


class WithModel(FIFOMixin, MultiplexMixin, LocalityMixin, RequestRouter):
    def initialize_state(self, reverse: bool = False):
        self.reverse = reverse

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        model_id = pending_request.metadata.multiplexed_model_id
        if model_id:
            ranked = self.rank_replicas_via_multiplex(replicas=candidate_replicas, multiplexed_model_id=model_id)
            first = self.select_available_replicas(candidates=ranked[0])
            return [sorted(first, key=lambda replica: replica.replica_id, reverse=self.reverse), *ranked]
        return self.rank_replicas_via_locality(replicas=candidate_replicas)


@serve.deployment(num_replicas=3, request_router_config=RequestRouterConfig(request_router_class=AtRandom))
class Whoever:
    def __init__(self):
        self.replica_id: ReplicaID = _get_internal_replica_context().replica_id

    @serve.multiplexed(max_num_models_per_replica=5)
    async def get_model(self, model_id: str):
        return model_id

    async def __call__(self):
        if serve.get_multiplexed_model_id():
            await self.get_model(serve.get_multiplexed_model_id())
        return self.replica_id


handle = serve.run(Whoever.bind())
assert len({handle.remote().result() for _ in range(60)}) == 3

by_model = RequestRouterConfig(request_router_class=WithModel, request_router_kwargs={"reverse": True})
handle = serve.run(Whoever.options(name="Known", request_router_config=by_model).bind())
homes = [
    {handle.options(multiplexed_model_id=f"model-{number}").remote().result() for _ in range(5)} for number in range(6)
]
assert [len(home) for home in homes] == [1] * 6
assert len(set.union(*homes)) == 3
