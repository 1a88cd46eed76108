"""One request that runs on a replica, from its `Begin` to the last byte of its answer."""

import asyncio
import contextlib
import logging
import time
import types
from collections.abc import Callable
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.websockets import WebSocketDisconnect

from modelplex import context, errors, tracing
from modelplex.context import RequestContext
from modelplex.core.cache import Start
from modelplex.observe.decisions import Decisions
from modelplex.observe.logs import ACCESS_LOGGER, FrequentLine
from modelplex.runtime import asgi, payload, steering
from modelplex.runtime.answers import Headers, encode
from modelplex.runtime.doors import DoorRequest, Doors
from modelplex.runtime.link import Link
from modelplex.runtime.meters import RequestMeters
from modelplex.runtime.model_hosts import ModelHosts
from modelplex.runtime.naming import CALL
from modelplex.runtime.servable import Servable
from modelplex.runtime.spans import RequestSpans
from modelplex.runtime.streams import Incoming, Outgoing
from modelplex.runtime.watchers import Watchers
from modelplex.wire import framing, messages
from modelplex.wire.framing import CHUNK_BYTES
from modelplex.wire.grpc_body import GRPCHead
from modelplex.wire.messages import Answer, Begin, Fail

log = logging.getLogger(__name__)
_access_log = logging.getLogger(ACCESS_LOGGER)
_log_start = FrequentLine(_access_log)
_log_end = FrequentLine(_access_log)

_NOTHING = object()
_GENERATORS = (types.GeneratorType, types.AsyncGeneratorType)

# Of what went wrong, in letters: it travels in a message's head, which has a bound, and clients choose parts of it.
FAILURE_TEXT_MAX = 4_000

_NO_GENERATOR = "no generator: call it without stream=True"

# What apps raise that are told that their client has left.
_LEFT = (OSError, ClientDisconnect, WebSocketDisconnect)


class Host(Protocol):
    """The replica, as far as one of its requests needs it."""

    servable: Servable
    watchers: Watchers
    models: ModelHosts
    meters: RequestMeters
    decisions: Decisions
    doors: Doors

    @property
    def scope(self) -> context.ReplicaScope: ...

    @property
    def ongoing(self) -> int:
        """How many requests run on the replica."""

    def finished(self, serving: "Serving", *, answered: bool) -> None:
        """The request no longer needs its slot. If it was answered, its answer tells its own router so."""

    def over(self, serving: "Serving") -> None:
        """The request's code has ended; nothing more comes of it."""


class Serving:
    """Runs the user's code for one request and sends its answer.

    Bodies of one part travel with the request and with the answer; longer ones have `Incoming` and `Outgoing`.
    """

    __slots__ = (
        "_app",
        "_begin",
        "_context",
        "_ended",
        "_host",
        "_outgoing",
        "_running",
        "answered",
        "began",
        "body",
        "incoming",
        "link",
        "model_id",
        "slotless",
        "stream",
    )

    def __init__(self, begin: Begin, body: bytes, link: Link, host: Host) -> None:
        self._begin = begin
        self.stream = begin.stream
        self.slotless = begin.slotless
        self.model_id = begin.model_id
        self.link = link
        self._host = host
        self.body = body
        self.incoming: Incoming | None = None
        self._outgoing: Outgoing | None = None
        if begin.more:
            self.incoming = Incoming(lambda size: link.send(messages.Credit(begin.stream, size)))
            self.incoming.feed(body, more=True)
        self._context = RequestContext(
            begin.request_id,
            begin.app_name,
            begin.route,
            begin.method_name,
            begin.model_id,
            waited=begin.waited,
            share=begin.share,
            tenant=begin.tenant,
        )
        if begin.max_cold_wait_s is not None:
            self._context.cold_deadline = asyncio.get_running_loop().time() + begin.max_cold_wait_s
        if begin.timeout_s is not None:
            self._context.deadline = asyncio.get_running_loop().time() + begin.timeout_s
        self.began = time.perf_counter()
        self._running = False
        self.answered = False
        self._app: asgi.Conversation | None = None
        self._ended = False

    def feed(self, data: bytes, *, more: bool) -> None:
        """A further part of the request's body has come."""
        if self.incoming is not None:
            self.incoming.feed(data, more=more)

    def credit(self, size_bytes: int) -> None:
        """So much more of the answer's body may be sent."""
        if self._outgoing is not None:
            self._outgoing.credit(size_bytes)

    def cancel(self, task: "asyncio.Task[None]") -> None:
        """Nobody wants the answer any more. `task` is what `run` runs in."""
        if self._outgoing is not None:
            self._outgoing.close()
        if self._app is None or not self._app.leave(task.cancel):
            task.cancel()
        if not self._running:  # nor will it
            self._over(ok=False)

    async def run(self) -> None:
        """Never raises but for cancellation: whatever the user's code does becomes an answer."""
        self._running = True
        context.set_request(self._context)
        context.set_replica(self._host.scope)
        _log_start(f"Started executing request {self._begin.request_id}")
        outcome, traced = "ERROR", None
        try:
            if tracing.active is not None:
                traced = RequestSpans(tracing.active, self._begin, self._host.scope.context, self.began)
            await (self._call() if self._begin.http is None else self._answer_http(self._begin.http))
            outcome = "OK" if self._app is None or not self._app.is_cancelled else "CANCELLED"
        except (asyncio.CancelledError, GeneratorExit) as error:
            if _is_cancelled(error):
                outcome = "CANCELLED"
                raise
            self._fail_user_code(error)  # the user's code has cancelled something of its own
        except errors.ModelplexError as error:
            log.warning("Request %s failed: %s", self._begin.request_id, str(error)[:FAILURE_TEXT_MAX])
            self._fail(error, type(error).__name__, str(error), error.retry_after_s)
        except BaseException as error:  # noqa: BLE001 - the user's code may raise anything: SystemExit, pytest.fail
            self._fail_user_code(error)
        finally:
            elapsed_ms = (time.perf_counter() - self.began) * 1e3
            _log_end(f"{self._begin.method_name.removeprefix('-/').upper()} {outcome} {elapsed_ms:.1f}ms")
            self._over(ok=outcome == "OK")
            if traced is not None:
                traced.ended(outcome, self._context)

    def _over(self, *, ok: bool) -> None:
        self.end(answered=False, ok=ok)
        self._host.over(self)

    def end(self, *, answered: bool = True, ok: bool = True) -> None:
        """Give back models and slot, once; before the end of the answer is sent, so that its reader finds them free."""
        if not self._ended:
            self._ended = True
            host, begin, request = self._host, self._begin, self._context
            at, run_s = time.time(), time.perf_counter() - self.began
            host.meters.ended(begin, request, at, run_s, ok=ok, answered=answered)
            if host.watchers:
                host.watchers.tell(_record(begin, request, at, run_s, host, ok=ok))
            host.decisions.ended(begin, request, at, run_s, ok=ok)
            request.end()
            host.finished(self, answered=answered)

    async def _call(self) -> None:
        if self._begin.grpc is not None:
            await _answer_grpc(self, self._host, self._begin.grpc)
            return
        args, kwargs = payload.loads(await self._whole_body())
        name = self._begin.method_name
        if name.startswith(steering.STEERING):
            value = await steering.perform(self._host.models, name, args)
        else:
            value = await self._host.servable.call(name, *args, **kwargs)
        is_generator = isinstance(value, _GENERATORS)
        if is_generator != self._begin.streams:
            how = "a generator: call it by handle.options(stream=True)" if is_generator else _NO_GENERATOR
            raise TypeError(f"{name} is {how}.")
        if is_generator:
            await self._stream(value, [], lambda part: framing.part(payload.dumps(part)))
            return
        data = payload.dumps(value)
        self.end()
        await self.answer(200, [], data)

    async def _answer_http(self, head: messages.HTTPHead) -> None:
        servable, door = self._host.servable, self._begin.method_name
        if door != CALL and head.scheme not in asgi.WEBSOCKET_SCHEMES:
            answered = await self._host.doors.answer(door, DoorRequest(head, self.model_id, self._whole_body))
            if answered is not None:
                self.end()
                await self.answer(*answered)
                return
        if servable.app is not None:
            await self._serve_app(servable.app, head)
            return
        if head.scheme in asgi.WEBSOCKET_SCHEMES:
            self.end()
            await self.answer(400, asgi.TEXT, asgi.NO_WEBSOCKET)
            return
        scope, conversation = asgi.http_scope(head), asgi.HTTPConversation(self)
        value = await servable.call_http(Request(scope, conversation.receive))
        if isinstance(value, Response):
            await _respond(value, scope, conversation)
        elif isinstance(value, _GENERATORS):
            await self._stream(value, [(b"content-type", b"text/plain; charset=utf-8")], lambda part: encode(part)[1])
        else:
            headers, body = encode(value)
            self.end()
            await self.answer(200, [*headers, (b"content-length", b"%d" % len(body))], body)

    async def _whole_body(self) -> bytes:
        return self.body if self.incoming is None else await self.incoming.read_all()

    async def _serve_app(self, app: asgi.App, head: messages.HTTPHead) -> None:
        if head.scheme in asgi.WEBSOCKET_SCHEMES:
            scope = asgi.websocket_scope(head)
            self._app = asgi.WebSocketConversation(self)
        else:
            scope = asgi.http_scope(head)
            self._app = asgi.HTTPConversation(self)
        try:
            await _converse(app, scope, self._app)
        finally:
            self._app.over()

    async def answer(self, status: int, headers: Headers, body: bytes, *, more: bool = False) -> None:
        """The head of the answer and the first, or only, part of its body."""
        part, rest = body, memoryview(b"")
        if more or len(body) > CHUNK_BYTES:
            part = self._out.first(body)
            rest = memoryview(body)[len(part) :]
        self.answered = True
        models = self._host.models
        self.link.send(
            Answer(
                stream=self.stream,
                status=status,
                headers=headers,
                start=self._context.start,
                load_s=self._context.load_s,
                run_s=time.perf_counter() - self.began - self._context.load_s,
                more=more or len(rest) > 0,
                ongoing=self._host.ongoing,
                harm_s=models.harm_s,
                holds=models.holds(self.model_id),
            ),
            part,
        )
        if len(rest):
            await self.write(rest, last=not more)

    async def _stream(self, generator: Any, headers: Headers, encode_part: Callable[[Any], bytes]) -> None:
        async with contextlib.aclosing(self._host.servable.parts(generator)) as parts:
            # What fails before the first part can still be told by the status.
            first = await anext(parts, _NOTHING)
            await self.answer(200, headers, b"" if first is _NOTHING else encode_part(first), more=True)
            async for part in parts:
                await self.write(encode_part(part))
        self.end(answered=False)  # the last chunk of an answer does not tell
        await self.write(b"", last=True)

    async def write(self, data: bytes | memoryview, *, last: bool = False) -> None:
        """Go on with the answer, as fast as the client takes it."""
        await self._out.write(data, last=last)

    @property
    def _out(self) -> Outgoing:
        if self._outgoing is None:
            link, stream = self.link, self.stream
            self._outgoing = Outgoing(lambda data, more: link.send(messages.Chunk(stream, more), data))
        return self._outgoing

    def _fail_user_code(self, error: BaseException) -> None:
        words = _words(error)
        log.error("Request %s failed: %s", self._begin.request_id, words, exc_info=error)
        self._fail(error, errors.UserCodeError.__name__, words, None)

    def _fail(self, error: BaseException, name: str, message: str, retry_after_s: float | None) -> None:
        self.end(ok=False)
        if tracing.active is not None:
            tracing.active.failed(error)
        # A caller gets the exception itself, but none that would end or cancel it.
        travels = self._begin.http is None and self._begin.grpc is None and isinstance(error, Exception)
        data = payload.dumps_exception(error) if travels else b""
        data = data if len(data) <= CHUNK_BYTES else b""
        # An exception's text may have lone surrogates.
        text = message[:FAILURE_TEXT_MAX].encode("utf-8", "backslashreplace").decode()
        self.link.send(Fail(self.stream, name, text, retry_after_s, self._host.ongoing), data)


async def _converse(app: asgi.App, scope: asgi.Scope, conversation: asgi.Conversation) -> None:
    try:
        await app(scope, conversation.receive, conversation.send)
    except _LEFT:
        if not conversation.is_left:
            raise
    await conversation.finish()


async def _respond(response: Response, scope: asgi.Scope, conversation: asgi.HTTPConversation) -> None:
    conversation.frees = response.background is None
    try:
        await response(scope, conversation.receive, conversation.send)
    finally:
        if isinstance(response, StreamingResponse) and isinstance(response.body_iterator, types.AsyncGeneratorType):
            await response.body_iterator.aclose()  # or Python would, some time after the models are given back


async def _answer_grpc(serving: Serving, host: Host, head: GRPCHead) -> None:
    from modelplex.runtime import grpc_methods  # which needs what only who serves gRPC has

    await grpc_methods.answer(serving, host, head, serving.model_id)


def _is_cancelled(error: BaseException) -> bool:
    """Whether the request itself is cancelled, or closed with its loop; else the user's code has raised this."""
    if isinstance(error, GeneratorExit):
        return True
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _words(error: BaseException) -> str:
    try:
        return repr(error)[:FAILURE_TEXT_MAX]
    except Exception:  # noqa: BLE001 - the user's class may raise anything here, too
        return type(error).__name__


def _record(begin: Begin, request: RequestContext, at: float, run_s: float, host: Host, *, ok: bool) -> messages.Record:
    """What those who watch are told of a request that ends; made while it still holds its models."""
    arrived_at = begin.arrived_at
    size_bytes, load_s = host.models.measured(request.model_id) or (0, 0.0)
    return messages.Record(
        arrived_at=arrived_at,
        model_id=request.model_id,
        start=request.start,
        queue_s=max(0.0, at - run_s - arrived_at),
        load_s=load_s if request.start == Start.COLD.value and load_s else request.load_s,
        # Models that were waited for side by side make up more than the time that passed.
        service_s=max(0.0, run_s - request.load_s),
        size_bytes=size_bytes or None,
        ok=ok,
    )
