"""The user's class or function inside of a replica: constructed once, called for each request, destroyed once."""

import contextlib
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from modelplex.runtime.app_spec import Definition
from modelplex.runtime.destroy import destroy
from modelplex.runtime.hosted_app import HostedApp
from modelplex.threads import in_thread

_END = object()

# For broadcasts, which have no slots: so many plain functions run at a time when all slots are taken.
BROADCAST_THREADS = 4


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a function is to be called."""

    function: Callable[..., Any]
    is_async: bool
    is_generator: bool  # of either kind
    takes_arguments: bool

    @classmethod
    def of(cls, method: Callable[..., Any], function: Callable[..., Any]) -> "_Kind":
        is_generator = inspect.isasyncgenfunction(method) or inspect.isgeneratorfunction(method)
        try:
            takes_arguments = bool(inspect.signature(method).parameters)
        except ValueError:  # a function in C, of which nothing is known
            takes_arguments = True
        return cls(function, inspect.iscoroutinefunction(method), is_generator, takes_arguments)


class Servable:
    """Calls the user's code: `async def` on the event loop, plain `def` in a thread.

    Args:
        instance: the user's object or function.
        threads_max: plain functions that run at a time, besides those that are broadcast.

    Attributes:
        app: the ASGI app that answers HTTP requests and WebSockets in its place, if there is one.
    """

    def __init__(self, instance: Any, threads_max: int) -> None:
        self.instance = instance
        self.app: HostedApp | None = None
        self._is_function = inspect.isroutine(instance)
        self._kinds: dict[str, _Kind] = {}
        self._threads = ThreadPoolExecutor(threads_max + BROADCAST_THREADS, thread_name_prefix="modelplex-call")

    @classmethod
    async def construct(cls, definition: Definition, threads_max: int) -> "Servable":
        """Runs on the event loop, since constructors make things that belong to one; `async def __init__` included."""
        made = definition.func_or_class
        if inspect.isclass(made):
            args, kwargs = definition.args, definition.kwargs or {}
            instance = made.__new__(made, *args, **kwargs) if made.__new__ is not object.__new__ else made.__new__(made)
            if isinstance(instance, made):  # as Python does it: what __new__ makes of another class is complete
                result: Any = made.__init__(instance, *args, **kwargs)
                if inspect.isawaitable(result):
                    await result
            return cls(instance, threads_max)
        if definition.args or definition.kwargs:
            raise TypeError(f"The deployment is a function, {made.__name__}, so bind() takes no arguments.")
        return cls(made, threads_max)

    def method(self, name: str) -> Callable[..., Any]:
        """The method to call. Raises AttributeError with the names that there are."""
        plain = self._is_function and name == "__call__"
        found: Callable[..., Any] | None = self.instance if plain else getattr(self.instance, name, None)
        if callable(found):
            return found
        if self.app is not None and name == "__call__":
            raise AttributeError(
                "The deployment's ASGI app answers its HTTP requests, and there is no __call__: call a method by its "
                "name, as handle.name.remote()."
            )
        has = [n for n in dir(self.instance) if not n.startswith("_") and callable(getattr(self.instance, n, None))]
        raise AttributeError(
            f"The deployment has no method {name!r}; it has {', '.join(has) or 'none to call by name'}."
        )

    def call(self, name: str, /, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """What the method returns; a generator of either kind is returned, not run."""
        method = self.method(name)
        return self._call(method, self._kind(name, method), args, kwargs)

    def call_http(self, request: Any) -> Awaitable[Any]:
        """What `__call__` answers to an HTTP request, which it gets if it takes an argument."""
        method = self.method("__call__")
        kind = self._kind("__call__", method)
        return self._call(method, kind, (request,) if kind.takes_arguments else (), {})

    async def _call(
        self, method: Callable[..., Any], kind: "_Kind", args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if kind.is_async:
            return await method(*args, **kwargs)
        if kind.is_generator:
            return method(*args, **kwargs)
        result = await self.in_thread(lambda: method(*args, **kwargs))
        return await result if inspect.isawaitable(result) else result

    def in_thread(self, call: Callable[[], Any]) -> Awaitable[Any]:
        """Run a plain call in one of the threads; see `threads.in_thread`."""
        return in_thread(self._threads, call)

    def _kind(self, name: str, method: Callable[..., Any]) -> "_Kind":
        """To find it out costs more than to route a request, so it is done once for each function."""
        function = getattr(method, "__func__", method)
        kind = self._kinds.get(name)
        if kind is None or kind.function is not function:
            kind = self._kinds[name] = _Kind.of(method, function)
        return kind

    @property
    def checks_health(self) -> bool:
        return callable(getattr(self.instance, "check_health", None))

    async def check_health(self) -> None:
        """Run the user's `check_health`, if there is one. Raises what it raises."""
        if self.checks_health:
            await self.call("check_health")

    async def reconfigure(self, user_config: Any) -> None:
        """Give the user's object its configuration. Raises what its `reconfigure` raises."""
        if not callable(getattr(self.instance, "reconfigure", None)):
            raise TypeError("The deployment has a user_config, and no method `reconfigure` that would take it.")
        await self.call("reconfigure", user_config)

    async def parts(self, generator: Any) -> AsyncGenerator[Any, None]:
        """What a generator of either kind yields; the steps of a plain one run in threads. It is closed with this."""
        if inspect.isasyncgen(generator):
            async with contextlib.aclosing(generator):
                async for part in generator:
                    yield part
            return
        try:
            while (part := await in_thread(self._threads, lambda: next(generator, _END))) is not _END:
                yield part
        finally:
            await in_thread(self._threads, generator.close)

    async def destroy(self) -> None:
        """Run the user's `__del__`, once."""
        await destroy(self.instance, self._threads)
        self._threads.shutdown(wait=False, cancel_futures=True)
