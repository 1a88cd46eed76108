"""The models of one loader: the shell round `core.cache` that runs loaders and destroys models."""

import asyncio
import contextvars
import itertools
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from modelplex import config, context, errors
from modelplex.core import cache
from modelplex.core.backoff import Backoff
from modelplex.multiplex import Loader
from modelplex.runtime.leak_watch import LeakWatch
from modelplex.runtime.load_runner import LoadRunner, without_traceback

log = logging.getLogger(__name__)


class Publisher(Protocol):
    """Tells routers what the replica holds."""

    def loading(self, model_id: str) -> None: ...

    def loaded(self, model_id: str, load_s: float) -> None: ...

    def gone(self, model_id: str) -> None: ...

    async def flushed(self) -> None:
        """Return when what was said has left the process, as far as that can be waited for."""


class CachedModels:
    """Loads and unloads models as its cache decides, and answers who asks for a lease.

    Args:
        loader: the user's loader.
        owner: the instance that its method is called on; None for a function.
        threads: where plain `def` loaders and destructors run.
        publish: told of every load and unload, of a load before it begins.
        leaks: watches what is unloaded.

    Attributes:
        models: those that are resident.
        cache: what decides; to be asked, not told.
        context: variables for what runs on behalf of no request.
    """

    def __init__(
        self, loader: Loader, owner: object, threads: ThreadPoolExecutor, publish: Publisher, leaks: LeakWatch
    ) -> None:
        self.models: dict[str, Any] = {}
        options = loader.options
        self.cache = cache.ModelCache(
            options.models_max,
            options.eviction_policy(),
            Backoff(config.LOAD_BACKOFF_S, config.LOAD_BACKOFF_MAX_S),
            bytes_max=options.bytes_max,
            loads_max=options.loads_max,
            min_residency_s=options.min_residency_s,
            idle_ttl_s=options.idle_ttl_s,
        )
        self._loader = loader
        self._publish = publish
        self._runner = LoadRunner(loader, owner, threads)
        self._loop = asyncio.get_running_loop()
        self._answers: dict[int, asyncio.Future[cache.Start]] = {}
        self._tickets = itertools.count(1)
        self._wanted: set[str] = set()  # cold models that requests wanted which would not wait for them
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.Handle | None = None
        self._timer_at: float | None = None
        # Of no request: a timer would hold the variables of the one that set it, and with them perhaps a model.
        self.context = contextvars.Context()
        if context.in_replica():
            self.context.run(context.set_replica, context.replica())
        self._leaks = leaks
        self._leaks.watch(self.models)

    async def exists(self, model_id: str) -> bool:
        """Whether there is such a model, as far as can be known without loading it."""
        return await self._runner.exists(model_id)

    async def resolve(self, model_id: str) -> str:
        """The version that the id stands for now. Raises what the user's function raises."""
        return await self._runner.resolve(model_id)

    async def call(self, function: Callable[..., Any]) -> Any:
        """Call a hook of the user's."""
        return await self._runner.call(function)

    def ask(
        self, model_id: str, request: context.RequestContext | None, name: str = ""
    ) -> "tuple[int, cache.Start | asyncio.Future[cache.Start]]":
        """Ask for a lease: its ticket, and the answer, at once if the model is warm.

        The future raises why there is no lease. Whoever waits for it no longer gives the ticket up. `name` is what the
        model was asked for by, if that is not its id.
        """
        ticket = next(self._tickets)
        owner = request.part_of or request if request is not None else None
        hurried = request is not None and request.waited
        share = request.share if request is not None and request.model_id == (name or model_id) else 0.0
        commands = self.cache.acquire(ticket, model_id, owner, self._loop.time(), hurried=hurried, share=share)
        if commands and isinstance(grant := commands[0], cache.Grant) and grant.ticket == ticket:
            self._perform(commands[1:])
            return ticket, grant.start
        answer = self._answers[ticket] = self._loop.create_future()
        self._perform(commands)
        return ticket, answer

    async def load(self, model_id: str) -> int:
        """The ticket of a lease on behalf of nobody, once the model is loaded. Raises why there is none."""
        if model_id not in self.models and not await self.exists(model_id):
            raise errors.ModelNotFoundError(f"There is no model '{model_id}'.")
        ticket, answer = self.ask(model_id, None)
        if not isinstance(answer, cache.Start):
            try:
                await answer
            except asyncio.CancelledError:
                self.give_up(ticket)
                raise
        return ticket

    def retire(self, model_id: str) -> None:
        """Unload the model as soon as nobody uses it, unless it is asked for again."""
        self._perform(self.cache.retire(model_id, self._loop.time()))

    def release(self, ticket: int) -> None:
        """End a lease."""
        self._perform(self.cache.release(ticket, self._loop.time()))

    def give_up(self, ticket: int) -> None:
        """Nobody waits for the answer any more. It may have come in the same turn of the loop; the core knows."""
        self._answers.pop(ticket, None)
        if ticket in self.cache:
            self.release(ticket)

    def want(self, model_id: str) -> None:
        """Wait for the model on behalf of nobody, once for all who gave up: so it keeps its place in the queue."""
        if model_id in self._wanted:
            return
        ticket, answer = self.ask(model_id, None)
        if isinstance(answer, cache.Start):  # it has been loaded meanwhile
            self.release(ticket)
            return
        self._wanted.add(model_id)

        def over(answer: "asyncio.Future[cache.Start]") -> None:
            self._wanted.discard(model_id)
            if answer.exception() is None:
                self.release(ticket)

        answer.add_done_callback(over)

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something in the background; `closed` waits for it."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def close(self) -> None:
        """Unload every model, each once, least recently used first; what is leased or loading, when that has ended."""
        self._perform(self.cache.close(self._loop.time()))

    async def closed(self) -> None:
        """Return when all that runs in the background has ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._timer is not None:
            self._timer.cancel()

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
                    self.run(self._load(model_id))
                case cache.Unload(model_id):
                    self._publish.gone(model_id)
                    self.run(self._unload(model_id))
        self._set_timer()

    def _set_timer(self) -> None:
        at = self.cache.next_tick
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if at is None else self._loop.call_at(at, self._tick, context=self.context)
        self._timer_at = at

    def _tick(self) -> None:
        self._timer = self._timer_at = None
        self._perform(self.cache.tick(self._loop.time()))

    def _waiting_answer(self, ticket: int) -> "asyncio.Future[cache.Start] | None":
        """The future that `get` waits on, unless it has been cancelled."""
        answer = self._answers.pop(ticket, None)
        return None if answer is None or answer.done() else answer

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
            self.models[model_id] = model
            self._leaks.loaded(self.models, model_id, size_bytes, grown_bytes)
            commands = self.cache.loaded(model_id, size_bytes, self._loop.time())
            self._publish.loaded(model_id, load_s)
        self._perform(commands)

    def _overdue(self, model_id: str, error: Exception) -> None:
        log.error("Failed to load model '%s'. Error: %s", model_id, error)
        self._perform(self.cache.load_overdue(model_id, error, self._loop.time()))

    async def _unload(self, model_id: str) -> None:
        began = time.perf_counter()
        log.info("Unloading model '%s'.", model_id)
        departed = self._leaks.departing(self.models, model_id)
        try:
            await self._runner.unload(model_id, self.models)
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
