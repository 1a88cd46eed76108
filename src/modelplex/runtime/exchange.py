"""One request of a router on its way, and its answer."""

import asyncio
import time
from collections.abc import Callable

import msgspec

from modelplex import errors, tracing
from modelplex.core.routing import Send
from modelplex.runtime.link import Link
from modelplex.runtime.meters import RouterMeters
from modelplex.runtime.spans import WaySpans
from modelplex.runtime.streams import Body, Outgoing, Upload
from modelplex.wire.messages import Answer, Begin, Chunk


class Exchange:
    """One request on its way, and its answer.

    Attributes:
        head: what a replica has begun to answer; the body of the answer is then read from `body`.
        error: why there is no answer.
        on_answer: called once there is one of the two.
        deadline, cold_deadline: when it is given up, and when it waits no longer for a cold model, by the event loop's
            clock.
        timer: goes off at the deadline.
        counts: of its router.
        spans: of its way, if it is traced.
        replica_id, link: where it was sent, and by which link; empty and None while it waits.
    """

    __slots__ = (
        "_future",
        "arrived",
        "begin",
        "body",
        "cold_deadline",
        "counts",
        "deadline",
        "error",
        "failure_body",
        "head",
        "link",
        "load_s",
        "loop",
        "on_answer",
        "outgoing",
        "queued_s",
        "replica_id",
        "sent",
        "spans",
        "timer",
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
        self.body: Body | None = None
        self.replica_id = ""
        self.link: Link | None = None
        self.arrived = time.perf_counter()
        self.queued_s = 0.0
        self.deadline: float | None = None
        self.cold_deadline: float | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.sent = False
        self.outgoing: Outgoing | None = None
        self.failure_body = b""
        self.load_s = 0.0
        self.counts: RouterMeters | None = None
        self.spans: WaySpans | None = None
        self._future: asyncio.Future[Answer] | None = None

    @property
    def answer(self) -> asyncio.Future[Answer]:
        """The head of the answer, to be awaited. Raises the error."""
        if self._future is None:
            self._future = self.loop.create_future()
            self._tell()
        return self._future

    def send(self, send: Send, link: Link) -> None:
        """Send the request, perhaps again, to the replica that it is to go to."""
        self.replica_id, self.link = send.replica_id, link
        self.queued_s = time.perf_counter() - self.arrived
        number, part = self.begin.stream, self.upload.whole
        more = part is None
        if part is None:
            self.outgoing = Outgoing(lambda data, more: link.send(Chunk(number, more), data))
            part, more = self.upload.begin(self.outgoing)
        if self.sent:
            if self.counts is not None:
                self.counts.resent += 1
            self.begin = msgspec.structs.replace(self.begin)  # what was sent may still be on its way
        self.sent, begin = True, self.begin
        begin.more, begin.fits, begin.waited, begin.share = more, send.fits, send.waited, send.share
        if self.cold_deadline is not None:
            begin.max_cold_wait_s = max(0.0, self.cold_deadline - self.loop.time())
        if self.deadline is not None:
            begin.timeout_s = max(0.0, self.deadline - self.loop.time())
        if self.spans is not None:
            self.spans.sent(begin, send)
        link.send(begin, part)

    def answered(self) -> None:
        """Tell who waits for the head of the answer that it is there."""
        if self._future is not None:
            self._tell()
        on_answer, self.on_answer = self.on_answer, None  # which often knows the exchange: a circle
        if on_answer is not None:
            on_answer(self)

    def fail(self, error: errors.ModelplexError) -> None:
        if self.spans is not None:
            self.spans.failed(error)
        self.end_upload()
        if self.body is not None:
            self.body.fail(error)
        elif self.error is None:
            self.error = error
            if self.counts is not None:
                self.counts.failures.add(type(error).__name__)
            self._tell()
            on_answer, self.on_answer = self.on_answer, None
            if on_answer is not None:
                self.loop.call_soon(on_answer, self)  # not now: others may have to be told of the same fault

    def refused(self) -> None:
        """The replica has not begun it."""
        self.replica_id, self.link = "", None
        if self.counts is not None:
            self.counts.refused += 1
        if self.spans is not None:
            self.spans.refused()

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
        if self.spans is not None:
            self.loop.call_soon(self.spans.ended)  # not now: that it has failed may still be said


class OpenExchanges(dict[int, Exchange]):
    """Those of a router that are not over, by the numbers of their requests.

    Args:
        meters: what is counted of them.
    """

    def __init__(self, meters: RouterMeters) -> None:
        super().__init__()
        self.meters = meters
        self._emptied = asyncio.Event()  # set when the last one has ended

    def add(self, exchange: Exchange) -> None:
        if tracing.active is not None:  # first: what makes spans may raise
            exchange.spans = WaySpans(tracing.active, exchange.begin, self.meters.deployment)
        self[exchange.begin.stream] = exchange
        exchange.counts = self.meters
        self._emptied.clear()

    def forget(self, number: int) -> None:
        """It is over, and so is its time."""
        timer = self.pop(number).timer
        if timer is not None:
            timer.cancel()
        if not self:
            self._emptied.set()

    async def ended(self) -> None:
        """Return when there are none."""
        if self:
            await self._emptied.wait()

    def has_any_on(self, link: Link) -> bool:
        """Whether any was sent by this link."""
        return any(exchange.link is link for exchange in self.values())

    def lose(self, replica_id: str) -> list[int]:
        """Those that were sent to the replica are on no link any more. Answers which cannot be sent again."""
        lost = [exchange for exchange in self.values() if exchange.replica_id == replica_id]
        for exchange in lost:
            exchange.replica_id, exchange.link = "", None
        return [exchange.begin.stream for exchange in lost if not exchange.upload.replayable]
