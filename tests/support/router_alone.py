"""A router whose replicas are scripted."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from scripted_replica import Network, ScriptedReplica

from modelplex.core.admission import UNLIMITED
from modelplex.runtime.router import DeploymentRouter, Exchange
from modelplex.runtime.streams import Upload
from modelplex.wire.messages import Begin, DeploymentInfo

# For messages to arrive, and what follows from them; no timer of a router is as short.
SOON_S = 0.01


async def soon() -> None:
    await asyncio.sleep(SOON_S)


class Requests:
    """A router, and requests for it."""

    def __init__(self, network: Network, queued_max: int, **options: Any) -> None:
        self.network = network
        info = DeploymentInfo("app", "D", queued_max, network.infos(), **options)
        self.router = DeploymentRouter(info, network.connect)
        self.router.follow(info)

    def send(
        self,
        model_id: str = "",
        timeout_s: float | None = None,
        upload: Upload | None = None,
        max_cold_wait_s: float | None = None,
        on_answer: Callable[[Exchange], None] | None = None,
    ) -> Exchange:
        begin = Begin(0, "r", "app", "/", "__call__", model_id, False, max_cold_wait_s=max_cold_wait_s)
        return self.router.begin(begin, upload or Upload(b"body", more=False), timeout_s, on_answer)

    async def many(self, count: int) -> list[Exchange]:
        exchanges = [self.send() for _ in range(count)]
        await soon()
        return exchanges


@contextlib.asynccontextmanager
async def router_to(*replicas: ScriptedReplica, queued_max: int = UNLIMITED, **options: Any) -> AsyncIterator[Requests]:
    """A router that has met these replicas, closed at the end; nothing of it is left then.

    `options` are further fields of `DeploymentInfo`.
    """
    before = asyncio.all_tasks()
    requests = Requests(Network(*replicas), queued_max, **options)
    await soon()
    yield requests
    await requests.router.close()
    assert asyncio.all_tasks() <= before


async def body_of(exchange: Exchange) -> bytes:
    await exchange.answer
    assert exchange.body is not None
    return await exchange.body.read_all()


def timers_left() -> int:
    """How many timers of this event loop have neither come nor been cancelled."""
    scheduled: list[asyncio.TimerHandle] = asyncio.get_running_loop().__dict__["_scheduled"]
    return sum(not handle.cancelled() for handle in scheduled)
