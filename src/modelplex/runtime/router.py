"""Sends requests to the replicas of one deployment: the shell round `core.routing`."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

import msgspec

from modelplex import config, errors
from modelplex.core import routing
from modelplex.core.estimates import Estimates
from modelplex.runtime.link import Connect, Link
from modelplex.runtime.replica_links import ReplicaLinks
from modelplex.runtime.streams import Incoming, Outgoing, Upload
from modelplex.wire import messages
from modelplex.wire.messages import Answer, Begin, Fail, Message

log = logging.getLogger(__name__)


class Exchange:
    """One request on its way, and its answer.

    Attributes:
        head: what a replica has begun to answer; the body of the answer is then read from `body`.
        error: why there is no answer.
        on_answer: called once there is one of the two.
    """

    __slots__ = (
        "_future",
        "arrived",
        "begin",
        "body",
        "cold_deadline",
        "error",
        "failure_body",
        "head",
        "load_s",
        "loop",
        "on_answer",
        "outgoing",
        "queued_s",
        "replica_id",
        "sent",
        "upload",
    )

    def __init__(
        self,
        begin: Begin,
        upload: Upload,
        loop: asyncio.AbstractEventLoop,
        on_answer: "Callable[[Exchange], None] | None" = None,
    ) -> None:
        self.begin = begin
        self.upload = upload
        self.loop = loop
        self.on_answer = on_answer
        self.head: Answer | None = None
        self.error: errors.ModelplexError | None = None
        self.body: Incoming | None = None
        self.replica_id = ""
        self.arrived = time.perf_counter()
        self.queued_s = 0.0
        self.cold_deadline: float | None = None  # by the event loop's clock
        self.sent = False
        self.outgoing: Outgoing | None = None
        self.failure_body = b""
        self.load_s = 0.0
        self._future: asyncio.Future[Answer] | None = None

    @property
    def answer(self) -> asyncio.Future[Answer]:
        """The head of the answer, to be awaited. Raises the error."""
        if self._future is None:
            self._future = self.loop.create_future()
            self._tell()
        return self._future

    def answered(self) -> None:
        """Tell who waits for the head of the answer that it is there."""
        self._tell()
        on_answer, self.on_answer = self.on_answer, None  # which often knows the exchange: a circle
        if on_answer is not None:
            on_answer(self)

    def fail(self, error: errors.ModelplexError) -> None:
        self.end_upload()
        if self.body is not None:
            self.body.fail(error)
        elif self.error is None:
            self.error = error
            self._tell()
            on_answer, self.on_answer = self.on_answer, None
            if on_answer is not None:
                self.loop.call_soon(on_answer, self)  # not now: others may have to be told of the same fault

    def _tell(self) -> None:
        future = self._future
        if future is None or future.done():
            return
        if self.error is not None:
            future.set_exception(self.error)
            future.exception()  # whoever waited for it may be gone
        elif self.head is not None:
            future.set_result(self.head)

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
        self._loop = asyncio.get_running_loop()
        estimates = Estimates(load_s=config.EXPECTED_LOAD_S, service_s=config.EXPECTED_SERVICE_S)
        self._core = routing.Router(max_queued_requests, config.NO_REPLICA_WAIT_S, estimates)
        self._exchanges: dict[int, Exchange] = {}
        self._links = ReplicaLinks(connect, self)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._closed = False
        self._emptied = asyncio.Event()  # set when the last request has ended

    @property
    def has_met(self) -> bool:
        """Whether `met` would return at once."""
        return self._links.has_met

    async def met(self) -> None:
        """Return when the first replicas have been heard of, so that a request is not decided on with part of them."""
        await self._links.met()

    # Requests

    def begin(
        self,
        begin: Begin,
        upload: Upload,
        timeout_s: float | None = None,
        on_answer: Callable[[Exchange], None] | None = None,
    ) -> Exchange:
        """Have a request sent to the replica that suits it, now or when one is free. `begin` is the router's then.

        `on_answer` is called when the exchange has an answer, or an error; never before this has returned.
        """
        begin.stream = number = self._core.number()
        begin.arrived_at = time.time()
        exchange = Exchange(begin, upload, self._loop, on_answer)
        if self._closed:
            exchange.fail(_gone(self._name))
            return exchange
        self._exchanges[number] = exchange
        self._emptied.clear()
        now = self._loop.time()
        deadline = None if timeout_s is None else now + timeout_s
        if begin.max_cold_wait_s is not None:
            exchange.cold_deadline = now + begin.max_cold_wait_s
        commands = self._core.submit(number, begin.model_id, now, deadline, exchange.cold_deadline)
        self._obey(commands)
        if not commands:
            self._set_timer()  # it waits
        return exchange

    def cancel(self, exchange: Exchange) -> None:
        """The caller has gone away, or has what it wants. Nothing happens if the exchange is over."""
        if exchange.begin.stream in self._exchanges:  # seldom: an error costs as much as a decision
            self._drop(exchange, errors.RequestCancelledError(f"The request to {self._name} was cancelled."))

    def _drop(self, exchange: Exchange, error: errors.ModelplexError) -> None:
        number = exchange.begin.stream
        if number not in self._exchanges:
            return
        self._forget(number)
        exchange.fail(error)
        if (link := self._links.get(exchange.replica_id)) is not None:
            link.send(messages.Cancel(number))
        self._perform(self._core.cancel(number, self._loop.time()))

    # Replicas

    def update(self, replicas: Iterable[messages.ReplicaInfo]) -> None:
        """These are the replicas to use from now on."""
        for replica_id in self._links.update(replicas):
            self._retire(replica_id)

    async def drain(self) -> None:
        """The deployment is no more: who waits is told, what runs may end. Then `close`."""
        self._closed = True
        self.update(())
        self._drop_waiting()
        if self._exchanges:
            await self._emptied.wait()
        await self.close()

    def _drop_waiting(self) -> None:
        for exchange in reversed([e for e in self._exchanges.values() if not e.replica_id]):
            self._drop(exchange, _gone(self._name))

    async def close(self) -> None:
        """Drop every link; whoever still waits for an answer is told that there will be none."""
        self._closed = True
        for exchange in reversed(list(self._exchanges.values())):  # the oldest last, or it would make place for others
            self._drop(exchange, _gone(self._name))
        await self._links.close()
        if self._timer is not None:
            self._timer.cancel()

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
            case messages.Welcome():
                self._welcomed(replica_id, message, now)
            case messages.ModelLoading(model_id, room, harm_s):
                self._perform(self._core.model_loading(replica_id, model_id, room, now, harm_s))
            case messages.ModelLoaded(model_id, room, load_s, harm_s):
                self._perform(self._core.model_loaded(replica_id, model_id, room, load_s, now, harm_s))
            case messages.ModelGone(model_id, room, harm_s):
                self._perform(self._core.model_gone(replica_id, model_id, room, now, harm_s))
            case messages.Ongoing(ongoing):
                self._perform(self._core.told_ongoing(replica_id, ongoing, now))
            case messages.Retiring():
                self._retire(replica_id)
            case _:
                link.close()

    def _welcomed(self, replica_id: str, welcome: messages.Welcome, now: float) -> None:
        commands = self._core.replica_up(
            replica_id,
            welcome.max_ongoing,
            welcome.room,
            welcome.loaded,
            welcome.loading,
            now,
            welcome.ongoing,
            loads_max=welcome.loads_max,
            harm_s=welcome.harm_s,
        )
        self._perform(commands)

    def lost(self, replica_id: str) -> None:
        """The link to a replica is gone, and so, most likely, is the replica."""
        for number, exchange in self._exchanges.items():
            if exchange.replica_id == replica_id and not exchange.upload.replayable:
                self._core.answered(number)
        self._perform(self._core.replica_down(replica_id, self._loop.time()))
        for exchange in self._exchanges.values():
            if exchange.replica_id == replica_id:
                exchange.replica_id = ""  # it has been placed in a line
        if self._closed:
            self._drop_waiting()

    def _received_for(self, exchange: Exchange, link: Link, message: Message, body: bytes) -> None:
        number = exchange.begin.stream
        match message:
            case Answer():
                self._core.answered(number)
                exchange.body = Incoming(lambda size: link.send(messages.Credit(number, size)))
                exchange.body.feed(body, more=message.more)
                exchange.load_s, exchange.head = message.load_s, message
                if not message.more:
                    self._finish(exchange, message.ongoing, message)
                exchange.answered()
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
            case messages.Refuse(ongoing=ongoing, no_room=no_room, holds=holds):
                exchange.replica_id = ""
                now = self._loop.time()
                self._perform(self._core.refused(number, ongoing, now, no_room=no_room, holds=holds))
                if self._closed:
                    self._drop_waiting()

    def _finish(self, exchange: Exchange, ongoing: int | None, answer: Answer | None = None) -> None:
        number = exchange.begin.stream
        self._forget(number)
        exchange.end_upload()
        harm_s, holds = (None, False) if answer is None else (answer.harm_s, answer.holds)
        now = self._loop.time()
        self._obey(self._core.finish(number, now, exchange.load_s, ongoing, harm_s, holds=holds))

    def _forget(self, number: int) -> None:
        del self._exchanges[number]
        if not self._exchanges:
            self._emptied.set()

    # What the core decides

    def _perform(self, commands: list[routing.Command]) -> None:
        self._obey(commands)
        self._set_timer()

    def _obey(self, commands: list[routing.Command]) -> None:
        for command in commands:
            match command:
                case routing.Send():
                    self._send(self._exchanges[command.number], command)
                case routing.Reject(number):
                    exchange = self._exchanges[number]
                    self._forget(number)
                    exchange.fail(_rejection(self._name, command, exchange.begin))
                case routing.Prefetch(replica_id, model_id):
                    if (link := self._links.get(replica_id)) is not None:
                        link.send(messages.Prefetch(model_id))

    def _send(self, exchange: Exchange, send: routing.Send) -> None:
        link, number = self._links.get(send.replica_id), exchange.begin.stream
        assert link is not None, "the core knows of no other replicas than those that are linked"
        exchange.replica_id = send.replica_id
        exchange.queued_s = time.perf_counter() - exchange.arrived
        part = exchange.upload.whole
        more = part is None
        if part is None:
            exchange.outgoing = Outgoing(lambda data, more: link.send(messages.Chunk(number, more), data))
            part, more = exchange.upload.begin(exchange.outgoing)
        if exchange.sent:
            exchange.begin = msgspec.structs.replace(exchange.begin)  # what was sent may still be on its way
        exchange.sent, begin = True, exchange.begin
        begin.more, begin.fits, begin.waited, begin.share = more, send.fits, send.waited, send.share
        if exchange.cold_deadline is not None:
            begin.max_cold_wait_s = max(0.0, exchange.cold_deadline - self._loop.time())
        link.send(begin, part)

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


def _gone(name: str) -> errors.ModelplexError:
    return errors.DeploymentUnavailableError(f"{name} is no longer served.")


def _rejection(name: str, reject: routing.Reject, begin: Begin) -> errors.ModelplexError:
    match reject.why:
        case routing.Why.COLD:
            return errors.too_cold(begin.model_id, reject.retry_after_s)
        case routing.Why.QUEUE_FULL:
            text = f"{name} has as many requests waiting as max_queued_requests allows."
            return errors.BackPressureError(text, retry_after_s=1.0)
        case routing.Why.DEADLINE:
            return errors.RequestTimeoutError(f"{name} did not begin to answer within the request's time.")
        case routing.Why.NO_REPLICA:
            return errors.DeploymentUnavailableError(f"{name} has no replica that runs.", retry_after_s=1.0)
        case routing.Why.REPLICA_LOST:
            return errors.ReplicaLostError(f"The replica of {name} died while it worked on the request.")
