"""The aliases of one cache on one replica: which version a request for each gets, and how that becomes another.

An alias (`shop@stable`) stands for a version (`shop@3`), and later for another one. What holds after every step:

1. A request for an alias gets a version that the alias has stood for since it became known. Once one of them has
   loaded, none that fails is the last word: the request may have the loaded one.
2. Traffic moves only to a version that is loaded, unless none has been loaded yet. Where the version before is not
   loaded any more, the next request loads the new one; where it is, the new one is loaded first, by itself.
3. A version is retired after traffic has moved away from it, or when the alias left it before it was loaded; not
   while an alias in use stands for it, or serves by it, nor if somebody asked for it by its own name of late.
4. At most one resolve of an alias, and one load of a version, is under way. A version that fails is told, once for
   each load, and tried again after a delay that grows.
5. A failed resolve changes nothing of an alias that is in use.
6. An alias that nobody uses for `UNUSED_INTERVALS` is looked at again only when it is asked for. At most so many are
   known, those that were used last and those that are pinned: ids come from outside.
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from modelplex.core.backoff import Backoff

# Aliases that are known at a time, besides those that are pinned; and as many ids that stand for themselves.
ALIASES_MAX = 1024

# For at least so long an id is believed to stand for itself: until whoever asked has begun to load it.
BELIEVED_S = 1.0

# An alias is no longer in use when nobody has asked for it for so many intervals between two looks at it.
UNUSED_INTERVALS = 10


class Models(Protocol):
    """The cache of the versions, as far as it is asked."""

    def holds(self, model_id: str) -> bool:
        """Whether the version is loaded."""

    def keeps(self, model_id: str) -> bool:
        """Whether it is loaded, loads, or is waited for."""


@dataclass(frozen=True, slots=True)
class Resolve:
    """Find out what the alias stands for, then call `resolved` or `resolve_failed`."""

    alias: str


@dataclass(frozen=True, slots=True)
class Load:
    """Have the version loaded, then call `loaded`, while it is kept, or `load_failed`; neither once it is retired."""

    version: str


@dataclass(frozen=True, slots=True)
class Switch:
    """Requests for the alias get `new` from now on."""

    alias: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Unload the version when nobody uses it any more. Its load, if one was asked for, is not wanted any more."""

    version: str


@dataclass(frozen=True, slots=True)
class Stay:
    """The alias stands for `new`, which has failed; `old` serves on. It is tried again in so many seconds."""

    alias: str
    old: str
    new: str
    error: object
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Unresolved:
    """What the alias stands for cannot be found out; `version` serves on. Told once until it can be again."""

    alias: str
    version: str
    error: object


@dataclass(frozen=True, slots=True)
class Forget:
    """The alias is not known any more."""

    alias: str


Command = Resolve | Load | Switch | Retire | Stay | Unresolved | Forget


@dataclass(slots=True, eq=False)
class _Alias:
    name: str
    current: str  # what requests get
    wanted: str  # what it stands for; another one while that is not loaded
    is_pinned: bool
    proven: bool  # `current` has been loaded
    used_at: float
    watched: bool = True
    look_at: float = math.inf  # when to resolve it again
    retry_at: float | None = None  # `wanted` has failed, and is not tried again before
    failures: int = 0  # of `wanted`
    unresolved: bool = False


class _Names:
    """Finds the aliases that stand for a version, or serve by it."""

    def __init__(self) -> None:
        self._of: dict[str, dict[str, None]] = {}

    def of(self, version: str) -> Iterable[str]:
        return self._of.get(version, ())

    def add(self, alias: _Alias) -> None:
        for version in (alias.current, alias.wanted):
            self._of.setdefault(version, {})[alias.name] = None

    def remove(self, alias: _Alias) -> None:
        for version in {alias.current, alias.wanted}:
            names = self._of[version]
            del names[alias.name]
            if not names:
                del self._of[version]


class _Timers:
    """When aliases are to be looked at next; each has one time that counts, the earliest that was set."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []
        self._of: dict[str, float] = {}

    @property
    def next(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def set(self, name: str, due: float) -> None:
        if due < self._of.get(name, math.inf):
            self._of[name] = due
            heapq.heappush(self._heap, (due, name))
            if len(self._heap) > 64 + 4 * len(self._of):
                self._heap = sorted((due, name) for name, due in self._of.items())

    def discard(self, name: str) -> None:
        self._of.pop(name, None)

    def pop(self, now: float) -> str | None:
        """One whose time has come; None if there is none."""
        while self._heap and self._heap[0][0] <= now:
            due, name = heapq.heappop(self._heap)
            if self._of.get(name) == due:
                del self._of[name]
                return name
        return None


class Aliases:
    """Decides for one cache; the shell performs what it answers.

    Args:
        models: the cache.
        backoff: how long a version that has failed is left alone.
        interval_s: how often an alias in use is resolved.
        pinned: aliases that are always in use.
        aliases_max: others that are known at a time.

    Times are seconds of any clock that does not go backwards.
    """

    def __init__(
        self,
        models: Models,
        backoff: Backoff,
        *,
        interval_s: float,
        pinned: Iterable[str] = (),
        aliases_max: int = ALIASES_MAX,
    ) -> None:
        self._models = models
        self._backoff = backoff
        self._interval_s = interval_s
        self._unused_s = interval_s * UNUSED_INTERVALS
        self._pinned = frozenset(pinned)
        self._aliases_max = aliases_max
        self._aliases: OrderedDict[str, _Alias] = OrderedDict()  # the one that was used last is the last
        self._names = _Names()
        self._resolving: set[str] = set()
        self._loading: set[str] = set()
        self._versions: OrderedDict[str, float] = OrderedDict()  # ids that are no alias, until when believed
        self._named: OrderedDict[str, float] = OrderedDict()  # versions, and when they were asked for by their names
        self._timers = _Timers()

    # Questions

    def __contains__(self, name: str) -> bool:
        """Whether this is known to be an alias."""
        return name in self._aliases

    def leads_to(self, name: str) -> str:
        """The version that a request for this id would get, as far as is known; the id itself if it is no alias."""
        alias = self._aliases.get(name)
        return name if alias is None else self._choice(alias)

    def names_of(self, version: str) -> list[str]:
        """The aliases that stand for the version, or serve by it."""
        return list(self._names.of(version))

    @property
    def versions(self) -> dict[str, str]:
        """What each known alias leads to."""
        return {name: self._choice(alias) for name, alias in self._aliases.items()}

    @property
    def next_tick(self) -> float | None:
        """When to call `tick`; None while nothing is due at any time."""
        return self._timers.next

    # Inputs

    def choose(self, name: str, now: float) -> str | None:
        """The version that a request for this id gets; None if it has to be resolved first (`asked`)."""
        alias = self._aliases.get(name)
        if alias is None:
            if self._models.keeps(name) or now < self._versions.get(name, -math.inf):
                _put(self._named, name, now, self._aliases_max)
                return name
            return None
        if not alias.watched:
            return None
        alias.used_at = now
        self._aliases.move_to_end(name)
        if alias.retry_at is not None and now >= alias.retry_at and not self._models.keeps(alias.current):
            alias.retry_at = None  # so this request tries it again
        return self._choice(alias)

    def asked(self, name: str) -> Sequence[Command]:
        """Somebody waits until it is known what the id stands for."""
        if name in self._resolving:
            return ()
        self._resolving.add(name)
        return (Resolve(name),)

    def resolved(self, name: str, version: str, now: float) -> list[Command]:
        """The id stands for this version; for itself, if it is no alias."""
        self._resolving.discard(name)
        alias = self._aliases.get(name)
        if alias is None:
            if version == name:
                _put(self._versions, name, now + max(BELIEVED_S, self._interval_s), self._aliases_max)
                return []
            return self._learn(name, version, now)
        self._watch(alias, now)
        alias.unresolved = False
        commands: list[Command] = []
        if version != alias.wanted:
            left = alias.wanted
            self._point(alias, alias.current, version)
            if left != alias.current:
                commands += self._retire(left, now)
        return commands + self._pursue(alias, now)

    def resolve_failed(self, name: str, error: object, now: float, *, missing: bool = False) -> list[Command]:
        """What the id stands for could not be found out, or it was found that there is no such id."""
        self._resolving.discard(name)
        alias = self._aliases.get(name)
        if alias is None:
            return []
        if missing and not alias.watched:
            return [self._forget(alias)]
        self._watch(alias, now)
        if alias.unresolved:
            return []
        alias.unresolved = True
        return [Unresolved(name, alias.current, error)]

    def granted(self, name: str, version: str, now: float) -> Sequence[Command]:
        """A request for the alias has got the version, which is loaded."""
        alias = self._aliases.get(name)
        if alias is None or (alias.proven and version == alias.current):
            return ()
        return self.loaded(version, now)

    def loaded(self, version: str, now: float) -> list[Command]:
        """The version is loaded."""
        self._loading.discard(version)
        switches: list[Command] = []
        left: dict[str, None] = {}
        for name in self.names_of(version):
            alias = self._aliases[name]
            if alias.current == version:
                alias.proven = True
            else:
                left[alias.current] = None
                switches.append(self._switch(alias))
        return switches + [command for old in left for command in self._retire(old, now)]

    def load_failed(self, version: str, error: object, now: float, retry_after_s: float = 0.0) -> list[Command]:
        """The version cannot be had, for at least so many seconds."""
        self._loading.discard(version)
        commands: list[Command] = []
        for name in self.names_of(version):
            alias = self._aliases[name]
            if alias.current == version or (alias.retry_at is not None and now < alias.retry_at):
                continue
            alias.failures += 1
            delay_s = max(self._backoff.delay_s(alias.failures), retry_after_s)
            alias.retry_at = now + delay_s
            self._set_timer(alias)
            commands.append(Stay(name, alias.current, version, error, delay_s))
        return commands

    def tick(self, now: float) -> list[Command]:
        """Time has passed: aliases are to be looked at, and versions tried, again."""
        commands: list[Command] = []
        while (name := self._timers.pop(now)) is not None:
            alias = self._aliases[name]
            if alias.look_at <= now:
                alias.look_at = math.inf
                alias.watched = alias.is_pinned or now < alias.used_at + self._unused_s
                if alias.watched:
                    commands += self.asked(name)
            if alias.watched and alias.retry_at is not None and alias.retry_at <= now:
                commands += self._pursue(alias, now)
            self._set_timer(alias)
        return commands

    # Decisions

    def _choice(self, alias: _Alias) -> str:
        if alias.current == alias.wanted or self._models.holds(alias.wanted):
            return alias.wanted
        return alias.current if alias.retry_at is not None or self._models.keeps(alias.current) else alias.wanted

    def _pursue(self, alias: _Alias, now: float) -> list[Command]:
        """Bring the alias nearer to what it stands for."""
        old, new = alias.current, alias.wanted
        if old == new:
            return []
        in_memory = self._models.keeps(old)
        if self._models.holds(new) or not (alias.proven or in_memory):
            return [self._switch(alias), *self._retire(old, now)]
        if alias.retry_at is not None and now < alias.retry_at:
            return []
        alias.retry_at = None
        if new in self._loading or not (in_memory or alias.is_pinned):
            return []
        self._loading.add(new)
        return [Load(new)]

    def _switch(self, alias: _Alias) -> Switch:
        old, new = alias.current, alias.wanted
        self._point(alias, new, new)
        alias.proven = self._models.holds(new)
        return Switch(alias.name, old, new)

    def _retire(self, version: str, now: float) -> list[Command]:
        in_use = any(self._aliases[name].watched for name in self._names.of(version))
        if in_use or now < self._named.get(version, -math.inf) + self._unused_s:
            return []
        self._loading.discard(version)
        return [Retire(version)]

    def _learn(self, name: str, version: str, now: float) -> list[Command]:
        alias = _Alias(name, version, version, name in self._pinned, self._models.holds(version), now)
        self._aliases[name] = alias
        self._names.add(alias)
        self._versions.pop(name, None)
        self._watch(alias, now)
        if len(self._aliases) <= self._aliases_max + len(self._pinned):
            return []
        oldest = next((other for other in self._aliases.values() if not other.is_pinned), alias)
        return [self._forget(oldest)]

    def _forget(self, alias: _Alias) -> Forget:
        del self._aliases[alias.name]
        self._timers.discard(alias.name)
        self._names.remove(alias)
        return Forget(alias.name)

    def _point(self, alias: _Alias, current: str, wanted: str) -> None:
        self._names.remove(alias)
        alias.current, alias.wanted = current, wanted
        alias.failures, alias.retry_at = 0, None
        self._names.add(alias)

    # Times

    def _watch(self, alias: _Alias, now: float) -> None:
        """Look at it again an interval from now."""
        if not alias.watched:
            alias.watched, alias.used_at = True, now
        alias.look_at = now + self._interval_s
        self._set_timer(alias)

    def _set_timer(self, alias: _Alias) -> None:
        if alias.watched and (due := min(alias.look_at, alias.retry_at or math.inf)) < math.inf:
            self._timers.set(alias.name, due)


def _put(to: "OrderedDict[str, float]", key: str, value: float, length_max: int) -> None:
    to[key] = value
    to.move_to_end(key)
    if len(to) > length_max:
        to.popitem(last=False)
