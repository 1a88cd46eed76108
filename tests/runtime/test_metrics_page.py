"""What the metrics of a system say of what has happened in it, read as Prometheus reads them."""

import asyncio
from typing import Any

import pytest
from inline_app import app_of, serving
from prometheus_client.parser import text_string_to_metric_families
from virtual_time import in_virtual_time

from modelplex import metrics, serve
from modelplex.config import METRICS_MODELS_MAX
from modelplex.errors import ModelLoadError, ModelNotFoundError, ModelplexError
from modelplex.runtime import steering
from modelplex.runtime.busiest_models import BusiestModels
from modelplex.runtime.metrics_page import merged, page
from modelplex.serve import Application, DeploymentHandle
from modelplex.serve.metrics import Counter, Gauge
from modelplex.testing import InlineCluster


class Shop:
    """Its models are numbers of bytes; the one named "bad" cannot be loaded."""

    def __init__(self) -> None:
        self.calls = Counter("shop_calls", "Calls.")

    @serve.multiplexed(max_num_models_per_replica=2, max_bytes_per_replica=100, size_of=len)
    async def get_model(self, model_id: str) -> bytes:
        await asyncio.sleep(2)
        if model_id == "bad":
            raise LookupError("no such weights")
        return b"x" * int(model_id)

    async def __call__(self, fails: bool = False, wait_s: float = 0.0) -> int:
        self.calls.inc()
        model_id = serve.get_multiplexed_model_id()
        model = await self.get_model(model_id) if model_id else b""
        await asyncio.sleep(wait_s)
        if fails:
            raise ValueError("as asked")
        return len(model)


class Page:
    """What Prometheus reads."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}

    def value(self, name: str, **tags: str) -> float:
        """The sum of all series that have these tags; a sample's name may end in `_sum` or `_count`.

        The reader itself adds `_total` to the names of counters.
        """
        return float(sum(sample.value for sample in self._samples(name, tags)))

    def has(self, name: str, **tags: str) -> bool:
        return bool(self._samples(name, tags))

    def _samples(self, name: str, tags: dict[str, str]) -> list[Any]:
        samples = (sample for family in self.families.values() for sample in family.samples)
        return [s for s in samples if s.name in (name, f"{name}_total") and tags.items() <= s.labels.items()]


def shop(**options: Any) -> Application:
    return app_of(Shop, **options)


async def read(cluster: InlineCluster) -> Page:
    return Page(await page(cluster.controller.survey, BusiestModels()))


async def use(handle: DeploymentHandle, model_id: str, **arguments: Any) -> Any:
    return await handle.options(multiplexed_model_id=model_id).remote(**arguments)


@pytest.fixture(autouse=True)
def _own_metrics() -> None:
    metrics.reset()


@in_virtual_time
async def test_requests_are_counted_by_how_they_met_their_model_and_how_they_ended() -> None:
    async with serving(shop()) as (cluster, handle):
        await asyncio.gather(use(handle, "10"), use(handle, "10"))
        await use(handle, "10")
        await handle.remote()
        with pytest.raises(ValueError, match="as asked"):
            await use(handle, "10", fails=True)
        hangs = handle.options(multiplexed_model_id="10").remote(wait_s=1000)
        await asyncio.sleep(1)
        running = await read(cluster)
        hangs.cancel()
        await asyncio.sleep(1)
        ended = await read(cluster)
        counted = {
            (start, outcome): ended.value("modelplex_requests_total", start=start, outcome=outcome)
            for start in ("warm", "cold", "joined", "none")
            for outcome in ("ok", "error", "cancelled")
        }
        assert {kind: n for kind, n in counted.items() if n} == {
            ("cold", "ok"): 1,
            ("joined", "ok"): 1,
            ("warm", "ok"): 1,
            ("none", "ok"): 1,
            ("warm", "error"): 1,
            ("warm", "cancelled"): 1,
        }
        assert running.value("modelplex_ongoing_requests") == 1
        assert ended.value("modelplex_ongoing_requests") == 0
        assert ended.value("modelplex_request_run_seconds_count") == 6
        assert ended.value("modelplex_request_wait_seconds_count") == 6
        assert ended.value("modelplex_request_load_seconds_count") == 2
        assert ended.value("serve_deployment_request_counter", deployment="Shop") == 4
        assert ended.value("serve_deployment_error_counter", application="default") == 1
        assert ended.value("serve_multiplexed_get_model_requests_counter") == 5
        assert ended.value("shop_calls", deployment="Shop") == 6  # the user's own


@in_virtual_time
async def test_models_are_counted_from_load_to_unload_with_the_reason() -> None:
    async with serving(shop()) as (cluster, handle):
        await use(handle, "40")
        await use(handle, "20")
        full = await read(cluster)
        assert full.value("modelplex_resident_models", loader="get_model") == 2
        assert full.value("modelplex_resident_bytes") == 60
        assert (full.value("modelplex_budget_models"), full.value("modelplex_budget_bytes")) == (2, 100)
        await use(handle, "30")  # in the place of 40
        await steering.unload(cluster.directory, "default", "Shop", "30")
        await asyncio.sleep(1)
        read_now = await read(cluster)
        assert read_now.value("modelplex_model_evictions_total", reason="room") == 1
        assert read_now.value("modelplex_model_evictions_total", reason="asked") == 1
        assert read_now.value("modelplex_resident_bytes") == 20
        assert read_now.value("modelplex_model_load_seconds_count") == 3
        assert read_now.value("serve_num_multiplexed_models") == 1
        assert read_now.value("serve_multiplexed_models_load_counter") == 3
        assert read_now.value("serve_multiplexed_models_unload_counter") == 2
        assert read_now.value("serve_multiplexed_model_load_latency_ms_count") == 3
        assert read_now.value("serve_registered_multiplexed_model_id", model_id="20") == 1
        assert not read_now.has("serve_registered_multiplexed_model_id", model_id="40")
        assert read_now.value("modelplex_busiest_model_uses_total", model_id="40") == 1
        assert read_now.value("modelplex_busiest_model_bytes", model_id="20") == 20


@in_virtual_time
async def test_failed_loads_are_counted_by_their_error_and_waiters_while_they_wait() -> None:
    async with serving(shop()) as (cluster, handle):
        waiting = [asyncio.ensure_future(use(handle, "bad")) for _ in range(3)]
        await asyncio.sleep(1)
        during = await read(cluster)
        assert during.value("modelplex_loads_running") == 1
        assert during.value("modelplex_model_waiters") == 3
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(outcome, ModelLoadError) for outcome in outcomes)
        after = await read(cluster)
        assert after.value("modelplex_model_load_failures_total", error="LookupError") == 1
        assert (after.value("modelplex_loads_running"), after.value("modelplex_model_waiters")) == (0, 0)
        assert after.value("modelplex_requests_failed_total", error="ModelLoadError", process="controller") == 3


@in_virtual_time
async def test_requests_that_wait_and_those_that_replicas_refuse_are_counted() -> None:
    async with serving(shop(max_ongoing_requests=1, max_queued_requests=1)) as (cluster, handle):
        responses = [handle.remote(wait_s=10) for _ in range(3)]
        await asyncio.sleep(1)
        queued = await read(cluster)
        assert queued.value("modelplex_queued_requests", application="default", deployment="Shop") == 1
        assert queued.value("serve_deployment_queued_queries") == 1
        assert queued.value("modelplex_ongoing_requests_max") == 1
        outcomes = await asyncio.gather(*responses, return_exceptions=True)
        assert sum(isinstance(outcome, ModelplexError) for outcome in outcomes) == 1
        after = await read(cluster)
        assert after.value("modelplex_queued_requests") == 0
        assert after.value("modelplex_requests_failed_total", error="BackPressureError") == 1


@in_virtual_time
async def test_replicas_are_told_apart_and_the_lost_are_counted() -> None:
    async with serving(shop(num_replicas=2, max_ongoing_requests=1)) as (cluster, handle):
        await asyncio.gather(*(handle.remote(wait_s=1) for _ in range(2)))
        both = await read(cluster)
        assert both.value("modelplex_replicas_running", deployment="Shop") == 2
        by_replica = [s.value for s in both.families["modelplex_requests"].samples if s.labels["start"] == "none"]
        assert sorted(by_replica) == [0, 0, 0, 0, 1, 1]
        next(iter(cluster.engine._processes.values())).kill()
        await asyncio.sleep(5)
        after = await read(cluster)
        assert after.value("modelplex_replicas_lost_total") == 1
        assert after.value("modelplex_replicas_wanted") == 2


@in_virtual_time
async def test_what_replicas_do_on_behalf_of_no_user_is_no_request() -> None:
    async with serving(shop()) as (cluster, _):
        await steering.load(cluster.directory, "default", "Shop", "10")
        counted = await read(cluster)
        assert counted.value("modelplex_requests_total") == 0
        assert counted.value("serve_multiplexed_models_load_counter") == 1


@in_virtual_time
async def test_each_metric_has_a_help_and_a_type() -> None:
    async with serving(shop()) as (cluster, handle):
        await use(handle, "10")
        text = (await read(cluster)).text
        helped = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP")}
        typed = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
        assert set(typed) == helped
        assert len(typed) == len(set(typed)) > 25
        for name in typed:
            if name.startswith("modelplex_") and f"# TYPE {name} counter" in text:
                assert name.endswith("_total")


@in_virtual_time
async def test_a_model_that_nobody_knows_makes_no_series() -> None:
    class Known(Shop):
        @serve.multiplexed(model_exists=lambda model_id: False)
        async def get_model(self, model_id: str) -> bytes:
            return b""

    async with serving(app_of(Known)) as (cluster, handle):
        for number in range(20):
            with pytest.raises(ModelNotFoundError):
                await use(handle, f"invented-{number}")
        assert "invented" not in (await read(cluster)).text


@in_virtual_time
async def test_what_a_program_counts_itself_is_there_once_and_nothing_takes_the_place_of_the_systems_own() -> None:
    Counter("outside", "Of no replica.").inc(2)
    Gauge("modelplex_requests_total", "Not the system's.").set(99)
    Gauge("modelplex_busiest_model_uses_total").set(1)
    async with serving(shop(num_replicas=2)) as (cluster, handle):
        await use(handle, "10")
        read_now = await read(cluster)
        assert read_now.value("outside", process="controller") == read_now.value("outside") == 2
        assert read_now.value("modelplex_requests_total") == 1
        assert read_now.value("modelplex_busiest_model_uses_total") == 1


@in_virtual_time
async def test_of_many_models_only_the_busiest_have_series() -> None:
    class Many:
        @serve.multiplexed(max_num_models_per_replica=1000)
        async def get_model(self, model_id: str) -> str:
            return model_id

        async def __call__(self) -> None:
            await self.get_model(serve.get_multiplexed_model_id())

    async with serving(app_of(Many, max_ongoing_requests=10)) as (cluster, handle):
        for number in range(400):
            await use(handle, f"m{number}")
        for number in range(300, 360):
            await use(handle, f"m{number}")
        read_now = await read(cluster)
        assert read_now.value("modelplex_models_known") == 400
        per_model = [s for f in read_now.families.values() for s in f.samples if "model_id" in s.labels]
        assert len(per_model) == 5 * METRICS_MODELS_MAX
        shown = {sample.labels["model_id"] for sample in per_model}
        assert {f"m{number}" for number in range(300, 360)} <= shown


def test_what_two_processes_say_of_one_series_is_added_up() -> None:
    def counter(value: float, kind: str = "counter") -> dict[str, Any]:
        return {"name": "n", "kind": kind, "description": "d", "series": [{"tags": {"a": "b"}, "value": value}]}

    def histogram(*counts: int) -> dict[str, Any]:
        series = [{"tags": {}, "sum": 1.5, "counts": list(counts)}]
        return {"name": "h", "kind": "histogram", "description": "d", "boundaries": [1.0], "series": series}

    both = merged([[counter(1), histogram(1, 2)], [counter(2), counter(9, "gauge"), histogram(3, 4)]])
    assert both[0]["series"] == [{"tags": {"a": "b"}, "value": 3}]
    assert both[1]["series"] == [{"tags": {}, "sum": 3.0, "counts": [4, 6]}]
    assert [metric["kind"] for metric in both] == ["counter", "histogram"]
