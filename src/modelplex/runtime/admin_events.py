"""The state of a system once a second, for whoever watches: server-sent events."""

import asyncio
import heapq
import logging
import time
from functools import partial
from typing import Any

import msgspec

from modelplex.runtime.admin_models import replicas_of
from modelplex.runtime.admin_system import Administered, Decision, DecisionsAsked, decisions_of
from modelplex.runtime.admin_table import RefusedError, Request
from modelplex.runtime.http_connection import HTTPExchange
from modelplex.runtime.model_states import ModelsAsked, ReplicaState
from modelplex.runtime.traffic_sums import Traffic
from modelplex.status import ServeStatus

log = logging.getLogger(__name__)

INTERVAL_S = 1.0
LISTENERS_MAX = 32

# A listener that has not taken what it was sent within so long is dropped.
SLOW_S = 10.0

# Of each loader of each replica, models that are told of.
MODELS_MAX = 200
DECISIONS_MAX = 50

# Processes answer one after the other, and their clocks may differ: so much is asked for again.
OVERLAP_S = 2.0
SLOWEST_MAX = 10

CONTENT_TYPE = b"text/event-stream"


class SlowLoad(msgspec.Struct):
    """A load that took long: what, where, how many seconds, and when it ended."""

    model_id: str
    replica: str
    load_s: float
    at: float


class State(msgspec.Struct):
    """All that is told at a time.

    Attributes:
        time: seconds since the epoch.
        status: as `/v1/status` has it.
        replicas: as `/v1/replicas` has them, with the first models of each loader.
        traffic: requests.
        slowest_loads: of the models that are loaded now.
        decisions: the newest first.
    """

    time: float
    status: ServeStatus
    replicas: list[ReplicaState]
    traffic: Traffic
    slowest_loads: list[SlowLoad]
    decisions: list[Decision]


class Events:
    """Asks all processes once for however many listeners, and only while there are any.

    Args:
        it: what they are told about.
    """

    def __init__(self, it: Administered) -> None:
        self._it = it
        self._listeners = 0
        self._collector: asyncio.Task[None] | None = None
        self._next: asyncio.Future[bytes] | None = None  # what is told next
        self._ended: asyncio.Task[None] | None = None  # the last collector that was called off
        self._decisions: list[Decision] = []
        self._decided_at = 0.0  # the newest of these

    async def stream(self, exchange: HTTPExchange, headers: list[tuple[bytes, bytes]]) -> None:
        """Answer with events until the listener leaves. Raises `RefusedError` if there are too many."""
        if self._listeners >= LISTENERS_MAX:
            raise RefusedError(503, f"{LISTENERS_MAX} listeners are connected already.", (b"retry-after", b"5"))
        task = asyncio.current_task()
        assert task is not None
        exchange.on_lost = partial(_cancel, task)
        self._listeners += 1
        if self._collector is None:
            self._next = asyncio.get_running_loop().create_future()
            self._collector = asyncio.get_running_loop().create_task(self._collect())
        try:
            exchange.respond(200, [(b"content-type", CONTENT_TYPE), *headers], more=True)
            while not exchange.lost:
                assert self._next is not None
                frame = await asyncio.shield(self._next)
                exchange.write(frame, more=True)
                async with asyncio.timeout(SLOW_S):
                    await exchange.drain()
        except TimeoutError:
            log.warning("A listener to the events of the admin interface is too slow and was dropped.")
        finally:
            exchange.abort()
            self._listeners -= 1
            if not self._listeners:
                self._end()

    def _end(self) -> None:
        if self._collector is not None:
            self._collector.cancel()
            self._ended, self._collector = self._collector, None

    async def close(self) -> None:
        self._end()
        if self._ended is not None:
            await asyncio.wait([self._ended])

    async def _collect(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            try:
                data = msgspec.json.encode(await self.state())
            except Exception:  # a fault of ours, and the next time may be better
                log.exception("The state of the system could not be put together.")
            else:
                told, self._next = self._next, loop.create_future()
                assert told is not None
                told.set_result(b"event: state\ndata: %b\n\n" % data)
            due = max(due + INTERVAL_S, loop.time())
            await asyncio.sleep(due - loop.time())

    async def state(self) -> State:
        """How all is at the moment."""
        it, now = self._it, time.time()
        replicas, metrics, decisions = await asyncio.gather(
            replicas_of(it, ModelsAsked(limit=MODELS_MAX)),
            it.survey.ask("metrics"),
            decisions_of(it.survey, DecisionsAsked(limit=DECISIONS_MAX, since=max(0.0, self._decided_at - OVERLAP_S))),
        )
        self._decisions = decisions = _newest(decisions, self._decisions)
        if decisions:
            self._decided_at = decisions[0].at
        loads = (
            SlowLoad(model.id, replica.replica, model.load_s, now - model.age_s)
            for replica in replicas
            for loader in replica.loaders
            for model in loader.models
            if model.state == "resident"
        )
        slowest = heapq.nlargest(SLOWEST_MAX, loads, key=lambda load: load.load_s)
        return State(now, it.status(), replicas, it.traffic.take(metrics), slowest, decisions)


async def state(it: Administered, request: Request) -> State:
    """The same, once, for who does not stay."""
    return await Events(it).state()


def _newest(told: list[Decision], before: list[Decision]) -> list[Decision]:
    """Of both; what was told again is there once."""
    again = {(each.at, each.process, each.text) for each in told}
    older = (each for each in before if (each.at, each.process, each.text) not in again)
    return heapq.nlargest(DECISIONS_MAX, [*told, *older], key=lambda each: each.at)


def _cancel(task: "asyncio.Task[Any]") -> None:
    task.cancel()
