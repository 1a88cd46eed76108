"""Which models metrics have series of their own for: the busiest, and not others with each look at them."""

import math
from dataclasses import dataclass, field
from typing import Any

from modelplex.config import METRICS_MODELS_MAX
from modelplex.runtime import metric_families as families

Model = tuple[str, str, str]  # application, deployment, id

# How fast past uses count less: after this time, half.
HALF_LIFE_S = 300.0

# A model takes another one's place when it is busier by this factor: series that come and go are of no use.
BUSIER = 1.5

# Models whose counts are kept, for each that has series: one that comes back goes on where it was.
KEPT = 20

# A process that has said nothing for so long is gone, and what it said last is forgotten.
SILENT_S = 600.0

_COUNTERS = (families.MODEL_USES, families.MODEL_LOADS, families.MODEL_LOAD_S)
_NAMES = {family.name: family for family in (*_COUNTERS, families.MODEL_BYTES, families.RAY_MODEL)}


@dataclass(slots=True)
class _Known:
    totals: dict[str, float] = field(default_factory=dict)
    warmth: float = 0.0  # uses, of late more
    size_bytes: float = 0.0


@dataclass(slots=True)
class _Told:
    """What a process has said last, the oldest first: it may leave out a model, or not answer, and go on later."""

    at: float = 0.0
    values: dict[tuple[Model, str], float] = field(default_factory=dict)


class BusiestModels:
    """Adds up what replicas say of models. A total goes on when a replica has gone, or begins anew.

    Args:
        models_max: models that have series.
    """

    def __init__(self, models_max: int = METRICS_MODELS_MAX) -> None:
        self._models_max = models_max
        self._known: dict[Model, _Known] = {}
        self._told: dict[str, _Told] = {}  # by process
        self._shown: set[Model] = set()
        self._looked_at = -math.inf

    def take(self, snapshots: dict[str, list[dict[str, Any]]], now: float) -> list[dict[str, Any]]:
        """The metrics of the busiest, from those of all processes at this time; these lose what they have of models."""
        fading = 0.5 ** ((now - self._looked_at) / HALF_LIFE_S) if self._known else 0.0
        self._looked_at = now
        for known in self._known.values():
            known.warmth *= fading
            known.size_bytes = 0.0
        here: list[tuple[Model, dict[str, str]]] = []
        for process, snapshot in snapshots.items():
            told = self._told.setdefault(process, _Told())
            told.at = now
            rest = []
            for metric in snapshot:
                if metric["name"] not in _NAMES:
                    rest.append(metric)
                    continue
                for one in metric["series"]:
                    tags = one["tags"]
                    model = (tags["application"], tags["deployment"], tags["model_id"])
                    if metric["name"] == families.RAY_MODEL.name:
                        here.append((model, tags))
                    else:
                        self._add(model, metric["name"], one["value"], told)
            snapshots[process] = rest
            for key in list(told.values)[: -len(_COUNTERS) * KEPT * self._models_max]:
                del told.values[key]
        for process in [p for p, told in self._told.items() if now - told.at > SILENT_S]:
            del self._told[process]
        self._choose()
        return self._families(here)

    def _add(self, model: Model, name: str, value: float, told: "_Told") -> None:
        known = self._known.get(model)
        if known is None:
            known = self._known[model] = _Known()
        if name == families.MODEL_BYTES.name:
            known.size_bytes = max(known.size_bytes, value)
            return
        before = told.values.pop((model, name), 0.0)
        told.values[model, name] = value
        more = value - before if value >= before else value  # it has begun anew
        known.totals[name] = known.totals.get(name, 0.0) + more
        if name == families.MODEL_USES.name:
            known.warmth += more

    def _choose(self) -> None:
        by_warmth = sorted(self._known, key=lambda model: -self._known[model].warmth)
        for model in by_warmth[KEPT * self._models_max :]:
            if model not in self._shown:
                del self._known[model]
        wanted = [model for model in by_warmth[: self._models_max] if model not in self._shown]
        coldest_first = sorted(self._shown, key=lambda model: self._known[model].warmth)
        for model in wanted:
            if len(self._shown) >= self._models_max:
                out = coldest_first.pop(0)
                if self._known[model].warmth <= BUSIER * self._known[out].warmth:
                    break
                self._shown.remove(out)
            self._shown.add(model)

    def _families(self, here: list[tuple[Model, dict[str, str]]]) -> list[dict[str, Any]]:
        shown = [(_tags(model), self._known[model]) for model in sorted(self._shown)]
        counters = [
            family.of(*((tags, round(known.totals.get(family.name, 0.0), 6)) for tags, known in shown))
            for family in _COUNTERS
        ]
        return [
            *counters,
            families.MODEL_BYTES.of(*((tags, known.size_bytes) for tags, known in shown)),
            families.RAY_MODEL.of(*((tags, 1) for model, tags in here if model in self._shown)),
        ]


def _tags(model: Model) -> dict[str, str]:
    application, deployment, model_id = model
    return {"application": application, "deployment": deployment, "model_id": model_id}
