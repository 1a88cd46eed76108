"""What requests ask of the models of one loader: to get one, to lease one, to wait for a cold one only so long."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from modelplex import context, errors
from modelplex.config import CacheOptions
from modelplex.core.cache import ModelCache, Start
from modelplex.multiplex import Loader
from modelplex.observe.decisions import Decisions
from modelplex.runtime.alias_watch import AliasedModels, AliasWatch
from modelplex.runtime.cached_models import CachedModels, Publisher
from modelplex.runtime.leak_watch import LeakWatch
from modelplex.runtime.model_notes import on_behalf_of
from modelplex.runtime.pins import Pins, told_if_it_fails

log = logging.getLogger(__name__)

# Nobody who did not get a cold model is to come back sooner, however little is known of its load.
COLD_RETRY_MIN_S = 0.1


class ModelHost:
    """Answers `get_model` for one loader.

    Args:
        loader: the user's loader.
        owner: the instance that its method is called on; None for a function.
        threads: where plain `def` loaders and destructors run.
        publish: told of every load and unload, of a load before it begins.
        leaks: watches what is unloaded; the replica's, or one of its own.

    Attributes:
        used: whether a model was ever asked for.
        name: the loader's.
        cached: what loads and unloads.
        cache: what decides that; to be asked, not told.
        pins: which of them are never evicted.
        view: to be asked for models by the ids that requests name.
    """

    view: AliasedModels | ModelCache

    def __init__(
        self,
        loader: Loader,
        owner: object,
        threads: ThreadPoolExecutor,
        publish: Publisher,
        leaks: LeakWatch | None = None,
    ) -> None:
        self.used = False
        self.name = loader.name
        self._options = loader.options
        named = None if self._options.resolve is None else AliasedModels(publish)
        self._publish = publish
        self.cached = CachedModels(loader, owner, threads, named or publish, leaks or LeakWatch())
        self._named = named
        self.cache = self.cached.cache
        self.view = named or self.cache
        self._models = self.cached.models
        self._loop = asyncio.get_running_loop()
        self.pins = Pins(self.cached, self._lease_of_nobody, self._options)
        self._watch = None if named is None else AliasWatch(self.cached, named, self._options, self.pins.moved)

    async def start(self) -> None:
        """Load what is pinned and what is preloaded. What fails is told in the log, and tried again by demand."""
        pinned, preload = self._options.pinned, self._options.preload
        first = [*pinned, *(preload if isinstance(preload, Sequence) else ())]
        await asyncio.gather(*map(self.pins.load, dict.fromkeys(first)))
        if not isinstance(preload, Sequence):
            await self._preload(preload)

    async def _preload(self, list_models: Callable[[], Any]) -> None:
        """Load what a function of the user's names, as long as there is room."""
        try:
            model_ids = await self.cached.call(list_models)
        except Exception as error:  # the user's function may raise anything, and the replica can serve all the same
            log.error("What is to be preloaded cannot be found out: %r", error, exc_info=error)
            return
        for model_id in model_ids:
            if self.cache.room == 0:
                return
            await self.pins.load(model_id)

    async def warm(self, model_ids: Sequence[str], timeout_s: float) -> None:
        """Load these, the first ones if not all have room. Returns when they are loaded, or the time is over."""
        if self._watch is not None:
            model_ids = await self._watch.versions_of(model_ids, timeout_s)
        room = self.cache.room
        wanted = [model_id for model_id in model_ids if not self.cache.knows(model_id)][:room]
        if loads := [self.cached.run(self._load_ahead(model_id)) for model_id in wanted]:
            await asyncio.wait(loads, timeout=timeout_s)

    async def _load_ahead(self, version: str) -> None:
        with told_if_it_fails(version), on_behalf_of("takes_over"):
            self.cached.release(await self._acquire(version, None))

    @property
    def options(self) -> CacheOptions:
        """How its models are kept."""
        return self._options

    @property
    def models_max(self) -> int:
        return self._options.models_max

    # What routers and the controller are told

    @property
    def loaded(self) -> list[str]:
        return self.cache.resident if self._named is None else self._named.loaded_ids

    @property
    def loading(self) -> list[str]:
        return self.cache.loading if self._named is None else self._named.loading_ids

    @property
    def aliases(self) -> dict[str, str]:
        """Which model each known alias leads to."""
        return {} if self._watch is None else self._watch.versions

    async def close(self) -> None:
        """Unload every model, each once, least recently used first; what is leased or loading, when that has ended."""
        if self._watch is not None:
            await self._watch.close()
        self.cached.close()
        self.pins.close()
        await self.cached.closed()

    # Leases

    async def get(self, model_id: str, request: context.RequestContext | None) -> Any:
        """The model, leased by the request until it ends; without a request, only looked up."""
        if self._watch is None:
            ticket = await self._acquire(model_id, request)
        else:
            model_id, ticket = await self._lease(model_id, request)
        model = self._models[model_id]
        if request is None or request.ended:
            self.cached.release(ticket)
        else:
            request.leases.append(lambda: self.cached.release(ticket))
        return model

    @contextlib.asynccontextmanager
    async def lease(self, model_id: str, request: context.RequestContext | None) -> AsyncIterator[Any]:
        """The model, leased for the time of a block."""
        version, ticket = await self._lease(model_id, request)
        try:
            yield self._models[version]
        finally:
            self.cached.release(ticket)

    async def _lease_of_nobody(self, model_id: str) -> tuple[str, int]:
        return await self._lease(model_id, None)

    async def _lease(self, model_id: str, request: context.RequestContext | None) -> tuple[str, int]:
        """The version that the id stands for, and the ticket of a lease of it. Raises why there is none."""
        if self._watch is None:
            return model_id, await self._acquire(model_id, request)
        while True:
            if (version := self._watch.choose(model_id)) is None:
                await self._found(model_id, request)
                continue
            try:
                ticket = await self._acquire(version, request, model_id)
            except errors.ModelLoadError as error:
                if not self._watch.failed(model_id, version, error):
                    raise
            else:
                self._watch.granted(model_id, version)
                return version, ticket

    async def _found(self, model_id: str, request: context.RequestContext | None) -> None:
        """Return when it is known what the id stands for. That is part of what the request waits for its model."""
        assert self._watch is not None
        self.used = True
        began = time.perf_counter()
        try:
            await self._watch.find(model_id)
        finally:
            if request is not None:
                request.load_s += time.perf_counter() - began

    async def _acquire(self, model_id: str, request: context.RequestContext | None, name: str = "") -> int:
        """The ticket of a lease of the model; the request notes how it met it. Raises why there is none.

        `name` is what the request calls it, if that is not its id.
        """
        self.used = True
        began = time.perf_counter()
        try:
            if model_id not in self._models and not await self.cached.exists(model_id):
                raise errors.ModelNotFoundError(f"There is no model '{model_id}'.")
            ticket, answer = self.cached.ask(model_id, request, name)
            start = answer if isinstance(answer, Start) else await self._granted(model_id, ticket, answer, request)
        finally:
            if request is not None:
                request.load_s += time.perf_counter() - began
        if request is not None and not request.start:
            request.start = start.value
        return ticket

    async def _granted(
        self, model_id: str, ticket: int, answer: "asyncio.Future[Start]", request: context.RequestContext | None
    ) -> Start:
        """The answer to a ticket, which ends with whoever waits for it."""
        try:
            if request is not None and request.cold_deadline is not None:
                await self._wait_for_cold(model_id, answer, request.cold_deadline, request.tenant)
            return await answer
        except (asyncio.CancelledError, errors.ModelColdError):
            self.cached.give_up(ticket)
            raise

    # Cold models

    async def _wait_for_cold(self, model_id: str, answer: "asyncio.Future[Start]", until: float, tenant: str) -> None:
        """Return when there is an answer. Raises `ModelColdError` at the deadline; the load goes on for others."""
        if not answer.done():
            await asyncio.wait({answer}, timeout=max(0.0, until - self._loop.time()))
        if not answer.done():
            self.cached.want(model_id, tenant=tenant)
            rest_s = self.cache.rest_s(model_id, self._loop.time())
            raise errors.too_cold(model_id, max(COLD_RETRY_MIN_S, rest_s))

    def prefetch(self, model_id: str, share: float = 0.0, tenant: str = "", *, ahead: bool = False) -> None:
        """Have the model loaded for no request, if it exists; of one `ahead`, say if it will not be."""
        if not self.view.holds(model_id):
            self.cached.run(self._prefetch(model_id, share, tenant, ahead=ahead))

    async def _prefetch(self, model_id: str, share: float, tenant: str, *, ahead: bool) -> None:
        with on_behalf_of("ahead" if ahead else "prefetch"):
            answer = await self._wanted(model_id, share, tenant)
        if ahead and answer is not None:
            await asyncio.wait([answer])
        if ahead and not self.view.knows(model_id):
            self._publish.gone(model_id)

    async def _wanted(self, model_id: str, share: float, tenant: str) -> "asyncio.Future[Start] | None":
        """What is waited for to have the model loaded; None if there is no such model, or nothing to wait for."""
        try:
            if self._watch is not None:
                while (version := self._watch.choose(model_id)) is None:
                    await self._watch.find(model_id)
                model_id = version
        except errors.ModelplexError:
            return None  # the request itself will hear of it
        try:
            return self.cached.want(model_id, share, tenant) if await self.cached.exists(model_id) else None
        except Exception as error:  # the user's hook may raise anything, and nobody waits who could be told
            log.error("Whether there is a model '%s' cannot be found out: %r", model_id, error, exc_info=error)
            return None


def noted(host: ModelHost, decisions: Decisions, replica_id: str) -> ModelHost:
    """The same host; what it decides is noted there from now on."""
    host.cached.notes.follow(decisions, replica_id)
    return host
