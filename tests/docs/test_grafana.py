"""The dashboard asks for metrics and labels that a running system has."""

import http.client
import json
import re
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from served import wait_until
from started import Started, home_in

DASHBOARD = json.loads((Path(__file__).parents[2] / "docs" / "grafana.json").read_text())

# It has whatever the dashboard asks for: evictions and a failed load, a budget, a request that fails, one that is late.
SHOP = """
import asyncio
from modelplex import serve

@serve.deployment(num_replicas=2, max_ongoing_requests=20)
class Model:
    @serve.multiplexed(max_num_models_per_replica=2, max_bytes_per_replica=1000, size_of=len)
    async def get_model(self, model_id):
        if model_id == "bad":
            raise LookupError("no weights")
        return model_id

    async def __call__(self, request):
        if request.url.path == "/raises":
            raise ValueError("as asked")
        await self.get_model(serve.get_multiplexed_model_id())
        return "answer"

app = Model.bind()
"""

_NAME = re.compile(r"\b((?:modelplex|serve)_[a-z_]+)(?:\{([^}]*)\})?")
_LABEL = re.compile(r"(\w+)\s*=~?\s*\"")
_BY = re.compile(r"\bby \(([^)]*)\)")
_LEGEND = re.compile(r"{{(\w+)}}")


def targets() -> Iterator[dict[str, Any]]:
    for panel in DASHBOARD["panels"]:
        yield from panel.get("targets", ())


def wanted() -> dict[str, set[str]]:
    """By the names of series, the labels that the dashboard takes them to have."""
    found: dict[str, set[str]] = {}
    for target in targets():
        grouped = {label.strip() for labels in _BY.findall(target["expr"]) for label in labels.split(",")}
        grouped |= set(_LEGEND.findall(target["legendFormat"]))
        for name, selector in _NAME.findall(target["expr"]):
            found.setdefault(name, set()).update(_LABEL.findall(selector), grouped)
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            [(name, selector)] = _NAME.findall(variable["query"])
            label = variable["query"].rpartition(",")[2].strip(" )")
            found.setdefault(name, set()).update({label, *_LABEL.findall(selector)})
    return found


def get_metrics(started: Started) -> tuple[str, str]:
    """The page's content type, and its text."""
    connection = http.client.HTTPConnection("localhost", timeout=30)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(started.home.sockets / "admin"))
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    assert response.status == 200
    text = response.read().decode()
    connection.close()
    return str(response.headers["content-type"]), text


def test_panels_do_not_overlap_and_ids_are_unique() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert rows == [
        *("Traffic and hit ratio", "Latency", "Loads and evictions", "Memory and budget", "Queues", "Errors"),
        "Busiest models",
    ]


def test_each_query_is_of_the_chosen_source() -> None:
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == [
        *("datasource", "application", "deployment"),
    ]
    assert all(target["datasource"]["uid"] == "${datasource}" for target in targets())
    assert all(_NAME.findall(target["expr"]) for target in targets())
    assert len(wanted()) > 25


@pytest.mark.system
def test_a_running_system_has_what_the_dashboard_asks_for(tmp_path: Path) -> None:
    with home_in(tmp_path) as started:
        started.write("shop.py", SHOP)
        started.start("--proxies", "2")
        started.command("deploy", started.config({"import_path": "shop:app", "route_prefix": "/"}))
        for model_id in [*(f"m{number % 7}" for number in range(30)), "bad"]:
            ask(started, model_id)
        ask(started, "m1", "/raises")
        ask(started, "m1", timeout="0.000001")
        names: dict[str, set[str]] = {}

        def is_all_there() -> bool:
            kind, text = get_metrics(started)
            assert kind == "text/plain; version=0.0.4; charset=utf-8"
            names.clear()
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    names.setdefault(sample.name, set()).update(sample.labels)
            return not missing(names)

        wait_until(is_all_there, "what the dashboard asks for is there", 20)
        for process in ("proxy#", "controller", "default_Model#"):
            _, text = get_metrics(started)
            assert f'process="{process}' in text
        statuses: Counter[str] = Counter()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "modelplex_http_requests_total" and sample.labels["application"] == "default":
                    statuses[sample.labels["status"]] += int(sample.value)
        assert statuses == {"2xx": 30, "5xx": 3}


def missing(names: dict[str, set[str]]) -> dict[str, set[str]]:
    """What the dashboard asks for, and the system has not."""
    found = {}
    for name, labels in wanted().items():
        has = names.get(name) or names.get(f"{name}_total")
        if has is None or labels - has:
            found[name] = labels - (has or set())
    return found


def ask(started: Started, model_id: str, path: str = "/", timeout: str = "30") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", started.port, timeout=30)
    headers = {"serve_multiplexed_model_id": model_id, "x-request-timeout-seconds": timeout}
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status
