"""Replicas whose code does nothing, many of them in one process: the real ones, but for the processes."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from modelplex import serve
from modelplex.config import DeploymentConfig
from modelplex.runtime.app_spec import Definition
from modelplex.runtime.network import Listening
from modelplex.runtime.replica import Replica
from modelplex.runtime.replica_spec import ReplicaSpec
from modelplex.wire.messages import ReplicaInfo

from . import network

MODELS_MAX = 10
SLOTS = 16


class NoOp:
    """Loads models that are nothing, and answers at once.

    Args:
        loads: counts the loads, by model.
        load_s: what each takes.
    """

    def __init__(self, loads: Counter[str], load_s: float) -> None:
        self._loads = loads
        self._load_s = load_s

    @serve.multiplexed(max_num_models_per_replica=MODELS_MAX)
    async def get_model(self, model_id: str) -> str:
        self._loads[model_id] += 1
        await asyncio.sleep(self._load_s)
        return model_id

    async def __call__(self) -> None:
        await self.get_model(serve.get_multiplexed_model_id())


@dataclass(frozen=True)
class Crowd:
    """Replicas that run in this process.

    Attributes:
        infos: what routers have to know of them.
        loads: how often each model has been loaded.
    """

    infos: list[ReplicaInfo]
    loads: Counter[str]
    replicas: list[Replica]
    listening: list[Listening]

    @classmethod
    async def start(cls, folder: Path, names: list[str], load_s: float) -> "Crowd":
        crowd = cls([], Counter(), [], [])
        config = DeploymentConfig(name="NoOp", max_ongoing_requests=SLOTS)

        async def start(name: str) -> None:  # in a task of its own: a replica belongs to the context that it starts in
            replica = Replica(ReplicaSpec("scale", name, config, Definition(NoOp, (crowd.loads, load_s))))
            await replica.start()
            listening = await network.listen(replica, folder, name)
            crowd.replicas.append(replica)
            crowd.listening.append(listening)
            crowd.infos.append(ReplicaInfo(replica.context.replica_id, listening.address))

        await asyncio.gather(*(asyncio.create_task(start(name)) for name in names))
        return crowd

    async def stop(self) -> None:
        for listening in self.listening:
            await listening.close()
        await asyncio.gather(*(replica.stop(1.0) for replica in self.replicas))
