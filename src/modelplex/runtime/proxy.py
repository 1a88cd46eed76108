"""HTTP in, requests of deployments out: what every client meets."""

import asyncio
import json
import logging
import re
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from modelplex import errors, tracing
from modelplex.config import HTTPOptions
from modelplex.handle import new_request_id
from modelplex.runtime import spans
from modelplex.runtime.access import Gate
from modelplex.runtime.answers import Headers
from modelplex.runtime.directory import Directory
from modelplex.runtime.heads import JSON, REQUEST_ID_HEADER, header_lines, headers_in, http_head, seconds, told_failure
from modelplex.runtime.held_bodies import HELD_BYTES_MAX, HeldBodies
from modelplex.runtime.http_connection import HTTPExchange
from modelplex.runtime.http_meters import HTTPMeters
from modelplex.runtime.naming import CALL, INFER, MODELS, OPENAI, SECOND, V2_LIVE, Named, Naming
from modelplex.runtime.router import DeploymentRouter, Exchange
from modelplex.runtime.streams import Body, Upload
from modelplex.runtime.upgrades import OpenSocket, close_failed, websocket_of
from modelplex.wire.messages import Answer, AppInfo, Begin

if TYPE_CHECKING:
    from modelplex.runtime.http_websocket import WebSocket

log = logging.getLogger(__name__)

MAX_COLD_WAIT_HEADER = b"x-modelplex-max-cold-wait"
TIMEOUT_HEADER = b"x-request-timeout-seconds"
LENGTH_HEADER = b"content-length"
UPGRADE_HEADER = b"upgrade"

# The headers that are read here, besides those that name models.
_NAMES = {
    name: name for name in (REQUEST_ID_HEADER, MAX_COLD_WAIT_HEADER, TIMEOUT_HEADER, LENGTH_HEADER, UPGRADE_HEADER)
}


HEALTH_PAGE = "/-/healthz"  # load balancers have no key

# A client's own request id is kept if it can stand in a header and a log line as it is.
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class Proxy:
    """Serves the applications of a directory.

    Args:
        directory: where the routes and the routers are.
        options: limits and time-outs.
        gate: decides which requests are taken; all are unless given.
        meters: what is counted.

    Attributes:
        naming: how requests name their models.
    """

    def __init__(
        self,
        directory: Directory,
        options: HTTPOptions,
        gate: Gate | None = None,
        meters: HTTPMeters | None = None,
    ) -> None:
        self._directory = directory
        self.loop = directory.loop
        self.options = options
        self.gate = gate
        self.naming = Naming(options.model_id_from, _NAMES)
        self.held = HeldBodies()
        self._meters = meters or HTTPMeters()

    def __call__(self, http: HTTPExchange) -> None:
        """Answer a request, now or later."""
        request = _Request(http, self)
        self._meters.begun(http)
        try:
            if http.path.startswith("/-/"):
                if self.gate is not None and http.path != HEALTH_PAGE:
                    self.gate.check_http(http.headers)
                request.respond(*self._own_page(http.path))
            else:
                app = self._match(http)
                http.app_name = app.name
                if tracing.active is not None:
                    spans.of_http(tracing.active, http, app)
                request.begin(app, self._directory.router(app.name, app.ingress))
        except errors.ModelplexError as error:
            request.fail(error)

    def _own_page(self, path: str) -> tuple[int, Headers, bytes]:
        if path == HEALTH_PAGE:
            return 200, [(b"content-type", b"text/plain")], b"success"
        if path == "/-/routes":
            routes = {app.route_prefix: app.name for app in self._directory.apps if app.route_prefix}
            return 200, JSON, json.dumps(routes).encode()
        raise errors.RouteNotFoundError(f"There is no page {path!r}; there are /-/healthz and /-/routes.")

    def _match(self, http: HTTPExchange) -> AppInfo:
        """The application with the longest prefix of the path."""
        path = f"{http.path}/"
        for prefix, app in self._directory.routes:
            if path.startswith(prefix):
                return app
        if self.gate is not None:
            self.gate.check_http(http.headers)  # before anybody hears which routes there are
        prefixes = ", ".join(sorted(str(app.route_prefix) for _, app in self._directory.routes)) or "none"
        raise errors.RouteNotFoundError(f"Nothing is served under this path. The routes are: {prefixes}.")


class _Request:
    """One HTTP request and its answer.

    An ordinary one needs no task: its answer calls back when it comes. A body in several parts has a task of its own.
    """

    __slots__ = (
        "_body_bytes",
        "_door",
        "_ended",
        "_exchange",
        "_gate",
        "_hears",
        "_held",
        "_http",
        "_loop",
        "_naming",
        "_open",
        "_options",
        "_request_id",
        "_router",
        "_socket",
        "_started",
        "_tasks",
        "_told",
    )

    def __init__(self, http: HTTPExchange, proxy: Proxy) -> None:
        self._http = http
        self._options, self._gate, self._held = proxy.options, proxy.gate, proxy.held
        self._naming, self._loop = proxy.naming, proxy.loop
        self._told: dict[bytes, bytes] = {}  # the headers that are read here; of several of one name, the first
        names, told = self._naming.headers, self._told
        for name, value in http.headers:
            if (known := names.get(name)) is not None and told.setdefault(known, value) != value and known in MODELS:
                told[SECOND] = value
        given = self._told.get(REQUEST_ID_HEADER)
        self._request_id = given.decode() if given and _REQUEST_ID.fullmatch(given) else new_request_id()
        self._router: DeploymentRouter | None = None
        self._exchange: Exchange | None = None
        self._socket: WebSocket | None = None
        self._open: OpenSocket | None = None  # the same, when the app has accepted it
        self._tasks: list[asyncio.Task[None]] = []
        self._hears = False  # the client, who is to send more of the body
        self._door = CALL  # whose clients are told of failures
        self._started = False
        self._ended = False
        self._body_bytes = 0

    def begin(self, app: AppInfo, router: DeploymentRouter) -> None:
        """Pass the request on, and its answer back when it comes. Raises what can be told at once."""
        self._door = INFER if app.protocols else CALL
        try:
            named = self._naming.of(self._http, self._told, app)
            _, _, field, page = named
            if (field or page) and named.is_openai:
                self._door = OPENAI
            length = self._told.get(LENGTH_HEADER)
            if length is not None and length.isdigit() and int(length) > self._options.max_body_bytes:
                raise self._too_large()
            self._count(self._http.body)
        except errors.ModelplexError:
            _check(self._gate, self._http)  # who has no key hears of nothing else
            raise
        if field or page:
            _check(self._gate, self._http)  # before anything is kept of its body, or answered here
        if page == V2_LIVE and named.door == INFER and self._http.method in ("GET", "HEAD"):
            self.respond(200, JSON, b'{"live":true}')
        elif field:
            self._http.on_lost = self._end
            self._start(self._read_names(app, router, named))
        else:
            self._route(app, router, named)

    async def _read_names(self, app: AppInfo, router: DeploymentRouter, named: Named) -> None:
        """Have the whole body, which may name the model, before the request goes on."""
        rest_s = await self._hold(self._timeout_s(), self._options.max_body_bytes + 1)
        self._route(app, router, self._naming.with_body(named, self._http.body), rest_s)

    async def _hold(self, timeout_s: float | None, size_bytes: int = HELD_BYTES_MAX) -> float | None:
        """Keep the body until it is whole, or so much of it is there; answers what is left of the time."""
        self._hears = True
        rest_s = await self._held.hold(self._http, timeout_s, size_bytes)
        self._hears, self._body_bytes = False, 0
        self._count(self._http.body)
        return rest_s

    def _timeout_s(self) -> float | None:
        if TIMEOUT_HEADER not in self._told:
            return self._options.request_timeout_s
        return seconds(TIMEOUT_HEADER, self._told, above_0=True)

    def _route(self, app: AppInfo, router: DeploymentRouter, named: Named, rest_s: float | None = None) -> None:
        """Send it on; it has so much of its time left, or all."""
        http = self._http
        tenant = "" if self._gate is None else self._gate.admit_http(http.headers, app.name, named.model_id)
        if (upgrade := self._told.get(UPGRADE_HEADER)) is not None:
            asked_for = websocket_of(http, upgrade)
            if isinstance(asked_for, tuple):
                self.respond(*asked_for)
                return
            self._socket = asked_for
        begin = Begin(
            stream=0,
            request_id=self._request_id,
            app_name=app.name,
            route=app.route_prefix or "/",
            method_name=named.door,
            model_id=named.model_id,
            more=False,
            http=http_head(http, app, self._options.root_path, is_websocket=self._socket is not None),
            max_cold_wait_s=seconds(MAX_COLD_WAIT_HEADER, self._told) if MAX_COLD_WAIT_HEADER in self._told else None,
            tenant=tenant,
            trace=http.trace,
        )
        # A WebSocket lasts as long as its two ends want.
        timeout_s = None if self._socket is not None else self._timeout_s() if rest_s is None else rest_s
        http.on_lost = self._end
        holds = http.more and self._socket is None and not self._options.stream_bodies
        if router.has_met and not holds:
            self._send(begin, router, timeout_s)
        else:
            self._start(self._send_later(begin, router, timeout_s, holds))

    async def _send_later(self, begin: Begin, router: DeploymentRouter, timeout_s: float | None, holds: bool) -> None:
        """When its replicas are known, and enough of the body is there: slow clients take no slots."""
        if holds:
            timeout_s = await self._hold(timeout_s)
        await router.met()
        self._send(begin, router, timeout_s)

    def _send(self, begin: Begin, router: DeploymentRouter, timeout_s: float | None) -> None:
        http = self._http
        self._router = router
        upload = Upload(http.body, more=http.more) if self._socket is None else Upload(b"", more=True)
        self._exchange = router.begin(begin, upload, timeout_s, self._answered)
        if http.more and self._socket is None:
            self._start(self._upload(self._exchange))

    async def _upload(self, exchange: Exchange) -> None:
        """Pass on the rest of the request's body."""
        more = True
        while more:
            self._hears = True
            data, more = await self._http.read()
            self._hears = False
            self._count(data)
            await exchange.upload.write(data, more=more)

    def _answered(self, exchange: Exchange) -> None:
        if self._ended:
            return
        try:
            if exchange.head is not None:
                self._answer(exchange, exchange.head)
            elif exchange.error is not None:
                self.fail(exchange.error)
        except ValueError as error:  # a header of the user's that would split the answer
            log.error("Request %s has an answer that cannot be sent: %s", self._request_id, error)
            self.fail(errors.UserCodeError(str(error)))
        except ConnectionResetError:
            self._end()
        except Exception:  # noqa: BLE001 - a fault of ours must not leave the client waiting
            self._break_off()

    def _break_off(self) -> None:
        log.exception("Request %s could not be answered.", self._request_id)
        self._end()
        self._http.abort()

    def _answer(self, exchange: Exchange, answer: Answer) -> None:
        assert exchange.body is not None
        lines = header_lines(exchange, answer, self._request_id)
        if self._socket is not None and answer.status == 101:
            self._open = OpenSocket(self._socket, self._end)
            self._started = True
            self._http.on_lost = self._open.lose
            for work in self._open.begin([*answer.headers, *headers_in(lines)], exchange, exchange.body):
                self._start(work)
            return
        first = exchange.body.read_nowait()
        more = not exchange.body.exhausted
        self._http.respond(answer.status, answer.headers, first, more=more, lines=lines)
        self._started = True
        if more:
            self._start(self._pass_on(exchange.body))
        else:
            self._end()

    async def _pass_on(self, body: Body) -> None:
        """The rest of the answer."""
        await _passed_on(self._http, body)
        self._end()

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """An answer of the proxy's own."""
        self._http.respond(status, [*headers, (REQUEST_ID_HEADER, self._request_id.encode())], body)

    def fail(self, error: errors.ModelplexError) -> None:
        """Tell the client what went wrong, or break off an answer that has begun."""
        self._end()
        if self._started and self._socket is not None:
            close_failed(self._socket, error)
            return
        if self._started or isinstance(error, errors.RequestCancelledError):
            self._http.abort()  # which is all that can still be said
            return
        if self._hears and isinstance(error, errors.RequestTimeoutError):
            error = errors.BodyTooSlowError("The request's body did not come within the request's time.")
        self.respond(error.status, *told_failure(error, self._door, self._exchange))

    def _end(self) -> None:
        """The answer has been given, or nobody waits for it any more."""
        if self._ended:
            return
        self._ended = True
        self._http.on_lost = None  # or the two would hold each other until the garbage collector comes
        if self._open is not None:
            self._open.over()
            self._open = None
        if self._tasks:
            current = asyncio.current_task()
            for task in self._tasks:
                if task is not current:
                    task.cancel()
        if self._router is not None and self._exchange is not None:
            self._router.cancel(self._exchange)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(self._loop.create_task(self._run(work)))

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except errors.ModelplexError as error:
            if not self._ended:
                self.fail(error)
        except ConnectionResetError:
            pass  # the client has left: `_end` is told so
        except Exception:  # noqa: BLE001 - a fault of ours must not leave the client waiting
            self._break_off()

    def _count(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self._options.max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> errors.BodyTooLargeError:
        return errors.BodyTooLargeError(f"The request's body may have at most {self._options.max_body_bytes} bytes.")


def _check(gate: Gate | None, http: HTTPExchange) -> None:
    """Raises `UnauthenticatedError` for whoever has no key."""
    if gate is not None:
        gate.check_http(http.headers)


async def _passed_on(http: HTTPExchange, body: Body) -> None:
    """As fast as the client takes it."""
    more = True  # even if an end without bytes has come by now
    while more:
        await http.drain()
        data = await body.read()
        more = not body.exhausted
        http.write(data, more=more)
