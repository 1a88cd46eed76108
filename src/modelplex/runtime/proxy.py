"""HTTP in, requests of deployments out: what every client meets."""

import asyncio
import itertools
import json
import logging
import math
import re
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from modelplex import errors
from modelplex.config import HTTPOptions, check_model_id
from modelplex.handle import new_request_id
from modelplex.runtime.answers import Headers
from modelplex.runtime.directory import Directory
from modelplex.runtime.http_connection import HTTPExchange
from modelplex.runtime.router import DeploymentRouter, Exchange
from modelplex.runtime.streams import Incoming, Upload
from modelplex.runtime.upgrades import APP_END_TIMEOUT_S, close_failed, websocket_of
from modelplex.wire.messages import Answer, AppInfo, Begin, HTTPHead

if TYPE_CHECKING:
    from modelplex.runtime.http_websocket import WebSocket

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = b"x-request-id"
MAX_COLD_WAIT_HEADER = b"x-modelplex-max-cold-wait"
TIMEOUT_HEADER = b"x-request-timeout-seconds"
LENGTH_HEADER = b"content-length"
UPGRADE_HEADER = b"upgrade"
MODEL_ID_HEADER = b"serve_multiplexed_model_id"

# The headers that are read here, by the names that they may have: the model's with hyphens for underscores, too.
_NAMES = {
    name: name for name in (REQUEST_ID_HEADER, MAX_COLD_WAIT_HEADER, TIMEOUT_HEADER, LENGTH_HEADER, UPGRADE_HEADER)
}
_NAMES |= {
    b"serve%bmultiplexed%bmodel%bid" % joints: MODEL_ID_HEADER for joints in itertools.product((b"_", b"-"), repeat=3)
}

# A client's own request id is kept if it can stand in a header and a log line as it is.
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class Proxy:
    """Serves the applications of a directory.

    Args:
        directory: where the routes and the routers are.
        options: limits and time-outs.
    """

    def __init__(self, directory: Directory, options: HTTPOptions) -> None:
        self._directory = directory
        self._options = options

    def __call__(self, http: HTTPExchange) -> None:
        """Answer a request, now or later."""
        request = _Request(http, self._options, self._directory.loop)
        try:
            if http.path.startswith("/-/"):
                request.respond(*self._own_page(http.path))
            else:
                app = self._match(http.path)
                request.begin(app, self._directory.router(app.name, app.ingress))
        except errors.ModelplexError as error:
            request.fail(error)

    def _own_page(self, path: str) -> tuple[int, Headers, bytes]:
        if path == "/-/healthz":
            return 200, [(b"content-type", b"text/plain")], b"success"
        if path == "/-/routes":
            routes = {app.route_prefix: app.name for app in self._directory.apps if app.route_prefix}
            return 200, [(b"content-type", b"application/json")], json.dumps(routes).encode()
        raise errors.RouteNotFoundError(f"There is no page {path!r}; there are /-/healthz and /-/routes.")

    def _match(self, path: str) -> AppInfo:
        """The application with the longest prefix of the path."""
        best: AppInfo | None = None
        for app in self._directory.apps:
            prefix = app.route_prefix
            if prefix is None or not (path + "/").startswith(prefix if prefix == "/" else prefix + "/"):
                continue
            if best is None or len(prefix) > len(best.route_prefix or ""):
                best = app
        if best is None:
            prefixes = ", ".join(sorted(app.route_prefix for app in self._directory.apps if app.route_prefix)) or "none"
            raise errors.RouteNotFoundError(f"Nothing is served under this path. The routes are: {prefixes}.")
        return best


class _Request:
    """One HTTP request and its answer.

    An ordinary one needs no task: its answer calls back when it comes. A body in several parts has a task of its own.
    """

    __slots__ = (
        "_body_bytes",
        "_ended",
        "_exchange",
        "_hears",
        "_http",
        "_loop",
        "_options",
        "_request_id",
        "_router",
        "_socket",
        "_started",
        "_tasks",
        "_timer",
        "_told",
    )

    def __init__(self, http: HTTPExchange, options: HTTPOptions, loop: asyncio.AbstractEventLoop) -> None:
        self._http = http
        self._options = options
        self._loop = loop
        self._told: dict[bytes, bytes] = {}  # the headers that are read here; of several of one name, the first
        for name, value in http.headers:
            if (known := _NAMES.get(name)) is not None:
                self._told.setdefault(known, value)
        given = self._told.get(REQUEST_ID_HEADER)
        self._request_id = given.decode() if given and _REQUEST_ID.fullmatch(given) else new_request_id()
        self._router: DeploymentRouter | None = None
        self._exchange: Exchange | None = None
        self._socket: WebSocket | None = None
        self._timer: asyncio.TimerHandle | None = None  # for an app whose client has left
        self._tasks: list[asyncio.Task[None]] = []
        self._hears = False  # the client, who is to send more of the body
        self._started = False
        self._ended = False
        self._body_bytes = 0

    def begin(self, app: AppInfo, router: DeploymentRouter) -> None:
        """Pass the request on, and its answer back when it comes. Raises what can be told at once."""
        model_id = self._told.get(MODEL_ID_HEADER)
        length = self._told.get(LENGTH_HEADER)
        if length is not None and length.isdigit() and int(length) > self._options.max_body_bytes:
            raise self._too_large()
        self._count(self._http.body)
        if (upgrade := self._told.get(UPGRADE_HEADER)) is not None:
            asked_for = websocket_of(self._http, upgrade)
            if isinstance(asked_for, tuple):
                self.respond(*asked_for)
                return
            self._socket = asked_for
        begin = Begin(
            stream=0,
            request_id=self._request_id,
            app_name=app.name,
            route=app.route_prefix or "/",
            method_name="__call__",
            model_id=check_model_id(model_id.decode("latin-1")) if model_id else "",
            more=False,
            http=_http_head(self._http, app, self._options.root_path, is_websocket=self._socket is not None),
            max_cold_wait_s=_seconds(MAX_COLD_WAIT_HEADER, self._told),
        )
        timeout_s = _seconds(TIMEOUT_HEADER, self._told, above_0=True)
        if timeout_s is None:
            timeout_s = self._options.request_timeout_s
        if self._socket is not None:
            timeout_s = None  # a WebSocket lasts as long as its two ends want
        self._http.on_lost = self._end
        if router.has_met:
            self._send(begin, router, timeout_s)
        else:
            self._start(self._send_when_met(begin, router, timeout_s))

    async def _send_when_met(self, begin: Begin, router: DeploymentRouter, timeout_s: float | None) -> None:
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
        queue_ms, load_ms, run_ms = exchange.queued_s * 1e3, answer.load_s * 1e3, answer.run_s * 1e3
        headers: Headers = [
            *answer.headers,
            (REQUEST_ID_HEADER, self._request_id.encode()),
            (b"x-modelplex-replica", exchange.replica_id.encode()),
            (b"server-timing", b"queue;dur=%.2f, load;dur=%.2f, run;dur=%.2f" % (queue_ms, load_ms, run_ms)),
        ]
        if answer.start:
            headers.append((b"x-modelplex-model", answer.start.encode()))
        if self._socket is not None and answer.status == 101:
            self._open(self._socket, headers, exchange, exchange.body)
            return
        first = exchange.body.read_nowait()
        more = not exchange.body.exhausted
        self._http.respond(answer.status, headers, first, more=more)
        self._started = True
        if more:
            self._start(self._pass_on(exchange.body))
        else:
            self._end()

    def _open(self, socket: "WebSocket", headers: Headers, exchange: Exchange, body: Incoming) -> None:
        """The app has accepted a WebSocket."""
        socket.open(headers)
        self._started = True
        self._http.on_lost = self._lose_socket
        exchange.upload.settle()
        self._start(socket.to_app(exchange.upload))
        self._start(self._to_client(socket, body))

    async def _to_client(self, socket: "WebSocket", body: Incoming) -> None:
        await socket.to_client(body)
        self._end()

    def _lose_socket(self) -> None:
        """The client has left. If it had said so, the app has been told, and may end by itself."""
        if self._socket is not None and self._socket.is_closed:
            self._timer = self._loop.call_later(APP_END_TIMEOUT_S, self._end)
        else:
            self._end()

    async def _pass_on(self, body: Incoming) -> None:
        """The rest of the answer, as fast as the client takes it."""
        more = True  # even if an end without bytes has come by now
        while more:
            await self._http.drain()
            data = await body.read()
            more = not body.exhausted
            self._http.write(data, more=more)
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
        # What user code raised is in the replica's log, and is no business of whoever may send requests.
        text = "Internal Server Error" if type(error) is errors.UserCodeError else str(error)
        headers: Headers = [(b"content-type", b"text/plain; charset=utf-8")]
        if error.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
        if self._exchange is not None and self._exchange.replica_id:
            headers.append((b"x-modelplex-replica", self._exchange.replica_id.encode()))
        if isinstance(error, errors.BodyTooLargeError | errors.BodyTooSlowError):
            headers.append((b"connection", b"close"))
        self.respond(error.status, headers, text.encode())

    def _end(self) -> None:
        """The answer has been given, or nobody waits for it any more."""
        if self._ended:
            return
        self._ended = True
        self._http.on_lost = None  # or the two would hold each other until the garbage collector comes
        if self._timer is not None:
            self._timer.cancel()
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


def _seconds(header: bytes, told: dict[bytes, bytes], *, above_0: bool = False) -> float | None:
    """The seconds that a header says; None if it is not there. Raises `InvalidHeaderError`."""
    value = told.get(header)
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf or (above_0 and not seconds):
        name, given = header.decode(), value[:64].decode("latin-1")
        least = "above" if above_0 else "of at least"
        raise errors.InvalidHeaderError(f"{name} takes a number of seconds {least} 0, got {given!r}.")
    return seconds


def _http_head(http: HTTPExchange, app: AppInfo, root_path: str, *, is_websocket: bool) -> HTTPHead:
    prefix = "" if app.route_prefix in (None, "/") else str(app.route_prefix)
    path, raw_path, scheme = http.path, http.raw_path, http.scheme
    if root_path:  # ASGI's path has it, although a server in front has taken it off
        path, raw_path = root_path + path, quote(root_path).encode() + raw_path
    return HTTPHead(
        method=http.method,
        path=path,
        raw_path=raw_path,
        query_string=http.query_string,
        root_path=root_path + prefix,
        scheme=scheme.replace("http", "ws") if is_websocket else scheme,
        http_version=http.http_version,
        headers=http.headers,
        client=http.client,
        server=http.server,
    )
