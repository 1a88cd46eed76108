"""What the replicas of one deployment have said of themselves: their load, their models, what they leak."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from modelplex.core.replica_load import ReplicaLoad
from modelplex.status import ReplicaLeaks
from modelplex.wire import messages

# Models of which it is known that they have been loaded before.
SEEN_MAX = 200_000

# How much of what a model was used still counts a second later. It fades by time: those that are idle report nothing.
FADING = 0.9

_SILENT = ReplicaLoad()  # of a replica that has not reported yet


@dataclass(slots=True, eq=False)
class _Replica:
    born: float
    load: ReplicaLoad = field(default=_SILENT)
    warmth: dict[str, float] = field(default_factory=dict)  # how much each of its models was used, of late more
    told_at: float = 0.0  # when that was so
    loaders: dict[str, list[str]] = field(default_factory=dict)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    leaks: messages.Leaks | None = None

    def fading(self, now: float) -> float:
        """The part of the warmth that is left."""
        return float(FADING ** max(0.0, now - self.told_at))


class ReplicaReports:
    """Kept for the replicas that run."""

    def __init__(self) -> None:
        self._replicas: dict[str, _Replica] = {}
        self._seen: dict[str, None] = {}

    def follow(self, names: Iterable[str], now: float) -> set[str]:
        """These run. Answers which no longer do."""
        names = set(names)
        gone = self._replicas.keys() - names
        for name in gone:
            del self._replicas[name]
        for name in names - self._replicas.keys():
            self._replicas[name] = _Replica(now)
        return gone

    def loaded(self, name: str, report: messages.Load, now: float) -> ReplicaLoad | None:
        """Keep a report. Answers what it comes to; None if the replica does not run any more."""
        replica = self._replicas.get(name)
        if replica is None:
            return None
        reload_s = sum(load_s for model_id, load_s in report.loads if self._is_reload(model_id))
        uses, left = report.uses, replica.fading(now)
        replica.warmth = {m: count + left * replica.warmth.get(m, 0.0) for m, count in uses.items()}
        replica.told_at, replica.loaders, replica.aliases = now, report.loaders, report.aliases
        replica.load = ReplicaLoad(report.ongoing, uses, report.models_max, reload_s, now - replica.born)
        return replica.load

    def _is_reload(self, model_id: str) -> bool:
        """Whether the model was loaded before; from now on it was."""
        is_reload = model_id in self._seen
        self._seen.pop(model_id, None)
        self._seen[model_id] = None
        if len(self._seen) > SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        return is_reload

    def leaked(self, name: str, report: messages.Leaks) -> None:
        if name in self._replicas:
            self._replicas[name].leaks = report

    @property
    def leaks(self) -> dict[str, ReplicaLeaks]:
        """Those that leak."""
        reports = {name: replica.leaks for name, replica in self._replicas.items()}
        return {n: ReplicaLeaks(r.leaked_bytes, dict(r.models)) for n, r in reports.items() if r and r.leaked_bytes}

    @property
    def ongoing(self) -> float:
        return sum(replica.load.ongoing for replica in self._replicas.values())

    def models(self, name: str) -> dict[str, list[str]]:
        """What a replica holds, by its loaders, what was used most of late first; if it has only one, by "" (empty).

        After them come the aliases that they are asked for by.
        """
        replica = self._replicas.get(name)
        if replica is None:
            return {}
        held = replica.loaders or {"": list(replica.warmth)}
        found = {loader: sorted(ids, key=lambda m: -replica.warmth.get(m, 0.0)) for loader, ids in held.items()}
        for loader, aliases in replica.aliases.items():
            found.setdefault(loader, []).extend(aliases)
        return found

    @property
    def loads(self) -> dict[str, ReplicaLoad]:
        """What replicas have reported last, those that have."""
        return {name: replica.load for name, replica in self._replicas.items() if replica.load is not _SILENT}

    def by_models(self, names: Iterable[str], now: float) -> dict[str, ReplicaLoad]:
        """Their loads, with how much their models were used over some time."""
        found = {}
        for name in names:
            if (replica := self._replicas.get(name)) is not None:
                left = replica.fading(now)
                warmth = {model_id: left * uses for model_id, uses in replica.warmth.items()}
                found[name] = replace(replica.load, models=warmth, age_s=now - replica.born)
            else:
                found[name] = ReplicaLoad()
        return found
