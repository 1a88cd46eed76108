"""The spans of one request: in a proxy, on its way, and on a replica. Made only where something is traced."""

import asyncio
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from modelplex.tracing import Tracing
from modelplex.wire.messages import AppInfo, Begin

if TYPE_CHECKING:
    from modelplex.context import ReplicaContext, RequestContext
    from modelplex.core.allocation import Start
    from modelplex.core.routing import Send
    from modelplex.runtime.http_exchange import HTTPExchange

_W3C = (b"traceparent", b"tracestate")


def given(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """What a client's headers, or metadata, say that a request is a part of, as `Begin.trace` has it."""
    first: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _W3C:
            first.setdefault(name, value)
    return b"\n".join(first[name] for name in _W3C if name in first).decode("latin-1") if _W3C[0] in first else ""


def of_http(tracing: Tracing, http: "HTTPExchange", app: AppInfo) -> None:
    """The span of an HTTP request on a proxy, until its answer ends; what follows from the request is below it."""
    parent = given(http.headers)
    route = app.route_prefix or "/"
    attributes = {
        "http.request.method": http.method,
        "http.route": route,
        "url.path": http.path,
        "url.scheme": http.scheme,
        "network.protocol.version": http.http_version,
        "modelplex.application": app.name,
    }
    if http.client is not None:
        attributes["client.address"] = http.client[0]
    span = tracing.span(f"{http.method} {route}", parent, attributes, kind="SERVER")
    http.trace = tracing.carried(span)
    then = http.on_ended

    def ended(http: "HTTPExchange") -> None:
        status = http.outcome
        if status or http.status:
            span.set_attribute("http.response.status_code", status or http.status)
        if not status or status >= 500:
            tracing.fail(span, str(status) if status else "broken off")
        span.end()
        if then is not None:
            then(http)

    http.on_ended = ended


class WaySpans:
    """A request on its way from a router: it waits in a queue, then it is with a replica; and again, if that refuses.

    A call that is part of no trace begins one.
    """

    __slots__ = ("_begin", "_is_over", "_parent", "_root", "_span", "_tracing")

    def __init__(self, tracing: Tracing, begin: Begin, deployment: str) -> None:
        self._tracing = tracing
        self._begin = begin
        self._is_over = False
        self._root = None
        self._parent = begin.trace
        if not self._parent:
            name = f"call {begin.app_name}_{deployment}.{begin.method_name}"
            self._root = tracing.span(name, "", _of(begin, deployment), kind="CLIENT")
            self._parent = tracing.carried(self._root)
        self._span = tracing.span("queue", self._parent, _of(begin, deployment))

    def sent(self, begin: Begin, send: "Send") -> None:
        """It goes to a replica now. What that does is below this."""
        self._span.end()
        attributes = {"modelplex.replica": send.replica_id, "modelplex.model_id": begin.model_id}
        attributes |= {"modelplex.request_id": begin.request_id}
        if rule := send.rule:
            attributes["modelplex.rule"] = str(rule)
        self._begin = begin
        self._span = self._tracing.span("route", self._parent, attributes, kind="CLIENT")
        begin.trace = self._tracing.carried(self._span)

    def refused(self) -> None:
        """The replica has not taken it: it waits again."""
        self._span.set_attribute("modelplex.refused", True)
        self._span.end()
        self._span = self._tracing.span("queue", self._parent, {"modelplex.request_id": self._begin.request_id})

    def failed(self, error: BaseException) -> None:
        for span in (self._span, self._root):
            if span is not None and not self._is_over:
                self._tracing.fail(span, type(error).__name__)

    def ended(self) -> None:
        """Nothing happens if it has ended before."""
        if self._is_over:
            return
        self._is_over = True
        self._span.end()
        if self._root is not None:
            self._root.end()


class RequestSpans:
    """A request on its replica, from its beginning to its end, and in it the run of the user's code.

    It is to be made in the request's own task: what that task does from then on is below the latter.

    Args:
        began: when it began, by `time.perf_counter`.
        replica: where it runs.
    """

    __slots__ = ("_request", "_run", "_tracing")

    def __init__(self, tracing: Tracing, begin: Begin, replica: "ReplicaContext", began: float) -> None:
        self._tracing = tracing
        attributes = {
            **_of(begin, replica.deployment),
            "modelplex.replica": replica.replica_id,
            "modelplex.model_id": begin.model_id,
        }
        start_ns = time.time_ns() - int((time.perf_counter() - began) * 1e9)
        name = f"{begin.app_name}_{replica.deployment}.{begin.method_name}"
        self._request = tracing.span(name, begin.trace, attributes, kind="SERVER", start_ns=start_ns)
        self._run = tracing.below(self._request, "run", {})
        tracing.enter(self._run)
        if begin.http is not None:  # apps that read the headers themselves join the trace here
            rest = [header for header in begin.http.headers if header[0] not in _W3C]
            own = [(name.encode(), value.encode("latin-1")) for name, value in tracing.headers(self._run).items()]
            begin.http.headers = rest + own

    def ended(self, outcome: str, request: "RequestContext") -> None:
        self._request.set_attribute("modelplex.outcome", outcome)
        if request.start:
            self._request.set_attribute("modelplex.start", request.start)
        for span in (self._run, self._request):
            if outcome == "ERROR":
                self._tracing.fail(span, outcome)
            span.end()


def of_load(tracing: Tracing, model_id: str, answer: "asyncio.Future[Start]") -> None:
    """The span of a wait for a model that is not loaded, below what the current request does."""
    span = tracing.here("load", {"modelplex.model_id": model_id})

    def ended(answer: "asyncio.Future[Start]") -> None:
        if answer.cancelled():
            tracing.fail(span, "given up")
        elif (error := answer.exception()) is not None:
            tracing.fail(span, type(error).__name__)
        else:
            span.set_attribute("modelplex.start", answer.result().value)
        span.end()

    answer.add_done_callback(ended)


def _of(begin: Begin, deployment: str) -> dict[str, str]:
    return {
        "modelplex.application": begin.app_name,
        "modelplex.deployment": deployment,
        "modelplex.request_id": begin.request_id,
    }
