"""Sends requests to the replicas of one deployment: the shell round `core.routing`."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

import msgspec

from modelplex import config, errors
from modelplex.core import routing
from modelplex.core.estimates import Estimates
from modelplex.core.tenants import EVERYONE_ELSE
from modelplex.observe.decisions import Decisions
from modelplex.runtime.exchange import Exchange as Exchange
from modelplex.runtime.exchange import OpenExchanges
from modelplex.runtime.link import Connect, Link
from modelplex.runtime.meters import RouterMeters
from modelplex.runtime.own_router import OwnChoice
from modelplex.runtime.replica_links import ReplicaLinks
from modelplex.runtime.router_notes import RouterNotes
from modelplex.runtime.streams import Incoming, Upload, WholeBody
from modelplex.runtime.tick_timer import TickTimer
from modelplex.wire import messages
from modelplex.wire.messages import Answer, Begin, DeploymentInfo, Fail, Message

log = logging.getLogger(__name__)


class DeploymentRouter:
    """Routes requests of this process to one deployment.

    Args:
        info: the deployment. `follow` has it obey its options and use its replicas.
        connect: opens links to replicas.
        machine: the machine that this process is on; empty if it has no name.
        decisions: where it is noted what is decided.
    """

    def __init__(
        self, info: DeploymentInfo, connect: Connect, machine: str = "", decisions: Decisions | None = None
    ) -> None:
        self._name = f"{info.app_name}_{info.name}"
        self._info, self._loop = info, asyncio.get_running_loop()
        estimates = Estimates(load_s=config.EXPECTED_LOAD_S, service_s=config.EXPECTED_SERVICE_S)
        self._core = routing.Router(info.max_queued_requests, config.NO_REPLICA_WAIT_S, estimates, machine)
        self.meters = RouterMeters(info.app_name, info.name)
        self._exchanges = OpenExchanges(self.meters)
        self._notes = RouterNotes(decisions or Decisions(), self._name, self._exchanges)
        self._core.tell(self._notes)
        self._links = ReplicaLinks(connect, self)
        self._own_choice = OwnChoice(lambda number: self._exchanges[number].begin)
        self._timer, self._closed = TickTimer(lambda: self._core.next_tick, self._tick), False
        self.on_wait: Callable[[], None] = lambda: None

    @property
    def waiting(self) -> int:
        """Requests that have not been sent yet."""
        return self._core.queued

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

        After `timeout_s` the exchange fails, and the request is cancelled where it runs. `on_answer` is called when the
        exchange has an answer, or an error; never before this has returned.
        """
        begin.stream = number = self._core.number()
        begin.arrived_at, now = time.time(), self._loop.time()
        exchange = Exchange(begin, upload, self._loop, on_answer)
        if self._closed:
            exchange.fail(_gone(self._name))
            return exchange
        self._add(exchange, now, timeout_s)
        if begin.max_cold_wait_s is not None:
            exchange.cold_deadline = now + begin.max_cold_wait_s
        until, cold_until = exchange.deadline, exchange.cold_deadline
        commands = self._core.submit(number, begin.model_id, now, until, cold_until, begin.tenant)
        self._obey(commands)
        if not commands:
            self._timer.set()
            self.on_wait()
        return exchange

    def broadcast(self, begin: Begin, data: bytes, timeout_s: float | None = None) -> list[Exchange]:
        """Send a request to each replica that is linked, whatever runs there."""
        if self._closed:
            raise _gone(self._name)
        now, exchanges = self._loop.time(), []
        for send in self._core.broadcast(begin.model_id, now):
            begin = msgspec.structs.replace(begin, stream=send.number, arrived_at=time.time(), slotless=True)
            exchange = Exchange(begin, Upload(data, more=False), self._loop)
            self._add(exchange, now, timeout_s)
            self._obey([send])
            exchanges.append(exchange)
        return exchanges

    def _add(self, exchange: Exchange, now: float, timeout_s: float | None) -> None:
        self._exchanges.add(exchange)
        exchange.deadline = None if timeout_s is None else now + timeout_s

    def cancel(self, exchange: Exchange) -> None:
        """The caller has gone away, or has what it wants. Nothing happens if the exchange is over."""
        if exchange.begin.stream in self._exchanges:  # seldom: an error costs as much as a decision
            self._drop(exchange, errors.RequestCancelledError(f"The request to {self._name} was cancelled."))

    def _drop(self, exchange: Exchange, error: errors.ModelplexError) -> None:
        if (number := exchange.begin.stream) not in self._exchanges:
            return
        self._exchanges.forget(number)
        self._notes.dropped(exchange, error)
        exchange.fail(error)
        if (link := self._links.get(exchange.replica_id)) is not None:
            link.send(messages.Cancel(number))
        self._perform(self._core.cancel(number, self._loop.time()))

    # The deployment

    def follow(self, info: DeploymentInfo) -> None:
        """These are the deployment's options and replicas from now on."""
        self._info = info
        self._core.change(*_options(info), retries_lost=info.retry_lost_requests, tenants=info.tenants)
        if self._own_choice.changes(info):
            self._perform(self._core.use(self._own_choice.made(info), self._loop.time()))
        self.update(info.replicas)

    def update(self, replicas: Iterable[messages.ReplicaInfo]) -> None:
        for replica_id in self._links.update(replicas):
            self._retire(replica_id)

    async def drain(self) -> None:
        """The deployment is no more: who waits is told, what runs may end. Then `close`."""
        self._closed = True
        self.update(())
        self._drop_waiting()
        await self._exchanges.ended()
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
        self._timer.cancel()

    def _retire(self, replica_id: str) -> None:
        if replica_id in self._core.replica_ids:
            self._perform(self._core.replica_retiring(replica_id, self._loop.time()))

    # What replicas say

    def received(self, replica_id: str, link: Link, message: Message, body: bytes) -> None:
        match message:
            case Answer() | messages.Chunk() | Fail() | messages.Credit() | messages.Refuse():
                exchange = self._exchanges.get(message.stream)
                if exchange is not None and exchange.link is link:
                    self._received_for(exchange, link, message, body)
            case messages.Retiring():
                self._retire(replica_id)
            case messages.Welcome():
                self._welcomed(replica_id, link, message)
            case _:
                commands = _news(self._core, replica_id, message, self._loop.time())
                if commands is None:
                    link.close()
                else:
                    self._perform(commands)

    def lost(self, replica_id: str) -> None:
        """The link to a replica is gone, and so, most likely, is the replica."""
        self._notes.lost(replica_id)
        for number in self._exchanges.lose(replica_id):
            self._core.answered(number)
        self._perform(self._core.replica_down(replica_id, self._loop.time()))
        if self._closed:
            self._drop_waiting()

    def _welcomed(self, replica_id: str, link: Link, welcome: messages.Welcome) -> None:
        """A replica is there. If something runs there by another link, that one is gone without a word."""
        same_link = self._exchanges.has_any_on(link)
        for number in () if same_link else self._exchanges.lose(replica_id):
            self._core.answered(number)
        machine, now = self._links.machine_of(replica_id), self._loop.time()
        self._perform(_up(self._core, replica_id, machine, welcome, now, same_link=same_link))
        if self._closed:
            self._drop_waiting()

    def is_idle(self, replica_id: str) -> bool:
        return all(exchange.replica_id != replica_id for exchange in self._exchanges.values())

    def _received_for(self, exchange: Exchange, link: Link, message: Message, body: bytes) -> None:
        number = exchange.begin.stream
        match message:
            case Answer():
                self._core.answered(number)
                exchange.load_s, exchange.head = message.load_s, message
                exchange.body = _begun(link, number, body) if message.more else WholeBody(body)
                if not message.more:
                    self._finish(exchange, message.ongoing, message)
                exchange.answered()
            case messages.Chunk(more=more) if isinstance(exchange.body, Incoming):
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
                self._notes.refused(exchange, message)
                exchange.refused()
                self._perform(self._core.refused(number, ongoing, self._loop.time(), no_room=no_room, holds=holds))
                if self._closed:
                    self._drop_waiting()

    def _finish(self, exchange: Exchange, ongoing: int | None, answer: Answer | None = None) -> None:
        number = exchange.begin.stream
        self._exchanges.forget(number)
        exchange.end_upload()
        harm_s, holds = (None, False) if answer is None else (answer.harm_s, answer.holds)
        self._obey(self._core.finish(number, self._loop.time(), exchange.load_s, ongoing, harm_s, holds=holds))
        if self._own_choice.in_use:
            self._timer.set()  # others may have come to wait for something else

    # What the core decides

    def _perform(self, commands: list[routing.Command]) -> None:
        self._obey(commands)
        self._timer.set()

    def _obey(self, commands: list[routing.Command]) -> None:
        for command in commands:
            match command:
                case routing.Send():  # whose attributes are not bound here: that takes 0.2 us
                    link = self._links.get(command.replica_id)
                    assert link is not None, "the core knows of no other replicas than those that are linked"
                    exchange = self._exchanges[command.number]
                    self._notes.sent(exchange, command)
                    exchange.send(command, link)
                    if exchange.deadline is not None and exchange.timer is None:  # until now the core looked after it
                        error = _too_late(self._name)
                        exchange.timer = self._loop.call_at(exchange.deadline, self._drop, exchange, error)
                case routing.Reject(number):
                    exchange = self._exchanges[number]
                    self._exchanges.forget(number)
                    self._notes.rejected(exchange, command)
                    exchange.fail(_rejection(self._info, command, exchange.begin))
                case routing.Prefetch(replica_id, model_id, worth_s, share, tenant):
                    self._notes.prefetches(command)
                    # Nothing is loaded ahead by a router whose links are dropped because it ends.
                    if not self._closed and (link := self._links.get(replica_id)) is not None:
                        link.send(messages.Prefetch(model_id, worth_s, share, tenant))

    def _tick(self) -> None:
        self._perform(self._core.tick(self._loop.time()))


def _begun(link: Link, number: int, data: bytes) -> Incoming:
    """The body of an answer whose rest will come by the same link."""
    body = Incoming(lambda size: link.send(messages.Credit(number, size)))
    body.feed(data, more=True)
    return body


def _options(info: DeploymentInfo) -> tuple[int, float]:
    return info.max_queued_requests, info.no_replica_wait_s


def _up(
    core: routing.Router, replica_id: str, machine: str, welcome: messages.Welcome, now: float, *, same_link: bool
) -> list[routing.Command]:
    """Tell the core what a replica is, and what it holds."""
    return core.replica_up(
        replica_id,
        welcome.max_ongoing,
        welcome.room,
        welcome.loaded,
        welcome.loading,
        now,
        welcome.ongoing,
        loads_max=welcome.loads_max,
        harm_s=welcome.harm_s,
        machine=machine,
        on_disk=welcome.on_disk,
        same_link=same_link,
    )


def _news(core: routing.Router, replica_id: str, message: Message, now: float) -> list[routing.Command] | None:
    """Tell the core what a replica has said of itself. None if that is nothing that a replica says."""
    match message:
        case messages.ModelLoading(model_id, room, harm_s):
            return core.model_loading(replica_id, model_id, room, now, harm_s)
        case messages.ModelLoaded(model_id, room, load_s, harm_s, fetch_s):
            return core.model_loaded(replica_id, model_id, room, load_s, now, harm_s, fetch_s)
        case messages.ModelGone(model_id, room, harm_s):
            return core.model_gone(replica_id, model_id, room, now, harm_s)
        case messages.Ongoing(ongoing):
            return core.told_ongoing(replica_id, ongoing, now)
    return None


def _gone(name: str) -> errors.ModelplexError:
    return errors.DeploymentUnavailableError(f"{name} is no longer served.")


def _too_late(name: str) -> errors.ModelplexError:
    return errors.RequestTimeoutError(f"{name} did not answer within the request's time.")


def _rejection(info: DeploymentInfo, reject: routing.Reject, begin: Begin) -> errors.ModelplexError:
    name = f"{info.app_name}_{info.name}"
    match reject.why:
        case routing.Why.COLD:
            return errors.too_cold(begin.model_id, reject.retry_after_s)
        case routing.Why.QUEUE_FULL:
            whose = f" of tenant {begin.tenant or EVERYONE_ELSE!r}" if info.tenants else ""
            text = f"{name} has as many requests{whose} waiting as max_queued_requests allows."
            kind = errors.TooManyRequestsError if info.backpressure_status == 429 else errors.BackPressureError
            return kind(text, retry_after_s=info.backpressure_retry_after_s)
        case routing.Why.DEADLINE:
            return _too_late(name)
        case routing.Why.NO_REPLICA:
            return errors.DeploymentUnavailableError(f"{name} has no replica that runs.", retry_after_s=1.0)
        case routing.Why.REPLICA_LOST:
            return errors.ReplicaLostError(f"The replica of {name} died while it worked on the request.")
