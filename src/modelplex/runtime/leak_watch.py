"""What unloaded models leave behind: objects that something still holds, and memory that does not come back."""

import asyncio
import contextvars
import gc
import itertools
import logging
import time
import types
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from modelplex.core.memory_growth import MemoryGrowth
from modelplex.runtime.give_back import GiveBack
from modelplex.runtime.sizes import process_bytes, told_bytes
from modelplex.wire.messages import Leaks

log = logging.getLogger(__name__)

# A model that is still alive so long after its unload may be in a cycle of references, which Python frees at some time,
# or never. One that outlives a collection then, and another one after the longer time, is held by something.
SOON_S = 1.0
GRACE_S = 10.0

# Such looks take at most this part of the time: nothing else of the process runs during a collection, whichever thread
# asks for it, and with ten million objects it takes a second.
LOOK_SHARE = 0.01

# Leaks that one look measures; those that it finds besides are taken to be as large on average.
MEASURED_MAX = 8

# Less is not worth a line in the log.
WARN_BYTES_MIN = 2**20

# Models that a report or a line names.
WORST = 10

# Leaks that are looked at again, to see whether they have gone after all, and models that figures are kept of.
LEAKS_MAX = 1000
MODELS_MAX = 10_000

# Parts that are watched in place of a model.
PARTS_MAX = 1000

# What outlives models without being held for their sake.
_SHARED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)


@dataclass(slots=True, eq=False)
class Departed:
    """A model that is unloaded, and weak references that are all alive for as long as it is."""

    model_id: str
    identity: int
    witnesses: list["weakref.ref[Any]"]
    size_bytes: int  # as far as it is known without looking inside
    due: float = 0.0
    last_look: bool = False

    @property
    def alive(self) -> list[Any]:
        """What is watched, if all of it is still there; else nothing."""
        found = [witness() for witness in self.witnesses]
        return [] if any(item is None for item in found) else found


class LeakWatch:
    """Watches what becomes of unloaded models. One for each replica, on its event loop.

    A leak is an unloaded model that is still alive: held by a list, a cache or a task of the user's code. Each object
    counts once, whatever ids it was loaded under, and no longer when it goes after all or is loaded again. Its size is
    that of the arrays and tensors that it does not share, or else what the process grew by when it was loaded.

    What has no weak references (bytes, a dict of numbers), and what leaks outside of Python's objects, shows in the
    memory of the process alone: see `core.memory_growth`.

    Args:
        collect: frees what only cycles of references keep.
        clock: tells how long a look has taken, in seconds.

    Attributes:
        report: the figures of now.
    """

    def __init__(
        self, collect: Callable[[], object] = gc.collect, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.report = Leaks(0, [])
        self._collect = collect
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._caches: list[dict[str, Any]] = []
        self._sizes: dict[tuple[int, str], int] = {}
        self._departed: dict[int, Departed] = {}
        self._leaks: dict[int, Departed] = {}
        self._lost_bytes = 0  # of leaks that nobody looks at any more
        self._unwatched: dict[str, int] = {}
        self._warned: set[str] = set()
        self._growth_warned = 0
        self._next_look = self._loop.time()  # not before
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        self._growth: MemoryGrowth | None = None
        self._give_back: GiveBack | None = None
        self._tell: Callable[[Leaks], None] = lambda report: None

    def follow(
        self,
        tell: Callable[[Leaks], None],
        growth: MemoryGrowth | None = None,
        give_back: GiveBack | None = None,
    ) -> None:
        """Have each change of the report passed to this function.

        Args:
            tell: called on the event loop, seldom.
            growth: judges the memory of the process, if the process is the replica's alone.
            give_back: told of each unload, likewise.
        """
        self._tell, self._growth, self._give_back = tell, growth, give_back

    def watch(self, models: dict[str, Any]) -> None:
        """These are the models of one cache, now and whenever they change."""
        self._caches.append(models)

    def close(self) -> None:
        self._cancel_look()
        if self._give_back is not None:
            self._give_back.close()

    # Loads and unloads

    def loaded(self, models: dict[str, Any], model_id: str, size_bytes: int, grown_bytes: int | None) -> None:
        """A model of this cache was loaded.

        Args:
            size_bytes: its size; 0 if nobody has asked for it.
            grown_bytes: what the process grew by; None if nobody can say.
        """
        key = (id(models), model_id)
        before = self._sizes.pop(key, None)
        if size_bytes or grown_bytes is not None or before is not None:
            # A load into memory that was kept from others grows the process by less than it takes.
            self._sizes[key] = max(size_bytes, grown_bytes or 0, before or 0)
        if len(self._sizes) > MODELS_MAX:
            del self._sizes[next(iter(self._sizes))]

    def departing(self, models: dict[str, Any], model_id: str) -> Departed:
        """To be called while the cache still has the model, and passed to `departed` when its unload is over."""
        model = models[model_id]
        return Departed(model_id, id(model), _witnesses(model), self._sizes.get((id(models), model_id), 0))

    def departed(self, model: Departed) -> None:
        """From now on nothing should hold the model."""
        if model.alive:
            model.due = self._loop.time() + SOON_S
            self._departed[model.identity] = model
            self._look_at(model.due)
        elif not model.witnesses and len(self._unwatched) < MODELS_MAX:
            self._unwatched[model.model_id] = self._unwatched.get(model.model_id, 0) + model.size_bytes
        if self._growth is not None:
            self._sample(self._growth)
        if self._give_back is not None:
            self._give_back.soon()

    def _sample(self, growth: MemoryGrowth) -> None:
        sizes = [self._sizes.get((id(models), model_id)) for models in self._caches for model_id in models]
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes) or not (bytes_now := process_bytes()):
            return
        growth.unloaded(bytes_now, sum(known), len(known))
        if growth.growth_bytes > 2 * self._growth_warned:
            self._growth_warned = growth.growth_bytes
            log.warning(
                "The process takes %s more than its models are known to, and more with every few unloads. Models that "
                "were unloaded and cannot be watched: %s.",
                _text(growth.growth_bytes),
                _names(self._unwatched) or "none",
            )
        self._publish()

    # Looks

    def _cancel_look(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look_at(self, at: float) -> None:
        if self._timer is None or self._timer_at > at:
            self._cancel_look()
            self._timer_at = at
            # In a context of its own: that of the request that had something unloaded could hold a model.
            self._timer = self._loop.call_at(at, self._look, context=contextvars.Context())

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        self._forget_gone()
        if any(model.due <= now for model in self._departed.values()) and now >= self._next_look:
            began = self._clock()
            self._collect()
            self._forget_gone()
            # Those that are looked at for the first time are so together, and so they will be for the last time.
            self._judge([m for m in self._departed.values() if m.due <= now or not m.last_look], now)
            self._next_look = now + (self._clock() - began) / LOOK_SHARE
        self._publish()
        looks = [max(model.due, self._next_look) for model in self._departed.values()]
        looks += [now + GRACE_S] if self._leaks else []
        if looks:
            self._look_at(min(looks))

    def _forget_gone(self) -> None:
        """What has gone, or was loaded again, is no leak."""
        resident = {id(model) for models in self._caches for model in models.values()}
        self._departed = {i: m for i, m in self._departed.items() if i not in resident and m.alive}
        self._leaks = {i: m for i, m in self._leaks.items() if i not in resident and m.alive}

    def _judge(self, survivors: list[Departed], now: float) -> None:
        """Of these, which outlived a collection, those that were given their time are held."""
        found: list[Departed] = []
        measured_bytes = 0
        for model in survivors:
            if not model.last_look:
                model.due, model.last_look = now + GRACE_S, True
                continue
            if len(found) < MEASURED_MAX:
                model.size_bytes = self._own_bytes(model)
                measured_bytes += model.size_bytes
            else:
                model.size_bytes = measured_bytes // MEASURED_MAX
            del self._departed[model.identity]
            self._leaks[model.identity] = model
            found.append(model)
        while len(self._leaks) > LEAKS_MAX:
            self._lost_bytes += self._leaks.pop(next(iter(self._leaks))).size_bytes
        new = _by_model(model for model in found if model.model_id not in self._warned)
        if sum(new.values()) >= WARN_BYTES_MIN:
            self._warned = {*self._warned, *new} if len(self._warned) < MODELS_MAX else set(new)
            log.warning(
                "%s did not come back: something still holds what was unloaded %.0f s ago or earlier: %s.",
                _text(sum(new.values())),
                GRACE_S,
                _names(new),
            )

    def _own_bytes(self, model: Departed) -> int:
        """What the model takes, without what it shares with others, as adapters share their base."""
        others = [next(reversed(models.values())) for models in self._caches if models]
        others += [leak.alive for leak in itertools.islice(reversed(self._leaks.values()), 1)]
        parts = model.alive
        try:
            told = told_bytes([*others, *parts]) - told_bytes(others)
        except Exception:  # noqa: BLE001 - it reads attributes of the user's objects, which may raise anything
            told = 0
        # Of a model that is known by its parts alone, nobody knows whether the rest of it is still there.
        is_whole = bool(parts) and id(parts[0]) == model.identity
        return told if told > 0 else model.size_bytes if is_whole else 0

    def _publish(self) -> None:
        held = _by_model(self._leaks.values())
        growth = 0 if self._growth is None else self._growth.growth_bytes
        report = Leaks(max(sum(held.values()) + self._lost_bytes, growth), _worst(held))
        if report != self.report:
            self.report = report
            self._tell(report)


def _witnesses(model: object) -> list["weakref.ref[Any]"]:
    """A weak reference to the model, or if it takes none, to what is inside of it: while it lives, all that does."""
    try:
        return [weakref.ref(model)]
    except TypeError:
        pass
    found: list[weakref.ref[Any]] = []
    todo, seen = [model], {id(model)}
    while todo and len(seen) < PARTS_MAX:
        for part in itertools.islice(_parts(todo.pop()), PARTS_MAX):
            if id(part) in seen or isinstance(part, _SHARED):
                continue
            seen.add(id(part))
            try:
                found.append(weakref.ref(part))
            except TypeError:
                todo.append(part)
    return found


def _parts(item: object) -> Iterable[Any]:
    # Of a dict with a million entries, `get_referents` would list them all.
    if isinstance(item, dict):
        return item.values()
    return item if isinstance(item, list | tuple | set | frozenset) else gc.get_referents(item)


def _by_model(models: Iterable[Departed]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for model in models:
        sizes[model.model_id] = sizes.get(model.model_id, 0) + model.size_bytes
    return sizes


def _worst(sizes: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(sizes.items(), key=lambda item: -item[1])[:WORST]


def _names(sizes: dict[str, int]) -> str:
    more = len(sizes) - WORST
    return ", ".join(f"'{i}' ({_text(size)})" for i, size in _worst(sizes)) + (f" and {more} more" if more > 0 else "")


def _text(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"
