"""The metrics of a process that is no replica, or that any process has, in the form of `metrics.snapshot`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from modelplex import metrics
from modelplex.runtime import metric_families as families
from modelplex.runtime.directory import Directory
from modelplex.runtime.meters import OTHER, Counts
from modelplex.runtime.sizes import process_bytes

if TYPE_CHECKING:
    from modelplex.runtime.deployments import ServedDeployment
    from modelplex.runtime.http_meters import HTTPMeters
    from modelplex.runtime.http_server import HTTPServer

Snapshot = list[dict[str, Any]]


def of_proxy(name: str, meters: "HTTPMeters", server: "HTTPServer", directory: Directory) -> Snapshot:
    """All of a proxy."""
    from modelplex.runtime import http_exchange  # replicas do without

    process = {"process": name}
    by_class, by_status, errors = Counts(), Counts(), Counts()
    for (app, method, status), count in meters.requests.items():
        kind = "broken" if not status else OTHER if status == OTHER else f"{status // 100}xx"
        by_class[app, method, kind] = by_class.get((app, method, kind), 0) + count
        by_status[app, method, str(status)] = count
        if status != OTHER and status >= 400:
            errors[app, method, str(status)] = count
    return [
        families.HTTP.of(
            *(
                ({**process, "application": app, "method": method, "status": kind}, count)
                for (app, method, kind), count in by_class.items()
            )
        ),
        families.HTTP_TIME.distribution(
            *(({**process, "application": app}, buckets) for app, buckets in meters.seconds.items())
        ),
        families.HTTP_RUNNING.of((process, meters.running)),
        families.HTTP_REFUSED.by("status", process, {str(status): n for status, n in http_exchange.refusals.items()}),
        families.CONNECTIONS.of((process, server.connections)),
        families.RAY_HTTP.of(
            *(
                ({**process, "application": app, "method": method, "status_code": status}, count)
                for (app, method, status), count in by_status.items()
            )
        ),
        families.RAY_HTTP_ERRORS.of(
            *(
                ({**process, "application": app, "method": method, "error_code": status}, count)
                for (app, method, status), count in errors.items()
            )
        ),
        families.RAY_HTTP_LATENCY.distribution(
            *(({**process, "application": app}, buckets) for app, buckets in meters.seconds.items()), times=1e3
        ),
        *of_routers(directory, name),
        *memory(name),
        *of_user(name, ""),
    ]


def of_controller(name: str, deployments: "Iterable[ServedDeployment]", directory: Directory) -> Snapshot:
    """All of the controller's process."""
    each = [({"application": d.app_name, "deployment": d.spec.config.name}, d.processes) for d in deployments]
    return [
        families.REPLICAS_WANTED.of(*((tags, processes.count) for tags, processes in each)),
        families.REPLICAS_RUNNING.of(*((tags, len(processes.running)) for tags, processes in each)),
        families.REPLICAS_LOST.of(*((tags, processes.lost) for tags, processes in each)),
        *of_routers(directory, name),
        *memory(name),
        *of_user(name, ""),
    ]


def of_routers(directory: Directory, process: str) -> Snapshot:
    """What a process has sent to deployments."""
    each = []
    for router in directory.routers:
        meters = router.meters
        tags = {"application": meters.app_name, "deployment": meters.deployment, "process": process}
        each.append((tags, router, meters))
    queued = [(tags, router.waiting) for tags, router, _ in each]
    return [
        families.QUEUED.of(*queued),
        families.RAY_QUEUED.of(*queued),
        families.RESENT.of(*((tags, meters.resent) for tags, _, meters in each)),
        families.REFUSED.of(*((tags, meters.refused) for tags, _, meters in each)),
        families.UNANSWERED.of(
            *(({**tags, "error": kind}, count) for tags, _, meters in each for kind, count in meters.failures.items())
        ),
    ]


def memory(process: str) -> Snapshot:
    return [families.MEMORY.of(({"process": process}, process_bytes()))]


def of_user(process: str, replica_id: str, *, untagged: bool = True) -> Snapshot:
    """What the user's code counts in a process on behalf of a replica, or of none; the latter only if `untagged`.

    What has a name of the system's own metrics is left out: nobody could tell the two apart.
    """
    found: Snapshot = []
    for metric in metrics.snapshot():
        if metric["name"] in families.NAMES:
            continue
        series = []
        for one in metric["series"]:
            tags = one["tags"]
            if "replica" in tags:
                if tags["replica"] == replica_id:
                    series.append(one)
            elif untagged:
                series.append({**one, "tags": {"process": process, **tags}})
        if series:
            found.append({**metric, "series": series})
    return found
