"""Who is running: the request and the replica that the current code works for, and the process's way to call others."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from modelplex.config import FOLLOW, load
from modelplex.errors import NotInReplicaError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


@dataclass(slots=True, eq=False)
class RequestContext:
    """One request that runs on a replica.

    Attributes:
        leases: ends of the leases that it holds, called when it ends.
        start: how it met its first model (`warm`, `cold`, `joined`); empty while it has used none.
        load_s: seconds that it waited for models.
        waited: whether it had to wait for a slot before it was sent here.
        share: how popular its model is, if it was not loaded here when it was sent (`core.dispatch.Send`).
        cold_deadline: when it will wait no longer for a model that is not loaded, by the event loop's clock.
        deadline: when it is given up by whoever made it, by the same clock.
        ended: a lease that is granted after this is given back at once.
        part_of: the request that waits for this one, as the first call of a batch does; what either has leased is
            known to be held by whoever waits for the other.
        tenant: on whose behalf it is; empty if that is not known.
    """

    request_id: str
    app_name: str
    route: str
    method_name: str
    model_id: str = ""
    leases: list[Callable[[], None]] = field(default_factory=list)
    start: str = ""
    load_s: float = 0.0
    waited: bool = False
    share: float = 0.0
    cold_deadline: float | None = None
    ended: bool = False
    deadline: float | None = None
    part_of: "RequestContext | None" = None
    tenant: str = ""

    def end(self) -> None:
        """Give back what it has leased, and whatever it may be granted from now on."""
        self.ended = True
        for release in self.leases:
            release()
        self.leases.clear()


@dataclass(frozen=True, slots=True)
class ReplicaContext:
    """What `serve.get_replica_context` answers.

    Attributes:
        app_name: the application.
        deployment: the deployment's name.
        replica_tag: the replica's own part of its name.
        replica_id: the whole name, `app_deployment#tag`.
        servable_object: the instance of the user's class, or the user's function; None during construction.
    """

    app_name: str
    deployment: str
    replica_tag: str
    servable_object: Any = None

    @property
    def replica_id(self) -> str:
        return f"{self.app_name}_{self.deployment}#{self.replica_tag}"


class ReplicaScope(Protocol):
    """The replica as user code's side sees it."""

    @property
    def context(self) -> ReplicaContext: ...

    def get_model(self, loader: Any, owner: object, model_id: str) -> Awaitable[Any]:
        """The model from the cache of a `multiplex.Loader`, leased by the current request."""

    def lease_model(self, loader: Any, owner: object, model_id: str) -> AbstractAsyncContextManager[Any]:
        """The same, leased for the time of a block."""

    def in_thread(self, call: Callable[[], Any]) -> Awaitable[Any]:
        """Run a plain call of a request in a thread. A cancellation takes effect when it has ended."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a deployment's method by a handle.

    Its `deadline` is by the clock of the caller's event loop, its `system` the one whose deployment it calls, its
    `trace` what it is a part of (`tracing.carried`), its `tenant` on whose behalf it is.
    """

    app_name: str
    deployment: str
    method_name: str
    model_id: str
    max_cold_wait_s: float | None
    request_id: str
    route: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    deadline: float | None = None
    system: str = ""
    trace: str = ""
    tenant: str = ""


class Caller(Protocol):
    """A process's way to call deployments, on the event loop that carries its links."""

    @property
    def loop(self) -> "AbstractEventLoop": ...

    async def call(self, call: Call) -> Any:
        """What the method returns. Raises what it raises."""

    def stream(self, call: Call) -> AsyncGenerator[Any, None]:
        """What the generator yields. It is cancelled when this is closed."""

    async def broadcast(self, call: Call) -> list[Any]:
        """What the method returns on each replica that can be called."""

    def ingress(self, app_name: str) -> str | None: ...

    def has_deployment(self, app_name: str, deployment: str) -> bool: ...


_request: ContextVar[RequestContext | None] = ContextVar("modelplex_request", default=None)
_replica: ContextVar[ReplicaScope | None] = ContextVar("modelplex_replica", default=None)
_caller: Caller | None = None
_system = ""


def request() -> RequestContext | None:
    return _request.get()


def set_request(value: RequestContext | None) -> None:
    _request.set(value)


def in_replica() -> bool:
    return _replica.get() is not None


def replica() -> ReplicaScope:
    scope = _replica.get()
    if scope is None:
        raise NotInReplicaError("This works only inside of a replica: in a deployment's code, while it serves.")
    return scope


def set_replica(value: ReplicaScope | None) -> None:
    _replica.set(value)


def caller(system: str = "") -> Caller:
    """What calls the deployments of a system, by its control socket; of this process's own unless given."""
    if _caller is not None and system in ("", _system):
        return _caller
    if system:
        found: Caller = load(FOLLOW)(system)
        return found
    raise NotInReplicaError("Nothing is served by this process: call serve.run first.")


def has_caller() -> bool:
    """Whether this process belongs to a system."""
    return _caller is not None


def set_caller(value: Caller | None, system: str = "") -> None:
    global _caller, _system
    _caller, _system = value, system


def system() -> str:
    """The control socket of the system that this process belongs to; empty if it has none."""
    return _system


def get_multiplexed_model_id() -> str:
    """The id of the model that the current request names, or an empty string if it names none. Never raises."""
    current = _request.get()
    return current.model_id if current is not None else ""


def get_replica_context() -> ReplicaContext:
    """The replica that the current code runs in. Raises `NotInReplicaError` outside of one."""
    return replica().context
