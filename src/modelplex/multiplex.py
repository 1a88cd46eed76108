"""`@multiplexed`: turns a loader into a function that answers with a model from the replica's cache."""

import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, ClassVar, overload
from weakref import WeakSet

from modelplex import context
from modelplex.config import MAX_NUM_MODELS_PER_REPLICA, RESOLVE_INTERVAL_S, UNLIMITED, CacheOptions, parse_bytes
from modelplex.core.eviction import EvictionPolicy

_MARK = "__modelplex_loader__"

GetModel = Callable[..., Awaitable[Any]]


class Loader:
    """A decorated loader: the user's function and the budget of its cache.

    Each loader of a deployment has a cache of its own in each replica.
    """

    # Loaders that are functions of their own belong to no class in which a replica could find them.
    standalone: ClassVar["WeakSet[Loader]"] = WeakSet()

    def __init__(self, func: Callable[..., Any], options: CacheOptions) -> None:
        self.func = func
        self.options = options
        self.name = getattr(func, "__name__", type(func).__name__)
        self.is_async = inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(type(func).__call__)
        self.is_method = len([p for p in inspect.signature(func).parameters.values() if p.default is p.empty]) == 2
        if not self.is_method:
            Loader.standalone.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return Loader, (self.func, self.options)  # so that one that arrives in a replica is registered there

    def with_options(self, options: CacheOptions) -> "Loader":
        """The same function with other options; nobody finds it but who has it."""
        other = object.__new__(Loader)
        other.__dict__.update(self.__dict__, options=options)
        return other

    def split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[object, str]:
        """The instance (None for a function) and the model id of a call; TypeError or ValueError if it has others."""
        if kwargs or len(args) != 1 + self.is_method:
            given = [repr(a) for a in args[self.is_method :]] + [f"{k}={v!r}" for k, v in kwargs.items()]
            raise TypeError(
                f"{self.name} is decorated with @serve.multiplexed: it takes exactly one positional argument, the "
                f"model ID (str), got ({', '.join(given)})."
            )
        model_id = args[-1]
        if not isinstance(model_id, str):
            raise TypeError(f"The model ID must be a str, got {model_id!r} of {type(model_id).__name__}.")
        return (args[0] if self.is_method else None), model_id


def loaders_of(servable: object) -> list[Loader]:
    """The loaders that an object's class defines."""
    return loaders_in(type(servable))


def loaders_in(servable_class: type) -> list[Loader]:
    """The loaders that a class defines."""
    members = (inspect.getattr_static(servable_class, name) for name in dir(servable_class))
    return [getattr(member, _MARK) for member in members if hasattr(member, _MARK)]


@overload
def multiplexed(func: Callable[..., Any], max_num_models_per_replica: int | None = ...) -> GetModel: ...


@overload
def multiplexed(
    func: None = None,
    max_num_models_per_replica: int | None = ...,
    *,
    max_bytes_per_replica: int | str | None = ...,
    size_of: Callable[[Any], int] | None = ...,
    max_concurrent_loads: int = ...,
    load_timeout_s: float | None = ...,
    model_exists: Callable[[str], Any] | None = ...,
    not_found: Sequence[type[Exception]] = ...,
    eviction: str | type[EvictionPolicy] = ...,
    min_residency_s: float = ...,
    idle_ttl_s: float | None = ...,
    pinned: Sequence[str] = ...,
    preload: Sequence[str] | Callable[[], Any] = ...,
    on_unload: Callable[[str, Any], Any] | None = ...,
    resolve: Callable[[str], Any] | None = ...,
    resolve_interval_s: float = ...,
) -> Callable[[Callable[..., Any]], GetModel]: ...


def multiplexed(
    func: Callable[..., Any] | None = None,
    max_num_models_per_replica: int | None = None,
    *,
    max_bytes_per_replica: int | str | None = None,
    size_of: Callable[[Any], int] | None = None,
    max_concurrent_loads: int = UNLIMITED,
    load_timeout_s: float | None = None,
    model_exists: Callable[[str], Any] | None = None,
    not_found: Sequence[type[Exception]] = (FileNotFoundError,),
    eviction: str | type[EvictionPolicy] = "lru",
    min_residency_s: float = 0.0,
    idle_ttl_s: float | None = None,
    pinned: Sequence[str] = (),
    preload: Sequence[str] | Callable[[], Any] = (),
    on_unload: Callable[[str, Any], Any] | None = None,
    resolve: Callable[[str], Any] | None = None,
    resolve_interval_s: float = RESOLVE_INTERVAL_S,
) -> Any:
    """Decorate the function or method that loads a model, so that calling it answers with the model from a cache.

    Args:
        func: takes a model id (after `self`, if it is a method) and returns the model. An `async def` runs on the
            replica's event loop, a plain `def` in a thread.
        max_num_models_per_replica: models that this loader's cache holds at a time on each replica; -1 for any number.
            3 unless given, or any number if bytes are limited.
        max_bytes_per_replica: bytes that they may take together, as a number or as text such as "8GiB".
        others: see the attributes of `config.CacheOptions` of the same names.

    The decorated function is awaited, always. A model that a request got stays loaded until the request has ended,
    streamed answers included. Calling it raises `InvalidModelIdError` (a ValueError), `ModelNotFoundError`,
    `ModelLoadError`, `ModelTooLargeError`, or `OvercommittedError` when a request wants more models at a time than the
    cache may hold.
    """
    if max_num_models_per_replica is None:
        max_num_models_per_replica = MAX_NUM_MODELS_PER_REPLICA if max_bytes_per_replica is None else UNLIMITED
    bytes_max = UNLIMITED
    if max_bytes_per_replica is not None:
        bytes_max = parse_bytes("max_bytes_per_replica", max_bytes_per_replica)
    options = CacheOptions(
        models_max=max_num_models_per_replica,
        bytes_max=bytes_max,
        size_of=size_of,
        loads_max=max_concurrent_loads,
        load_timeout_s=load_timeout_s,
        model_exists=model_exists,
        not_found=tuple(not_found),
        eviction=eviction,
        min_residency_s=min_residency_s,
        idle_ttl_s=idle_ttl_s,
        pinned=pinned,
        preload=preload,
        on_unload=on_unload,
        resolve=resolve,
        resolve_interval_s=resolve_interval_s,
    )
    decorate = functools.partial(_decorate, options=options)
    return decorate if func is None else decorate(func)


def _decorate(func: Callable[..., Any], options: CacheOptions) -> GetModel:
    _check_loader(func)
    loader = Loader(func, options)

    @functools.wraps(func)
    async def get_model(*args: Any, **kwargs: Any) -> Any:
        owner, model_id = loader.split(args, kwargs)
        return await context.replica().get_model(loader, owner, model_id)

    setattr(get_model, _MARK, loader)
    return get_model


@contextlib.asynccontextmanager
async def lease(get_model: GetModel, model_id: str) -> AsyncIterator[Any]:
    """Hold a model for the time of a block, outside of a request or longer than one: `async with lease(…) as model`.

    Args:
        get_model: a function or bound method that `multiplexed` decorates.
        model_id: the model.
    """
    async with context.replica().lease_model(*_loader_and_owner(get_model), model_id) as model:
        yield model


async def prefetch(get_model: GetModel, model_id: str) -> None:
    """Load a model ahead of demand, if it is not loaded, and return when it is. Raises what `get_model` would."""
    async with lease(get_model, model_id):
        pass


def _loader_and_owner(get_model: GetModel) -> tuple[Loader, object]:
    loader = getattr(get_model, _MARK, None)
    if not isinstance(loader, Loader):
        raise TypeError(f"{get_model!r} is not decorated with @serve.multiplexed.")
    return loader, getattr(get_model, "__self__", None)


def _check_loader(func: object) -> None:
    if not callable(func):
        raise TypeError(f"@serve.multiplexed decorates a function or a method, got {func!r}.")
    if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
        raise TypeError("A function decorated with @serve.multiplexed must return the model; it cannot be a generator.")
    kinds = [p.kind for p in inspect.signature(func).parameters.values()]
    if len(kinds) not in (1, 2) or any(k not in (k.POSITIONAL_ONLY, k.POSITIONAL_OR_KEYWORD) for k in kinds):
        raise TypeError(
            "A function decorated with @serve.multiplexed takes exactly one argument, the model ID (after self, if it "
            f"is a method); {getattr(func, '__name__', func)}{inspect.signature(func)} takes others."
        )
