"""The metrics that a system has of itself: the name of each, its kind, and what it says."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modelplex.metrics import Kind
from modelplex.runtime.meters import Buckets

Tags = dict[str, str]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. It makes what `metrics.snapshot` has of one."""

    name: str
    kind: Kind
    description: str

    def of(self, *values: tuple[Tags, float]) -> dict[str, Any]:
        """Of a counter or a gauge: each series' tags and value."""
        return self._with([{"tags": tags, "value": value} for tags, value in values])

    def by(self, key: str, tags: Tags, values: Mapping[str, float]) -> dict[str, Any]:
        """The same, of series that differ in one tag."""
        return self.of(*(({**tags, key: name}, value) for name, value in values.items()))

    def distribution(self, *values: tuple[Tags, Buckets], times: float = 1.0) -> dict[str, Any]:
        """Of a histogram; its values may be in another unit, so many `times` as large."""
        bounds = [round(bound * times, 9) for bound in values[0][1].bounds] if values else []
        series = [{"tags": tags, "sum": b.total * times, "counts": list(b.counts)} for tags, b in values]
        return {**self._with(series), "boundaries": bounds}

    def _with(self, series: Iterable[dict[str, Any]]) -> dict[str, Any]:
        return {"name": self.name, "kind": self.kind, "description": self.description, "series": list(series)}


# Replicas: requests

REQUESTS = Family(
    "modelplex_requests_total",
    "counter",
    "Requests that have ended on a replica, by how they met their first model (none: they used none) and outcome.",
)
WAIT = Family(
    "modelplex_request_wait_seconds", "histogram", "Time of requests in queues and on their way to a replica."
)
REQUEST_LOAD = Family(
    "modelplex_request_load_seconds", "histogram", "Time that requests waited for models that were not loaded."
)
RUN = Family(
    "modelplex_request_run_seconds", "histogram", "Time of requests on their replica, without waits for models."
)
ONGOING = Family("modelplex_ongoing_requests", "gauge", "Requests that run on a replica.")
ONGOING_MAX = Family("modelplex_ongoing_requests_max", "gauge", "Requests that may run on a replica at a time.")

# Replicas: models

LOAD = Family("modelplex_model_load_seconds", "histogram", "Time that loads of models took.")
FAILURES = Family("modelplex_model_load_failures_total", "counter", "Loads that failed, by the name of the error.")
EVICTIONS = Family("modelplex_model_evictions_total", "counter", "Models that were unloaded, by why.")
RESIDENT = Family("modelplex_resident_models", "gauge", "Models that are loaded.")
BUDGET = Family("modelplex_budget_models", "gauge", "Models that may be loaded at a time; none if any number may.")
RESIDENT_BYTES = Family("modelplex_resident_bytes", "gauge", "Bytes of the models that are loaded, as far as known.")
BUDGET_BYTES = Family("modelplex_budget_bytes", "gauge", "Bytes that models may take together; none if any number may.")
LOADING = Family("modelplex_loads_running", "gauge", "Loads of models that run.")
WAITERS = Family("modelplex_model_waiters", "gauge", "Requests that wait for a model on their replica.")
LEAKED_BYTES = Family("modelplex_leaked_bytes", "gauge", "Bytes of unloaded models that something still holds.")

# The busiest models

MODEL_USES = Family("modelplex_busiest_model_uses_total", "counter", "Uses of one of the busiest models.")
MODEL_LOADS = Family("modelplex_busiest_model_loads_total", "counter", "Loads of one of the busiest models.")
MODEL_LOAD_S = Family(
    "modelplex_busiest_model_load_seconds_total", "counter", "Time that all loads of one of the busiest models took."
)
MODEL_BYTES = Family("modelplex_busiest_model_bytes", "gauge", "Bytes of one of the busiest models.")
MODELS_KNOWN = Family(
    "modelplex_models_known",
    "gauge",
    "Models that are loaded, and of late were: those that the busiest are taken from.",
)

# Those of Ray Serve, by its names and tags

RAY_LOAD = Family(
    "serve_multiplexed_model_load_latency_ms", "histogram", "The time it takes to load a model, in milliseconds."
)
RAY_UNLOAD = Family(
    "serve_multiplexed_model_unload_latency_ms", "histogram", "The time it takes to unload a model, in milliseconds."
)
RAY_MODELS = Family("serve_num_multiplexed_models", "gauge", "The number of models loaded on a replica.")
RAY_MODEL = Family(
    "serve_registered_multiplexed_model_id",
    "gauge",
    "1 for a model that is loaded on a replica; of the busiest models.",
)
RAY_GETS = Family(
    "serve_multiplexed_get_model_requests_counter", "counter", "How often a replica's code has asked for a model."
)
RAY_LOADS = Family(
    "serve_multiplexed_models_load_counter", "counter", "The number of models that a replica has loaded."
)
RAY_UNLOADS = Family(
    "serve_multiplexed_models_unload_counter", "counter", "The number of models that a replica has unloaded."
)
RAY_REQUESTS = Family(
    "serve_deployment_request_counter", "counter", "The number of requests that ended well on a replica."
)
RAY_ERRORS = Family("serve_deployment_error_counter", "counter", "The number of requests that ended with an error.")
RAY_LATENCY = Family(
    "serve_deployment_processing_latency_ms", "histogram", "The time of requests on their replica, in milliseconds."
)
RAY_ONGOING = Family("serve_replica_processing_queries", "gauge", "The number of requests that run on a replica.")
RAY_QUEUED = Family("serve_deployment_queued_queries", "gauge", "The number of requests that wait for a replica.")
RAY_HTTP = Family("serve_num_http_requests", "counter", "The number of HTTP requests.")
RAY_HTTP_ERRORS = Family(
    "serve_num_http_error_requests", "counter", "The number of HTTP requests with a status of 400 up."
)
RAY_HTTP_LATENCY = Family("serve_http_request_latency_ms", "histogram", "The time of HTTP requests, in milliseconds.")


# Routers, in every process that calls a deployment

QUEUED = Family("modelplex_queued_requests", "gauge", "Requests that wait in a process to be sent to a replica.")
RESENT = Family(
    "modelplex_requests_resent_total", "counter", "Requests that were sent once more, to whichever replica."
)
REFUSED = Family("modelplex_requests_refused_total", "counter", "Requests that a replica had no slot or no room for.")
UNANSWERED = Family(
    "modelplex_requests_failed_total", "counter", "Requests that ended without an answer, by the name of the error."
)

# Proxies

HTTP = Family(
    "modelplex_http_requests_total",
    "counter",
    "HTTP requests of a proxy by class of status; broken: the client left, or the answer was cut short.",
)
HTTP_TIME = Family(
    "modelplex_http_request_seconds", "histogram", "Time from a request's head to the end of its answer."
)
HTTP_RUNNING = Family("modelplex_http_requests_running", "gauge", "HTTP requests that are not answered yet.")
HTTP_REFUSED = Family(
    "modelplex_http_refused_total", "counter", "Answers of a proxy to what never became a request, by status."
)
CONNECTIONS = Family("modelplex_http_connections", "gauge", "Connections of clients that are open.")

# The controller

REPLICAS_WANTED = Family("modelplex_replicas_wanted", "gauge", "Replicas that there should be.")
REPLICAS_RUNNING = Family("modelplex_replicas_running", "gauge", "Replicas that take requests.")
REPLICAS_LOST = Family(
    "modelplex_replicas_lost_total", "counter", "Replicas that died, or were unwell, and that others took the place of."
)

# Every process

MEMORY = Family("modelplex_process_memory_bytes", "gauge", "Memory that a process takes.")

NAMES = frozenset(family.name for family in list(globals().values()) if isinstance(family, Family))
