"""Traces by OpenTelemetry, if they are asked for; nothing of it is imported else.

The environment asks for them in each process, by `MODELPLEX_TRACING`: the import path of a function that sets up what
OpenTelemetry calls a tracer provider, or "1" for one that follows OpenTelemetry's own variables (`OTEL_…`).
"""

import logging
import os
from typing import TYPE_CHECKING, Any

from modelplex import __version__
from modelplex.config import load

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, SpanKind, TracerProvider

log = logging.getLogger(__name__)

VARIABLE = "MODELPLEX_TRACING"

# What there is of the one exporter that has several, by the protocol that OTEL_EXPORTER_OTLP_PROTOCOL names.
_OTLP = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}

_started = False


class Tracing:
    """Makes spans of this process.

    What goes from process to process is text: W3C's traceparent, and a line with tracestate if there is any.

    Args:
        provider: what makes them.
    """

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import context, trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._context = context
        self._tracer = provider.get_tracer("modelplex", __version__)
        self._w3c = TraceContextTextMapPropagator()

    def span(
        self,
        name: str,
        parent: str,
        attributes: dict[str, Any],
        *,
        kind: str = "INTERNAL",
        start_ns: int | None = None,
    ) -> "Span":
        """Begin a span below what has been carried here; a trace of its own if that is empty."""
        return self._begin(name, self._read(parent), attributes, kind, start_ns)

    def below(self, parent: "Span", name: str, attributes: dict[str, Any], *, kind: str = "INTERNAL") -> "Span":
        """Begin a span below another one of this process."""
        return self._begin(name, self._trace.set_span_in_context(parent, self._context.Context()), attributes, kind)

    def here(self, name: str, attributes: dict[str, Any]) -> "Span":
        """Begin a span below what the current code works for."""
        return self._begin(name, None, attributes, "INTERNAL")

    def _begin(
        self, name: str, parent: "Context | None", attributes: dict[str, Any], kind: str, start_ns: int | None = None
    ) -> "Span":
        of_kind: SpanKind = self._trace.SpanKind[kind]
        return self._tracer.start_span(name, parent, of_kind, attributes, start_time=start_ns)

    def enter(self, span: "Span") -> None:
        """From now on the current task works for this span."""
        self._context.attach(self._trace.set_span_in_context(span))

    def carried(self, span: "Span | None" = None) -> str:
        """A span as text, the current one unless given; empty if there is none."""
        headers = self.headers(span)
        return "\n".join(headers.values())

    def headers(self, span: "Span | None" = None) -> dict[str, str]:
        """The same by the names of W3C's headers."""
        headers: dict[str, str] = {}
        where = None if span is None else self._trace.set_span_in_context(span, self._context.Context())
        self._w3c.inject(headers, where)
        return headers

    def _read(self, carried: str) -> "Context":
        traceparent, _, tracestate = carried.partition("\n")
        headers = {"traceparent": traceparent, "tracestate": tracestate}
        return self._w3c.extract({name: text for name, text in headers.items() if text}, self._context.Context())

    def fail(self, span: "Span", error: BaseException | str) -> None:
        """What the span is about has gone wrong."""
        if isinstance(error, BaseException):
            span.record_exception(error)
        words = error if isinstance(error, str) else type(error).__name__
        span.set_status(self._trace.StatusCode.ERROR, words)

    def failed(self, error: BaseException) -> None:
        """What the current code works for has gone wrong."""
        self.fail(self._trace.get_current_span(), error)


# What makes spans; None, unless they were asked for. Whoever might make one asks for this first.
active: Tracing | None = None


def use(provider: "TracerProvider | None") -> None:
    """Trace this process from now on by this provider, or not at all."""
    global active, _started
    _started = True
    active = None if provider is None else Tracing(provider)


def carried() -> str:
    """What the current code works for, to be carried to another process; empty if nothing is traced."""
    return "" if active is None else active.carried()


def start() -> None:
    """Begin to trace if the environment asks for it and nothing has begun yet.

    What keeps it from that is told in the log: a system that cannot be traced serves all the same.
    """
    global _started
    wish = os.environ.get(VARIABLE, "")
    if _started or wish in ("", "0"):
        return
    _started = True
    try:
        use(_standard_provider() if wish == "1" else _provider_of(wish))
    except Exception as error:  # the function is the user's and may raise anything
        log.error("There will be no traces: %s=%s: %r", VARIABLE, wish, error, exc_info=error)


def _provider_of(import_path: str) -> "TracerProvider":
    """What the user's function returns, or has set up."""
    from opentelemetry import trace

    made = load(import_path)()
    return made if isinstance(made, trace.TracerProvider) else trace.get_tracer_provider()


def _standard_provider() -> "TracerProvider":
    """One that does what OpenTelemetry's variables say. Raises LookupError for an exporter that is not installed."""
    from importlib.metadata import entry_points

    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    told = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(resource=Resource.create({} if told else {"service.name": "modelplex"}))
    for name in os.environ.get("OTEL_TRACES_EXPORTER", "otlp").split(","):
        exporter = name.strip()
        if exporter == "none":
            continue
        if exporter == "otlp":
            exporter = _OTLP.get(os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"), exporter)
        found = list(entry_points(group="opentelemetry_traces_exporter", name=exporter))
        if not found:
            raise LookupError(f"the exporter {exporter} is not installed: see OTEL_TRACES_EXPORTER")
        provider.add_span_processor(BatchSpanProcessor(found[0].load()()))
    trace.set_tracer_provider(provider)
    return provider
