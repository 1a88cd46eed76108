"""Metrics of user code: what may be recorded, where the tags of replicas come from, and what Prometheus reads of it."""

import json
import logging
import math
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import numpy as np
import pytest
from inline_app import app_of
from prometheus_client.parser import text_string_to_metric_families

from modelplex import metrics, serve
from modelplex.pytest_plugin import ServeLocal
from modelplex.serve.metrics import Counter, Gauge, Histogram


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    metrics.reset()
    yield
    metrics.reset()


def values(name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """The series of a counter or gauge."""
    (found,) = [metric for metric in metrics.snapshot() if metric["name"] == name]
    return {tuple(series["tags"].items()): series["value"] for series in found["series"]}


# The interface that users know


def test_the_names_are_where_programs_look_for_them() -> None:
    assert serve.metrics.Counter is Counter is metrics.Counter
    assert {"Counter", "Gauge", "Histogram"} <= set(vars(serve.metrics))


def test_a_counter_counts_by_its_tags() -> None:
    counter = Counter("calls", description="Calls.", tag_keys=("kind",))
    assert counter.set_default_tags({"kind": "a"}) is counter
    counter.inc()
    counter.inc(2, tags={"kind": "b"})
    counter.inc(0.5)
    assert values("calls") == {(("kind", "a"),): 1.5, (("kind", "b"),): 2.0}
    assert counter.info == {
        "name": "calls",
        "description": "Calls.",
        "tag_keys": ("kind",),
        "default_tags": {"kind": "a"},
    }


def test_a_gauge_has_its_last_value_and_ignores_none() -> None:
    gauge = Gauge("depth")
    gauge.set(3)
    gauge.set(np.float32(1.5))  # type: ignore[arg-type]  # which is no float, but a number
    gauge.set(None)
    assert values("depth") == {(): 1.5}


def test_a_histogram_counts_what_is_at_most_a_boundary() -> None:
    histogram = Histogram("latency", boundaries=[1, 2.5])
    for value in (0.5, 1, 2, 2.5, 100):
        histogram.observe(value)
    (metric,) = metrics.snapshot()
    assert metric["boundaries"] == [1.0, 2.5]
    assert metric["series"] == [{"tags": {}, "sum": 106.0, "counts": [2, 2, 1]}]
    assert histogram.info["boundaries"] == [1.0, 2.5]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: Counter(""), ValueError, "Empty name"),
        (lambda: Counter("my-counter"), ValueError, "'my-counter' is no name of a metric"),
        (lambda: Counter("c", tag_keys=["a"]), TypeError, "should be a tuple"),  # type: ignore[arg-type]
        (lambda: Counter("c", tag_keys=(1,)), TypeError, "must be str"),  # type: ignore[arg-type]
        (lambda: Counter("c", tag_keys=("a-b",)), ValueError, "'a-b' is no name of a tag"),
        (lambda: Counter("c", tag_keys=("__a",)), ValueError, "'__a' is no name of a tag"),
        (lambda: Counter("c", tag_keys=("replica",)), ValueError, "'replica' tag is reserved"),
        (lambda: Histogram("h", boundaries=[1], tag_keys=("le",)), ValueError, "'le' is no name of a tag"),
        (lambda: Histogram("h"), ValueError, "takes boundaries"),
        (lambda: Histogram("h", boundaries=[0, 1]), ValueError, "above zero and rise"),
        (lambda: Histogram("h", boundaries=[2, 1]), ValueError, "above zero and rise"),
        (lambda: Histogram("h", boundaries=[1, math.inf]), ValueError, "above zero and rise"),
        (lambda: Counter("c").inc(0), ValueError, "value must be >0"),
        (lambda: Counter("c").inc(-1), ValueError, "value must be >0"),
        (lambda: Counter("c").inc(math.nan), ValueError, "value must be >0"),
        (lambda: Counter("c").inc("1"), TypeError, "int or float"),  # type: ignore[arg-type]
        (lambda: Histogram("h", boundaries=[1]).observe(math.inf), ValueError, "finite"),
        (lambda: Counter("c", tag_keys=("a", "b")).inc(tags={"a": "1"}), ValueError, r"Missing value .*: b\."),
        (lambda: Counter("c", tag_keys=("a",)).inc(), ValueError, r"Missing value .*: a\."),
        (lambda: Counter("c").inc(tags={"a": "1"}), ValueError, "Unrecognized tag key a"),
        (lambda: Counter("c", tag_keys=("a",)).inc(tags={"a": 1}), TypeError, "values must be str"),  # type: ignore[dict-item]
        (lambda: Counter("c").set_default_tags({"a": "1"}), ValueError, "Unrecognized tag key a"),
    ],
)
def test_what_cannot_be_is_refused_and_records_nothing(wrong: Callable[[], Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        wrong()
    assert all(metric["series"] == [] for metric in metrics.snapshot())


def test_one_name_is_one_metric_of_one_kind() -> None:
    Counter("x").inc()
    Counter("x").inc()
    assert values("x") == {(): 2.0}
    with pytest.raises(ValueError, match="already: a counter"):
        Gauge("x")
    Histogram("h", boundaries=[1])
    with pytest.raises(ValueError, match=r"a histogram with the boundaries \[1\.0\]"):
        Histogram("h", boundaries=[2])
    with pytest.raises(ValueError, match="'h_count' and 'h' would be exported"):
        Counter("h_count")


def test_a_metric_that_is_older_than_a_reset_goes_on_from_nothing() -> None:
    counter, other = Counter("x"), Counter("y")
    counter.inc(5)
    metrics.reset()
    counter.inc()
    Gauge("y")
    assert values("x") == {(): 1.0}
    with pytest.raises(ValueError, match="already: a gauge"):
        other.inc()


# Many threads, many series


def test_no_increment_of_any_thread_is_lost() -> None:
    counter = Counter("x", tag_keys=("n",))
    together = threading.Barrier(4)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=_count, args=(counter, together)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sum(values("x").values()) == 4 * 500


def _count(counter: Counter, together: threading.Barrier) -> None:
    for number in range(500):
        together.wait(10)
        counter.inc(tags={"n": str(number)})  # each makes the series anew, if nothing keeps them apart


def test_a_metric_has_so_many_series_and_the_rest_is_dropped_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    counter = Counter("x", tag_keys=("id",))
    with caplog.at_level(logging.WARNING):
        for number in range(metrics.SERIES_MAX + 3):
            counter.inc(tags={"id": str(number)})
        counter.inc(tags={"id": "0"})
    assert len(values("x")) == metrics.SERIES_MAX
    assert values("x")[(("id", "0"),)] == 2.0  # what is there goes on
    (warning,) = caplog.messages
    assert f"The metric x has {metrics.SERIES_MAX} series" in warning
    assert f"{{id='{metrics.SERIES_MAX}'}}" in warning


# Inside of replicas

module_level = Counter("module_level")


class Counting:
    def __init__(self) -> None:
        self.calls = Counter("calls", tag_keys=("kind", "route"))

    def __call__(self, kind: str) -> str:
        self.calls.inc(tags={"kind": kind})
        module_level.inc()
        thread = threading.Thread(target=self._in_a_thread_of_its_own)
        thread.start()
        thread.join()
        return serve.get_replica_context().replica_id

    def _in_a_thread_of_its_own(self) -> None:
        self.calls.inc(10, tags={"kind": "thread", "route": "-"})


def test_the_tags_of_the_replica_are_added(serve_local: ServeLocal) -> None:
    replica_id = serve_local(app_of(Counting), name="app").remote("a").result(timeout_s=10)
    own = (("application", "app"), ("deployment", "Counting"))
    replica = ("replica", replica_id)
    assert values("module_level") == {(*own, replica): 1.0}
    assert values("calls") == {
        (*own, ("kind", "a"), replica, ("route", "")): 1.0,
        (*own, ("kind", "thread"), replica, ("route", "-")): 10.0,
    }


class Telling:
    def __init__(self) -> None:
        self.own = Counter("own", tag_keys=("n",)).set_default_tags({"n": "1"})

    def __call__(self) -> list[dict[str, Any]]:
        self.own.inc()
        module_level.inc()
        return metrics.snapshot()


@pytest.mark.system
def test_replicas_in_processes_measure_each_for_itself() -> None:
    module_level.inc(100)
    serve.start({"port": 0})
    try:
        handle = serve.run(app_of(Telling, num_replicas=2))
        snapshots = [handle.remote().result(timeout_s=30) for _ in range(8)]
    finally:
        serve.shutdown()
    families = parsed(metrics.render(*snapshots))  # of each replica's series, the last value counts
    for name in ("own", "module_level"):
        samples = families[name].samples
        assert len({sample.labels["replica"] for sample in samples}) == len(samples) == 2
        assert sum(sample.value for sample in samples) == 8
    assert values("module_level") == {(): 100.0}


def test_two_replicas_have_series_of_their_own(serve_local: ServeLocal) -> None:
    handle = serve_local(app_of(Counting, num_replicas=2))
    replicas = {handle.remote("a").result(timeout_s=10) for _ in range(8)}
    assert {dict(tags)["replica"] for tags in values("module_level")} == replicas
    assert sum(values("module_level").values()) == 8


def test_the_route_is_that_of_the_request(serve_local: ServeLocal) -> None:
    class Routed:
        calls = Counter("routed", tag_keys=("route",))

        def __call__(self, request: object) -> str:
            self.calls.inc()
            return ""

    serve_local(app_of(Routed), route_prefix="/here")
    assert serve_local.http_client().get("/here").status_code == 200
    ((tags, value),) = values("routed").items()
    assert (dict(tags)["route"], value) == ("/here", 1.0)


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_a_metric_can_be_pickled_without_its_values(dumps: Callable[[Any], bytes]) -> None:
    histogram = Histogram("h", "What.", [1, 2], ("a",)).set_default_tags({"a": "x"})
    histogram.observe(1.5)
    data = dumps(histogram)
    metrics.reset()
    copy = pickle.loads(data)
    assert copy.info == histogram.info
    copy.observe(1)
    assert metrics.snapshot()[0]["series"] == [{"tags": {"a": "x"}, "sum": 1.0, "counts": [1, 0, 0]}]


# What is exported


def parsed(text: str) -> dict[str, Any]:
    return {family.name: family for family in text_string_to_metric_families(text)}


HOSTILE = 'a"b\\c\nd{}=, é\u2028\\n'


def test_prometheus_reads_what_is_rendered() -> None:
    Counter("calls_total", "Lines\nand \\ slashes.", ("kind",)).inc(3, {"kind": HOSTILE})
    gauge = Gauge("depth", tag_keys=("a",))
    for value in (math.nan, math.inf, -math.inf, 1e300, -0.25):
        gauge.set(value, {"a": repr(value)})
    histogram = Histogram("latency_s", "Seconds.", [0.1, 1], ("b",))
    for value in (0.05, 0.5, 0.5, 7.0):
        histogram.observe(value, {"b": "x"})

    families = parsed(metrics.render())

    calls = families["calls"]
    assert (calls.type, calls.documentation) == ("counter", "Lines\nand \\ slashes.")
    assert [(s.name, s.labels, s.value) for s in calls.samples] == [("calls_total", {"kind": HOSTILE}, 3.0)]
    assert families["depth"].type == "gauge"
    assert all(s.labels["a"] == repr(s.value) for s in families["depth"].samples)
    assert families["latency_s"].type == "histogram"
    assert [(s.name, s.labels, s.value) for s in families["latency_s"].samples] == [
        ("latency_s_bucket", {"b": "x", "le": "0.1"}, 1.0),
        ("latency_s_bucket", {"b": "x", "le": "1.0"}, 3.0),
        ("latency_s_bucket", {"b": "x", "le": "+Inf"}, 4.0),
        ("latency_s_sum", {"b": "x"}, 8.05),
        ("latency_s_count", {"b": "x"}, 4.0),
    ]


def test_the_text_is_of_lines_as_the_format_has_them() -> None:
    Counter("a", "Help.").inc(2)
    Gauge("b")
    assert metrics.render() == "# HELP a Help.\n# TYPE a counter\na 2.0\n# TYPE b gauge\n"
    metrics.reset()
    assert metrics.render() == ""


def test_text_that_has_no_place_in_utf8_can_be_sent_nevertheless() -> None:
    Counter("a", tag_keys=("b",)).inc(tags={"b": "\ud800"})
    assert parsed(metrics.render().encode().decode())["a"].samples[0].labels == {"b": "\\ud800"}


def test_snapshots_of_several_processes_are_rendered_together() -> None:
    def snapshot(replica: str, kind: type[Counter] | type[Gauge] = Counter) -> Any:
        metrics.reset()
        metric = kind("x", tag_keys=("who",)).set_default_tags({"who": replica})
        metric.inc() if isinstance(metric, Counter) else metric.set(5)
        return json.loads(json.dumps(metrics.snapshot()))

    text = metrics.render(snapshot("one"), snapshot("two"), snapshot("three", Gauge))

    assert text.count("# TYPE") == 1
    assert [s.labels["who"] for s in parsed(text)["x"].samples] == ["one", "two"]


def test_the_module_costs_no_import_of_prometheus() -> None:
    code = "import sys, modelplex.serve.metrics; print('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
