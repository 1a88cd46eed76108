"""Sends requests to the replicas of one deployment: the shell round `core.routing`."""

import asyncio
import functools
import logging
import time
from collections.abc import Iterable

import msgspec

from modelplex import config, errors
from modelplex.core import routing
from modelplex.core.backoff import Backoff
from modelplex.core.estimates import Estimates
from modelplex.runtime.link import Connect, Link
from modelplex.runtime.streams import Incoming, Outgoing, Upload
from modelplex.wire import messages
from modelplex.wire.messages import Answer, Begin, Fail, Message

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0

# A replica whose user code blocks its event loop must not hold up requests that others could serve.
MEET_TIMEOUT_S = 0.5
_RECONNECT = Backoff(base_s=0.02, max_s=1.0)


class Exchange:
    """One request on its way, and its answer.

    `answer` comes when a replica begins to answer, or is an error; the body of the answer is then read from `body`.
    """

    def __init__(self, begin: Begin, upload: Upload, loop: asyncio.AbstractEventLoop) -> None:
        self.begin = begin
        self.upload = upload
        self.answer: asyncio.Future[Answer] = loop.create_future()
        self.body: Incoming | None = None
        self.replica_id = ""
        self.arrived = time.perf_counter()
        self.queued_s = 0.0
        self.outgoing: Outgoing | None = None
        self.failure_body = b""
        self.load_s = 0.0

    def fail(self, error: errors.ModelplexError) -> None:
        self.end_upload()
        if self.body is not None:
            self.body.fail(error)
        elif not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # whoever waited for it may be gone

    def end_upload(self) -> None:
        self.upload.stop()
        if self.outgoing is not None:
            self.outgoing.close()


class DeploymentRouter:
    """Routes requests of this process to one deployment.

    Args:
        name: `application_deployment`, for logs and errors.
        max_queued_requests: see `config.DeploymentConfig`.
        connect: opens links to replicas.
    """

    def __init__(self, name: str, max_queued_requests: int, connect: Connect) -> None:
        self._name = name
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        estimates = Estimates(load_s=config.EXPECTED_LOAD_S, service_s=config.EXPECTED_SERVICE_S)
        self._core = routing.Router(max_queued_requests, config.NO_REPLICA_WAIT_S, estimates)
        self._exchanges: dict[int, Exchange] = {}
        self._addresses: dict[str, str] = {}
        self._link_tasks: dict[str, asyncio.Task[None]] = {}
        self._links: dict[str, Link] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._unmet: set[str] | None = None  # replicas known from the start of which nothing has been heard yet
        self._met = asyncio.Event()
        self._closed = False
        self._meeting: asyncio.TimerHandle | None = None

    async def met(self) -> None:
        """Return when each replica known from the start is linked, could not be at first, or is too slow.

        A request that did not wait for this would be decided on with part of the replicas, or turned away for want of
        any.
        """
        await self._met.wait()

    # Requests

    def begin(self, begin: Begin, upload: Upload, timeout_s: float | None = None) -> Exchange:
        """Have a request sent to the replica that suits it, now or when one is free."""
        number = self._core.number()
        exchange = Exchange(msgspec.structs.replace(begin, stream=number), upload, self._loop)
        if self._closed:
            exchange.fail(self._gone())
            return exchange
        self._exchanges[number] = exchange
        now = self._loop.time()
        deadline = None if timeout_s is None else now + timeout_s
        self._perform(self._core.submit(number, begin.model_id, now, deadline))
        return exchange

    def cancel(self, exchange: Exchange) -> None:
        """The caller has gone away, or has what it wants. Nothing happens if the exchange is over."""
        self._drop(exchange, errors.RequestCancelledError(f"The request to {self._name} was cancelled."))

    def _drop(self, exchange: Exchange, error: errors.ModelplexError) -> None:
        number = exchange.begin.stream
        if self._exchanges.pop(number, None) is None:
            return
        exchange.fail(error)
        if (link := self._links.get(exchange.replica_id)) is not None:
            link.send(messages.Cancel(number))
        self._perform(self._core.cancel(number, self._loop.time()))

    # Replicas

    def update(self, replicas: Iterable[messages.ReplicaInfo]) -> None:
        """These are the replicas to use from now on."""
        before, self._addresses = self._addresses, {r.replica_id: r.address for r in replicas}
        if self._unmet is None:
            self._unmet = set(self._addresses)
            self._meeting = self._loop.call_later(MEET_TIMEOUT_S, self._met.set)
            self._has_met("")
        for replica_id in before.keys() - self._addresses.keys():
            self._retire(replica_id)
            if replica_id not in self._links and (task := self._link_tasks.get(replica_id)) is not None:
                task.cancel()
        for replica_id in self._addresses.keys() - self._link_tasks.keys():
            task = self._loop.create_task(self._keep_link(replica_id))
            self._link_tasks[replica_id] = task
            task.add_done_callback(functools.partial(self._link_task_over, replica_id))

    async def close(self) -> None:
        """Drop every link; whoever still waits for an answer is told that there will be none."""
        self._closed = True
        self._addresses = {}
        for exchange in reversed(list(self._exchanges.values())):  # the oldest last, or it would make place for others
            self._drop(exchange, self._gone())
        tasks = list(self._link_tasks.values())
        for task in tasks:
            task.cancel()
        for link in list(self._links.values()):
            link.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._met.set()
        for timer in (self._timer, self._meeting):
            if timer is not None:
                timer.cancel()

    async def _keep_link(self, replica_id: str) -> None:
        """Hold a link to a replica for as long as it is wanted; one that is lost is opened again."""
        failures = 0
        while (address := self._addresses.get(replica_id)) is not None:
            peer = _Peer(self, replica_id)
            link: Link | None = None
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    link = await self._connect(address, peer)
                    link.send(messages.Hello(messages.VERSION))
                    await peer.welcomed
                failures = 0
                self._has_met(replica_id)
                await peer.gone
            except (OSError, TimeoutError, errors.ProtocolError) as error:
                log.debug("No link to replica %s: %s", replica_id, error)
                failures += 1
                self._has_met(replica_id)
            finally:
                if link is not None:
                    link.close()
            await asyncio.sleep(_RECONNECT.delay_s(max(1, failures)))

    def _has_met(self, replica_id: str) -> None:
        assert self._unmet is not None
        self._unmet.discard(replica_id)
        if not self._unmet:
            self._met.set()

    def _link_task_over(self, replica_id: str, task: asyncio.Task[None]) -> None:
        if self._link_tasks.get(replica_id) is task:
            del self._link_tasks[replica_id]

    def _retire(self, replica_id: str) -> None:
        if replica_id in self._core.replica_ids:
            self._perform(self._core.replica_retiring(replica_id, self._loop.time()))

    # What replicas say

    def received(self, replica_id: str, link: Link, message: Message, body: bytes) -> None:
        now = self._loop.time()
        match message:
            case Answer() | messages.Chunk() | Fail() | messages.Credit() | messages.Refuse():
                exchange = self._exchanges.get(message.stream)
                if exchange is not None and exchange.replica_id == replica_id:
                    self._received_for(exchange, link, message, body)
            case messages.Welcome(max_ongoing=slots, room=room, loaded=loaded, loading=loading, ongoing=ongoing):
                self._links[replica_id] = link
                self._perform(self._core.replica_up(replica_id, slots, room, loaded, loading, now))
                self._perform(self._core.told_ongoing(replica_id, ongoing, now))
            case messages.ModelLoading(model_id, room):
                self._perform(self._core.model_loading(replica_id, model_id, room, now))
            case messages.ModelLoaded(model_id, room, load_s):
                self._perform(self._core.model_loaded(replica_id, model_id, room, load_s, now))
            case messages.ModelGone(model_id, room):
                self._perform(self._core.model_gone(replica_id, model_id, room, now))
            case messages.Ongoing(ongoing):
                self._perform(self._core.told_ongoing(replica_id, ongoing, now))
            case messages.Retiring():
                self._retire(replica_id)
            case _:
                link.close()

    def lost(self, replica_id: str) -> None:
        """The link to a replica is gone, and so, most likely, is the replica."""
        if self._links.pop(replica_id, None) is not None:
            for number, exchange in self._exchanges.items():
                if exchange.replica_id == replica_id and not exchange.upload.replayable:
                    self._core.answered(number)
            self._perform(self._core.replica_down(replica_id, self._loop.time()))

    def _received_for(self, exchange: Exchange, link: Link, message: Message, body: bytes) -> None:
        number = exchange.begin.stream
        match message:
            case Answer():
                self._core.answered(number)
                exchange.body = Incoming(lambda size: link.send(messages.Credit(number, size)))
                exchange.body.feed(body, more=message.more)
                exchange.load_s = message.load_s
                if not exchange.answer.done():
                    exchange.answer.set_result(message)
                if not message.more:
                    self._finish(exchange, message.ongoing)
            case messages.Chunk(more=more) if exchange.body is not None:
                exchange.body.feed(body, more=more)
                if not more:
                    self._finish(exchange, None)
            case Fail(error=name, message=text, retry_after_s=retry_after_s, ongoing=ongoing):
                exchange.failure_body = body
                self._finish(exchange, ongoing)
                exchange.fail(errors.from_wire(name, text, retry_after_s))
            case messages.Credit(size_bytes=size) if exchange.outgoing is not None:
                exchange.outgoing.credit(size)
            case messages.Refuse(ongoing=ongoing):
                self._perform(self._core.refused(number, ongoing, self._loop.time()))

    def _finish(self, exchange: Exchange, ongoing: int | None) -> None:
        number = exchange.begin.stream
        del self._exchanges[number]
        exchange.end_upload()
        self._perform(self._core.finish(number, self._loop.time(), exchange.load_s, ongoing))

    # What the core decides

    def _perform(self, commands: list[routing.Command]) -> None:
        for command in commands:
            exchange = self._exchanges[command.number]
            if isinstance(command, routing.Send):
                self._send(exchange, command.replica_id)
            else:
                del self._exchanges[command.number]
                exchange.fail(self._rejection(command.why))
        self._set_timer()

    def _send(self, exchange: Exchange, replica_id: str) -> None:
        link, number = self._links[replica_id], exchange.begin.stream
        exchange.replica_id = replica_id
        exchange.queued_s = time.perf_counter() - exchange.arrived
        outgoing = Outgoing(lambda data, more: link.send(messages.Chunk(number, more), data))
        exchange.outgoing = outgoing
        part, more = exchange.upload.begin(outgoing)
        link.send(msgspec.structs.replace(exchange.begin, more=more), part)

    def _gone(self) -> errors.ModelplexError:
        return errors.DeploymentUnavailableError(f"{self._name} is no longer served.")

    def _rejection(self, why: routing.Why) -> errors.ModelplexError:
        match why:
            case routing.Why.QUEUE_FULL:
                text = f"{self._name} has as many requests waiting as max_queued_requests allows."
                return errors.BackPressureError(text, retry_after_s=1.0)
            case routing.Why.DEADLINE:
                return errors.RequestTimeoutError(f"{self._name} did not begin to answer within the request's time.")
            case routing.Why.NO_REPLICA:
                return errors.DeploymentUnavailableError(f"{self._name} has no replica that runs.", retry_after_s=1.0)
            case routing.Why.REPLICA_LOST:
                return errors.ReplicaLostError(f"The replica of {self._name} died while it worked on the request.")

    def _set_timer(self) -> None:
        at = self._core.next_tick
        if at is None or (self._timer is not None and self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(at, self._tick), at

    def _tick(self) -> None:
        self._timer = None
        self._perform(self._core.tick(self._loop.time()))


class _Peer:
    """The receiver of one link, which knows whose link it is."""

    def __init__(self, router: DeploymentRouter, replica_id: str) -> None:
        self._router = router
        self._replica_id = replica_id
        loop = asyncio.get_running_loop()
        self.welcomed: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()

    def received(self, link: Link, message: Message, body: bytes) -> None:
        if isinstance(message, messages.Welcome):
            if self.welcomed.done():  # nobody waits for it any more
                link.close()
                return
            if message.version != messages.VERSION:
                self.welcomed.set_exception(errors.ProtocolError(f"the replica speaks version {message.version}"))
                link.close()
                return
            self.welcomed.set_result(None)
        self._router.received(self._replica_id, link, message, body)

    def lost(self, link: Link) -> None:
        if not self.welcomed.done():
            self.welcomed.set_exception(errors.ProtocolError("the link was closed before the replica's first word"))
        if not self.gone.done():
            self.gone.set_result(None)
        self._router.lost(self._replica_id)
