"""The models of one loader: the shell round `core.cache` that runs loaders and destroys models."""

import asyncio
import contextvars
import itertools
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from modelplex import config, context, errors, loaded, tracing
from modelplex.config import CacheOptions
from modelplex.core import cache
from modelplex.core.backoff import Backoff
from modelplex.core.tenant_cache import TenantCache
from modelplex.multiplex import Loader
from modelplex.runtime.leak_watch import LeakWatch
from modelplex.runtime.load_runner import LoadRunner, without_traceback
from modelplex.runtime.model_meters import ModelMeters
from modelplex.runtime.model_notes import ModelNotes, on_behalf_of
from modelplex.runtime.spans import of_load
from modelplex.runtime.tick_timer import TickTimer

log = logging.getLogger(__name__)


class Publisher(Protocol):
    """Tells routers what the replica holds."""

    def loading(self, model_id: str) -> None: ...

    def loaded(self, model_id: str, load_s: float, fetch_s: float | None) -> None: ...

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
        meters: what is counted.
        context: variables for what runs on behalf of no request.
        notes: why what was loaded and unloaded.
    """

    def __init__(
        self, loader: Loader, owner: object, threads: ThreadPoolExecutor, publish: Publisher, leaks: LeakWatch
    ) -> None:
        self.models: dict[str, Any] = {}
        self.cache = _cache(loader.options)
        self.meters = ModelMeters()
        self.notes = ModelNotes(loader, self.cache)
        # Whether what is idle is looked at again at a time.
        self._is_timed = loader.options.idle_ttl_s is not None or loader.options.min_residency_s > 0
        self._loader = loader
        self._publish = publish
        self._runner = LoadRunner(loader, owner, threads)
        self._loop = asyncio.get_running_loop()
        self._answers: dict[int, asyncio.Future[cache.Start]] = {}
        self._tickets = itertools.count(1)
        # Cold models that are waited for on behalf of nobody.
        self._wanted: dict[str, asyncio.Future[cache.Start]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Of no request: a timer would hold the variables of the one that set it, and with them perhaps a model.
        self.context = contextvars.Context()
        if context.in_replica():
            self.context.run(context.set_replica, context.replica())
        self._timer = TickTimer(lambda: self.cache.next_tick, self._tick, self.context)
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
        self,
        model_id: str,
        request: context.RequestContext | None,
        name: str = "",
        share: float = 0.0,
        tenant: str = "",
    ) -> "tuple[int, cache.Start | asyncio.Future[cache.Start]]":
        """Ask for a lease: its ticket, and the answer, at once if the model is warm.

        The future raises why there is no lease. Whoever waits for it no longer gives the ticket up. `name` is what the
        model was asked for by, if that is not its id, `tenant` on whose behalf, if there is no request.
        """
        ticket = next(self._tickets)
        owner = request.part_of or request if request is not None else None
        hurried = request is not None and request.waited
        if request is not None:
            self.meters.asked += 1
            share = request.share if request.model_id == (name or model_id) else 0.0
            tenant = request.tenant
        commands = self.cache.acquire(
            ticket, model_id, owner, self._loop.time(), hurried=hurried, share=share, tenant=tenant
        )
        if commands and isinstance(grant := commands[0], cache.Grant) and grant.ticket == ticket:
            self.meters.used(model_id)
            if len(commands) > 1 or self._answers:  # nobody else's turn can have changed
                self._perform(commands[1:])
            return ticket, grant.start
        answer = self._answers[ticket] = self._loop.create_future()
        self.notes.asked(ticket, model_id, request)
        if request is not None and tracing.active is not None:
            of_load(tracing.active, model_id, answer)
        self._perform(commands)
        return ticket, answer

    async def load(self, model_id: str) -> int:
        """The ticket of a lease on behalf of nobody, once the model is loaded. Raises why there is none."""
        if model_id not in self.models and not await self.exists(model_id):
            raise errors.ModelNotFoundError(f"There is no model '{model_id}'.")
        with on_behalf_of("version"):
            ticket, answer = self.ask(model_id, None)
        if not isinstance(answer, cache.Start):
            try:
                await answer
            except asyncio.CancelledError:
                self.give_up(ticket)
                raise
        return ticket

    @property
    def waiting(self) -> int:
        """How many wait for a model."""
        return len(self._answers)

    def retire(self, model_id: str, *, replaced: bool = False) -> None:
        """Unload the model as soon as nobody uses it, unless it is asked for again.

        It is `replaced` by another version, or somebody has asked for that.
        """
        if not replaced and model_id in self.models:
            self.meters.sent_away.add(model_id)
        self._perform(self.cache.retire(model_id, self._loop.time()))

    def release(self, ticket: int) -> None:
        """End a lease."""
        commands = self.cache.release(ticket, self._loop.time())
        if commands or self._answers or self._is_timed:
            self._perform(commands)

    def give_up(self, ticket: int) -> None:
        """Nobody waits for the answer any more. It may have come in the same turn of the loop; the core knows."""
        if (answer := self._answers.pop(ticket, None)) is not None:
            answer.cancel()
        if ticket in self.cache:
            self.release(ticket)
        self.notes.over(ticket)

    def want(self, model_id: str, share: float = 0.0, tenant: str = "") -> "asyncio.Future[cache.Start] | None":
        """Wait for the model for no request, once for all who gave up: so it keeps its place in the queue.

        Answers what is waited for; None if the model is loaded. `share` is how popular it is.
        """
        if (waiting := self._wanted.get(model_id)) is not None:
            return waiting
        ticket, answer = self.ask(model_id, None, share=share, tenant=tenant)
        if isinstance(answer, cache.Start):  # it has been loaded meanwhile
            self.release(ticket)
            return None
        self._wanted[model_id] = answer

        def over(answer: "asyncio.Future[cache.Start]") -> None:
            del self._wanted[model_id]
            if answer.exception() is None:
                self.release(ticket)

        answer.add_done_callback(over)
        return answer

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
        self._timer.cancel()

    # What the core decides

    def _perform(self, commands: list[cache.Command]) -> None:
        for command in commands:
            match command:
                case cache.Grant(ticket, model_id, start):
                    self.meters.used(model_id)
                    if (answer := self._waiting_answer(ticket)) is not None:
                        answer.set_result(start)
                case cache.Reject(ticket):
                    self.notes.rejected(command)
                    if (answer := self._waiting_answer(ticket)) is not None:
                        answer.set_exception(_rejection(command, self._loader, self._runner))
                case cache.Load(model_id):
                    self.notes.loads(command)
                    self._publish.loading(model_id)
                    self.run(self._load(model_id))
                case cache.Unload(model_id):
                    self.meters.evicted(model_id, command.reason)
                    self.notes.unloads(command)
                    self._publish.gone(model_id)
                    self.run(self._unload(model_id))
        self._timer.set()

    def _tick(self) -> None:
        self._perform(self.cache.tick(self._loop.time()))

    def _waiting_answer(self, ticket: int) -> "asyncio.Future[cache.Start] | None":
        """The future that `get` waits on, unless it has been cancelled."""
        answer = self._answers.pop(ticket, None)
        self.notes.over(ticket)
        return None if answer is None or answer.done() else answer

    async def _load(self, model_id: str) -> None:
        began = time.perf_counter()
        # A loader may block the event loop: routers must have heard of the load before.
        await self._publish.flushed()
        log.info("Loading model '%s'.", model_id)
        try:
            load = loaded.begin_load()
            model, size_bytes, grown_bytes = await self._runner.run(model_id, self._overdue)
        except (Exception, SystemExit) as error:  # the user's code may raise anything; whoever waits has to hear of it
            known = isinstance(error, errors.ModelNotFoundError)  # clients invent ids: a line of each is enough
            log.error("Failed to load model '%s'. Error: %s", model_id, error, exc_info=None if known else error)
            without_traceback(error)
            self.meters.failures.add(type(error).__name__)
            self.notes.failed(model_id, time.perf_counter() - began, error)
            commands = self.cache.load_failed(model_id, error, self._loop.time())
            self._publish.gone(model_id)
        else:
            load_s = time.perf_counter() - began
            log.info("Successfully loaded model '%s' in %.1fms.", model_id, load_s * 1e3)
            self.models[model_id] = model
            self.meters.loaded(model_id, load_s, size_bytes)
            self.notes.loaded(model_id, load_s, load.fetch_s, size_bytes)
            self._leaks.loaded(self.models, model_id, size_bytes, grown_bytes)
            commands = self.cache.loaded(model_id, size_bytes, self._loop.time())
            self._publish.loaded(model_id, load_s, load.fetch_s)
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
        self.meters.unloads.observe(time.perf_counter() - began)
        self._leaks.departed(departed)
        self._perform(self.cache.unloaded(model_id, self._loop.time()))


def _cache(options: CacheOptions) -> cache.ModelCache:
    """What decides on models that are to be kept so."""
    backoff = Backoff(config.LOAD_BACKOFF_S, config.LOAD_BACKOFF_MAX_S)
    rest: dict[str, Any] = {
        "bytes_max": options.bytes_max,
        "loads_max": options.loads_max,
        "min_residency_s": options.min_residency_s,
        "idle_ttl_s": options.idle_ttl_s,
    }
    if (tenants := options.tenant_limits) is not None:
        return TenantCache(options.models_max, options.eviction_policy, backoff, tenants, **rest)
    return cache.ModelCache(options.models_max, options.eviction_policy(), backoff, **rest)


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
                f"{loader.options.bytes_max}{', or than its tenant may take' if loader.options.tenants else ''}."
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
