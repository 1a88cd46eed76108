"""Real processes that write their spans to a file, by a function of the user's; and that import nothing for it else."""

import json
import os
from pathlib import Path

import pytest
from served import serving

pytestmark = [pytest.mark.system, pytest.mark.doors]

HOOK = """
import json, os
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

class Lines(SpanExporter):
    def export(self, spans):
        with open(os.environ["SPANS"], "a") as file:
            for span in spans:
                parent = None if span.parent is None else f"{span.parent.span_id:016x}"
                own = {"name": span.name, "id": f"{span.context.span_id:016x}", "parent": parent, "pid": os.getpid(),
                       "trace": f"{span.context.trace_id:032x}", "attributes": dict(span.attributes)}
                file.write(json.dumps(own) + "\\n")
        return SpanExportResult.SUCCESS

def setup():
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Lines(), schedule_delay_millis=3_600_000))
    return provider
"""

APP = """
import asyncio, sys
from modelplex import serve

@serve.deployment
class Inner:
    @serve.multiplexed(max_num_models_per_replica=2)
    def get_model(self, model_id):
        return model_id

    async def __call__(self):
        await self.get_model(serve.get_multiplexed_model_id())
        return [name for name in sys.modules if name.startswith("opentelemetry")][:3]

@serve.deployment
class Outer:
    def __init__(self, inner):
        self.inner = inner

    async def __call__(self, request):
        return await self.inner.options(multiplexed_model_id="m").remote()

app = Outer.bind(Inner.bind())
"""

TRACE = "0af7651916cd43dd8448eb211c80319c"


def path_with(folder: Path) -> str:
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def app_in(folder: Path) -> str:
    (folder / "traced_app.py").write_text(APP)
    (folder / "traced_hook.py").write_text(HOOK)
    return "traced_app:app"


def test_one_trace_leads_through_all_processes(tmp_path: Path) -> None:
    spans_file = tmp_path / "spans"
    asks = "traced_hook:setup"
    with serving(
        *(app_in(tmp_path), tmp_path), PYTHONPATH=path_with(tmp_path), MODELPLEX_TRACING=asks, SPANS=str(spans_file)
    ) as served:
        answer = served.call(traceparent=f"00-{TRACE}-b7ad6b7169203331-01")
        assert answer.status == 200, served.log

        served.stop()  # which is when processes say what they have not said yet
        found = [span for line in spans_file.read_text().splitlines() if (span := json.loads(line))["trace"] == TRACE]
        # The proxy's, a queue and a route to each replica, a request and a run on each, and the load.
        assert len(found) == 10
        by_id = {span["id"]: span for span in found}
        span = next(span for span in found if span["name"] == "load")
        chain = [span["name"]]
        while span["parent"] in by_id:
            span = by_id[span["parent"]]
            chain.append(span["name"])
        assert chain == [
            *("load", "run", "default_Inner.__call__", "route", "run", "default_Outer.__call__", "route", "GET /"),
        ]
        assert span["parent"] == "b7ad6b7169203331"
        assert len({span["pid"] for span in found}) == 3  # a proxy and two replicas


def test_unless_asked_for_nothing_of_it_is_imported(tmp_path: Path) -> None:
    with serving(app_in(tmp_path), tmp_path, PYTHONPATH=path_with(tmp_path)) as served:
        assert json.loads(served.call().body) == []
