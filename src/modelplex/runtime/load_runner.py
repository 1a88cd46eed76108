"""Runs the user's loader and the hooks round it."""

import asyncio
import functools
import inspect
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from modelplex import errors, loaded
from modelplex.config import UNLIMITED
from modelplex.multiplex import Loader
from modelplex.runtime.destroy import destroy
from modelplex.runtime.sizes import process_bytes, told_bytes
from modelplex.threads import in_thread


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

    async def run(self, model_id: str, overdue: Callable[[str, Exception], None]) -> tuple[Any, int, int | None]:
        """The model, its size in bytes, and by how many the process grew. Raises what the loader raises.

        The size is 0 if nobody needs it, the growth None if other models were loaded meanwhile.

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
        grown_bytes = max(0, process_bytes() - before) if alone else None
        if options.size_of is not None:
            size_bytes = max(0, int(options.size_of(model)))
        elif options.bytes_max == UNLIMITED and options.eviction == "lru":
            size_bytes = 0
        else:
            size_bytes = told_bytes(model) or grown_bytes or 0
        return model, size_bytes, grown_bytes

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

    async def unload(self, model_id: str, models: dict[str, Any]) -> None:
        """Take a model from its cache, and drop the last reference to it once all that ends it has run.

        First the hook, then its destructor, which may both use it as it is, then what its loader said its end takes.
        Each is run whatever the one before has raised.
        """
        model = models.pop(model_id)
        try:
            if self._options.on_unload is not None:
                await self.call(self._options.on_unload, model_id, model)
        finally:
            # A loader may answer several ids with one object; it ends with the last of them.
            if not any(other is model for other in models.values()):
                try:
                    await destroy(model, self._threads)
                finally:
                    await self._end(model)

    async def _end(self, model: Any) -> None:
        if loaded.has_unload(model):
            await in_thread(self._threads, functools.partial(loaded.end, model))
        else:
            loaded.end(model)

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


def without_traceback(error: BaseException) -> None:
    """Drop the tracebacks of an error that is kept: they hold all that the loader had in hand when it failed."""
    todo: list[BaseException | None] = [error]
    seen: set[int] = set()
    while todo:
        if (part := todo.pop()) is not None and id(part) not in seen:
            seen.add(id(part))
            BaseException.with_traceback(part, None)  # setting the attribute is what a user's class may forbid
            todo += [part.__cause__, part.__context__]
            todo += part.exceptions if isinstance(part, BaseExceptionGroup) else []


async def _within(loading: Any, timeout_s: float | None, late: Exception) -> Any:
    scope = asyncio.timeout(timeout_s)
    try:
        async with scope:
            return await loading
    except TimeoutError:
        if scope.expired():
            raise late from None
        raise
