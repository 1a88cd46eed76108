"""The metrics of a replica: its requests, its models, and what the user's code counts; in the form of a snapshot."""

import heapq
from collections.abc import Callable, Iterator
from typing import Any

from modelplex import context
from modelplex.config import METRICS_MODELS_MAX, UNLIMITED
from modelplex.runtime import metric_families as families
from modelplex.runtime.directory import Directory
from modelplex.runtime.meters import LOAD_BOUNDS_S, Buckets
from modelplex.runtime.model_meters import ModelMeter
from modelplex.runtime.models import ModelHost
from modelplex.runtime.process_metrics import memory, of_routers, of_user
from modelplex.runtime.replica import Replica

Tags = dict[str, str]


def of_replica(replica: Replica, *, own_process: bool = True) -> list[dict[str, Any]]:
    """All of them. What is its process's is left out if that is not its own."""
    own = replica.context
    tags = {"application": own.app_name, "deployment": own.deployment, "replica": own.replica_id}
    hosts = replica.models.in_use
    found = [*_requests(replica, tags), *_models(hosts, tags), *_in_rays_words(replica, hosts, tags)]
    found.append(families.LEAKED_BYTES.of((tags, replica.leaks.report.leaked_bytes)))
    found += _busiest(hosts, tags)
    if own_process:
        found += memory(own.replica_id)
        if context.has_caller() and isinstance(caller := context.caller(), Directory):
            found += of_routers(caller, own.replica_id)
    return found + of_user(own.replica_id, own.replica_id, untagged=own_process)


def _requests(replica: Replica, tags: Tags) -> Iterator[dict[str, Any]]:
    meters = replica.meters
    outcomes: tuple[tuple[str, Callable[[Any], int]], ...] = (
        ("ok", lambda meter: meter.ok),
        ("error", lambda meter: meter.error),
        ("cancelled", lambda meter: meter.cancelled),
    )
    yield families.REQUESTS.of(
        *(
            ({**tags, "start": start, "outcome": outcome}, count(meter))
            for start, meter in meters.starts.items()
            for outcome, count in outcomes
        )
    )
    yield families.WAIT.distribution((tags, meters.wait))
    yield families.REQUEST_LOAD.distribution((tags, meters.load))
    yield families.RUN.distribution((tags, meters.run + meters.run_cold))
    yield families.ONGOING.of((tags, replica.ongoing))
    yield families.ONGOING_MAX.of((tags, meters.ongoing_max))


def _models(hosts: list[ModelHost], tags: Tags) -> Iterator[dict[str, Any]]:
    each = [({**tags, "loader": host.name}, host) for host in hosts]
    meters = [(own, host.cached.meters) for own, host in each]
    yield families.LOAD.distribution(*((own, meter.loads) for own, meter in meters))
    yield families.FAILURES.of(
        *(({**own, "error": kind}, count) for own, meter in meters for kind, count in meter.failures.items())
    )
    yield families.EVICTIONS.of(
        *(({**own, "reason": reason}, count) for own, meter in meters for reason, count in meter.evictions.items())
    )
    yield families.RESIDENT.of(*((own, len(meter.of)) for own, meter in meters))
    yield families.RESIDENT_BYTES.of(*((own, sum(m.size_bytes for m in meter.of.values())) for own, meter in meters))
    budgets = [(own, host.cache.models_max) for own, host in each]
    yield families.BUDGET.of(*((own, most) for own, most in budgets if most != UNLIMITED))
    budgets = [(own, host.cache.bytes_max) for own, host in each]
    yield families.BUDGET_BYTES.of(*((own, most) for own, most in budgets if most != UNLIMITED))
    yield families.LOADING.of(*((own, len(host.cache.loading)) for own, host in each))
    yield families.WAITERS.of(*((own, host.cached.waiting) for own, host in each))


def _in_rays_words(replica: Replica, hosts: list[ModelHost], tags: Tags) -> Iterator[dict[str, Any]]:
    requests = replica.meters
    meters = [host.cached.meters for host in hosts]
    none = Buckets(LOAD_BOUNDS_S)
    loads, unloads = sum((m.loads for m in meters), none), sum((m.unloads for m in meters), none)
    yield families.RAY_LOAD.distribution((tags, loads), times=1e3)
    yield families.RAY_UNLOAD.distribution((tags, unloads), times=1e3)
    yield families.RAY_MODELS.of((tags, sum(len(meter.of) for meter in meters)))
    yield families.RAY_GETS.of((tags, sum(meter.asked for meter in meters)))
    yield families.RAY_LOADS.of((tags, sum(loads.counts)))
    yield families.RAY_UNLOADS.of((tags, sum(unloads.counts)))
    starts = requests.starts.values()
    yield families.RAY_REQUESTS.of((tags, sum(meter.ok for meter in starts)))
    yield families.RAY_ERRORS.of((tags, sum(meter.error for meter in starts)))
    yield families.RAY_LATENCY.distribution((tags, requests.run + requests.whole_cold), times=1e3)
    yield families.RAY_ONGOING.of((tags, replica.ongoing))


def _busiest(hosts: list[ModelHost], tags: Tags) -> list[dict[str, Any]]:
    """As many models as there can be series of in all; which of them get series, `busiest` says."""
    found: dict[str, list[tuple[ModelMeter, bool]]] = {}
    for host in hosts:
        meters = host.cached.meters
        for of, is_resident in ((meters.of, True), (meters.gone, False)):
            for model_id, meter in of.items():
                found.setdefault(model_id, []).append((meter, is_resident))
    # Twice as many: what is used much now may not have been used most so far.
    most = heapq.nlargest(2 * METRICS_MODELS_MAX, found, key=lambda model_id: sum(m.uses for m, _ in found[model_id]))
    rows = [({**tags, "model_id": model_id}, found[model_id]) for model_id in most]
    resident = [(own, meters) for own, meters in rows if any(is_here for _, is_here in meters)]
    return [
        families.MODEL_USES.of(*((own, sum(m.uses for m, _ in meters)) for own, meters in rows)),
        families.MODEL_LOADS.of(*((own, sum(m.loads for m, _ in meters)) for own, meters in rows)),
        families.MODEL_LOAD_S.of(*((own, round(sum(m.load_s for m, _ in meters), 6)) for own, meters in rows)),
        families.MODEL_BYTES.of(*((own, max(m.size_bytes for m, _ in meters)) for own, meters in resident)),
        families.RAY_MODEL.of(*((own, 1) for own, _ in resident)),
        families.MODELS_KNOWN.of((tags, len(found))),
    ]
