"""The answers of calls that are under way: of one result, and of a stream."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Generator
from typing import Any

from modelplex import context
from modelplex.errors import RequestCancelledError, RequestTimeoutError

_END = object()
_closing: set[asyncio.Task[None]] = set()  # the event loop itself keeps tasks weakly


class DeploymentResponse:
    """The answer of a call that is under way: await it, or ask for its `result` where nothing can be awaited."""

    def __init__(self, call: context.Call) -> None:
        self._call = call
        self._caller = context.caller(call.system)
        self._future: asyncio.Task[Any] | concurrent.futures.Future[Any]
        if _running_loop() is self._caller.loop:
            self._future = self._caller.loop.create_task(self._run())
        else:
            self._future = asyncio.run_coroutine_threadsafe(self._run(), self._caller.loop)
        self._future.add_done_callback(_seen)

    async def _run(self) -> Any:
        return await self._caller.call(await _with_values(self._call))

    @property
    def request_id(self) -> str:
        return self._call.request_id

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        future = self._future
        try:
            return await (asyncio.wrap_future(future) if isinstance(future, concurrent.futures.Future) else future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise RequestCancelledError(f"The request {self.request_id} was cancelled.") from None

    def result(self, timeout_s: float | None = None) -> Any:
        """Block until the answer is there and return it, or raise what the call raised.

        Raises:
            TimeoutError: it took longer than `timeout_s` seconds; the call goes on.
            RuntimeError: there is a running event loop, which blocking would stop; await the response instead.
        """
        if _running_loop() is not None:
            raise RuntimeError("DeploymentResponse.result() blocks; in an event loop, await the response instead.")
        future = self._future
        if isinstance(future, asyncio.Task):  # begun on the loop, asked for by a thread
            future = asyncio.run_coroutine_threadsafe(self._wait(), self._caller.loop)
        try:
            return future.result(timeout_s)
        except concurrent.futures.CancelledError:
            raise RequestCancelledError(f"The request {self.request_id} was cancelled.") from None
        except TimeoutError:
            if future.done():
                raise
            raise TimeoutError(f"The request {self.request_id} was not answered within {timeout_s} s.") from None

    def cancel(self) -> None:
        """Cancel the call, also where it runs; whoever waits for it gets `RequestCancelledError`."""
        self._caller.loop.call_soon_threadsafe(self._future.cancel)

    def __reduce__(self) -> Any:
        raise TypeError("A DeploymentResponse cannot be pickled: await it and pass the result.")


class BroadcastResponse(DeploymentResponse):
    """The answers of all replicas: a list, in no order."""

    async def _run(self) -> Any:
        return await self._caller.broadcast(await _with_values(self._call))


class DeploymentResponseGenerator:
    """What a generator yields that is called by `options(stream=True)`: iterate over it, with `for` or `async for`.

    The call begins at once, and is cancelled by `cancel`, or when nothing refers to this any more.
    """

    def __init__(self, call: context.Call) -> None:
        self._call = call
        self._caller = context.caller(call.system)
        self._loop = self._caller.loop
        self._parts = _parts(self._caller, call)
        self._step: asyncio.Task[Any] | None = None
        self._ended = self._cancelled = False
        if _running_loop() is self._loop:
            self._begin_step()
        else:
            self._loop.call_soon_threadsafe(self._begin_step)

    def _begin_step(self) -> None:
        if self._step is None:
            parts = self._parts

            async def step() -> Any:
                return await anext(parts, _END)

            self._step = self._loop.create_task(step())
            self._step.add_done_callback(_seen)

    async def _next(self) -> Any:
        """The next part, or `_END`; on the caller's loop."""
        if self._cancelled:
            raise RequestCancelledError(f"The request {self.request_id} was cancelled.")
        self._begin_step()
        assert self._step is not None
        try:
            part = await self._step
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise RequestCancelledError(f"The request {self.request_id} was cancelled.") from None
        except BaseException:  # which the generator raised: it has no more
            self._step, self._ended = None, True
            raise
        self._step, self._ended = None, part is _END
        return part

    @property
    def request_id(self) -> str:
        return self._call.request_id

    def __aiter__(self) -> "DeploymentResponseGenerator":
        return self

    async def __anext__(self) -> Any:
        if asyncio.get_running_loop() is self._loop:
            part = await self._next()
        else:
            part = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._next(), self._loop))
        if part is _END:
            raise StopAsyncIteration
        return part

    def __iter__(self) -> "DeploymentResponseGenerator":
        return self

    def __next__(self) -> Any:
        """Raises RuntimeError if there is a running event loop, which blocking would stop: use `async for` there."""
        if _running_loop() is not None:
            raise RuntimeError("To iterate with `for` blocks; in an event loop, use `async for` instead.")
        part = asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
        if part is _END:
            raise StopIteration
        return part

    def cancel(self) -> None:
        """Cancel the call, also where it runs; whoever waits for a part gets `RequestCancelledError`."""
        self._cancelled = True
        self._loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        """On the loop, where it is known how far the call is."""
        _close(self._loop, self._step, self._parts)

    def __del__(self) -> None:
        if not self._ended and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_close, self._loop, self._step, self._parts)

    def __await__(self) -> Generator[Any, None, Any]:
        raise TypeError("A call with stream=True has no single result to await: iterate over it with `async for`.")

    def result(self, timeout_s: float | None = None) -> Any:
        raise TypeError("A call with stream=True has no single result: iterate over it.")

    def __reduce__(self) -> Any:
        raise TypeError("A DeploymentResponseGenerator cannot be pickled: iterate over it and pass what it yields.")


async def _parts(caller: context.Caller, call: context.Call) -> AsyncGenerator[Any, None]:
    async with contextlib.aclosing(caller.stream(await _with_values(call))) as parts:
        async for part in parts:
            yield part


def _close(loop: asyncio.AbstractEventLoop, step: "asyncio.Task[Any] | None", parts: AsyncGenerator[Any, None]) -> None:
    """End the generator, also where it runs, on its loop."""

    async def close() -> None:
        if step is not None:
            step.cancel()
            await asyncio.wait([step])
        await parts.aclose()

    task = loop.create_task(close())
    _closing.add(task)
    task.add_done_callback(_closing.discard)


async def _with_values(call: context.Call) -> context.Call:
    """Responses among the arguments are awaited first, so that calls can be chained without waiting for each."""
    args, kwargs = call.args, call.kwargs
    if any(isinstance(value, DeploymentResponse) for value in (*args, *kwargs.values())):
        try:
            async with asyncio.timeout_at(call.deadline) as limit:
                args = tuple([await _value(value) for value in args])
                kwargs = {name: await _value(value) for name, value in kwargs.items()}
        except TimeoutError:
            if not limit.expired():
                raise  # as one of them did
            text = f"The time of request {call.request_id} was over before its arguments were there."
            raise RequestTimeoutError(text) from None
    return dataclasses.replace(call, args=args, kwargs=kwargs)


async def _value(argument: Any) -> Any:
    return await argument if isinstance(argument, DeploymentResponse) else argument


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _seen(future: Any) -> None:
    """A response that nobody asks for is no error of the program."""
    if not future.cancelled():
        future.exception()
