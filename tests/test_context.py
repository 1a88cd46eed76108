"""Who is running: requests, replicas and callers, as user code finds them."""

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, cast

import pytest

from modelplex import context
from modelplex.context import Caller, ReplicaContext, RequestContext
from modelplex.errors import NotInReplicaError
from modelplex.multiplex import Loader


class FakeReplica:
    context = ReplicaContext("shop", "Model", "EjYmnQ")

    async def get_model(self, loader: Loader, owner: object, model_id: str) -> Any:
        return model_id

    def lease_model(self, loader: Loader, owner: object, model_id: str) -> AbstractAsyncContextManager[Any]:
        return nullcontext(model_id)

    async def in_thread(self, call: Callable[[], Any]) -> Any:
        return call()


@pytest.fixture(autouse=True)
def _as_found() -> Iterator[None]:
    yield
    context.set_request(None)
    context.set_replica(None)
    context.set_caller(None)


def request(model_id: str = "", request_id: str = "r") -> RequestContext:
    return RequestContext(request_id, "default", "/", "__call__", model_id=model_id)


# The model id


def test_there_is_no_model_id_outside_of_a_request() -> None:
    assert context.get_multiplexed_model_id() == ""


def test_a_request_may_name_no_model() -> None:
    context.set_request(request())
    assert context.get_multiplexed_model_id() == ""


def test_the_model_id_is_the_current_requests() -> None:
    context.set_request(request("m1"))
    assert context.get_multiplexed_model_id() == "m1"


async def test_requests_that_run_side_by_side_keep_their_own_model_ids() -> None:
    both_set = asyncio.Barrier(2)

    async def serve(model_id: str) -> str:
        context.set_request(request(model_id))
        await both_set.wait()
        return context.get_multiplexed_model_id()

    first, second = await asyncio.gather(serve("a"), serve("b"))
    assert (first, second) == ("a", "b")
    assert context.get_multiplexed_model_id() == ""


def test_the_model_id_is_known_in_a_thread_that_runs_in_the_requests_context() -> None:
    context.set_request(request("m1"))
    with ThreadPoolExecutor(1) as threads:
        copied = contextvars.copy_context()
        assert threads.submit(copied.run, context.get_multiplexed_model_id).result() == "m1"
        assert threads.submit(context.get_multiplexed_model_id).result() == ""


# The request


def test_requests_do_not_share_their_leases() -> None:
    one, other = request(), request()
    one.leases.append(lambda: None)
    assert other.leases == []


def test_two_requests_of_the_same_id_are_two_requests() -> None:
    assert request(request_id="r") != request(request_id="r")


# The replica


@pytest.mark.parametrize("builtin", [NotInReplicaError, RuntimeError])
def test_there_is_no_replica_outside_of_one(builtin: type[Exception]) -> None:
    with pytest.raises(builtin, match="only inside of a replica"):
        context.get_replica_context()


def test_code_in_a_replica_finds_it() -> None:
    context.set_replica(FakeReplica())
    assert context.get_replica_context() is FakeReplica.context


def test_a_replica_is_named_after_its_application_and_deployment() -> None:
    assert ReplicaContext("default", "Model", "EjYmnQ").replica_id == "default_Model#EjYmnQ"


# The caller


def test_nothing_can_be_called_before_something_is_served() -> None:
    with pytest.raises(NotInReplicaError, match=r"call serve\.run first"):
        context.caller()


def test_the_caller_belongs_to_the_process_and_not_to_a_task() -> None:
    fake = cast(Caller, object())
    context.set_caller(fake)
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(context.caller).result() is fake
