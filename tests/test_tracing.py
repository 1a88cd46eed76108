"""How traces are asked for, and what becomes of a wish that cannot be met."""

import os
import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from modelplex import tracing

made = TracerProvider()


def hook() -> TracerProvider:
    return made


def broken_hook() -> TracerProvider:
    raise RuntimeError("no collector")


@pytest.fixture(autouse=True)
def _as_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_started", False)
    monkeypatch.setattr(tracing, "active", None)
    monkeypatch.delenv(tracing.VARIABLE, raising=False)


@pytest.mark.parametrize("wish", ["", "0"])
def test_nothing_is_traced_unless_it_is_asked_for(wish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tracing.VARIABLE, wish)
    tracing.start()
    assert tracing.active is None
    assert tracing.carried() == ""


def test_a_function_of_the_users_makes_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "users_tracing", sys.modules[__name__])
    monkeypatch.setenv(tracing.VARIABLE, "users_tracing:hook")
    exporter = InMemorySpanExporter()
    made.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.start()
    assert tracing.active is not None
    tracing.active.span("a", "", {}).end()
    assert [span.name for span in exporter.get_finished_spans()] == ["a"]
    first = tracing.active
    tracing.start()
    assert tracing.active is first  # once in a process


@pytest.mark.parametrize("name", ["users_tracing:broken_hook", "users_tracing:nothing", "no_such_module:hook"])
def test_what_cannot_be_set_up_is_told_and_everything_else_goes_on(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "users_tracing", sys.modules[__name__])
    monkeypatch.setenv(tracing.VARIABLE, name)
    tracing.start()
    assert tracing.active is None
    assert f"There will be no traces: MODELPLEX_TRACING={name}" in caplog.text


def test_an_exporter_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(tracing.VARIABLE, "1")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "pigeon")
    tracing.start()
    assert tracing.active is None
    assert "the exporter pigeon is not installed" in caplog.text


def test_opentelemetrys_own_variables_do() -> None:
    code = "from modelplex import tracing; tracing.start(); tracing.active.span('of a test', '', {}).end()"
    variables = {"MODELPLEX_TRACING": "1", "OTEL_TRACES_EXPORTER": "console", "OTEL_SERVICE_NAME": "mine"}
    environment = {**os.environ, **variables}
    printed = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert '"name": "of a test"' in printed
    assert '"service.name": "mine"' in printed


def test_what_is_carried_leads_back_to_its_span() -> None:
    tracing.use(TracerProvider())
    assert tracing.active is not None
    above = tracing.active.span("above", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\nvendor=1", {})
    carried = tracing.active.carried(above)
    below = tracing.active.span("below", carried, {})
    assert trace.get_current_span() is trace.INVALID_SPAN
    ours, theirs = above.get_span_context(), below.get_span_context()
    assert ours.trace_id == theirs.trace_id == 0x0AF7651916CD43DD8448EB211C80319C
    assert theirs.trace_state.get("vendor") == "1"
    assert carried.split("\n")[1] == "vendor=1"


@pytest.mark.parametrize(
    "garbage", ["nonsense", "00-zz-zz-01", "\n", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "é\nü"]
)
def test_what_is_no_trace_begins_one_of_its_own(garbage: str) -> None:
    tracing.use(TracerProvider())
    assert tracing.active is not None
    span = tracing.active.span("a", garbage, {})
    assert span.get_span_context().is_valid
    assert getattr(span, "parent", None) is None
