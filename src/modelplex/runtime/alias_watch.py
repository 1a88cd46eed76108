"""The aliases of one loader's models: the shell round `core.aliases`, and what routers are told of them."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from modelplex import config, errors
from modelplex.config import CacheOptions
from modelplex.core import aliases
from modelplex.core.aliases import Aliases
from modelplex.core.backoff import Backoff
from modelplex.core.cache import ModelCache, Start
from modelplex.runtime.cached_models import CachedModels, Publisher

log = logging.getLogger(__name__)

T = TypeVar("T")

# Who asked while a store was away is not to come back sooner.
UNRESOLVED_RETRY_S = 1.0


class AliasedModels:
    """What a replica advertises where there are aliases: its models, and each alias as the version that it leads to.

    It is told of models in the replica's place, and asked in the cache's.
    """

    def __init__(self, publish: Publisher) -> None:
        self._publish = publish
        # What is told of versions: seconds of their loads, and of these for fetching; None: they load.
        self._versions: dict[str, tuple[float, float | None] | None] = {}
        self._told: dict[str, bool] = {}  # alias -> whether it is told to be loaded, rather than to be loading

    def begin(self, cache: ModelCache, known: Aliases) -> None:
        self._cache = cache
        self._aliases = known

    # What is told (cached_models.Publisher)

    def loading(self, model_id: str) -> None:
        self._publish.loading(model_id)
        self._versions[model_id] = None
        self.update(self._aliases.names_of(model_id))

    def loaded(self, model_id: str, load_s: float, fetch_s: float | None) -> None:
        self._publish.loaded(model_id, load_s, fetch_s)
        self._versions[model_id] = (load_s, fetch_s)
        self.update(self._aliases.names_of(model_id))

    def gone(self, model_id: str) -> None:
        self._versions.pop(model_id, None)
        self._publish.gone(model_id)
        self.update(self._aliases.names_of(model_id))

    async def flushed(self) -> None:
        await self._publish.flushed()

    def update(self, names: Iterable[str]) -> None:
        """Tell what has changed for these aliases."""
        for alias in names:
            version = self._aliases.leads_to(alias)
            if version == alias or version not in self._versions:
                # One that is a version itself now, or is not known any more, is told of as such.
                if self._told.pop(alias, None) is not None and alias not in self._versions:
                    self._publish.gone(alias)
                continue
            took = self._versions[version]
            if self._told.get(alias) == (took is not None):
                continue
            self._told[alias] = took is not None
            if took is None:
                self._publish.loading(alias)
            else:
                self._publish.loaded(alias, *took)

    # What is asked (as of core.cache.ModelCache)

    @property
    def loaded_ids(self) -> list[str]:
        return [*self._cache.resident, *(alias for alias, loaded in self._told.items() if loaded)]

    @property
    def loading_ids(self) -> list[str]:
        return [*self._cache.loading, *(alias for alias, loaded in self._told.items() if not loaded)]

    def knows(self, model_id: str) -> bool:
        return self._cache.knows(self._aliases.leads_to(model_id))

    def holds(self, model_id: str) -> bool:
        return self._cache.holds(self._aliases.leads_to(model_id))

    def measured(self, model_id: str) -> tuple[int, float] | None:
        return self._cache.measured(self._aliases.leads_to(model_id))


class Resolver:
    """Asks the user's function what ids stand for: so many at a time, each within its time.

    Args:
        ask: asks it.
    """

    def __init__(self, ask: Callable[[str], Awaitable[str]]) -> None:
        self._ask = ask
        self._may_ask = asyncio.Semaphore(config.RESOLVES_MAX)
        self.tasks: set[asyncio.Task[str]] = set()

    async def resolve(self, name: str) -> str:
        """What it says. Raises what it raises. A thread that does not end in time keeps its place until it does."""
        call = asyncio.get_running_loop().create_task(self._call(name))
        self.tasks.add(call)
        call.add_done_callback(self._over)
        try:
            await asyncio.wait([call], timeout=config.RESOLVE_TIMEOUT_S)
            if not call.done():
                raise TimeoutError(f"resolve took longer than {config.RESOLVE_TIMEOUT_S} s")
            if call.cancelled():
                raise RuntimeError("resolve was cancelled by its own code")
            return call.result()
        finally:
            call.cancel()

    async def _call(self, name: str) -> str:
        async with self._may_ask:
            try:
                return await self._ask(name)
            except SystemExit as error:  # the user's code may raise anything, and a task would end the loop with it
                raise RuntimeError("resolve raised SystemExit") from error

    def _over(self, call: "asyncio.Task[str]") -> None:
        self.tasks.discard(call)
        if not call.cancelled():
            call.exception()  # its reader may have left


class AliasWatch:
    """Finds out what ids stand for, and moves aliases to new versions when these are loaded.

    Args:
        cached: the models.
        named: tells routers of them.
        options: the loader's.
        moved: told of each alias that leads to another version from now on; it may hold that.
    """

    def __init__(
        self, cached: CachedModels, named: AliasedModels, options: CacheOptions, moved: Callable[[str, str], None]
    ) -> None:
        self._cached = cached
        self._named = named
        self._interval_s = options.resolve_interval_s
        self._missing = (errors.ModelNotFoundError, FileNotFoundError, *options.not_found)
        self._moved = moved
        self._loop = asyncio.get_running_loop()
        self._core = Aliases(
            cached.cache,
            Backoff(config.LOAD_BACKOFF_S, config.LOAD_BACKOFF_MAX_S),
            interval_s=options.resolve_interval_s,
            pinned=options.pinned,
        )
        named.begin(cached.cache, self._core)
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}  # who waits until an id is resolved
        self._resolves: dict[str, asyncio.Task[str]] = {}
        self._loads: dict[str, asyncio.Task[None]] = {}  # of versions, on behalf of nobody
        self._resolver = Resolver(cached.resolve)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._closed = False

    # What requests ask

    def choose(self, model_id: str) -> str | None:
        """The version that a request for this id gets; None if that has to be found out first."""
        return self._core.choose(model_id, self._loop.time())

    async def find(self, model_id: str) -> None:
        """Return when it is known what the id stands for.

        Raises `ModelNotFoundError` if there is no such model, `ModelUnavailableError` if that cannot be found out.
        """
        if self._closed:
            raise errors.DeploymentUnavailableError(f"The replica stops and loads no model '{model_id}'.")
        answer: asyncio.Future[None] = self._loop.create_future()
        waiting = self._waiting.setdefault(model_id, set())
        waiting.add(answer)
        self._perform(self._core.asked(model_id))
        try:
            await answer
        finally:
            waiting.discard(answer)
            if not waiting and self._waiting.get(model_id) is waiting:
                del self._waiting[model_id]
                if model_id not in self._core:  # or whoever invents ids and leaves at once would fill the line
                    self._resolves[model_id].cancel()

    async def versions_of(self, model_ids: Iterable[str], timeout_s: float) -> list[str]:
        """The versions that these ids stand for, each once; those left out that cannot be found in the time."""
        finds = {model_id: self._run(self.find(model_id)) for model_id in model_ids}
        if finds:
            await asyncio.wait(finds.values(), timeout=timeout_s)
        for find in finds.values():
            find.cancel()
        await asyncio.gather(*finds.values(), return_exceptions=True)
        found = [name for name, find in finds.items() if not find.cancelled() and find.exception() is None]
        return list(dict.fromkeys(map(self._core.leads_to, found)))

    def granted(self, model_id: str, version: str) -> None:
        """A request for the id holds the version."""
        if commands := self._core.granted(model_id, version, self._loop.time()):
            self._perform(commands)

    def failed(self, model_id: str, version: str, error: errors.ModelLoadError) -> bool:
        """A request for the id could not get the version. Answers whether there is another that it may try."""
        if isinstance(error, errors.ModelColdError):
            return False
        self._perform(self._core.load_failed(version, error, self._loop.time(), error.retry_after_s or 0.0))
        return self.choose(model_id) not in (None, version)

    @property
    def versions(self) -> dict[str, str]:
        """What each known alias leads to."""
        return self._core.versions

    async def close(self) -> None:
        """Look at nothing any more, and load nothing."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        tasks = [*self._resolves.values(), *self._loads.values(), *self._resolver.tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=config.RESOLVE_TIMEOUT_S)  # a thread may hang

    # What the core decides

    def _perform(self, commands: Sequence[aliases.Command]) -> None:
        for command in () if self._closed else commands:
            match command:
                case aliases.Resolve(alias):
                    resolve = self._resolves[alias] = self._run(self._resolver.resolve(alias))
                    resolve.add_done_callback(functools.partial(self._resolved, alias))
                case aliases.Load(version):
                    self._loads[version] = self._run(self._load(version))
                case aliases.Switch(alias, old, new):
                    log.info("'%s' has moved from '%s' to '%s'.", alias, old, new)
                    self._moved(alias, new)
                    self._named.update([alias])
                case aliases.Retire(version):
                    if (load := self._loads.pop(version, None)) is not None:
                        load.cancel()
                    self._cached.retire(version, replaced=True)
                case aliases.Stay(alias, old, new, error, retry_after_s):
                    told = "'%s' stands for '%s' now, which cannot be loaded: '%s' serves on. Next try in %.1f s. %s"
                    log.error(told, alias, new, old, retry_after_s, error)
                    self._named.update([alias])
                case aliases.Unresolved(alias, version, error):
                    log.error(
                        "Which version '%s' stands for cannot be found out: '%s' serves on. %r", alias, version, error
                    )
                case aliases.Forget(alias):
                    self._named.update([alias])
        self._set_timer()

    def _run(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        # Of no request: what is loaded for all is not to see the variables of the one that happened to ask first.
        return self._loop.create_task(work, context=self._cached.context.copy())

    def _set_timer(self) -> None:
        at = None if self._closed else self._core.next_tick
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if at is None else self._loop.call_at(at, self._tick, context=self._cached.context)
        self._timer_at = at

    def _tick(self) -> None:
        self._timer = self._timer_at = None
        self._perform(self._core.tick(self._loop.time()))

    # Resolving

    def _resolved(self, name: str, resolve: "asyncio.Task[str]") -> None:
        del self._resolves[name]
        now = self._loop.time()
        error = asyncio.CancelledError() if resolve.cancelled() else resolve.exception()
        if error is None:
            self._perform(self._core.resolved(name, resolve.result(), now))
        else:
            missing = isinstance(error, self._missing)
            self._perform(self._core.resolve_failed(name, error, now, missing=missing))
            if resolve.cancelled() and name in self._waiting and not self._closed:
                self._perform(self._core.asked(name))  # somebody has come since
                return
            if not missing and not resolve.cancelled() and name not in self._core:
                log.error("Which version '%s' stands for cannot be found out: %r", name, error, exc_info=error)
        self._named.update([name])
        self._answer(name, error)

    def _answer(self, name: str, error: BaseException | None) -> None:
        """Tell whoever waits, unless the alias has a version that serves on."""
        for answer in self._waiting.pop(name, ()):
            if answer.done():
                continue
            if error is None or name in self._core:
                answer.set_result(None)
            else:
                answer.set_exception(self._failure(name, error))

    def _failure(self, name: str, cause: BaseException) -> errors.ModelplexError:
        if self._closed:
            return errors.DeploymentUnavailableError(f"The replica stops and loads no model '{name}'.")
        if isinstance(cause, self._missing):
            return errors.ModelNotFoundError(f"There is no model '{name}'.")
        retry_after_s = getattr(cause, "retry_after_s", None) or UNRESOLVED_RETRY_S
        text = f"Which version '{name}' stands for cannot be found out ({type(cause).__name__}); the log has more."
        return errors.ModelUnavailableError(text, retry_after_s=retry_after_s)

    # Loading

    async def _load(self, version: str) -> None:
        """Load a version that an alias is to move to, as room for it is, and let the alias move."""
        kept = self._keep_serving(version)
        timer = self._loop.call_later(self._interval_s, self._let_go, version, kept, context=self._cached.context)
        try:
            await self._load_and_move(version)
        finally:
            timer.cancel()
            while kept:
                self._cached.release(kept.pop())

    def _keep_serving(self, version: str) -> list[int]:
        """Leases of the versions that this one is to replace: it must not evict those first of all."""
        kept: list[int] = []
        if self._cached.cache.models_max == 1:
            return kept  # there is room for it nowhere else
        for old in {self._core.leads_to(alias) for alias in self._core.names_of(version)} - {version}:
            if not self._cached.cache.holds(old):
                continue
            ticket, answer = self._cached.ask(old, None)
            if isinstance(answer, Start):
                kept.append(ticket)
            else:
                self._cached.give_up(ticket)
        return kept

    def _let_go(self, version: str, kept: list[int]) -> None:
        """If there has been no room for long, that of the versions before is as good as any."""
        while kept and version not in self._cached.cache.loading:
            self._cached.release(kept.pop())

    async def _load_and_move(self, version: str) -> None:
        try:
            ticket = await self._cached.load(version)
        except Exception as error:  # the user's hooks may raise anything, and the alias has to hear of it
            if not isinstance(error, errors.ModelplexError):
                log.error("Whether there is a model '%s' cannot be found out: %r", version, error, exc_info=error)
            del self._loads[version]
            retry_after_s = getattr(error, "retry_after_s", None) or 0.0
            self._perform(self._core.load_failed(version, error, self._loop.time(), retry_after_s))
        else:
            del self._loads[version]
            self._perform(self._core.loaded(version, self._loop.time()))
            self._cached.release(ticket)
