"""The models of one loader in one replica: the shell round `core.cache` that runs loaders and destroys models."""

import asyncio
import contextvars
import inspect
import itertools
import logging
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from modelplex import config, context, errors
from modelplex.core import cache
from modelplex.core.backoff import Backoff
from modelplex.core.eviction import LRU
from modelplex.multiplex import Loader
from modelplex.runtime.destroy import destroy

log = logging.getLogger(__name__)


class Publisher(Protocol):
    """Tells routers what the replica holds."""

    def loading(self, model_id: str) -> None: ...

    def loaded(self, model_id: str, load_s: float) -> None: ...

    def gone(self, model_id: str) -> None: ...

    async def flushed(self) -> None:
        """Return when what was said has left the process, as far as that can be waited for."""


class ModelHost:
    """Answers `get_model` for one loader.

    Args:
        loader: the user's loader.
        owner: the instance that its method is called on; None for a function.
        threads: where plain `def` loaders and destructors run.
        publish: told of every load and unload, of a load before it begins.
    """

    def __init__(self, loader: Loader, owner: object, threads: ThreadPoolExecutor, publish: Publisher) -> None:
        self._loader = loader
        self._owner = owner
        self._threads = threads
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        backoff = Backoff(config.LOAD_BACKOFF_S, config.LOAD_BACKOFF_MAX_S)
        self.cache = cache.ModelCache(loader.models_max, LRU(), backoff)
        self.used = False
        self._models: dict[str, Any] = {}
        self._answers: dict[int, asyncio.Future[cache.Start]] = {}
        self._tickets = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, model_id: str, request: context.RequestContext | None) -> Any:
        """The model, leased by the request until it ends; without a request, only looked up."""
        self.used = True
        began = time.perf_counter()
        ticket, answer = next(self._tickets), self._loop.create_future()
        self._answers[ticket] = answer
        self._perform(self.cache.acquire(ticket, model_id, request, self._loop.time()))
        try:
            start = await answer
        except asyncio.CancelledError:
            # The answer may have come in the same turn of the loop as the cancellation; the core knows.
            self._answers.pop(ticket, None)
            if ticket in self.cache:
                self._release(ticket)
            raise
        model = self._models[model_id]
        if request is None or request.ended:
            self._release(ticket)
        else:
            request.leases.append(lambda: self._release(ticket))
            request.start = request.start or start.value
            request.load_s += time.perf_counter() - began
        return model

    async def close(self) -> None:
        """Unload every model, each once, least recently used first; what is leased or loading, when that has ended."""
        self._perform(self.cache.close(self._loop.time()))
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _release(self, ticket: int) -> None:
        self._perform(self.cache.release(ticket, self._loop.time()))

    # What the core decides

    def _perform(self, commands: list[cache.Command]) -> None:
        for command in commands:
            match command:
                case cache.Grant(ticket, _, start):
                    if (answer := self._waiting_answer(ticket)) is not None:
                        answer.set_result(start)
                case cache.Reject(ticket):
                    if (answer := self._waiting_answer(ticket)) is not None:
                        answer.set_exception(self._rejection(command))
                case cache.Load(model_id):
                    self._publish.loading(model_id)
                    self._begin(self._load(model_id))
                case cache.Unload(model_id):
                    self._publish.gone(model_id)
                    self._begin(self._unload(model_id))

    def _waiting_answer(self, ticket: int) -> "asyncio.Future[cache.Start] | None":
        """The future that `get` waits on, unless it has been cancelled."""
        answer = self._answers.pop(ticket, None)
        return None if answer is None or answer.done() else answer

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self, model_id: str) -> None:
        began = time.perf_counter()
        # A loader may block the event loop: routers must have heard of the load before.
        await self._publish.flushed()
        log.info("Loading model '%s'.", model_id)
        try:
            model = await self._run_loader(model_id)
        except Exception as error:  # the user's code may raise anything, and whoever waits has to hear of it
            log.error("Failed to load model '%s'. Error: %s", model_id, error, exc_info=error)
            commands = self.cache.load_failed(model_id, error, self._loop.time())
            self._publish.gone(model_id)
        else:
            load_s = time.perf_counter() - began
            log.info("Successfully loaded model '%s' in %.1fms.", model_id, load_s * 1e3)
            self._models[model_id] = model
            commands = self.cache.loaded(model_id, 0, self._loop.time())
            self._publish.loaded(model_id, load_s)
        self._perform(commands)

    async def _run_loader(self, model_id: str) -> Any:
        args = (self._owner, model_id) if self._loader.is_method else (model_id,)
        try:
            if self._loader.is_async:
                return await self._loader.func(*args)
            copied = contextvars.copy_context()
            model = await self._loop.run_in_executor(self._threads, lambda: copied.run(self._loader.func, *args))
            return await model if inspect.iscoroutine(model) else model
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise RuntimeError("the loader was cancelled by its own code") from error

    async def _unload(self, model_id: str) -> None:
        began = time.perf_counter()
        log.info("Unloading model '%s'.", model_id)
        try:
            model = self._models.pop(model_id)
            # A loader may answer several ids with one object; it ends with the last of them.
            if not any(other is model for other in self._models.values()):
                await destroy(model, self._threads)
            del model
        except Exception as error:  # a destructor of the user's may raise anything; the model is gone all the same
            log.error("Failed to unload model '%s'. Error: %s", model_id, error, exc_info=error)
        else:
            log.info("Successfully unloaded model '%s' in %.1fms.", model_id, (time.perf_counter() - began) * 1e3)
        self._perform(self.cache.unloaded(model_id, self._loop.time()))

    def _rejection(self, reject: cache.Reject) -> errors.ModelplexError:
        model_id, after_s = reject.model_id, reject.retry_after_s
        match reject.why:
            case cache.Why.LOAD_FAILED:
                error: errors.ModelplexError = errors.ModelLoadError(
                    f"Model '{model_id}' failed to load ({type(reject.error).__name__}); the log has the details.",
                    retry_after_s=after_s,
                )
            case cache.Why.FAILED_RECENTLY:
                error = errors.ModelUnavailableError(
                    f"Model '{model_id}' failed to load a short while ago ({type(reject.error).__name__}).",
                    retry_after_s=after_s,
                )
            case cache.Why.OVERCOMMITTED:
                error = errors.OvercommittedError(
                    f"No room can come free for model '{model_id}': all {self.cache.models_max} models of "
                    f"{self._loader.name} are in use by requests that wait for room themselves. A request may use at "
                    "most max_num_models_per_replica models at a time."
                )
            case cache.Why.CLOSED:
                error = errors.DeploymentUnavailableError(f"The replica stops and loads no model '{model_id}'.")
        error.__cause__ = reject.error if isinstance(reject.error, BaseException) else None
        return error
