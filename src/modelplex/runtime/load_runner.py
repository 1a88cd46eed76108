"""Runs the user's loader and the hooks round it."""

import asyncio
import functools
import inspect
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from modelplex import errors
from modelplex.config import UNLIMITED
from modelplex.multiplex import Loader
from modelplex.runtime.sizes import process_bytes, told_bytes
from modelplex.runtime.threads import in_thread


class LoadRunner:
    """Runs one loader: `async def` on the event loop, plain `def` in a thread, within its time.

    Args:
        loader: the user's loader, with its options.
        owner: the instance that its method is called on; None for a function.
        threads: where plain functions run.
    """

    def __init__(self, loader: Loader, owner: object, threads: Executor) -> None:
        self._loader = loader
        self._options = loader.options
        self._owner = owner
        self._threads = threads
        self._running = 0

    async def run(self, model_id: str, overdue: Callable[[str, Exception], None]) -> tuple[Any, int]:
        """The model and its size in bytes. Raises what the loader raises.

        A plain loader that takes too long cannot be stopped: `overdue` is told so, and it is waited for.
        """
        options = self._options
        before, alone = process_bytes(), self._running == 0
        self._running += 1
        try:
            model = await self._run(model_id, overdue)
            alone = alone and self._running == 1
        finally:
            self._running -= 1
        if options.size_of is not None:
            return model, max(0, int(options.size_of(model)))
        if options.bytes_max == UNLIMITED and options.eviction == "lru":
            return model, 0  # nobody asks
        # What the process has grown by says nothing when other models were loaded meanwhile.
        return model, told_bytes(model) or (max(0, process_bytes() - before) if alone else 0)

    async def _run(self, model_id: str, overdue: Callable[[str, Exception], None]) -> Any:
        args = (self._owner, model_id) if self._loader.is_method else (model_id,)
        timeout_s = self._options.load_timeout_s
        late = errors.ModelLoadTimeoutError(f"Model '{model_id}' was not loaded within load_timeout_s={timeout_s}.")
        try:
            if self._loader.is_async:
                return await _within(self._loader.func(*args), timeout_s, late)
            loop = asyncio.get_running_loop()
            timer = None if timeout_s is None else loop.call_later(timeout_s, overdue, model_id, late)
            try:
                model = await self.call(self._loader.func, *args)
            finally:
                if timer is not None:
                    timer.cancel()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise RuntimeError("the loader was cancelled by its own code") from error
        return model

    async def exists(self, model_id: str) -> bool:
        """What `model_exists` says, or True if there is no such hook."""
        return self._options.model_exists is None or bool(await self.call(self._options.model_exists, model_id))

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a hook of the user's: on the event loop if it is async, else in a thread."""
        if inspect.iscoroutinefunction(function):
            return await function(*args)
        result = await in_thread(self._threads, functools.partial(function, *args))
        return await result if inspect.iscoroutine(result) else result

    def failure(
        self, model_id: str, cause: BaseException | None, *, recently: bool, retry_after_s: float | None
    ) -> errors.ModelplexError:
        """How a failed load is told whoever waited for it, or asks for the model again soon."""
        if isinstance(cause, (errors.ModelNotFoundError, *self._options.not_found)):
            return errors.ModelNotFoundError(f"There is no model '{model_id}'.")
        if isinstance(cause, errors.ModelLoadTimeoutError):
            return errors.ModelLoadTimeoutError(str(cause), retry_after_s=retry_after_s)
        name = type(cause).__name__
        if recently:
            text = f"Model '{model_id}' failed to load a short while ago ({name})."
            return errors.ModelUnavailableError(text, retry_after_s=retry_after_s)
        text = f"Model '{model_id}' failed to load ({name}); the log has the details."
        return errors.ModelLoadError(text, retry_after_s=retry_after_s)


async def _within(loading: Any, timeout_s: float | None, late: Exception) -> Any:
    scope = asyncio.timeout(timeout_s)
    try:
        async with scope:
            return await loading
    except TimeoutError:
        if scope.expired():
            raise late from None
        raise
