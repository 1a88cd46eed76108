"""`serve.batch`: calls of one function that come at about the same time are run together."""

import asyncio
import contextlib
import contextvars
import copy
import dataclasses
import functools
import inspect
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any, Protocol, overload

from modelplex import config, context
from modelplex.core.batches import Batch, Batcher

# Parts of one caller's stream that nobody has taken yet; the batch waits for the slowest of its callers.
PARTS_MAX = 16

_END = object()


class BatchedFunction(Protocol):
    """What `batch` makes of a function."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """An awaitable of this caller's result, or an async generator of its parts."""

    def set_max_batch_size(self, max_batch_size: int) -> None:
        """Batches that begin from now on have at most so many calls."""

    def set_batch_wait_timeout_s(self, batch_wait_timeout_s: float) -> None:
        """Calls wait at most so long for others from now on."""


@overload
def batch(_func: Callable[..., Any], /) -> BatchedFunction: ...


@overload
def batch(
    _func: None = None,
    /,
    max_batch_size: int = ...,
    batch_wait_timeout_s: float = ...,
    max_concurrent_batches: int = ...,
    batch_size_fn: Callable[[list[Any]], int] | None = ...,
) -> Callable[[Callable[..., Any]], BatchedFunction]: ...


def batch(
    _func: Callable[..., Any] | None = None,
    /,
    max_batch_size: int = 10,
    batch_wait_timeout_s: float = 0.01,
    max_concurrent_batches: int = 1,
    batch_size_fn: Callable[[list[Any]], int] | None = None,
) -> Any:
    """Decorate an `async def` that takes lists, so that each caller gives one item and gets one back.

    The function is called with a list for each of its parameters and returns a list as long, in the same order; an
    exception among the results is raised for its caller alone. An async generator yields such lists, and each caller
    gets an async generator; one whose element is `StopIteration` gets no more.

    Calls that name different models are never in one batch: `serve.get_multiplexed_model_id` is the batch's own, and
    the models that it uses are kept until it ends.

    Args:
        max_batch_size: calls in a batch, or the largest value of `batch_size_fn`.
        batch_wait_timeout_s: how long a call waits for others while a batch could begin.
        max_concurrent_batches: batches of one replica that run at a time, of all models together.
        batch_size_fn: the size of a batch, from the list of its first arguments; their number unless given.

    `set_max_batch_size` and `set_batch_wait_timeout_s` of the decorated function change the two while it is in use.

    Raises:
        TypeError: it decorates no `async def`, or one with `*args` or `**kwargs`.
        ValueError: an option is of another type, or out of range.
    """
    decorate = functools.partial(
        _decorate,
        limits=Limits(max_batch_size, batch_wait_timeout_s, max_concurrent_batches, batch_size_fn),
    )
    return decorate if _func is None else decorate(_func)


class Limits:
    """The options of one decorated function."""

    def __init__(
        self, size_max: int, wait_s: float, running_max: int, size_fn: Callable[[list[Any]], int] | None
    ) -> None:
        self.set_size(size_max)
        self.set_wait(wait_s)
        config.check_int("max_concurrent_batches", running_max, 1)
        if size_fn is not None and not callable(size_fn):
            raise ValueError(f"batch_size_fn takes a function of a list, got {size_fn!r}.")
        self.running_max = running_max
        self.size_fn = size_fn

    def set_size(self, size_max: int) -> None:
        config.check_int("max_batch_size", size_max, 1)
        self.size_max = size_max

    def set_wait(self, wait_s: float) -> None:
        config.check_seconds("batch_wait_timeout_s", wait_s)
        self.wait_s = wait_s


def _decorate(func: Callable[..., Any], limits: Limits) -> BatchedFunction:
    if not inspect.iscoroutinefunction(func) and not inspect.isasyncgenfunction(func):
        raise TypeError(f"@serve.batch decorates an async def, which takes and returns lists; got {func!r}.")
    parameters = inspect.signature(func).parameters.values()
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise TypeError(
            f"A function decorated with @serve.batch names each of its arguments; {func.__name__} does not."
        )
    batched = _Batched(func, limits)

    if inspect.isasyncgenfunction(func):

        @functools.wraps(func)
        async def stream(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            call = batched.call(stream, args, kwargs)
            call.stream = asyncio.Queue(PARTS_MAX)
            try:
                async for part in call.parts():
                    yield part
            finally:
                call.leave()

        public: Any = stream
    else:

        @functools.wraps(func)
        async def single(*args: Any, **kwargs: Any) -> Any:
            call = batched.call(single, args, kwargs)
            try:
                return await call.result
            finally:
                call.leave()

        public = single
    public.set_max_batch_size = batched.set_max_batch_size
    public.set_batch_wait_timeout_s = batched.set_batch_wait_timeout_s
    return public  # type: ignore[no-any-return]


class _Batched:
    """A decorated function, and its queue for each object whose method it is."""

    def __init__(self, func: Callable[..., Any], limits: Limits) -> None:
        self.func = func
        self.limits = limits
        self.signature = inspect.signature(func)
        self._queues: dict[int, _Queue] = {}
        self._is_method: dict[type, bool] = {}

    def call(self, public: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> "_Call":
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        owner = None
        if args and self._belongs_to(type(args[0]), public):
            owner = arguments.pop(next(iter(arguments)))
        queue = self._queue(owner)
        return queue.add(_Call(queue, owner, arguments))

    def set_max_batch_size(self, max_batch_size: int) -> None:
        self.limits.set_size(max_batch_size)
        self._changed()

    def set_batch_wait_timeout_s(self, batch_wait_timeout_s: float) -> None:
        self.limits.set_wait(batch_wait_timeout_s)
        self._changed()

    def _changed(self) -> None:
        for queue in self._queues.values():
            queue.limit(self.limits)

    def _belongs_to(self, cls: type, public: Callable[..., Any]) -> bool:
        known = self._is_method.get(cls)
        if known is None:
            known = self._is_method[cls] = any(v is public for base in cls.__mro__ for v in vars(base).values())
        return known

    def _queue(self, owner: object) -> "_Queue":
        key, loop = id(owner), asyncio.get_running_loop()
        queue = self._queues.get(key)
        if queue is None or queue.loop is not loop:
            queue = self._queues[key] = _Queue(self.func, self.limits, loop)
            if owner is not None:
                with contextlib.suppress(TypeError):  # it cannot be referred to weakly
                    weakref.finalize(owner, self._queues.pop, key, None).atexit = False
        return queue


class _Call:
    """One caller's part of a batch."""

    def __init__(self, queue: "_Queue", owner: object, arguments: dict[str, Any]) -> None:
        self.queue = queue
        self.owner = owner
        self.arguments = arguments
        self.request = context.request()
        self.variables = contextvars.copy_context()
        self.result: asyncio.Future[Any] = queue.loop.create_future()
        self.stream: asyncio.Queue[Any] | None = None  # of parts, if the function is a generator
        self.left = False

    async def parts(self) -> AsyncIterator[Any]:
        """What the batch yields for this caller."""
        assert self.stream is not None
        while (part := await self.stream.get()) is not _END:
            yield part
        await self.result

    async def put(self, part: Any) -> None:
        """Pass a part on when there is room for it, unless the caller has left."""
        if not self.left:
            assert self.stream is not None
            await self.stream.put(part)

    def cut(self) -> None:
        """Let the caller's stream end, now; parts of it that nobody has taken are lost to the error that ends it."""
        if self.stream is not None:
            while self.stream.full():
                self.stream.get_nowait()
            self.stream.put_nowait(_END)

    def leave(self) -> None:
        """The caller has what it wants, or wants it no more."""
        self.left = True
        self.result.cancel()
        while self.stream is not None and not self.stream.empty():  # whoever puts is let go
            self.stream.get_nowait()
        self.queue.left(self)

    def end(self, result: Any = None, error: BaseException | None = None) -> None:
        """Nothing happens if the caller has left."""
        if self.result.done():
            return
        if isinstance(error, asyncio.CancelledError):  # of something of the function's own
            self.result.cancel()
        elif error is not None:
            self.result.set_exception(error)
            self.result.exception()  # a stream's caller may not come to see it
        else:
            self.result.set_result(result)


class _Queue:
    """The calls of one function, of one object if it is a method."""

    def __init__(self, func: Callable[..., Any], limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._func = func
        size_fn = limits.size_fn
        size_of = len if size_fn is None else lambda calls: _size(func, size_fn, calls)
        self._core: Batcher[_Call] = Batcher(limits.size_max, limits.wait_s, limits.running_max, size_of)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float | None = None
        self._running: dict[asyncio.Task[None], set[_Call]] = {}  # with those who still want something of it

    def add(self, call: _Call) -> _Call:
        model_id = "" if call.request is None else call.request.model_id
        try:
            self._begin(self._core.add(call, model_id, self.loop.time()))
        except ValueError as error:
            raise ValueError(f"The call of {self._func.__name__} fits into no batch: {error}.") from None
        return call

    def left(self, call: _Call) -> None:
        if self._core.remove(call):
            self._set_timer()
            return
        for task, calls in self._running.items():
            if call in calls:
                calls.discard(call)
                if not calls:
                    task.cancel()  # nobody is left who wants it
                return

    def limit(self, limits: Limits) -> None:
        self._core.size_max, self._core.wait_s = limits.size_max, limits.wait_s
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._tick)

    def _tick(self) -> None:
        self._timer_at = None
        self._begin(self._core.tick(self.loop.time()))

    def _begin(self, batches: Sequence[Batch[_Call]]) -> None:
        for batch in batches:
            calls = batch.calls
            task = self.loop.create_task(self._run(calls), context=calls[0].variables)
            self._running[task] = set(calls)
            task.add_done_callback(self._ended)
        self._set_timer()

    def _ended(self, task: asyncio.Task[None]) -> None:
        for call in self._running.pop(task):
            call.end(error=asyncio.CancelledError())  # it was cancelled before its first step
        self._begin(self._core.ended(self.loop.time()))

    def _set_timer(self) -> None:
        at = self._core.next_tick
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = None if at is None else self.loop.call_at(at, self._tick, context=contextvars.Context())

    async def _run(self, calls: list[_Call]) -> None:
        request = _request_of(calls)
        context.set_request(request)
        lists = {name: [call.arguments[name] for call in calls] for name in calls[0].arguments}
        owner = () if calls[0].owner is None else (calls[0].owner,)
        try:
            if inspect.isasyncgenfunction(self._func):
                await self._stream(calls, self._func(*owner, **lists))
            else:
                for call, result in zip(calls, self._checked(await self._func(*owner, **lists), calls), strict=True):
                    call.end(result, result if isinstance(result, Exception) else None)
        except (Exception, SystemExit, asyncio.CancelledError) as error:  # the user's code may raise anything
            for call in calls:
                call.end(error=_own(error))
                call.cut()
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        finally:
            if request is not None:
                _tell(request, calls)
                request.end()

    async def _stream(self, calls: list[_Call], generator: AsyncGenerator[Any, None]) -> None:
        streaming = list(calls)
        async with contextlib.aclosing(generator):
            async for results in generator:
                for call, part in zip(list(calls), self._checked(results, calls), strict=True):
                    if call not in streaming:
                        continue
                    if part is StopIteration or isinstance(part, Exception):
                        streaming.remove(call)
                        call.end(error=part if isinstance(part, Exception) else None)
                        await call.put(_END)
                    else:
                        await call.put(part)
        for call in streaming:
            call.end()
            await call.put(_END)

    def _checked(self, results: Any, calls: list[_Call]) -> Any:
        """Raises TypeError if these are not results, one for each call."""
        try:
            count = len(results)
        except TypeError:
            count = -1
        is_list = count >= 0 and not isinstance(results, str | bytes | dict)
        if not is_list or count != len(calls):
            got = f"a list of {count}" if is_list else f"a {type(results).__name__}"
            raise TypeError(f"{self._func.__name__} must answer {len(calls)} calls with a list of as many, not {got}.")
        return results


def _size(func: Callable[..., Any], size_fn: Callable[[list[Any]], int], calls: Sequence[_Call]) -> int:
    return size_fn([next(iter(call.arguments.values())) for call in calls])


def _request_of(calls: list[_Call]) -> context.RequestContext | None:
    """The request that the batch is run as: it has leases of its own, and is as patient as the most patient caller."""
    requests = [call.request for call in calls if call.request is not None]
    if not requests:
        return None
    return dataclasses.replace(
        requests[0],
        leases=[],
        start="",
        load_s=0.0,
        waited=any(request.waited for request in requests),
        share=max(request.share for request in requests),
        part_of=requests[0],
        cold_deadline=_latest([request.cold_deadline for request in requests]),
        deadline=_latest([request.deadline for request in requests]),
        ended=False,
    )


def _latest(deadlines: list[float | None]) -> float | None:
    given = [deadline for deadline in deadlines if deadline is not None]
    return max(given) if len(given) == len(deadlines) else None


def _tell(batch: context.RequestContext, calls: list[_Call]) -> None:
    """Let each request know how the batch met its model, and for how long it waited for models."""
    for call in calls:
        if call.request is not None:
            call.request.start = call.request.start or batch.start
            call.request.load_s += batch.load_s


def _own(error: BaseException) -> BaseException:
    """An exception for one caller: several that raise the same one would write into each other's traceback."""
    try:
        own = copy.copy(error)
    except Exception:  # noqa: BLE001 - the user's class may raise anything here
        return error
    own.__traceback__, own.__cause__ = error.__traceback__, error.__cause__
    return own if type(own) is type(error) else error
