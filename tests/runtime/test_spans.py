"""Traces of requests: which spans there are, below which others, and what they say."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from inline_app import app_of, serving
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from proxy_client import client_of
from starlette.requests import Request
from virtual_time import in_virtual_time

from modelplex import errors, serve, tracing
from modelplex.core.routing import Send
from modelplex.runtime.spans import WaySpans, given
from modelplex.serve import DeploymentHandle
from modelplex.wire.messages import Begin

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traces:
    """What was exported, and how to make spans as users do."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> ReadableSpan:
        [span] = [span for span in self.spans if span.name == name]
        return span

    def chain(self, span: ReadableSpan) -> list[str]:
        """The names of a span and of those above it, up to one that was made elsewhere."""
        by_id = {span.context.span_id: span for span in self.spans if span.context is not None}
        names = [span.name]
        while span.parent is not None and span.parent.span_id in by_id:
            span = by_id[span.parent.span_id]
            names.append(span.name)
        return names

    @property
    def ids(self) -> set[int]:
        """Of the traces."""
        return {span.context.trace_id for span in self.spans if span.context is not None}


@pytest.fixture
def traces(caplog: pytest.LogCaptureFixture) -> Iterator[Traces]:
    """OpenTelemetry complains of spans that are ended twice, or changed after that, in the log."""
    traces = Traces()
    tracing.use(traces.provider)
    yield traces
    tracing.use(None)
    assert not [record for record in caplog.get_records("call") if record.name.startswith("opentelemetry")]


class Inner:
    @serve.multiplexed(max_num_models_per_replica=1)
    async def get_model(self, model_id: str) -> str:
        await asyncio.sleep(2)
        if model_id == "bad":
            raise LookupError("no weights")
        return model_id

    async def __call__(self, fails: bool = False) -> str:
        model: str = await self.get_model(serve.get_multiplexed_model_id())
        if fails:
            raise ValueError("as asked")
        return model

    async def parts(self) -> AsyncIterator[int]:
        for number in range(3):
            await asyncio.sleep(1)
            yield number


class Outer:
    def __init__(self, inner: DeploymentHandle, tracer: Any) -> None:
        self.inner, self.tracer = inner, tracer

    async def __call__(self, request: Request) -> dict[str, str]:
        with self.tracer.start_as_current_span("of the user's own"):
            model: str = await self.inner.options(multiplexed_model_id="m").remote()
        return {"model": model, "traceparent": request.headers["traceparent"]}


@in_virtual_time
async def test_a_request_and_what_it_calls_make_one_trace(traces: Traces) -> None:
    tracer = traces.provider.get_tracer("user")
    app = app_of(Outer, app_of(Inner), tracer)
    async with serving(app) as (cluster, _), client_of(cluster.directory) as client:
        answer = await client.get("/", headers={"traceparent": PARENT, "tracestate": "vendor=1"})
        assert answer.status_code == 200
        await asyncio.sleep(1)
        assert traces.ids == {0x0AF7651916CD43DD8448EB211C80319C}
        server = traces.named("GET /")
        assert server.parent is not None
        assert server.parent.span_id == 0xB7AD6B7169203331
        assert server.context is not None
        assert server.context.trace_state.get("vendor") == "1"
        assert dict(server.attributes or {})["http.response.status_code"] == 200
        load = traces.named("load")
        assert traces.chain(load) == [
            *("load", "run", "default_Inner.__call__", "route", "of the user's own"),
            *("run", "default_Outer.__call__", "route", "GET /"),
        ]
        assert dict(load.attributes or {}) == {"modelplex.model_id": "m", "modelplex.start": "cold"}
        assert sorted(span.name for span in traces.spans).count("queue") == 2
        # An app that reads the headers itself finds the run of its own code there.
        run = next(s for s in traces.spans if s.name == "run" and traces.chain(s)[1] == "default_Outer.__call__")
        assert run.context is not None
        assert answer.json()["traceparent"].split("-")[2] == f"{run.context.span_id:016x}"


@in_virtual_time
async def test_a_call_from_a_program_begins_a_trace_or_joins_its_own(traces: Traces) -> None:
    async with serving(app_of(Inner)) as (_, handle):
        await handle.options(multiplexed_model_id="m").remote()
        await asyncio.sleep(0)
        route = traces.named("route")
        assert traces.chain(route) == ["route", "call default_Inner.__call__"]
        assert dict(route.attributes or {})["modelplex.replica"].startswith("default_Inner#")  # type: ignore[union-attr]
        traces.exporter.clear()
        with traces.provider.get_tracer("user").start_as_current_span("program"):
            await handle.options(multiplexed_model_id="m").remote()
        await asyncio.sleep(0)
        assert traces.chain(traces.named("route")) == ["route", "program"]
        assert "load" not in {span.name for span in traces.spans}  # it was warm


@in_virtual_time
async def test_what_fails_says_so_and_every_span_ends(traces: Traces) -> None:
    async with serving(app_of(Inner)) as (_, handle):
        with pytest.raises(ValueError, match="as asked"):
            await handle.options(multiplexed_model_id="m").remote(fails=True)
        await asyncio.sleep(1)
        run = traces.named("run")
        assert (run.status.is_ok, [event.name for event in run.events]) == (False, ["exception"])
        assert not traces.named("route").status.is_ok
        assert not traces.named("call default_Inner.__call__").status.is_ok
        traces.exporter.clear()
        with pytest.raises(errors.ModelLoadError):
            await handle.options(multiplexed_model_id="bad").remote()
        await asyncio.sleep(1)
        assert traces.named("load").status.description == "ModelLoadError"
        assert traces.named("default_Inner.__call__").status.is_ok is False


@in_virtual_time
async def test_who_gives_up_waiting_ends_its_spans(traces: Traces) -> None:
    async with serving(app_of(Inner)) as (_, handle):
        leaves = handle.options(multiplexed_model_id="a").remote()
        await asyncio.sleep(1)
        leaves.cancel()
        with pytest.raises(errors.ModelColdError):
            await handle.options(multiplexed_model_id="b", max_cold_wait_s=0.1).remote()
        await asyncio.sleep(10)
        loads = [span for span in traces.spans if span.name == "load"]
        assert [span.status.description for span in loads] == ["given up", "given up"]
        outcomes = [dict(s.attributes or {}).get("modelplex.outcome") for s in traces.spans]
        assert sorted(filter(None, map(str, outcomes)))[:2] == ["CANCELLED", "ERROR"]


@pytest.mark.parametrize(
    ("headers", "carried"),
    [
        ([(b"a", b"b"), (b"tracestate", b"v=1"), (b"traceparent", b"p"), (b"traceparent", b"q")], "p\nv=1"),
        ([(b"traceparent", b"\xe9")], "\xe9"),
        ([(b"tracestate", b"v=1")], ""),
    ],
)
def test_of_several_headers_the_first_counts(headers: list[tuple[bytes, bytes]], carried: str) -> None:
    assert given(headers) == carried


def test_a_request_that_is_refused_has_a_span_for_each_attempt(traces: Traces) -> None:
    assert tracing.active is not None
    begin = Begin(1, "r", "app", "/", "__call__", "m", False)
    way = WaySpans(tracing.active, begin, "D")
    way.sent(begin, Send(1, "one"))
    first = begin.trace
    way.refused()
    way.sent(begin, Send(1, "two"))
    way.ended()
    assert begin.trace != first
    assert [(span.name, dict(span.attributes or {}).get("modelplex.refused")) for span in traces.spans] == [
        *(("queue", None), ("route", True), ("queue", None), ("route", None), ("call app_D.__call__", None)),
    ]


@in_virtual_time
async def test_a_stream_is_traced_to_its_end(traces: Traces) -> None:
    async with serving(app_of(Inner)) as (_, handle):
        parts = [part async for part in handle.options(stream=True).parts.remote()]
        await asyncio.sleep(1)
        assert parts == [0, 1, 2]
        assert traces.chain(traces.named("run")) == [
            *("run", "default_Inner.parts", "route", "call default_Inner.parts"),
        ]


@in_virtual_time
async def test_without_being_asked_for_nothing_is_traced() -> None:
    assert tracing.active is None
    app = app_of(Outer, app_of(Inner), trace.NoOpTracerProvider().get_tracer("user"))
    async with serving(app) as (cluster, _), client_of(cluster.directory) as client:
        answer = await client.get("/", headers={"traceparent": PARENT})
        assert answer.json()["traceparent"] == PARENT  # which the app may make of what it likes
