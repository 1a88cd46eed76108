"""One router as a proxy has it, linked to all replicas, and requests that it is given."""

import asyncio
import gc
import itertools
import os
import random
import time
from collections.abc import Callable, Sequence

from modelplex.core.admission import UNLIMITED
from modelplex.runtime.router import DeploymentRouter
from modelplex.runtime.streams import Upload
from modelplex.wire.messages import Begin, DeploymentInfo, ReplicaInfo

from .network import Meter

# payload.dumps(((), {})): the arguments of a call without any.
NO_ARGUMENTS = b"\x80\x05)}\x94\x86\x94."


class MeteredRouter:
    """A router, its requests, and what it heard.

    Args:
        name: a part of the ids of models that only its requests are for.
    """

    def __init__(self, name: str) -> None:
        self.meter = Meter()
        self.answered = 0
        self._name = name
        self._numbers = itertools.count()
        self._random = random.Random(name)
        self._info = DeploymentInfo("scale", "NoOp", UNLIMITED, [])
        self.router = DeploymentRouter(self._info, self.meter.connect)

    async def link(self, replicas: Sequence[ReplicaInfo]) -> dict[str, float]:
        """Link to all replicas. Answers how long that took, and how much memory."""
        before, began = resident_bytes(), time.perf_counter()
        self.router.follow(DeploymentInfo("scale", "NoOp", UNLIMITED, list(replicas)))
        while len(self.router._core.replica_ids) < len(replicas):  # noqa: ASYNC110 - nobody says when
            await asyncio.sleep(0.002)
        met_s = time.perf_counter() - began
        return {"met_s": met_s, "link_bytes": (resident_bytes() - before) / len(replicas)}

    async def call(self, model_id: str) -> None:
        """Raises what the request fails with."""
        upload = Upload(NO_ARGUMENTS, more=False)
        exchange = self.router.begin(Begin(0, "r", "scale", "/", "__call__", model_id, False), upload)
        await exchange.answer
        assert exchange.body is not None
        await exchange.body.read_all()
        self.answered += 1

    async def run(self, seconds: float, clients: int, warm: Sequence[str], cold_per_s: float) -> dict[str, float]:
        """Clients that ask for warm models one after another, and besides them new models at a rate."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        self.meter.heard.clear()
        self.answered = 0
        began, cpu = time.perf_counter(), time.process_time()

        async def client(next_model: Callable[[], str], pause_s: float) -> None:
            while loop.time() < end:
                asked = loop.time()
                await self.call(next_model())
                if pause_s:
                    await asyncio.sleep(max(0.0, asked + pause_s - loop.time()))

        strangers = min(int(cold_per_s), 200) if cold_per_s >= 1 else 0
        work = [client(lambda: self._random.choice(warm), 0.0) for _ in range(clients)]
        work += [client(self._new_model, strangers / cold_per_s) for _ in range(strangers)]
        await asyncio.gather(*work)
        elapsed_s = time.perf_counter() - began
        return {
            "requests": self.answered / elapsed_s,
            "loads": self.meter.heard["ModelLoaded"] / elapsed_s,
            "messages": self.meter.messages / elapsed_s,
            "bytes": self.meter.size_bytes / elapsed_s,
            "ongoing": self.meter.heard["Ongoing"] / elapsed_s,
            "refused": self.meter.heard["Refuse"] / elapsed_s,
            "cpu": (time.process_time() - cpu) / elapsed_s,
        }

    def _new_model(self) -> str:
        return f"cold-{self._name}{next(self._numbers):08d}"


def resident_bytes() -> int:
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
