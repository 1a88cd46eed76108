"""The end of a model: its own `__del__`, plain or async, runs exactly once."""

import functools
import inspect
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from modelplex.threads import in_thread

# Models whose `__del__` has begun, until Python frees them, and whether it has ended. Keyed by id: a model need not be
# hashable, and a reference from here would keep it alive.
_ended: dict[int, bool] = {}


async def destroy(model: object, threads: Executor) -> None:
    """Run the model's `__del__` now (a plain one in a thread), and see that Python does not run it a second time.

    A model whose class defines none is left to Python, which frees it with its last reference.
    """
    cls = type(model)
    finalizer = getattr(cls, "__del__", None)
    if not inspect.isfunction(finalizer) or id(model) in _ended:  # loaders may return one object for several ids
        return
    original: Callable[[object], Any] | None = getattr(finalizer, "_modelplex_original", None)
    if original is None:
        original = finalizer
        cls.__del__ = _skipping_destroyed(finalizer)  # type: ignore[attr-defined]
    _ended[id(model)] = False
    try:
        if inspect.iscoroutinefunction(original):
            await original(model)
        else:
            await in_thread(threads, functools.partial(original, model))
    finally:
        _ended[id(model)] = True


def _skipping_destroyed(finalizer: Callable[[object], Any]) -> Callable[[object], Any]:
    @functools.wraps(finalizer)
    def once(self: object) -> Any:
        return None if _forget(self) else finalizer(self)

    once._modelplex_original = finalizer  # type: ignore[attr-defined]
    return once


def _forget(model: object) -> bool:
    """Whether the `__del__` of a model that Python frees has been run.

    A class that is pickled by value takes along copies of the globals that its `__del__` uses. This function goes by
    its name instead, and so finds the one table.
    """
    return _ended.get(id(model), False) and _ended.pop(id(model))
