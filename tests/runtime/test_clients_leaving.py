"""Clients that leave: wherever their request is, the user's code is told, and nothing of it is left."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from held_call import HeldCall
from one_model import use_model
from raw_router import RawRouter, leases_held, replica_of
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from virtual_time import in_virtual_time, turns

from modelplex.multiplex import multiplexed
from modelplex.runtime.replica import Replica
from modelplex.runtime.streams import WINDOW_BYTES
from modelplex.wire import messages
from modelplex.wire.framing import CHUNK_BYTES
from modelplex.wire.messages import Answer, Chunk, Credit, Fail, Ongoing


async def big_value() -> bytes:
    return b"x" * 3 * WINDOW_BYTES


async def left(replica: Replica, router: RawRouter, stream: int) -> None:
    """A client leaves; nothing of its request is left then, and the replica serves on."""
    router.leave(stream)
    await asyncio.sleep(1)
    assert (replica.ongoing, leases_held(replica)) == (0, 0)
    assert not [m for m in router.all_of(Fail) if m.stream == stream]


@pytest.mark.parametrize("kind", ["call", "http"])
@in_virtual_time
async def test_a_client_may_leave_while_user_code_waits_which_ends_before_its_models_do(kind: str) -> None:
    leases: list[int] = []

    async def handler() -> None:
        await use_model()
        try:
            await asyncio.Event().wait()
        finally:
            leases.append(leases_held(replica))

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        stream = router.call() if kind == "call" else router.http()
        await asyncio.sleep(1)
        await left(replica, router, stream)
        assert leases == [1]


@in_virtual_time
async def test_a_client_may_leave_while_its_body_is_read() -> None:
    async def handler(request: Request) -> bytes:
        await use_model()
        return await request.body()

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        stream = router.http("POST", body=b"part", more=True)
        await asyncio.sleep(1)
        assert leases_held(replica) == 1
        await left(replica, router, stream)


@in_virtual_time
async def test_a_client_may_leave_while_its_arguments_come() -> None:
    async with replica_of(big_value) as replica:
        router = RawRouter(replica)
        router.say(messages.Begin(9, "r", "app", "/", "__call__", "", True), b"part")
        await asyncio.sleep(1)
        await left(replica, router, 9)


@in_virtual_time
async def test_a_client_may_leave_while_its_model_loads_which_goes_on() -> None:
    @multiplexed
    async def slow_model(model_id: str) -> str:
        await asyncio.sleep(10)
        return model_id

    async def handler() -> str:
        model: str = await slow_model("a")
        return model

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        stream = router.http()
        await asyncio.sleep(1)
        await left(replica, router, stream)
        assert (await router.reply(router.http())).head.start == "joined"


class Closing:
    """Notes when its generators are closed, and what is leased then."""

    def __init__(self) -> None:
        self.leases: list[int] = []
        self.replica: Replica | None = None

    def close(self) -> None:
        assert self.replica is not None
        self.leases.append(leases_held(self.replica))

    async def endless(self) -> AsyncIterator[bytes]:
        await use_model()
        try:
            while True:
                yield b"x" * CHUNK_BYTES
        finally:
            self.close()

    async def waiting(self) -> AsyncIterator[bytes]:
        await use_model()
        try:
            yield b"x"
            await asyncio.Event().wait()
        finally:
            self.close()


@pytest.mark.parametrize("response", [None, StreamingResponse])
@pytest.mark.parametrize("method", ["endless", "waiting"])
@in_virtual_time
async def test_a_generator_is_closed_with_its_models_still_leased_when_the_client_leaves(
    method: str, response: Callable[[Any], Response] | None
) -> None:
    """It is closed wherever it is: where it waits for something, or at a `yield`, where the client takes no more."""
    closing = Closing()

    async def handler() -> Any:
        parts = getattr(closing, method)()
        return parts if response is None else response(parts)

    async with replica_of(handler) as replica:
        closing.replica = replica
        router = RawRouter(replica, gives_credit=False)
        stream = router.http()
        await asyncio.sleep(1)
        assert leases_held(replica) == 1
        await left(replica, router, stream)
        assert closing.leases == [1]


async def test_a_plain_generator_is_closed_with_its_models_still_leased_when_the_client_leaves() -> None:
    """Also when its step runs in a thread at that moment, which cannot be stopped."""
    step = HeldCall()
    closing = Closing()

    def parts() -> Iterator[bytes]:
        try:
            yield b"one"
            step()
            yield b"two"
        finally:
            closing.close()

    async def handler() -> Iterator[bytes]:
        await use_model()
        return parts()

    async with replica_of(handler) as replica:
        closing.replica = replica
        router = RawRouter(replica)
        stream = router.http()
        await step.until_begun()
        router.leave(stream)
        await turns(20)
        assert (replica.ongoing, leases_held(replica), closing.leases) == (1, 1, [])
        step.end()
        await router.first_of(Ongoing)
        assert (replica.ongoing, leases_held(replica), closing.leases) == (0, 0, [1])


async def test_a_plain_generator_is_closed_when_the_client_takes_no_more_and_leaves() -> None:
    closing = Closing()

    def parts() -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * CHUNK_BYTES
        finally:
            closing.close()

    async def handler() -> Iterator[bytes]:
        await use_model()
        return parts()

    async with replica_of(handler) as replica:
        closing.replica = replica
        router = RawRouter(replica, gives_credit=False)
        stream = router.http()
        await router.first_of(Chunk)
        while sum(len(body) for _, body in router.heard) < WINDOW_BYTES:
            await router.next()
        router.leave(stream)
        await router.first_of(Ongoing)
        assert closing.leases == [1]


@in_virtual_time
async def test_a_client_may_leave_in_the_middle_of_a_big_answer() -> None:
    async with replica_of(big_value) as replica:
        router = RawRouter(replica, gives_credit=False)
        stream = router.http()
        await asyncio.sleep(1)
        await left(replica, router, stream)
        router.say(Credit(stream, WINDOW_BYTES))
        await asyncio.sleep(1)
        assert sum(len(body) for _, body in router.heard) == WINDOW_BYTES


@in_virtual_time
async def test_code_that_goes_on_after_its_client_has_left_sends_nothing_more() -> None:
    async def handler() -> AsyncIterator[bytes]:
        yield b"one"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield b"two"

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        stream = router.http()
        await asyncio.sleep(1)
        await left(replica, router, stream)
        assert b"".join(body for _, body in router.heard) == b"one"
        assert all(message.more for message, _ in router.heard if isinstance(message, Answer | Chunk))


@pytest.mark.parametrize("ends_with", ["OK", "ERROR", "CANCELLED"])
@in_virtual_time
async def test_a_log_line_says_how_a_request_ended(ends_with: str, caplog: pytest.LogCaptureFixture) -> None:
    async def handler() -> None:
        if ends_with == "CANCELLED":
            await asyncio.Event().wait()
        assert ends_with == "OK"

    caplog.set_level("INFO")
    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        stream = router.call()
        await asyncio.sleep(1)
        router.leave(stream)
        await asyncio.sleep(1)
    assert f"__CALL__ {ends_with} " in caplog.text
