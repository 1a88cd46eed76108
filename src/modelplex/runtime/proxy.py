"""HTTP in, requests of deployments out: the ASGI application that every client meets."""

import asyncio
import json
import logging
import math
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from modelplex import errors
from modelplex.config import HTTPOptions, check_model_id
from modelplex.handle import new_request_id
from modelplex.runtime.answers import Headers
from modelplex.runtime.directory import Directory
from modelplex.runtime.router import DeploymentRouter, Exchange
from modelplex.runtime.streams import Upload
from modelplex.wire.messages import Answer, AppInfo, Begin, HTTPHead

log = logging.getLogger(__name__)

MODEL_ID_HEADER = b"serve_multiplexed_model_id"
REQUEST_ID_HEADER = b"x-request-id"
MAX_COLD_WAIT_HEADER = b"x-modelplex-max-cold-wait"

# A client's own request id is kept if it can stand in a header and a log line as it is.
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Proxy:
    """Serves the applications of a directory.

    Args:
        directory: where the routes and the routers are.
        options: limits and time-outs.
    """

    def __init__(self, directory: Directory, options: HTTPOptions) -> None:
        self._directory = directory
        self._options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served here")
        given = _header(scope, REQUEST_ID_HEADER)
        request_id = given.decode() if given and _REQUEST_ID.fullmatch(given) else new_request_id()
        request = _Request(scope, receive, send, request_id, self._options)
        try:
            if scope["path"].startswith("/-/"):
                await request.respond(*self._own_page(scope["path"]))
            else:
                app = self._match(scope["path"])
                await request.run(app, self._directory.router(app.name, app.ingress))
        except errors.ModelplexError as error:
            await request.respond_error(error)

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
    """One HTTP request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str, options: HTTPOptions) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._request_id = request_id
        self._options = options
        self._replica_id = ""
        self._started = False
        self._body_bytes = 0

    async def run(self, app: AppInfo, router: DeploymentRouter) -> None:
        """Pass the request on and its answer back. Raises what can still be told the client."""
        model_id = _model_id(self._scope)
        length = _header(self._scope, b"content-length")
        if length is not None and length.isdigit() and int(length) > self._options.max_body_bytes:
            raise self._too_large()
        first = await self._receive()
        if first["type"] == "http.disconnect":
            return
        body, more = first.get("body", b""), first.get("more_body", False)
        self._count(body)
        begin = Begin(
            stream=0,
            request_id=self._request_id,
            app_name=app.name,
            route=app.route_prefix or "/",
            method_name="__call__",
            model_id=check_model_id(model_id.decode("latin-1")) if model_id else "",
            more=False,
            http=_http_head(self._scope, app),
            max_cold_wait_s=_max_cold_wait_s(self._scope),
        )
        await router.met()
        exchange = router.begin(begin, Upload(body, more=more), self._options.request_timeout_s)
        follower = asyncio.create_task(self._follow_client(exchange, router, more))
        try:
            async with asyncio.timeout(self._options.request_timeout_s):
                answer = await exchange.answer
                await self._pass_on(exchange, answer)
        except TimeoutError as error:
            limit_s = self._options.request_timeout_s
            raise errors.RequestTimeoutError(f"The request was not answered within {limit_s} s.") from error
        finally:
            self._replica_id = exchange.replica_id
            follower.cancel()
            router.cancel(exchange)

    async def _follow_client(self, exchange: Exchange, router: DeploymentRouter, more: bool) -> None:
        """Pass on the rest of the request's body; cancel the request if the client leaves."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                router.cancel(exchange)
                return
            if more:
                more = message.get("more_body", False)
                try:
                    self._count(message.get("body", b""))
                except errors.BodyTooLargeError as error:
                    exchange.fail(error)
                    return
                await exchange.upload.write(message.get("body", b""), more=more)

    async def _pass_on(self, exchange: Exchange, answer: Answer) -> None:
        load_ms, run_ms = answer.load_s * 1e3, answer.run_s * 1e3
        queue_ms = exchange.queued_s * 1e3
        headers: Headers = [
            *answer.headers,
            (REQUEST_ID_HEADER, self._request_id.encode()),
            (b"x-modelplex-replica", exchange.replica_id.encode()),
            (b"server-timing", b"queue;dur=%.2f, load;dur=%.2f, run;dur=%.2f" % (queue_ms, load_ms, run_ms)),
        ]
        if answer.start:
            headers.append((b"x-modelplex-model", answer.start.encode()))
        self._started = True
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        body = exchange.body
        assert body is not None
        while True:
            data = await body.read()
            more = not body.exhausted
            await self._send({"type": "http.response.body", "body": data, "more_body": more})
            if not more:
                return

    async def respond(self, status: int, headers: Headers, body: bytes) -> None:
        headers = [*headers, (b"content-length", b"%d" % len(body)), (REQUEST_ID_HEADER, self._request_id.encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def respond_error(self, error: errors.ModelplexError) -> None:
        """Tell the client what went wrong, or break off an answer that has begun."""
        if isinstance(error, errors.RequestCancelledError):
            return
        if self._started:
            # The server closes the connection when the application raises, which is all that can still be said.
            raise error
        # What user code raised is in the replica's log, and is no business of whoever may send requests.
        text = "Internal Server Error" if type(error) is errors.UserCodeError else str(error)
        headers: Headers = [(b"content-type", b"text/plain; charset=utf-8")]
        if error.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
        if self._replica_id:
            headers.append((b"x-modelplex-replica", self._replica_id.encode()))
        if isinstance(error, errors.BodyTooLargeError):
            headers.append((b"connection", b"close"))
        await self.respond(error.status, headers, text.encode())

    def _count(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self._options.max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> errors.BodyTooLargeError:
        return errors.BodyTooLargeError(f"The request's body may have at most {self._options.max_body_bytes} bytes.")


def _header(scope: Scope, name: bytes) -> bytes | None:
    found: bytes | None = next((v for k, v in scope["headers"] if k == name), None)
    return found


def _model_id(scope: Scope) -> bytes | None:
    """The value of the model's header, whose name may be spelled in any case and with hyphens for underscores."""
    found: bytes | None = next((v for k, v in scope["headers"] if k.replace(b"-", b"_") == MODEL_ID_HEADER), None)
    return found


def _max_cold_wait_s(scope: Scope) -> float | None:
    """How long the client will wait for a model that is not loaded; None for any time."""
    value = _header(scope, MAX_COLD_WAIT_HEADER)
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        name, given = MAX_COLD_WAIT_HEADER.decode(), value[:64].decode("latin-1")
        raise errors.InvalidHeaderError(f"{name} takes a number of seconds of at least 0, got {given!r}.")
    return seconds


def _http_head(scope: Scope, app: AppInfo) -> HTTPHead:
    prefix = app.route_prefix or "/"
    return HTTPHead(
        method=scope["method"],
        path=scope["path"],
        raw_path=scope.get("raw_path") or scope["path"].encode(),
        query_string=scope["query_string"],
        root_path="" if prefix == "/" else prefix,
        scheme=scope["scheme"],
        http_version=scope["http_version"],
        headers=scope["headers"],
        client=scope.get("client"),
        server=scope.get("server"),
    )
