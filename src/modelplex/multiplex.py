"""`@multiplexed`: turns a loader into a function that answers with a model from the replica's cache."""

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, overload
from weakref import WeakSet

from modelplex import context
from modelplex.config import MAX_NUM_MODELS_PER_REPLICA, UNLIMITED

_MARK = "__modelplex_loader__"


class Loader:
    """A decorated loader: the user's function and the budget of its cache.

    Each loader of a deployment has a cache of its own in each replica.
    """

    # Loaders that are functions of their own belong to no class in which a replica could find them.
    standalone: ClassVar["WeakSet[Loader]"] = WeakSet()

    def __init__(self, func: Callable[..., Any], models_max: int) -> None:
        self.func = func
        self.models_max = models_max
        self.name = getattr(func, "__name__", type(func).__name__)
        self.is_async = inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(type(func).__call__)
        self.is_method = len([p for p in inspect.signature(func).parameters.values() if p.default is p.empty]) == 2
        if not self.is_method:
            Loader.standalone.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return Loader, (self.func, self.models_max)  # so that one that arrives in a replica is registered there

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
    members = (inspect.getattr_static(type(servable), name) for name in dir(type(servable)))
    return [getattr(member, _MARK) for member in members if hasattr(member, _MARK)]


@overload
def multiplexed(func: Callable[..., Any], max_num_models_per_replica: int = ...) -> Callable[..., Awaitable[Any]]: ...


@overload
def multiplexed(
    func: None = None, max_num_models_per_replica: int = ...
) -> Callable[[Callable[..., Any]], Callable[..., Awaitable[Any]]]: ...


def multiplexed(
    func: Callable[..., Any] | None = None, max_num_models_per_replica: int = MAX_NUM_MODELS_PER_REPLICA
) -> Any:
    """Decorate the function or method that loads a model, so that calling it answers with the model from a cache.

    Args:
        func: takes a model id (after `self`, if it is a method) and returns the model. An `async def` runs on the
            replica's event loop, a plain `def` in a thread.
        max_num_models_per_replica: models that this loader's cache holds at a time on each replica; -1 for any number.
            The least recently used one makes room.

    The decorated function is awaited, always. A model that a request got stays loaded until the request has ended,
    streamed answers included. Calling it raises `InvalidModelIdError` (a ValueError), `ModelLoadError`, or
    `OvercommittedError` when a request wants more models at a time than the cache may hold.
    """
    if not isinstance(max_num_models_per_replica, int):
        raise TypeError(f"max_num_models_per_replica must be an integer, got {max_num_models_per_replica!r}.")
    if max_num_models_per_replica == 0 or max_num_models_per_replica < UNLIMITED:
        raise ValueError(
            f"max_num_models_per_replica must be at least 1, or {UNLIMITED} for any number, "
            f"got {max_num_models_per_replica}."
        )
    decorate = functools.partial(_decorate, models_max=max_num_models_per_replica)
    return decorate if func is None else decorate(func)


def _decorate(func: Callable[..., Any], models_max: int) -> Callable[..., Awaitable[Any]]:
    _check_loader(func)
    loader = Loader(func, models_max)

    @functools.wraps(func)
    async def get_model(*args: Any, **kwargs: Any) -> Any:
        owner, model_id = loader.split(args, kwargs)
        return await context.replica().get_model(loader, owner, model_id)

    setattr(get_model, _MARK, loader)
    return get_model


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
