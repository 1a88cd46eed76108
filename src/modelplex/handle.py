"""Calling a deployment from Python."""

import asyncio
import binascii
import concurrent.futures
import dataclasses
import random
from collections.abc import Generator
from typing import Any

from modelplex import context
from modelplex.config import check_model_id, check_seconds
from modelplex.errors import RequestCancelledError

# Not the system's: it is asked by every request, and its numbers need not be secret.
_ids = random.Random()
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def new_request_id() -> str:
    """Ten letters and digits or so: short enough to read aloud, long enough never to meet again in a log."""
    return binascii.b2a_base64(_ids.randbytes(8))[:11].translate(_URL_SAFE).decode()


class DeploymentResponse:
    """The answer of a call that is under way: await it, or ask for its `result` where nothing can be awaited."""

    def __init__(self, call: context.Call) -> None:
        self._call = call
        self._caller = context.caller()
        self._future: asyncio.Task[Any] | concurrent.futures.Future[Any]
        if _running_loop() is self._caller.loop:
            self._future = self._caller.loop.create_task(self._run())
        else:
            self._future = asyncio.run_coroutine_threadsafe(self._run(), self._caller.loop)
        self._future.add_done_callback(_seen)

    async def _run(self) -> Any:
        """Responses among the arguments are awaited first, so that calls can be chained without waiting for each."""
        args, kwargs = self._call.args, self._call.kwargs
        if any(isinstance(value, DeploymentResponse) for value in (*args, *kwargs.values())):
            args = tuple([await _value(value) for value in args])
            kwargs = {name: await _value(value) for name, value in kwargs.items()}
        return await self._caller.call(dataclasses.replace(self._call, args=args, kwargs=kwargs))

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


class DeploymentHandle:
    """Calls a deployment's methods, by way of the same router as HTTP requests.

    `handle.remote(…)` calls `__call__`, `handle.name.remote(…)` the method of that name.
    """

    def __init__(
        self,
        app_name: str,
        deployment_name: str,
        *,
        method_name: str = "__call__",
        multiplexed_model_id: str = "",
        max_cold_wait_s: float | None = None,
    ) -> None:
        self.app_name = app_name
        self.deployment_name = deployment_name
        self._method_name = method_name
        self._model_id = multiplexed_model_id
        self._max_cold_wait_s = max_cold_wait_s

    def options(
        self,
        *,
        method_name: str | None = None,
        multiplexed_model_id: str | None = None,
        max_cold_wait_s: float | None = None,
    ) -> "DeploymentHandle":
        """A handle with other options.

        Args:
            method_name: the method to call.
            multiplexed_model_id: the model that the call names. A call names no model unless it is told to: the
                caller's own is not passed on.
            max_cold_wait_s: seconds that a call waits for its model if it is not loaded. Past them the call raises
                `ModelColdError` with `retry_after_s`, and the load goes on. Unless given, it waits for any time.
        """
        if multiplexed_model_id:
            check_model_id(multiplexed_model_id)
        if max_cold_wait_s is not None:
            check_seconds("max_cold_wait_s", max_cold_wait_s)
        return DeploymentHandle(
            self.app_name,
            self.deployment_name,
            method_name=self._method_name if method_name is None else method_name,
            multiplexed_model_id=self._model_id if multiplexed_model_id is None else multiplexed_model_id,
            max_cold_wait_s=self._max_cold_wait_s if max_cold_wait_s is None else max_cold_wait_s,
        )

    def remote(self, *args: Any, **kwargs: Any) -> DeploymentResponse:
        """Begin a call and return at once with its response.

        A response of another call may be an argument: the call then begins when it is there.
        """
        current = context.request()
        return DeploymentResponse(
            context.Call(
                app_name=self.app_name,
                deployment=self.deployment_name,
                method_name=self._method_name,
                model_id=self._model_id,
                max_cold_wait_s=self._max_cold_wait_s,
                request_id=current.request_id if current is not None else new_request_id(),
                route=current.route if current is not None else "",
                args=args,
                kwargs=kwargs,
            )
        )

    def __getattr__(self, name: str) -> "DeploymentHandle":
        if name.startswith("_"):
            raise AttributeError(name)
        return self.options(method_name=name)

    def __reduce__(self) -> Any:
        options = (self._method_name, self._model_id, self._max_cold_wait_s)
        return _handle, (self.app_name, self.deployment_name, *options)

    def __repr__(self) -> str:
        return f"DeploymentHandle({self.app_name!r}, {self.deployment_name!r}, method_name={self._method_name!r})"


def _handle(
    app_name: str, deployment_name: str, method_name: str, model_id: str, max_cold_wait_s: float | None
) -> DeploymentHandle:
    return DeploymentHandle(
        app_name,
        deployment_name,
        method_name=method_name,
        multiplexed_model_id=model_id,
        max_cold_wait_s=max_cold_wait_s,
    )


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
