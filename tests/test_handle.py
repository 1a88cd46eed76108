"""Handles and responses, over a caller that answers what it is told to."""

import asyncio
import copy
import gc
import inspect
import pickle
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any

import pytest

from modelplex import context
from modelplex.context import Call, RequestContext
from modelplex.errors import (
    InvalidModelIdError,
    ModelLoadError,
    NotInReplicaError,
    RequestCancelledError,
    RequestTimeoutError,
)
from modelplex.handle import DeploymentHandle, new_request_id

Answer = Callable[[Call], Coroutine[Any, Any, Any]]


async def echo(call: Call) -> Any:
    return call.args


class FakeCaller:
    """Keeps the calls that it gets, and lets `answer` answer them (`context.Caller`)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.calls: list[Call] = []
        self.begun = threading.Event()
        self.cancelled = threading.Event()
        self.answer: Answer = echo

    async def call(self, call: Call) -> Any:
        self.calls.append(call)
        self.begun.set()
        try:
            return await self.answer(call)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def stream(self, call: Call) -> AsyncGenerator[Any, None]:
        yield await self.call(call)

    async def broadcast(self, call: Call) -> list[Any]:
        return [await self.call(call)]

    def ingress(self, app_name: str) -> str | None:
        return None

    def has_deployment(self, app_name: str, deployment: str) -> bool:
        return True

    def gate(self) -> Callable[[], None]:
        """From now on nothing is answered before what this returns is called, from any thread."""
        opened = asyncio.Event()

        async def wait(call: Call) -> Any:
            await opened.wait()
            return call.args

        self.answer = wait

        def open_gate() -> None:
            self.loop.call_soon_threadsafe(opened.set)

        return open_gate


@pytest.fixture
def caller() -> Iterator[FakeCaller]:
    """A caller whose loop runs in a thread of its own, as it does in a user's program."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    caller = FakeCaller(loop)
    context.set_caller(caller)
    yield caller
    context.set_caller(None)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


@pytest.fixture
async def caller_here() -> Any:
    """A caller on the test's own loop, as it is in a replica."""
    caller = FakeCaller(asyncio.get_running_loop())
    context.set_caller(caller)
    yield caller
    context.set_caller(None)


@pytest.fixture
def _in_request() -> Iterator[None]:
    context.set_request(RequestContext("their-id", "shop", "/shop", "__call__", model_id="m1"))
    yield
    context.set_request(None)


def raising(error: BaseException) -> Answer:
    async def answer(call: Call) -> Any:
        raise error

    return answer


handle = DeploymentHandle("shop", "Model")


# What a call says


def test_a_call_names_the_application_and_the_deployment(caller: FakeCaller) -> None:
    handle.remote(1, x=2).result()
    [call] = caller.calls
    assert (call.app_name, call.deployment, call.args, call.kwargs) == ("shop", "Model", (1,), {"x": 2})
    assert (call.method_name, call.model_id) == ("__call__", "")


def test_a_method_is_named_by_attribute_or_by_option(caller: FakeCaller) -> None:
    handle.predict.remote().result()
    handle.options(method_name="predict").remote().result()
    assert [call.method_name for call in caller.calls] == ["predict", "predict"]


def test_options_are_kept_when_a_method_is_named(caller: FakeCaller) -> None:
    handle.options(multiplexed_model_id="m1").predict.remote().result()
    assert (caller.calls[0].model_id, caller.calls[0].method_name) == ("m1", "predict")


def test_options_make_another_handle(caller: FakeCaller) -> None:
    handle.options(multiplexed_model_id="m1", method_name="predict")
    handle.remote().result()
    assert (caller.calls[0].model_id, caller.calls[0].method_name) == ("", "__call__")


def test_options_add_up_and_an_empty_model_id_takes_the_model_away(caller: FakeCaller) -> None:
    first = handle.options(multiplexed_model_id="m1").options(method_name="predict")
    first.remote().result()
    first.options(multiplexed_model_id="").remote().result()
    assert [(call.model_id, call.method_name) for call in caller.calls] == [("m1", "predict"), ("", "predict")]


def test_a_call_waits_for_a_cold_model_as_long_as_its_handle_says(caller: FakeCaller) -> None:
    hasty = handle.options(max_cold_wait_s=0)
    for each in (handle, hasty, hasty.options(multiplexed_model_id="m1").predict, hasty.options(max_cold_wait_s=1.5)):
        each.remote().result()
    assert [call.max_cold_wait_s for call in caller.calls] == [None, 0, 0, 1.5]


@pytest.mark.parametrize("value", [-1, -0.1, "2", float("nan")])
def test_what_is_no_number_of_seconds_is_refused_before_anything_is_sent(value: Any) -> None:
    with pytest.raises(ValueError, match="max_cold_wait_s must be a number of seconds of at least 0"):
        handle.options(max_cold_wait_s=value)


@pytest.mark.parametrize("value", [0, -1, "2", float("nan")])
def test_what_is_no_time_for_a_call_is_refused_before_anything_is_sent(value: Any) -> None:
    with pytest.raises(ValueError, match="timeout_s must be a number of seconds above 0"):
        handle.options(timeout_s=value)


def test_a_call_has_the_time_that_its_handle_says_and_any_time_otherwise(caller: FakeCaller) -> None:
    began = caller.loop.time()
    handle.remote().result()
    hasty = handle.options(timeout_s=30)
    hasty.options(multiplexed_model_id="m1").predict.remote().result()
    hasty.broadcast("predict").result()
    assert caller.calls[0].deadline is None
    for call in caller.calls[1:]:
        assert call.deadline is not None
        assert began + 30 <= call.deadline <= caller.loop.time() + 30


def test_a_broadcast_names_its_method_and_its_response_is_a_list(caller: FakeCaller) -> None:
    assert handle.options(multiplexed_model_id="m1").broadcast("clear", 1, x=2).result() == [(1,)]
    [call] = caller.calls
    assert (call.method_name, call.model_id, call.args, call.kwargs) == ("clear", "m1", (1,), {"x": 2})


@pytest.mark.parametrize("model_id", ["../m", "a b", "x" * 257])
def test_a_hostile_model_id_is_refused_before_anything_is_sent(model_id: str) -> None:
    with pytest.raises(InvalidModelIdError):
        handle.options(multiplexed_model_id=model_id)


def test_options_are_given_by_name() -> None:
    parameters = list(inspect.signature(DeploymentHandle.options).parameters.values())[1:]
    assert {p.kind for p in parameters} == {inspect.Parameter.KEYWORD_ONLY}


def test_a_call_outside_of_a_request_gets_an_id_of_its_own(caller: FakeCaller) -> None:
    one, other = handle.remote(), handle.remote()
    assert len({one.request_id, other.request_id}) == 2
    assert one.result() == other.result() == ()
    assert {call.request_id for call in caller.calls} == {one.request_id, other.request_id}


@pytest.mark.usefixtures("_in_request")
def test_a_call_inside_of_a_request_goes_on_under_its_id_and_route(caller: FakeCaller) -> None:
    response = handle.remote()
    response.result()
    assert response.request_id == "their-id"
    assert (caller.calls[0].request_id, caller.calls[0].route) == ("their-id", "/shop")


@pytest.mark.usefixtures("_in_request")
def test_a_call_does_not_inherit_the_requests_model_id(caller: FakeCaller) -> None:
    handle.remote().result()
    assert caller.calls[0].model_id == ""


def test_request_ids_are_short_and_fit_into_a_log_line() -> None:
    made = {new_request_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(8 <= len(request_id) <= 16 and request_id.isascii() and " " not in request_id for request_id in made)


def test_nothing_can_be_called_before_something_is_served() -> None:
    with pytest.raises(NotInReplicaError, match=r"call serve\.run first"):
        handle.remote()


# Handles as values


@pytest.mark.parametrize("again", [lambda h: pickle.loads(pickle.dumps(h)), copy.copy, copy.deepcopy])
def test_a_handle_that_travelled_calls_the_same(
    caller: FakeCaller, again: Callable[[DeploymentHandle], DeploymentHandle]
) -> None:
    options: dict[str, Any] = {"method_name": "predict", "multiplexed_model_id": "m1", "max_cold_wait_s": 2.5}
    options["timeout_s"] = 30.0
    again(handle.options(**options)).remote(1).result()
    [call] = caller.calls
    assert (call.app_name, call.deployment, call.method_name, call.model_id) == ("shop", "Model", "predict", "m1")
    assert call.max_cold_wait_s == 2.5
    assert call.deadline is not None


def test_a_handle_can_be_pickled_where_nothing_is_served() -> None:
    assert repr(pickle.loads(pickle.dumps(handle))) == repr(handle)


def test_private_names_are_no_methods() -> None:
    assert not hasattr(handle, "_repr_html_")
    assert not hasattr(handle, "__len__")


def test_a_handle_shows_what_it_calls() -> None:
    assert repr(handle.predict) == "DeploymentHandle('shop', 'Model', method_name='predict')"


# The result, where nothing can be awaited


def test_a_call_begins_before_its_result_is_asked_for(caller: FakeCaller) -> None:
    handle.remote()
    assert caller.begun.wait(5)


def test_the_result_can_be_asked_for_again(caller: FakeCaller) -> None:
    response = handle.remote(1)
    assert (response.result(), response.result()) == ((1,), (1,))
    assert len(caller.calls) == 1


def test_the_result_raises_what_the_call_raised(caller: FakeCaller) -> None:
    caller.answer = raising(ModelLoadError("broken", retry_after_s=2.0))
    with pytest.raises(ModelLoadError, match="broken") as caught:
        handle.remote().result()
    assert caught.value.retry_after_s == 2.0


def test_a_result_that_is_late_is_a_timeout_and_may_be_asked_for_again(caller: FakeCaller) -> None:
    open_gate = caller.gate()
    response = handle.remote(1)
    with pytest.raises(TimeoutError, match=rf"{response.request_id} was not answered within 0 s"):
        response.result(timeout_s=0)
    open_gate()
    assert response.result() == (1,)


def test_a_timeout_of_the_call_itself_is_told_as_it_is(caller: FakeCaller) -> None:
    caller.answer = raising(RequestTimeoutError("in the queue for too long"))
    with pytest.raises(RequestTimeoutError, match="in the queue"):
        handle.remote().result(timeout_s=5)


async def test_the_result_cannot_be_waited_for_in_an_event_loop(caller_here: FakeCaller) -> None:
    response = handle.remote(1)
    with pytest.raises(RuntimeError, match="await the response instead"):
        response.result(timeout_s=0)
    assert await response == (1,)


async def test_the_result_cannot_be_waited_for_in_somebody_elses_event_loop(caller: FakeCaller) -> None:
    with pytest.raises(RuntimeError, match="await the response instead"):
        handle.remote(1).result(timeout_s=0)


def test_a_cancelled_call_ends_where_it_runs_and_for_whoever_waits(caller: FakeCaller) -> None:
    caller.gate()
    response = handle.remote()
    assert caller.begun.wait(5)
    response.cancel()
    with pytest.raises(RequestCancelledError, match=rf"{response.request_id} was cancelled"):
        response.result()
    assert caller.cancelled.wait(5)


def test_cancelling_a_call_that_is_over_changes_nothing(caller: FakeCaller) -> None:
    response = handle.remote(1)
    assert response.result() == (1,)
    response.cancel()
    assert response.result() == (1,)


def test_a_response_cannot_be_pickled(caller: FakeCaller) -> None:
    with pytest.raises(TypeError, match="cannot be pickled: await it and pass the result"):
        pickle.dumps(handle.remote())


async def test_a_failure_that_nobody_asks_for_is_no_error_of_the_program(caller_here: FakeCaller) -> None:
    reports: list[dict[str, Any]] = []
    caller_here.loop.set_exception_handler(lambda _, report: reports.append(report))
    caller_here.answer = raising(ModelLoadError("broken"))
    handle.remote()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(caller_here.calls) == 1
    gc.collect()
    assert reports == []


# Awaiting


async def test_a_response_is_awaited_on_the_callers_loop(caller_here: FakeCaller) -> None:
    assert await handle.remote(1) == (1,)


async def test_a_response_is_awaited_on_another_loop(caller: FakeCaller) -> None:
    assert await handle.remote(1) == (1,)


async def test_a_response_can_be_awaited_again(caller_here: FakeCaller) -> None:
    response = handle.remote(1)
    assert (await response, await response) == ((1,), (1,))
    assert len(caller_here.calls) == 1


async def test_responses_can_be_gathered(caller_here: FakeCaller) -> None:
    first, second = await asyncio.gather(handle.remote(1), handle.remote(2))
    assert (first, second) == ((1,), (2,))


async def test_awaiting_raises_what_the_call_raised(caller_here: FakeCaller) -> None:
    caller_here.answer = raising(ModelLoadError("broken"))
    with pytest.raises(ModelLoadError, match="broken"):
        await handle.remote()


async def test_whoever_awaits_a_cancelled_call_is_not_cancelled_itself(caller_here: FakeCaller) -> None:
    caller_here.gate()
    response = handle.remote()
    await asyncio.sleep(0)
    response.cancel()
    with pytest.raises(RequestCancelledError, match=rf"{response.request_id} was cancelled"):
        await response
    assert caller_here.cancelled.is_set()


async def test_whoever_awaits_a_cancelled_call_on_another_loop_is_not_cancelled_itself(caller: FakeCaller) -> None:
    caller.gate()
    response = handle.remote()
    response.cancel()
    with pytest.raises(RequestCancelledError, match=rf"{response.request_id} was cancelled"):
        await response


async def test_cancelling_who_awaits_cancels_the_call(caller_here: FakeCaller) -> None:
    caller_here.gate()

    async def wait() -> Any:
        return await handle.remote()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(caller_here.calls) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert caller_here.cancelled.is_set()


async def test_a_thread_may_ask_for_the_result_of_a_call_that_the_loop_began(caller_here: FakeCaller) -> None:
    response = handle.remote(1)
    assert await asyncio.to_thread(response.result, 5) == (1,)


async def test_a_thread_that_waits_for_a_cancelled_call_is_told_so(caller_here: FakeCaller) -> None:
    caller_here.gate()
    response = handle.remote()
    waiting = asyncio.create_task(asyncio.to_thread(response.result, 5))
    await asyncio.sleep(0)
    response.cancel()
    with pytest.raises(RequestCancelledError):
        await waiting


async def test_a_call_from_a_thread_runs_on_the_callers_loop(caller_here: FakeCaller) -> None:
    def call() -> Any:
        return handle.remote(1).result(5)

    assert await asyncio.to_thread(call) == (1,)
