"""The user's class or function: constructed as Python would, called where it belongs, destroyed once."""

import asyncio
import contextvars
import functools
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from held_call import THREAD_S, HeldCall
from virtual_time import in_virtual_time, turns

from modelplex.runtime.app_spec import Definition
from modelplex.runtime.servable import Servable
from modelplex.threads import in_thread


async def servable_of(func_or_class: Callable[..., Any], *args: Any, **kwargs: Any) -> Servable:
    return await Servable.construct(Definition(func_or_class, args, kwargs), threads_max=2)


# Construction


async def test_a_class_is_constructed_with_its_arguments() -> None:
    class Adder:
        def __init__(self, one: int, *, other: int) -> None:
            self.sum = one + other

    servable = await servable_of(Adder, 1, other=2)
    assert servable.instance.sum == 3


async def test_an_async_constructor_is_awaited() -> None:
    class Slow:
        async def __init__(self, value: int) -> None:  # type: ignore[misc]
            await asyncio.sleep(0)
            self.value = value

    servable = await servable_of(Slow, 5)
    assert servable.instance.value == 5


async def test_new_gets_the_arguments_and_init_too() -> None:
    class Counted:
        made = 0

        def __new__(cls, value: int) -> "Counted":
            cls.made += value
            return super().__new__(cls)

        def __init__(self, value: int) -> None:
            self.value = value

    servable = await servable_of(Counted, 5)
    assert (Counted.made, servable.instance.value) == (5, 5)


async def test_init_is_not_called_on_what_new_makes_of_another_class() -> None:
    class Product:
        pass

    class Factory:
        def __new__(cls) -> Any:
            return Product()

        def __init__(self) -> None:
            raise AssertionError("Python would not call it")

    servable = await servable_of(Factory)
    assert type(servable.instance) is Product


async def test_the_constructors_exception_is_raised_as_it_is() -> None:
    class Broken:
        def __init__(self) -> None:
            raise ValueError("no weights")

    with pytest.raises(ValueError, match="no weights"):
        await servable_of(Broken)


async def test_arguments_that_the_constructor_does_not_take_are_an_error() -> None:
    class Plain:
        pass

    with pytest.raises(TypeError):
        await servable_of(Plain, 1)


async def test_a_function_takes_no_arguments_of_bind() -> None:
    def double(x: int) -> int:
        return 2 * x

    with pytest.raises(TypeError, match="double, so bind\\(\\) takes no arguments"):
        await servable_of(double, 1)


# Calls


class Methods:
    """One method of each kind."""

    def plain(self, x: int) -> tuple[int, str]:
        return x, threading.current_thread().name

    async def asynchronous(self, x: int) -> tuple[int, str]:
        return x, threading.current_thread().name

    def returns_awaitable(self, x: int) -> Awaitable[tuple[int, str]]:
        return self.asynchronous(x)

    def generator(self) -> Iterator[int]:
        yield 1

    async def async_generator(self) -> AsyncIterator[int]:
        yield 1

    def _private(self) -> None: ...

    not_callable = 3


async def test_an_async_method_runs_on_the_event_loop() -> None:
    servable = await servable_of(Methods)
    assert await servable.call("asynchronous", 1) == (1, threading.current_thread().name)


async def test_a_plain_method_runs_in_a_thread() -> None:
    servable = await servable_of(Methods)
    x, thread = await servable.call("plain", x=2)
    assert (x, thread.rsplit("_")[0]) == (2, "modelplex-call")


async def test_what_a_plain_method_returns_is_awaited_on_the_event_loop() -> None:
    servable = await servable_of(Methods)
    assert await servable.call("returns_awaitable", 3) == (3, threading.current_thread().name)


async def test_generators_are_returned_and_not_run() -> None:
    servable = await servable_of(Methods)
    assert list(await servable.call("generator")) == [1]
    assert [x async for x in await servable.call("async_generator")] == [1]


async def test_a_function_is_called_itself() -> None:
    async def double(x: int) -> int:
        return 2 * x

    assert await (await servable_of(double)).call("__call__", 4) == 8


async def test_any_callable_object_is_called_like_a_function() -> None:
    async def add(x: int, y: int) -> int:
        return x + y

    assert await (await servable_of(functools.partial(add, 1))).call("__call__", 4) == 5


async def test_a_missing_method_is_an_error_that_names_the_ones_there_are() -> None:
    servable = await servable_of(Methods)
    with pytest.raises(AttributeError) as caught:
        await servable.call("plian")
    assert str(caught.value) == (
        "The deployment has no method 'plian'; it has async_generator, asynchronous, generator, plain, "
        "returns_awaitable."
    )


async def test_what_is_no_method_cannot_be_called() -> None:
    servable = await servable_of(Methods)
    with pytest.raises(AttributeError, match="no method 'not_callable'"):
        await servable.call("not_callable")


async def test_a_function_has_no_methods() -> None:
    def double(x: int) -> int:
        return 2 * x

    with pytest.raises(AttributeError, match="no method 'predict'; it has none to call by name"):
        await (await servable_of(double)).call("predict")


@pytest.mark.parametrize(
    ("handler", "expected"),
    [(lambda: "nothing", "nothing"), (lambda request: f"a {request}", "a request")],
    ids=["without an argument", "with one"],
)
async def test_over_http_the_request_is_passed_to_what_takes_an_argument(
    handler: Callable[..., str], expected: str
) -> None:
    assert await (await servable_of(handler)).call_http("request") == expected


# Threads


async def test_a_thread_sees_the_context_of_its_request() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("of this task")
    with ThreadPoolExecutor(1) as threads:
        assert await in_thread(threads, variable.get) == "of this task"


@pytest.mark.parametrize("failure", [None, ValueError("too late to matter")])
@pytest.mark.parametrize("cancellations", [1, 3])
async def test_a_cancellation_takes_effect_when_the_thread_has_ended(
    cancellations: int, failure: Exception | None
) -> None:
    call = HeldCall(failure)
    with ThreadPoolExecutor(1) as threads:
        calling = asyncio.create_task(in_thread(threads, call))
        await call.until_begun()
        for _ in range(cancellations):
            calling.cancel()
            await turns(5)
        still_there = not calling.done()
        call.end()
        with pytest.raises(asyncio.CancelledError):
            await calling
    assert still_there
    assert call.ended


async def test_what_a_thread_raises_after_a_cancellation_is_no_complaint(caplog: pytest.LogCaptureFixture) -> None:
    call = HeldCall(ValueError("too late to matter"))
    with ThreadPoolExecutor(1) as threads:
        calling = asyncio.create_task(in_thread(threads, call))
        await call.until_begun()
        calling.cancel()
        await turns(5)
        call.end()
        await asyncio.wait([calling])
    del calling
    gc.collect()
    await turns(5)
    assert caplog.text == ""


async def test_stop_iteration_from_a_thread_is_an_error_like_any_other() -> None:
    """A future takes no StopIteration: the caller would wait for ever."""
    with ThreadPoolExecutor(1) as threads:
        async with asyncio.timeout(THREAD_S):
            with pytest.raises(RuntimeError, match="StopIteration"):
                await in_thread(threads, lambda: next(iter(())))


# The end


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_the_destructor_runs_once(kind: str) -> None:
    ends: list[str] = []

    class Plain:
        def __del__(self) -> None:
            ends.append("plain")

    class Async:
        async def __del__(self) -> None:
            ends.append("async")

    servable = await servable_of(Plain if kind == "plain" else Async)
    await servable.destroy()
    assert ends == [kind]
    del servable
    gc.collect()
    assert ends == [kind]


@in_virtual_time
async def test_a_function_has_nothing_to_destroy() -> None:
    async def double(x: int) -> int:
        return 2 * x

    await (await servable_of(double)).destroy()
