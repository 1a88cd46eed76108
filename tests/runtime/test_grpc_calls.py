"""Calls of gRPC from a proxy to the user's code and back, on one event loop and without a connection."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from inline_app import app_of, serving
from raw_servicer import RAW, ScriptedClient, options

from modelplex import errors, serve
from modelplex.runtime.answers import Headers
from modelplex.runtime.grpc_calls import HEALTH, Calls, Gate
from modelplex.testing import InlineCluster, run_virtual
from modelplex.wire import grpc_body
from modelplex.wire.grpc_body import Status

ended: list[str] = []


class Raw:
    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, model_id: str) -> str:
        return model_id

    async def Say(self, message: bytes, grpc_context: Any) -> bytes:  # noqa: N802 - the service's name
        told = [name for name, _ in grpc_context.invocation_metadata()]
        return message + b"," + serve.get_multiplexed_model_id().encode() + b"," + ",".join(told).encode()

    async def Wait(self, message: bytes) -> bytes:  # noqa: N802
        try:
            await asyncio.sleep(float(message))
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return b"waited"

    async def Count(self, message: bytes) -> AsyncIterator[bytes]:  # noqa: N802
        for number in range(int(message)):
            yield b"%d" % number
            await asyncio.sleep(1.0)

    async def Chat(self, messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:  # noqa: N802
        async for message in messages:
            yield message.upper()

    async def Join(self, messages: AsyncIterator[bytes]) -> bytes:  # noqa: N802
        return b" ".join([message async for message in messages])

    async def Strict(self, number: int) -> bytes:  # noqa: N802
        return b"no %d" % number


class OnlyFor:
    """A gate for one model, which takes what it was shown."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def check_http(self, headers: Headers) -> None:
        if (b"x-api-key", b"right") not in headers:
            raise errors.RouteNotFoundError("no key")

    def admit_http(self, headers: Headers, application: str, model_id: str) -> str:
        self.asked.append((application, model_id))
        headers[:] = [header for header in headers if header[0] != b"x-api-key"]
        return "tenant"


def call(
    method: str, client: ScriptedClient, *, gate: Gate | None = None, servicers: tuple[str, ...] = (RAW,), **more: Any
) -> Status:
    async def run() -> Status:
        async with serving(app_of(Raw)) as (cluster, _):
            return await Calls(cluster.directory, options(*servicers, **more), gate).serve(f"/raw.Raw/{method}", client)

    return run_virtual(run())


def test_a_message_there_and_back() -> None:
    client = ScriptedClient(b"hello", request_id="r-1", multiplexed_model_id="m1", other="x")
    status = call("Say", client)
    assert client.heard == [b"hello,m1,request_id,multiplexed_model_id,other"]
    assert client.begun == [(b"request_id", b"r-1")]
    assert (status.code, dict(status.metadata)[b"request_id"]) == (0, b"r-1")


def test_streams_end_with_a_status() -> None:
    client = ScriptedClient(b"3")
    assert call("Count", client).code == 0
    assert client.heard == [b"0", b"1", b"2"]


@pytest.mark.parametrize("messages", [(b"a", b"b", b"c"), (b"a", 5.0, b"b", 5.0, b"c", 5.0), (0.001, b"a b c")])
def test_messages_of_the_client_in_one_go_or_late(messages: tuple[bytes | float, ...]) -> None:
    client = ScriptedClient(*messages)
    assert call("Join", client).code == 0
    assert client.heard == [b"a b c"]


def test_a_chat() -> None:
    client = ScriptedClient(b"a", 1.0, b"b")
    assert call("Chat", client).code == 0
    assert client.heard == [b"A", b"B"]


@pytest.mark.parametrize(
    ("method", "client", "code", "details"),
    [
        ("None", ScriptedClient(b""), grpc_body.UNIMPLEMENTED, "The deployment has no method for /raw.Raw/None."),
        ("Say", ScriptedClient(b"", application="x"), grpc_body.NOT_FOUND, "there is no 'x': default"),
        ("Say", ScriptedClient(b"", multiplexed_model_id="a b"), grpc_body.INVALID_ARGUMENT, "malformed"),
        ("Say", ScriptedClient(), grpc_body.INVALID_ARGUMENT, "There is no message"),
        ("Strict", ScriptedClient(b"x"), grpc_body.INVALID_ARGUMENT, "the message that Strict takes"),
        ("Wait", ScriptedClient(b"x"), grpc_body.INTERNAL, "Internal Server Error"),
        ("Wait", ScriptedClient(b"9", rest_s=2.0), grpc_body.DEADLINE_EXCEEDED, "within the request's time"),
    ],
)
def test_what_is_wrong_is_the_status(method: str, client: ScriptedClient, code: int, details: str) -> None:
    status = call(method, client)
    assert (status.code, client.heard) == (code, [])
    assert details in status.details
    assert b"request_id" in dict(status.metadata)


def test_the_options_time_is_the_most_that_a_client_gets() -> None:
    assert call("Wait", ScriptedClient(b"9", rest_s=60.0), request_timeout_s=1.0).code == grpc_body.DEADLINE_EXCEEDED
    assert call("Wait", ScriptedClient(b"9", rest_s=60.0), request_timeout_s=10.0).code == 0


def test_without_functions_of_services_nothing_reaches_a_replica() -> None:
    async def run() -> Status:
        async with serving(app_of(Raw)) as (cluster, _):
            without = options()
            assert without.grpc is not None
            without.grpc.grpc_servicer_functions.clear()  # type: ignore[attr-defined]
            return await Calls(cluster.directory, without, None).serve("/raw.Raw/Say", ScriptedClient(b""))

    assert run_virtual(run()).code == grpc_body.UNIMPLEMENTED


def test_a_function_that_cannot_be_imported_leaves_the_others() -> None:
    client = ScriptedClient(b"hello")
    assert call("Say", client, servicers=("no.such:thing", RAW)).code == 0
    assert call("Say", client, servicers=("no.such:thing",)).code == grpc_body.UNIMPLEMENTED


def test_a_gate_sees_each_call_and_user_code_does_not_see_the_key() -> None:
    gate = OnlyFor()
    metadata: dict[str, Any] = {"x-api-key": "right", "multiplexed_model_id": "m1"}
    client = ScriptedClient(b"hello", **metadata)
    assert call("Say", client, gate=gate).code == 0
    assert client.heard == [b"hello,m1,multiplexed_model_id"]
    assert gate.asked == [("default", "m1")]
    assert call("Say", ScriptedClient(b"hello"), gate=gate).details == "no key"
    assert len(gate.asked) == 1


def test_health_needs_no_key() -> None:
    async def run() -> None:
        async with InlineCluster() as cluster:
            client = ScriptedClient(b"")
            assert (await Calls(cluster.directory, options(), OnlyFor()).serve(HEALTH, client)).code == 0
            assert client.heard == [b"\x08\x01"]

    run_virtual(run())


def test_a_client_that_leaves_cancels_what_runs_for_it() -> None:
    async def run() -> None:
        ended.clear()
        async with serving(app_of(Raw)) as (cluster, _):
            calls = Calls(cluster.directory, options(), None)
            for client in (ScriptedClient(b"60"), ScriptedClient(b"60", 30.0)):
                task = asyncio.ensure_future(calls.serve("/raw.Raw/Wait", client))
                await asyncio.sleep(1.0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await asyncio.sleep(1.0)
            assert ended == ["cancelled", "cancelled"]

    run_virtual(run())


def test_a_replica_reads_the_same_as_many_small_parts() -> None:
    large = b"x" * 1_000_000
    client = ScriptedClient(large)
    assert call("Join", client).code == 0
    assert client.heard == [large]
