"""What is known of a model and its load by whoever makes it: its size, what its end takes, how long it was fetched."""

import logging
import queue
import threading
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model as a loader answers it.

    Attributes:
        model: the model; of a class that weak references can point to, or nothing is remembered of it.
        size_bytes: the memory that it takes, mapped files included; exact as far as its library says, 0 if it does not.
        unload: frees what dropping the last reference does not free; called once, in a thread, when the model goes.
            It must not refer to the model, which would then never go.
    """

    model: Any
    size_bytes: int
    unload: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    """The same without the model, which nothing here may keep alive."""

    size_bytes: int
    unload: Callable[[], None] | None


# By id, since a model need not be hashable; an entry goes with its model at the latest, before its id is used again.
# No lock: a finalizer may run in the midst of anything, also of what would hold it. Each step is one atomic operation.
_known: dict[int, _Known] = {}

# The load that runs: loaders note in it how long the files that they keep on the disk were fetched.
_load: "ContextVar[Load | None]" = ContextVar("modelplex_load", default=None)

# Of models that went without `end`: nobody who drops a last reference expects to wait, so a thread calls these.
_left: "queue.SimpleQueue[Callable[[], None]]" = queue.SimpleQueue()
_starting = threading.Lock()
_thread: threading.Thread | None = None


class Load:
    """One load, as far as what it uses tells of it.

    Attributes:
        fetch_s: how long files were fetched to this machine's disk, 0 if they were there; None if none is kept there.
    """

    def __init__(self) -> None:
        self.fetch_s: float | None = None


def begin_load() -> Load:
    """What runs in this context from now on, and in threads that it starts, is part of a load."""
    load = Load()
    _load.set(load)
    return load


def note_fetch(fetch_s: float) -> None:
    """Note in the load that runs, if one does, how long a file was fetched to this machine's disk."""
    load = _load.get()
    if load is not None:
        load.fetch_s = (load.fetch_s or 0.0) + fetch_s


def remember(loaded: Loaded) -> None:
    """Note a model's size and its end, until it ends or Python frees it.

    What is said of the same model again takes the place of what was said before.
    """
    try:
        finalizer = weakref.finalize(loaded.model, _freed, id(loaded.model))
    except TypeError:  # no weak references: nobody could say when its id is another's
        return
    finalizer.atexit = False
    if loaded.unload is not None:
        _start_thread()
    _known[id(loaded.model)] = _Known(loaded.size_bytes, loaded.unload)


def size_bytes(model: object) -> int | None:
    """The memory that a model takes; None if no loader has said so."""
    known = _known.get(id(model))
    return None if known is None else known.size_bytes or None


def has_unload(model: object) -> bool:
    """Whether `end` has something to call, which may take its time."""
    known = _known.get(id(model))
    return known is not None and known.unload is not None


def end(model: object) -> None:
    """Run the `unload` of a model that goes, if it has one and nobody has run it; raises what that raises."""
    known = _known.pop(id(model), None)
    if known is not None and known.unload is not None:
        known.unload()


def _freed(identity: int) -> None:
    known = _known.pop(identity, None)
    if known is not None and known.unload is not None:
        _left.put(known.unload)


def _start_thread() -> None:
    global _thread
    with _starting:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_unload_left, name="modelplex-unload", daemon=True)
            _thread.start()


def _unload_left() -> None:
    while True:
        unload = _left.get()
        try:
            unload()
        except Exception as error:  # it may raise anything, and others are to be called after it
            log.error("Failed to unload a model that was dropped: %r", error, exc_info=error)
        del unload
