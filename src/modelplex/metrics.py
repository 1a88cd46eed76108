"""Metrics of the user's code, as `ray.serve.metrics` has them: counters, gauges and histograms with tags.

A metric says what is measured; its values are in a registry that each process has one of. So a metric may be pickled
along with a deployment, and be made as often as one likes: those of one name are one.

In a replica the tags `deployment`, `replica` and `application` are added, and `route` where a metric has that key.
"""

import bisect
import logging
import math
import numbers
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from modelplex import context

log = logging.getLogger(__name__)

# Series of one metric that a process keeps. Tags with more values than that (request ids, say) would use up the memory
# of this process and of whoever stores its metrics: what would be a further series is dropped, and one warning says so.
SERIES_MAX = 1000

Kind = Literal["counter", "gauge", "histogram"]
Tags = tuple[tuple[str, str], ...]  # sorted by name

_REPLICA_TAGS = frozenset({"deployment", "replica", "application"})
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_TAG_KEY = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


@dataclass(slots=True)
class _Series:
    """The value of a counter or a gauge; of a histogram the sum of its values, and how many went into each bucket."""

    value: float = 0.0
    counts: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Family:
    """All series of one name."""

    kind: Kind
    description: str
    boundaries: tuple[float, ...]
    series: dict[Tags, _Series] = field(default_factory=dict)
    dropped: int = 0


class _Registry:
    """The metrics of one process. Safe to be used from all of its threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a destructor may run in the middle of it, and count something
        self._families: dict[str, _Family] = {}

    def declare(self, metric: "Metric") -> None:
        with self._lock:
            self._family(metric)

    def add(self, metric: "Metric", tags: Tags, value: float) -> None:
        with self._lock:
            if (series := self._series(metric, tags)) is not None:
                series.value += value

    def set(self, metric: "Metric", tags: Tags, value: float) -> None:
        with self._lock:
            if (series := self._series(metric, tags)) is not None:
                series.value = value

    def observe(self, metric: "Metric", tags: Tags, value: float) -> None:
        with self._lock:
            if (series := self._series(metric, tags)) is not None:
                series.value += value
                series.counts[bisect.bisect_left(metric.boundaries, value)] += 1

    def snapshot(self) -> list[dict[str, Any]]:
        with self._lock:
            return [_plain(name, family) for name, family in self._families.items()]

    def clear(self) -> None:
        with self._lock:
            self._families.clear()

    def _series(self, metric: "Metric", tags: Tags) -> _Series | None:
        """None if there are too many already."""
        family = self._families.get(metric.name)
        if family is None or family.kind != metric.kind or family.boundaries != metric.boundaries:
            family = self._family(metric)
        series = family.series.get(tags)
        if series is not None:
            return series
        if len(family.series) >= SERIES_MAX:
            family.dropped += 1
            if family.dropped == 1:
                shown = ", ".join(f"{key}={value!r}" for key, value in tags)
                log.warning(
                    "The metric %s has %d series, which is the most: what belongs to another is dropped from now on, "
                    "and the first of these is {%s}. A tag should have few values.",
                    *(metric.name, SERIES_MAX, shown),
                )
            return None
        counts = [0] * (len(metric.boundaries) + 1) if metric.kind == "histogram" else []
        series = family.series[tags] = _Series(counts=counts)
        return series

    def _family(self, metric: "Metric") -> _Family:
        """What has this name. Raises ValueError if it is something else."""
        name = metric.name
        family = self._families.get(name)
        if family is None:
            for other, found in self._families.items():
                if _samples(name, metric.kind) & _samples(other, found.kind):
                    raise ValueError(f"The metrics {name!r} and {other!r} would be exported under the same name.")
            family = self._families[name] = _Family(metric.kind, metric.description, metric.boundaries)
        if (family.kind, family.boundaries) != (metric.kind, metric.boundaries):
            its = f" with the boundaries {list(family.boundaries)}" if family.boundaries else ""
            raise ValueError(f"There is a metric {name!r} already: a {family.kind}{its}.")
        return family


_registry = _Registry()


class Metric:
    """What counters, gauges and histograms have in common.

    Args:
        name: letters, digits, `_` and `:`; not of another kind of metric in the same process.
        description: for people.
        tag_keys: the tags that each value has, besides those of the replica.

    Raises ValueError for names that cannot be, and TypeError for what are no names.
    """

    kind: Kind

    def __init__(self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None) -> None:
        self._set_up(name, description, tag_keys, ())

    def _set_up(
        self, name: str, description: str, tag_keys: tuple[str, ...] | None, boundaries: tuple[float, ...]
    ) -> None:
        if not name:
            raise ValueError("Empty name is not allowed. Please provide a metric name.")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a metric: letters, digits, '_' and ':', and no digit first.")
        if tag_keys is not None and not isinstance(tag_keys, tuple):
            raise TypeError(f"tag_keys should be a tuple type, got: {type(tag_keys)}")
        self.name = name
        self.description = description
        self.boundaries = boundaries
        self._tag_keys = tag_keys or ()
        for key in self._tag_keys:
            self._check_tag_key(key)
        self._default_tags: dict[str, str] = {}
        self._made_in = _tags_of_replica()
        _registry.declare(self)

    def _check_tag_key(self, key: object) -> None:
        if not isinstance(key, str):
            raise TypeError(f"Tag keys must be str, got {type(key)}.")
        if key in _REPLICA_TAGS:
            raise ValueError(f"'{key}' tag is reserved: it is added to what is recorded in a replica.")
        if not _TAG_KEY.fullmatch(key) or (key == "le" and self.kind == "histogram"):
            raise ValueError(
                f"{key!r} is no name of a tag: letters, digits and '_', and neither a digit nor '__' first."
            )

    def set_default_tags(self, default_tags: dict[str, str]) -> Self:
        """Values of tags for all that is recorded without them. Raises ValueError for a tag that it does not have."""
        self._check_tags(default_tags)
        self._default_tags = dict(default_tags)
        return self

    @property
    def info(self) -> dict[str, Any]:
        """Its name, description, tag_keys and default_tags."""
        return {
            "name": self.name,
            "description": self.description,
            "tag_keys": self._tag_keys,
            "default_tags": dict(self._default_tags),
        }

    def _check_tags(self, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            if key not in self._tag_keys:
                raise ValueError(f"Unrecognized tag key {key}.")
            if not isinstance(value, str):
                raise TypeError(f"Tag values must be str, got {type(value)}.")

    def _tags(self, given: dict[str, str] | None) -> Tags:
        """All tags of a value. Raises ValueError if one is missing, or unknown."""
        # A thread of the user's own works for no replica that we could know of, but for the one that made the metric.
        tags = _tags_of_replica() or self._made_in
        if not self._tag_keys and not given:
            return tags
        if given:
            self._check_tags(given)
        own = {**self._default_tags, **given} if given else self._default_tags
        if len(own) < len(self._tag_keys):
            request = context.request()
            if "route" in self._tag_keys and request is not None:
                own = {"route": request.route, **own}
            if missing := [key for key in self._tag_keys if key not in own]:
                raise ValueError(f"Missing value for tag key(s): {','.join(missing)}.")
        return tuple(sorted((*tags, *own.items())))

    def __getstate__(self) -> dict[str, Any]:
        # What unpickles it is another replica, or none.
        return {**self.__dict__, "_made_in": ()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._made_in = _tags_of_replica()
        _registry.declare(self)


class Counter(Metric):
    """A number that only grows, as of requests or errors."""

    kind = "counter"

    def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        """Raises ValueError for what is not above zero, and for tags that are unknown or missing."""
        value = _number(value)
        if not 0 < value < math.inf:
            raise ValueError(f"value must be >0, got {value}")
        _registry.add(self, self._tags(tags), value)


class Gauge(Metric):
    """A number that goes up and down, as of what is in a queue. Each process, and so each replica, has its own."""

    kind = "gauge"

    def set(self, value: float | None, tags: dict[str, str] | None = None) -> None:
        """Nothing happens for None. Raises ValueError for tags that are unknown or missing."""
        if value is not None:
            _registry.set(self, self._tags(tags), _number(value))


class Histogram(Metric):
    """How values are distributed over buckets, as of latencies.

    Args:
        name, description, tag_keys: as those of all metrics.
        boundaries: the upper bounds of the buckets, above zero and rising; one more bucket has the values beyond.
    """

    kind = "histogram"

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: Iterable[float] | None = None,
        tag_keys: tuple[str, ...] | None = None,
    ) -> None:
        bounds = tuple(float(boundary) for boundary in boundaries or ())
        if not bounds:
            raise ValueError('A histogram takes boundaries, such as Histogram("name", boundaries=[1.0, 2.0]).')
        if not all(0 < bound < math.inf for bound in bounds) or list(bounds) != sorted(set(bounds)):
            raise ValueError(f"The boundaries of a histogram are above zero and rise, got {list(bounds)}.")
        self._set_up(name, description, tag_keys, bounds)

    def observe(self, value: float, tags: dict[str, str] | None = None) -> None:
        """Raises ValueError for what is not finite, and for tags that are unknown or missing."""
        value = _number(value)
        if not math.isfinite(value):
            raise ValueError(f"value must be finite, got {value}")
        _registry.observe(self, self._tags(tags), value)

    @property
    def info(self) -> dict[str, Any]:
        """Also its boundaries."""
        return {**super().info, "boundaries": list(self.boundaries)}


def snapshot() -> list[dict[str, Any]]:
    """The metrics of this process, in what JSON can hold.

    One dict for each metric: `name`, `kind`, `description`, and `series`, a list of dicts: `tags`, and `value`. Those
    of a histogram have `sum` and `counts` instead, and the metric has `boundaries`; `counts[i]` is how many values were
    at most `boundaries[i]` and above the one before it, and the last one how many were above all.
    """
    return _registry.snapshot()


def render(*snapshots: list[dict[str, Any]]) -> str:
    """The Prometheus text format, version 0.0.4, of this process's metrics, or of snapshots of several processes.

    Of a metric that several have, the first one's kind and boundaries count, and others of that name are left out; of a
    series that several have, the last one's value.
    """
    families: dict[str, dict[str, Any]] = {}
    series: dict[str, dict[Tags, dict[str, Any]]] = {}
    for metric in (metric for metrics in snapshots or (snapshot(),) for metric in metrics):
        name = metric["name"]
        first = families.setdefault(name, metric)
        if (first["kind"], first.get("boundaries")) == (metric["kind"], metric.get("boundaries")):
            series.setdefault(name, {}).update((tuple(sorted(s["tags"].items())), s) for s in metric["series"])
    return "".join(line + "\n" for name in families for line in _lines(families[name], series[name]))


def reset() -> None:
    """Forget all values and names of this process, as tests do."""
    _registry.clear()


def _tags_of_replica() -> Tags:
    """Those of the replica that the current code runs in; none outside of replicas."""
    if not context.in_replica():
        return ()
    own = context.replica().context
    return ("application", own.app_name), ("deployment", own.deployment), ("replica", own.replica_id)


def _number(value: object) -> float:
    if isinstance(value, (int, float, numbers.Real)):  # the last of which is slow to be found out, and NumPy's
        return float(value)
    raise TypeError(f"value must be int or float, got {type(value)}.")


def _samples(name: str, kind: Kind) -> set[str]:
    """The names that a metric is exported under."""
    return {name, f"{name}_bucket", f"{name}_sum", f"{name}_count"} if kind == "histogram" else {name}


def _plain(name: str, family: _Family) -> dict[str, Any]:
    plain: dict[str, Any] = {"name": name, "kind": family.kind, "description": family.description}
    if family.kind == "histogram":
        plain["boundaries"] = list(family.boundaries)
        plain["series"] = [
            {"tags": dict(tags), "sum": s.value, "counts": list(s.counts)} for tags, s in family.series.items()
        ]
    else:
        plain["series"] = [{"tags": dict(tags), "value": s.value} for tags, s in family.series.items()]
    return plain


def _lines(metric: dict[str, Any], series: dict[Tags, dict[str, Any]]) -> Iterable[str]:
    name = metric["name"]
    if metric["description"]:
        yield f"# HELP {name} {_escaped(metric['description'])}"
    yield f"# TYPE {name} {metric['kind']}"
    for tags, one in series.items():
        if metric["kind"] != "histogram":
            yield f"{name}{_labels(tags)} {_text(one['value'])}"
            continue
        total = 0
        for boundary, count in zip([*metric["boundaries"], math.inf], one["counts"], strict=True):
            total += count
            yield f"{name}_bucket{_labels((*tags, ('le', _text(boundary))))} {total}"
        yield f"{name}_sum{_labels(tags)} {_text(one['sum'])}"
        yield f"{name}_count{_labels(tags)} {total}"


def _labels(tags: Tags) -> str:
    if not tags:
        return ""
    quoted = (key + '="' + _escaped(value).replace('"', '\\"') + '"' for key, value in tags)
    return "{" + ",".join(quoted) + "}"


def _escaped(text: str) -> str:
    """Also what has no place in UTF-8, such as half of a surrogate pair."""
    encodable = text.encode("utf-8", "backslashreplace").decode()
    return encodable.replace("\\", "\\\\").replace("\n", "\\n")


def _text(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)
