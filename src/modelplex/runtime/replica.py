"""A replica: the user's code, its models, and the links to the routers that send it requests."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from modelplex import config, context, errors
from modelplex.config import check_model_id
from modelplex.core.occupancy import Occupancy, Promises
from modelplex.multiplex import Loader, loaders_of
from modelplex.observe.decisions import Decisions
from modelplex.runtime import hosted_app, payload
from modelplex.runtime.doors import Doors
from modelplex.runtime.leak_watch import LeakWatch
from modelplex.runtime.link import Link
from modelplex.runtime.load_meter import LoadMeter
from modelplex.runtime.meters import RequestMeters
from modelplex.runtime.model_hosts import ModelHosts
from modelplex.runtime.models import ModelHost, noted
from modelplex.runtime.replica_spec import ReplicaSpec
from modelplex.runtime.servable import Servable
from modelplex.runtime.serving import Serving
from modelplex.runtime.watchers import Watchers
from modelplex.wire import messages
from modelplex.wire.messages import Message

log = logging.getLogger(__name__)

# Loads and destructors that run in threads at a time.
MODEL_THREADS = 32

# A router that does not take what it is sent must not hold up a load for longer.
PUBLISH_TIMEOUT_S = 0.1

# Code that passes over a cancellation is cancelled again, at most so often.
CANCEL_AGAIN_S = 0.1

# Of many routers that are to hear of a free slot, the next ones do so much later if it is still free.
CORRECT_AGAIN_S = 0.005


class Replica:
    """Answers requests on any number of links. `start` it before the first link comes, `stop` it once."""

    def __init__(self, spec: ReplicaSpec) -> None:
        self.context = spec.context
        self.scope = self
        self.watchers, self.decisions = Watchers(), Decisions(spec.context.replica_id)
        self.leaks = LeakWatch()
        self._spec, self.max_ongoing = spec, spec.config.max_ongoing_requests
        self._occupancy: Occupancy[Link] = Occupancy(self.max_ongoing)
        self._promises: Promises[tuple[Link, int]] = Promises()
        self._announced: set[str] = set()  # models that refusals spoke of, and that have not begun to load
        self._servings: dict[tuple[Link, int], Serving] = {}
        self._tasks: dict[Serving, asyncio.Task[None]] = {}
        self.models = ModelHosts(self._model_host)
        self.meters, self._load = RequestMeters(self.max_ongoing), LoadMeter()
        self.retiring = False
        self._corrections = _Corrections(self._occupancy)
        self._threads = ThreadPoolExecutor(MODEL_THREADS, thread_name_prefix="modelplex-model")
        self._loop = asyncio.get_running_loop()

    async def start(self) -> None:
        """Construct the user's object. Raises whatever its constructor raises."""
        context.set_replica(self)
        spec = self._spec
        definition = payload.loads(spec.definition) if isinstance(spec.definition, bytes) else spec.definition
        self.servable = await Servable.construct(definition, spec.config.max_ongoing_requests)
        self.context = replace(self.context, servable_object=self.servable.instance)
        self.doors = Doors(self.servable, self.models, self.context)
        # Known before the first request, so that routers hear at once how many models there is room for.
        for loader in loaders_of(self.servable.instance):
            self.models.get(loader, self.servable.instance)
        for loader in list(Loader.standalone):
            self.models.get(loader, None)
        if spec.config.user_config is not None:
            await self.servable.reconfigure(spec.config.user_config)
        async with asyncio.timeout(spec.config.health_check_timeout_s):
            await self.servable.check_health()
        await self.models.start()
        self.servable.app = await hosted_app.start_for(type(self.servable.instance))
        await self.models.warm(spec.models, config.WARM_UP_S)
        self._load.loads.clear()  # nobody had evicted these

    def _model_host(self, loader: Loader, owner: object) -> ModelHost:
        options = self._spec.config.over(loader.options)
        host = ModelHost(loader.with_options(options), owner, self._threads, self, self.leaks)
        return noted(host, self.decisions, self.context.replica_id)

    async def stop(self, timeout_s: float) -> None:
        """Take no more requests, let those that run end within the time, then end the models and the user's object."""
        self.retiring = True
        self._broadcast(messages.Retiring())
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=timeout_s)
        while self._tasks:
            for serving, task in list(self._tasks.items()):
                serving.cancel(task)
            await asyncio.wait(list(self._tasks.values()), timeout=max(timeout_s, CANCEL_AGAIN_S))
        self.watchers.close()
        if self.servable.app is not None:
            await self.servable.app.stop()
        try:
            await self.servable.destroy()
        except Exception as error:  # the user's destructor may raise anything
            log.error("%s failed to end: %r", self.context.replica_id, error, exc_info=error)
        await self.models.close()
        self.leaks.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        for link in self._occupancy.routers:
            link.close()
        self._corrections.close()

    # What user code asks of the replica (context.ReplicaScope)

    def get_model(self, loader: Loader, owner: object, model_id: str) -> Awaitable[Any]:
        return self.models.get(loader, owner).get(check_model_id(model_id), context.request())

    def lease_model(self, loader: Loader, owner: object, model_id: str) -> AbstractAsyncContextManager[Any]:
        return self.models.get(loader, owner).lease(check_model_id(model_id), context.request())

    def in_thread(self, call: Callable[[], Any]) -> Awaitable[Any]:
        return self.servable.in_thread(call)

    # What the controller is told (upkeep.Subject)

    def load(self) -> messages.Load:
        began, models = [s.began for s in self._tasks], self.models
        return self._load.take(began, models.models, models.models_max, models.by_loader, models.aliases)

    # What requests need (serving.Host)

    @property
    def ongoing(self) -> int:
        return self._occupancy.ongoing

    def finished(self, serving: Serving, *, answered: bool) -> None:
        if serving.slotless:
            return
        self._occupancy.end(serving.link)
        if not answered and serving.link in self._occupancy:
            serving.link.send(messages.Ongoing(self.ongoing))
        if self._occupancy.has_doubters:
            self._corrections.tell()

    # What routers say (link.Receiver)

    def received(self, link: Link, message: Message, body: bytes) -> None:
        match message:
            case messages.Begin():
                self._begin(link, message, body)
            case messages.Chunk(stream, more):
                if (serving := self._servings.get((link, stream))) is not None:
                    serving.feed(body, more=more)
            case messages.Credit(stream, size_bytes):
                if (serving := self._servings.get((link, stream))) is not None:
                    serving.credit(size_bytes)
            case messages.Prefetch():
                if not self.retiring and not self.models.prefetch(message, self._promises.models):
                    self.gone(message.model_id)
            case messages.Cancel(stream):
                self._cancel((link, stream))
            case messages.Hello(version):
                self._welcome(link, version)
            case messages.Watch(version):
                self._watch(link, version)
            case messages.Taken() | messages.Unwatch():
                self.watchers.heard(link, message)
            case _:
                link.close()

    def lost(self, link: Link) -> None:
        self.watchers.remove(link)
        self._occupancy.leave(link)
        for key in [key for key in self._servings if key[0] is link]:
            self._cancel(key)

    def _welcome(self, link: Link, version: int) -> None:
        if self.retiring:
            link.close()  # a welcome would be an invitation to send requests
            return
        link.send(
            messages.Welcome(
                version=messages.VERSION,
                replica_id=self.context.replica_id,
                max_ongoing=self._occupancy.limit,
                ongoing=self.ongoing,
                room=self.models.room,
                loads_max=self.models.loads_max,
                harm_s=self.models.harm_s,
                loaded=self.models.loaded,
                loading=self.models.loading,
                on_disk=self.models.on_disk,
            )
        )
        if version != messages.VERSION:
            link.close()
        else:
            self._occupancy.join(link)

    def _watch(self, link: Link, version: int) -> None:
        own = self.context
        link.send(messages.Watching(messages.VERSION, own.app_name, own.deployment, own.replica_id))
        if version != messages.VERSION:
            link.close()
        else:
            self.watchers.add(link)

    def _begin(self, link: Link, begin: messages.Begin, body: bytes) -> None:
        if link not in self._occupancy:
            link.close()
            return
        key = (link, begin.stream)
        no_room = begin.fits and not self._has_room(key, begin.model_id)
        if self.retiring or no_room or not (begin.slotless or self._occupancy.begin(link)):
            self._promises.end(key)
            self._refuse(link, begin, no_room=no_room)
            return
        if self._occupancy.has_doubters:
            self._corrections.tell()
        serving = Serving(begin, body, link, self)
        self._servings[key] = serving
        self._tasks[serving] = self._loop.create_task(serving.run())

    def _refuse(self, link: Link, begin: messages.Begin, *, no_room: bool) -> None:
        self._occupancy.told(link)
        holds = self._will_hold(begin.model_id)
        link.send(messages.Refuse(begin.stream, self.ongoing, no_room, holds))
        self._announced |= self._promises.models | ({begin.model_id} if holds else set())

    def over(self, serving: Serving) -> None:
        del self._tasks[serving]
        self._load.ended(serving.began, serving.model_id)
        key = (serving.link, serving.stream)
        self._promises.end(key)
        if self._servings.get(key) is serving:
            del self._servings[key]
        if serving.model_id in self._announced and not self._will_hold(serving.model_id):
            self.gone(serving.model_id)  # routers wait for it, or believe that it takes room

    def _cancel(self, key: tuple[Link, int]) -> None:
        serving = self._servings.pop(key, None)
        if serving is not None and (task := self._tasks.get(serving)) is not None:
            serving.cancel(task)

    # What routers are told (models.Publisher)

    def loading(self, model_id: str) -> None:
        self._announced.discard(model_id)
        # While another loader of this replica holds a model of the same id, nothing has changed for routers.
        if not self.models.holds(model_id):
            self._broadcast(messages.ModelLoading(model_id, self.models.room, self.models.harm_s))

    def loaded(self, model_id: str, load_s: float, fetch_s: float | None) -> None:
        if self.models.has(model_id):  # an alias of a model is no load of its own
            self._load.loads.append((model_id, load_s))
        self.models.fetched(model_id, fetch_s)
        self._broadcast(messages.ModelLoaded(model_id, self.models.room, load_s, self.models.harm_s, fetch_s))

    def gone(self, model_id: str) -> None:
        self._announced.discard(model_id)
        if not self.models.holds(model_id):
            self._broadcast(messages.ModelGone(model_id, self.models.room, self.models.harm_s))

    async def flushed(self) -> None:
        await asyncio.gather(*(link.flushed(PUBLISH_TIMEOUT_S) for link in self._occupancy.routers))

    def _broadcast(self, message: Message) -> None:
        for link in self._occupancy.routers:
            link.send(message)

    def _has_room(self, request: tuple[Link, int], model_id: str) -> bool:
        """Whether the model needs no eviction; its room is then kept for it."""
        if self.models.knows(model_id):
            return True
        for promised in self._promises.models:
            if self.models.knows(promised):
                self._promises.keep(promised)
        return self._promises.make(request, model_id, self.models.room)

    def _will_hold(self, model_id: str) -> bool:
        """Whether the model is here, or is promised to a request that will load it."""
        return self.models.knows(model_id) or model_id in self._promises


class _Corrections:
    """Tells routers that a slot is free if they believe that there is none; many of them not all at once."""

    def __init__(self, occupancy: Occupancy[Link]) -> None:
        self._loop = asyncio.get_running_loop()
        self._occupancy = occupancy
        self._timer: asyncio.TimerHandle | None = None

    def tell(self) -> None:
        occupancy = self._occupancy
        for link in occupancy.mistaken():
            link.send(messages.Ongoing(occupancy.ongoing))
        if self._timer is None and occupancy.more_mistaken:
            self._timer = self._loop.call_later(CORRECT_AGAIN_S, self._again)

    def _again(self) -> None:
        self._timer = None
        self.tell()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def failure(error: BaseException) -> errors.DeploymentFailedError:
    """Why a replica could not be started, with the traceback of the user's code."""
    import traceback

    text = "".join(traceback.format_exception(error)).rstrip()
    return errors.DeploymentFailedError(text.encode("utf-8", "backslashreplace").decode())
