"""The models of one loader in one replica: the shell round `core.cache` that runs loaders and destroys models."""

import asyncio
import contextlib
import contextvars
import itertools
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from modelplex import config, context, errors
from modelplex.core import cache
from modelplex.core.backoff import Backoff
from modelplex.multiplex import Loader
from modelplex.runtime.leak_watch import LeakWatch
from modelplex.runtime.load_runner import LoadRunner, without_traceback

log = logging.getLogger(__name__)

# Nobody who did not get a cold model is to come back sooner, however little is known of its load.
COLD_RETRY_MIN_S = 0.1


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
        leaks: watches what is unloaded; the replica's, or one of its own.
    """

    def __init__(
        self,
        loader: Loader,
        owner: object,
        threads: ThreadPoolExecutor,
        publish: Publisher,
        leaks: LeakWatch | None = None,
    ) -> None:
        self._loader = loader
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._options = options = loader.options
        self._runner = LoadRunner(loader, owner, threads)
        policy = options.eviction_policy
        self.cache = cache.ModelCache(
            options.models_max,
            policy(),
            Backoff(config.LOAD_BACKOFF_S, config.LOAD_BACKOFF_MAX_S),
            bytes_max=options.bytes_max,
            loads_max=options.loads_max,
            min_residency_s=options.min_residency_s,
            idle_ttl_s=options.idle_ttl_s,
        )
        self.used = False
        self._models: dict[str, Any] = {}
        self._answers: dict[int, asyncio.Future[cache.Start]] = {}
        self._tickets = itertools.count(1)
        self._wanted: set[str] = set()  # cold models that requests wanted which would not wait for them
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.Handle | None = None
        self._timer_at: float | None = None
        self._pinned: list[int] = []  # leases that end with the host
        # Of no request: a timer would hold the variables of the one that set it, and with them perhaps a model.
        self._context = contextvars.Context()
        if context.in_replica():
            self._context.run(context.set_replica, context.replica())
        self._leaks = leaks or LeakWatch()
        self._leaks.watch(self._models)

    async def start(self) -> None:
        """Load what is pinned and what is preloaded. What fails is told in the log, and tried again by demand."""
        wanted = [(model_id, True) for model_id in self._options.pinned]
        wanted += [(model_id, False) for model_id in self._options.preload if model_id not in self._options.pinned]
        await asyncio.gather(*(self._keep(model_id, pinned=pinned) for model_id, pinned in wanted))

    async def _keep(self, model_id: str, *, pinned: bool) -> None:
        try:
            ticket = await self._acquire(model_id, None)
        except errors.ModelplexError as error:
            log.error("Model '%s' could not be loaded ahead of demand: %s", model_id, error)
            return
        if pinned:
            self._pinned.append(ticket)
        else:
            self._release(ticket)

    async def get(self, model_id: str, request: context.RequestContext | None) -> Any:
        """The model, leased by the request until it ends; without a request, only looked up."""
        ticket = await self._acquire(model_id, request)
        model = self._models[model_id]
        if request is None or request.ended:
            self._release(ticket)
        else:
            request.leases.append(lambda: self._release(ticket))
        return model

    @contextlib.asynccontextmanager
    async def lease(self, model_id: str, request: context.RequestContext | None) -> AsyncIterator[Any]:
        """The model, leased for the time of a block."""
        ticket = await self._acquire(model_id, request)
        try:
            yield self._models[model_id]
        finally:
            self._release(ticket)

    async def _acquire(self, model_id: str, request: context.RequestContext | None) -> int:
        """The ticket of a lease of the model; the request notes how it met it. Raises why there is none."""
        began = time.perf_counter()
        try:
            ticket, start = await self._granted(model_id, request)
        finally:
            if request is not None:
                request.load_s += time.perf_counter() - began
        if request is not None:
            request.start = request.start or start.value
        return ticket

    async def _granted(self, model_id: str, request: context.RequestContext | None) -> tuple[int, cache.Start]:
        self.used = True
        if model_id not in self._models and not await self._runner.exists(model_id):
            raise errors.ModelNotFoundError(f"There is no model '{model_id}'.")
        ticket, answer = self._ask(model_id, request)
        try:
            if request is not None and request.cold_deadline is not None:
                await self._wait_for_cold(model_id, answer, request.cold_deadline)
            return ticket, await answer
        except (asyncio.CancelledError, errors.ModelColdError):
            # The answer may have come in the same turn of the loop as the cancellation; the core knows.
            self._answers.pop(ticket, None)
            if ticket in self.cache:
                self._release(ticket)
            raise

    def _ask(self, model_id: str, request: context.RequestContext | None) -> "tuple[int, asyncio.Future[cache.Start]]":
        """A ticket, and the answer that the core will give it."""
        ticket, answer = next(self._tickets), self._loop.create_future()
        self._answers[ticket] = answer
        hurried = request is not None and request.waited
        share = request.share if request is not None and request.model_id == model_id else 0.0
        self._perform(self.cache.acquire(ticket, model_id, request, self._loop.time(), hurried=hurried, share=share))
        return ticket, answer

    async def _wait_for_cold(self, model_id: str, answer: "asyncio.Future[cache.Start]", deadline: float) -> None:
        """Return when there is an answer. Raises `ModelColdError` at the deadline; the load goes on for others."""
        if not answer.done():
            await asyncio.wait({answer}, timeout=max(0.0, deadline - self._loop.time()))
        if not answer.done():
            self._want(model_id)
            rest_s = self.cache.rest_s(model_id, self._loop.time())
            raise errors.too_cold(model_id, max(COLD_RETRY_MIN_S, rest_s))

    def prefetch(self, model_id: str) -> None:
        """Have the model loaded, if there is such a model, on behalf of nobody."""
        if model_id not in self._models:
            self._begin(self._prefetch(model_id))

    async def _prefetch(self, model_id: str) -> None:
        try:
            if await self._runner.exists(model_id):
                self._want(model_id)
        except Exception as error:  # the user's hook may raise anything, and nobody waits who could be told
            log.error("Whether there is a model '%s' cannot be found out: %r", model_id, error, exc_info=error)

    def _want(self, model_id: str) -> None:
        """Wait for the model on behalf of nobody, once for all who gave up: so it keeps its place in the queue."""
        if model_id in self._wanted:
            return
        self._wanted.add(model_id)
        ticket, answer = self._ask(model_id, None)

        def over(answer: "asyncio.Future[cache.Start]") -> None:
            self._wanted.discard(model_id)
            if answer.exception() is None:
                self._release(ticket)

        answer.add_done_callback(over)

    async def close(self) -> None:
        """Unload every model, each once, least recently used first; what is leased or loading, when that has ended."""
        self._perform(self.cache.close(self._loop.time()))
        while self._pinned:
            self._release(self._pinned.pop())
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._timer is not None:
            self._timer.cancel()

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
                        answer.set_exception(_rejection(command, self._loader, self._runner))
                case cache.Load(model_id):
                    self._publish.loading(model_id)
                    self._begin(self._load(model_id))
                case cache.Unload(model_id):
                    self._publish.gone(model_id)
                    self._begin(self._unload(model_id))
        self._set_timer()

    def _set_timer(self) -> None:
        at = self.cache.next_tick
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if at is None else self._loop.call_at(at, self._tick, context=self._context)
        self._timer_at = at

    def _tick(self) -> None:
        self._timer = self._timer_at = None
        self._perform(self.cache.tick(self._loop.time()))

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
            model, size_bytes, grown_bytes = await self._runner.run(model_id, self._overdue)
        except (Exception, SystemExit) as error:  # the user's code may raise anything; whoever waits has to hear of it
            log.error("Failed to load model '%s'. Error: %s", model_id, error, exc_info=error)
            without_traceback(error)
            commands = self.cache.load_failed(model_id, error, self._loop.time())
            self._publish.gone(model_id)
        else:
            load_s = time.perf_counter() - began
            log.info("Successfully loaded model '%s' in %.1fms.", model_id, load_s * 1e3)
            self._models[model_id] = model
            self._leaks.loaded(self._models, model_id, size_bytes, grown_bytes)
            commands = self.cache.loaded(model_id, size_bytes, self._loop.time())
            self._publish.loaded(model_id, load_s)
        self._perform(commands)

    def _overdue(self, model_id: str, error: Exception) -> None:
        log.error("Failed to load model '%s'. Error: %s", model_id, error)
        self._perform(self.cache.load_overdue(model_id, error, self._loop.time()))

    async def _unload(self, model_id: str) -> None:
        began = time.perf_counter()
        log.info("Unloading model '%s'.", model_id)
        departed = self._leaks.departing(self._models, model_id)
        try:
            await self._runner.unload(model_id, self._models)
        except Exception as error:  # a destructor of the user's may raise anything; the model is gone all the same
            log.error("Failed to unload model '%s'. Error: %s", model_id, error, exc_info=error)
        else:
            log.info("Successfully unloaded model '%s' in %.1fms.", model_id, (time.perf_counter() - began) * 1e3)
        self._leaks.departed(departed)
        self._perform(self.cache.unloaded(model_id, self._loop.time()))


def _rejection(reject: cache.Reject, loader: Loader, runner: LoadRunner) -> errors.ModelplexError:
    """Why somebody gets no model."""
    model_id, cause = reject.model_id, reject.error if isinstance(reject.error, BaseException) else None
    match reject.why:
        case cache.Why.LOAD_FAILED | cache.Why.FAILED_RECENTLY:
            recently = reject.why is cache.Why.FAILED_RECENTLY
            error = runner.failure(model_id, cause, recently=recently, retry_after_s=reject.retry_after_s)
        case cache.Why.TOO_LARGE:
            error = errors.ModelTooLargeError(
                f"Model '{model_id}' takes {reject.error} bytes, more than max_bytes_per_replica="
                f"{loader.options.bytes_max}."
            )
        case cache.Why.OVERCOMMITTED:
            error = errors.OvercommittedError(
                f"No room can come free for model '{model_id}': all models of {loader.name} are in use by requests "
                "that wait for room themselves. What a request uses at a time must fit into "
                "max_num_models_per_replica and max_bytes_per_replica."
            )
        case cache.Why.CLOSED:
            error = errors.DeploymentUnavailableError(f"The replica stops and loads no model '{model_id}'.")
    error.__cause__ = cause
    return error
