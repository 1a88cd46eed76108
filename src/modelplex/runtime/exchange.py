"""One request of a router on its way, and its answer."""

import asyncio
import time
from collections.abc import Callable

import msgspec

from modelplex import errors
from modelplex.core.routing import Send
from modelplex.runtime.link import Link
from modelplex.runtime.streams import Incoming, Outgoing, Upload
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
    """

    __slots__ = (
        "_future",
        "arrived",
        "begin",
        "body",
        "cold_deadline",
        "deadline",
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
        self.body: Incoming | None = None
        self.replica_id = ""
        self.arrived = time.perf_counter()
        self.queued_s = 0.0
        self.deadline: float | None = None
        self.cold_deadline: float | None = None
        self.timer: asyncio.TimerHandle | None = None
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

    def send(self, send: Send, link: Link) -> None:
        """Send the request, perhaps again, to the replica that it is to go to."""
        self.replica_id = send.replica_id
        self.queued_s = time.perf_counter() - self.arrived
        number, part = self.begin.stream, self.upload.whole
        more = part is None
        if part is None:
            self.outgoing = Outgoing(lambda data, more: link.send(Chunk(number, more), data))
            part, more = self.upload.begin(self.outgoing)
        if self.sent:
            self.begin = msgspec.structs.replace(self.begin)  # what was sent may still be on its way
        self.sent, begin = True, self.begin
        begin.more, begin.fits, begin.waited, begin.share = more, send.fits, send.waited, send.share
        if self.cold_deadline is not None:
            begin.max_cold_wait_s = max(0.0, self.cold_deadline - self.loop.time())
        if self.deadline is not None:
            begin.timeout_s = max(0.0, self.deadline - self.loop.time())
        link.send(begin, part)

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
