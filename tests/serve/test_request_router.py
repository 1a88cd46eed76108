"""Routers as they are written for Ray Serve: how their rankings become choices."""

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import pytest

from modelplex.core import chooser
from modelplex.serve.request_router import MultiplexMixin, PendingRequest, RequestRouter, RunningReplica


@dataclass
class Info:
    """What a router is told of a replica, as `chooser.ReplicaInfo` has it."""

    replica_id: str
    ongoing: int = 0
    max_ongoing: int = 2
    models: tuple[str, ...] = ()

    @property
    def free(self) -> int:
        return self.max_ongoing - self.ongoing


def choose(router: RequestRouter, *infos: Info, model_id: str = "") -> str | None:
    request = chooser.PendingRequest(model_id, "id-1", "method")
    return router.choose(request, cast(list[chooser.ReplicaInfo], infos))


class Ranked(RequestRouter):
    """Ranks as it is told to, by names in groups: "ab c"."""

    def initialize_state(self, groups: str = "") -> None:
        self.groups = groups.split()
        self.routed: list[tuple[PendingRequest, str, Any]] = []

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        named = {replica.replica_id: replica for replica in candidate_replicas}
        return [[named[name] for name in group] for group in self.groups]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: str, result: Any) -> None:
        self.routed.append((pending_request, replica_id, result))


@pytest.mark.parametrize(
    ("groups", "chosen"),
    [("ab c", "b"), ("c ab", "b"), ("a b", "a"), ("c", None), ("", None), ("ca", "a")],
)
def test_the_least_busy_free_one_of_the_first_group_that_has_one(groups: str, chosen: str | None) -> None:
    router = Ranked(groups=groups)
    assert choose(router, Info("a", 1), Info("b"), Info("c", 2)) == chosen
    assert [name for _, name, _ in router.routed] == ([] if chosen is None else [chosen])


def test_it_is_told_of_the_request() -> None:
    router = Ranked(groups="a")
    choose(router, Info("a"), model_id="m")
    metadata = router.routed[0][0].metadata
    assert (metadata.request_id, metadata.call_method, metadata.multiplexed_model_id) == ("id-1", "method", "m")


def test_holders_come_first_and_then_those_with_few_models() -> None:
    replicas = [
        RunningReplica(cast(chooser.ReplicaInfo, info))
        for info in (Info("two", models=("x", "y")), Info("none"), Info("holder", models=("m", "x", "y")))
    ]
    ranked = MultiplexMixin().rank_replicas_via_multiplex(replicas, "m")
    assert [[replica.replica_id for replica in group] for group in ranked] == [["holder"], ["none"], ["two"]]


def test_one_that_waits_for_something_is_told_that_it_must_not() -> None:
    class Waits(RequestRouter):
        async def choose_replicas(self, *args: Any, **kwargs: Any) -> list[list[RunningReplica]]:
            await asyncio.sleep(0)
            return []

    with pytest.raises(RuntimeError, match="must not wait"):
        choose(Waits(), Info("a"))


def test_one_that_ranks_nothing_says_so() -> None:
    with pytest.raises(NotImplementedError, match="RequestRouter must have choose_replicas"):
        choose(RequestRouter(), Info("a"))
