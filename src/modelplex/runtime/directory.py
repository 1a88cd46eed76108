"""Everything that a process can call: the controller's table, and a router for each deployment that is used."""

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from modelplex import errors, tracing
from modelplex.context import Call
from modelplex.observe.decisions import Decisions
from modelplex.runtime import payload
from modelplex.runtime.link import Connect
from modelplex.runtime.router import DeploymentRouter, Exchange
from modelplex.runtime.streams import Upload
from modelplex.wire import messages
from modelplex.wire.framing import PartReader
from modelplex.wire.messages import AppInfo, Begin, DeploymentInfo, Message, Table

# How often it is told how many requests wait, while any do.
TELL_WAITING_S = 0.5


class Directory:
    """Follows the table. It is the process's `context.Caller`, too.

    Args:
        connect: opens links to replicas.
        machine: the machine that this process is on; empty if it has no name.

    Attributes:
        apps: the applications.
        routes: those that have a route, by their prefix with a slash at its end; the longest first.
        decisions: what the process has decided of late.
    """

    def __init__(self, connect: Connect, machine: str = "") -> None:
        self.loop = asyncio.get_running_loop()
        tracing.start()
        self._connect = connect
        self._machine = machine
        self._deployments: dict[tuple[str, str], DeploymentInfo] = {}
        self._routers: dict[tuple[str, str], DeploymentRouter] = {}
        self._draining: dict[DeploymentRouter, asyncio.Task[None]] = {}
        self.apps: list[AppInfo] = []
        self.routes: list[tuple[str, AppInfo]] = []
        self.decisions = Decisions()
        self._telling: asyncio.TimerHandle | None = None
        self._told: dict[tuple[str, str], int] = {}  # how many requests wait for each deployment
        self.tell: Callable[[Message], None] = lambda message: None  # whoever is to know how many requests wait

    def update(self, table: Table) -> None:
        """This is what there is from now on."""
        self.apps = table.apps
        routes = [(f"{app.route_prefix.rstrip('/')}/", app) for app in table.apps if app.route_prefix]
        self.routes = sorted(routes, key=lambda route: -len(route[0]))
        self._deployments = {(d.app_name, d.name): d for d in table.deployments}
        for key in [key for key in self._routers if key not in self._deployments]:
            self._told.pop(key, None)
            router = self._routers.pop(key)
            self._draining[router] = self.loop.create_task(router.drain())
            self._draining[router].add_done_callback(functools.partial(self._drained, router))
        for key, router in self._routers.items():
            router.follow(self._deployments[key])

    @property
    def routers(self) -> Iterable[DeploymentRouter]:
        """Those to deployments that this process has called, and that are there."""
        return self._routers.values()

    def _drained(self, router: DeploymentRouter, task: asyncio.Task[None]) -> None:
        del self._draining[router]

    def ingress(self, app_name: str) -> str | None:
        """The deployment that an application's requests go to; None if there is no such application."""
        return next((app.ingress for app in self.apps if app.name == app_name), None)

    def has_deployment(self, app_name: str, deployment: str) -> bool:
        return (app_name, deployment) in self._deployments

    def router(self, app_name: str, deployment: str) -> DeploymentRouter:
        """The router to a deployment. Raises `DeploymentUnavailableError` if there is no such deployment."""
        key = (app_name, deployment)
        if key not in self._routers:
            info = self._deployments.get(key)
            if info is None:
                raise errors.DeploymentUnavailableError(
                    f"There is no deployment {deployment} in application {app_name}."
                )
            self._routers[key] = DeploymentRouter(info, self._connect, self._machine, self.decisions)
            self._routers[key].on_wait = self._waits
            self._routers[key].follow(info)
        return self._routers[key]

    def _waits(self) -> None:
        """A request waits. That is told at once, and from then on, now and then, how many do."""
        if self._telling is None:
            self._tell_waiting()

    def tell_again(self) -> None:
        """Whoever is told has just come."""
        self._told.clear()
        if self._telling is not None:
            self._telling.cancel()
        self._tell_waiting()

    def _tell_waiting(self) -> None:
        self._telling = None
        for key, router in self._routers.items():
            count, told = router.waiting, self._told.get(key, 0)
            if count != told:
                self._told[key] = count
                self.tell(messages.Waiting(*key, count))
        if any(self._told.values()):
            self._telling = self.loop.call_later(TELL_WAITING_S, self._tell_waiting)

    async def call(self, call: Call) -> Any:
        """Call a method and return what it returns, or raise what it raises."""
        router, exchange = await self._begin(call)
        try:
            return await _result(exchange)
        finally:
            router.cancel(exchange)

    async def stream(self, call: Call) -> AsyncGenerator[Any, None]:
        """Call a generator and yield what it yields, or raise what it raises."""
        router, exchange = await self._begin(call, streams=True)
        try:
            await exchange.answer
            body, reader = exchange.body, PartReader()
            assert body is not None
            while not body.exhausted:
                for data in reader.feed(await body.read()):
                    yield payload.loads(data)
        except errors.ModelplexError as error:
            raised = _as_raised(exchange, error)
            raise raised from raised.__cause__
        finally:
            router.cancel(exchange)

    async def broadcast(self, call: Call) -> list[Any]:
        """Call a method on each replica; a list of what those return that live to answer, or raise what one raises.

        Nobody is cancelled because another one has raised something.
        """
        router = self.router(call.app_name, call.deployment)
        await router.met()
        exchanges = router.broadcast(_begin(call), payload.dumps((call.args, call.kwargs)), self._rest_s(call))
        try:
            outcomes = [await _outcome(exchange) for exchange in exchanges]
        finally:
            for exchange in exchanges:
                router.cancel(exchange)
        for outcome in outcomes:
            if isinstance(outcome, _Raised):
                raise outcome.error from outcome.error.__cause__
        return [outcome for outcome in outcomes if outcome is not _LOST]

    async def _begin(self, call: Call, *, streams: bool = False) -> tuple[DeploymentRouter, Exchange]:
        router = self.router(call.app_name, call.deployment)
        begin = _begin(call)
        begin.streams = streams
        await router.met()
        upload = Upload(payload.dumps((call.args, call.kwargs)), more=False)
        return router, router.begin(begin, upload, self._rest_s(call))

    def _rest_s(self, call: Call) -> float | None:
        """What is left of a call's time. Raises `RequestTimeoutError` if that is nothing."""
        if call.deadline is None:
            return None
        rest_s = call.deadline - self.loop.time()
        if rest_s <= 0:
            raise errors.RequestTimeoutError(f"The time of request {call.request_id} is over.")
        return rest_s

    async def close(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
        drains = list(self._draining.values())
        await asyncio.gather(*(router.close() for router in (*self._routers.values(), *self._draining)))
        await asyncio.gather(*drains)
        self._routers.clear()


@dataclass(frozen=True, slots=True)
class _Raised:
    """What one call of several has raised."""

    error: BaseException


_LOST = object()  # in place of what a replica would have answered


async def _outcome(exchange: Exchange) -> Any:
    try:
        return await _result(exchange)
    except Exception as error:  # noqa: BLE001 - it is raised when all have answered
        lost = isinstance(error, errors.ReplicaLostError) and not exchange.failure_body
        return _LOST if lost else _Raised(error)


async def _result(exchange: Exchange) -> Any:
    """What the method returned. Raises what it raised."""
    try:
        await exchange.answer
        assert exchange.body is not None
        return payload.loads(await exchange.body.read_all())
    except errors.ModelplexError as error:
        raised = _as_raised(exchange, error)
        raise raised from raised.__cause__


def _begin(call: Call) -> Begin:
    return Begin(
        stream=0,
        request_id=call.request_id,
        app_name=call.app_name,
        route=call.route,
        method_name=call.method_name,
        model_id=call.model_id,
        more=False,
        max_cold_wait_s=call.max_cold_wait_s,
        trace=call.trace,
        tenant=call.tenant,
    )


def _as_raised(exchange: Exchange, error: errors.ModelplexError) -> BaseException:
    """The exception that the user's code raised in the replica, if it could travel; else ours that tells of it."""
    if not exchange.failure_body:
        return error
    try:
        return payload.loads_exception(exchange.failure_body)
    except Exception:  # noqa: BLE001 - its class may be in a module that is only there, and may raise anything here
        return error
