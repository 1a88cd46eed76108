"""One request on a replica, from its first message to the last byte of its answer."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from one_model import use_model
from raw_router import RawRouter, leases_held, replica_of
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from virtual_time import in_virtual_time, turns

from modelplex import context
from modelplex.multiplex import multiplexed
from modelplex.runtime import payload
from modelplex.runtime.replica import Replica
from modelplex.wire import messages
from modelplex.wire.messages import Answer, Chunk, Fail, Message, Ongoing


@dataclass(eq=False)
class SpyLink:
    """A link that notes, when a message is sent, what still runs and what is still leased."""

    replica: Replica
    sent: list[tuple[Message, int, int]] = field(default_factory=list)
    is_remote: bool = False
    is_cut: bool = False

    def send(self, message: Message, body: bytes | memoryview = b"") -> None:
        self.sent.append((message, self.replica.ongoing, leases_held(self.replica)))

    async def flushed(self, timeout_s: float) -> None: ...

    def close(self) -> None: ...

    def at(self, index: int, *kinds: type[Message]) -> tuple[int, int]:
        """Requests and leases at the moment of one message among those of some kinds."""
        _, ongoing, leases = [sent for sent in self.sent if isinstance(sent[0], kinds)][index]
        return ongoing, leases


# Calls


@in_virtual_time
async def test_a_call_is_answered_with_the_pickled_value() -> None:
    class Calculator:
        async def add(self, x: int, y: int) -> set[int]:
            return {x + y}

    async with replica_of(Calculator) as replica:
        router = RawRouter(replica)
        reply = await router.reply(router.call("add", 1, 2))
        assert reply.value == {3}
        assert (reply.head.status, reply.head.headers, reply.head.more) == (200, [], False)


@in_virtual_time
async def test_user_code_sees_its_request() -> None:
    async def handler() -> tuple[str, str, str]:
        request = context.request()
        assert request is not None
        return request.request_id, request.method_name, context.get_multiplexed_model_id()

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        assert (await router.reply(router.call(model_id="a"))).value == ("request-1", "__call__", "a")
        assert (await router.reply(router.call())).value == ("request-2", "__call__", "")


@in_virtual_time
async def test_an_answer_says_how_its_model_was_met_and_how_long_that_took() -> None:
    @multiplexed
    async def slow_model(model_id: str) -> str:
        return model_id

    async def handler() -> str:
        model: str = await slow_model("a")
        return model

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        cold = (await router.reply(router.call())).head
        warm = (await router.reply(router.call())).head
        assert (cold.start, warm.start) == ("cold", "warm")
        assert cold.load_s > warm.load_s > 0


@in_virtual_time
async def test_arguments_may_come_in_parts() -> None:
    async def handler(data: bytes) -> int:
        return len(data)

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        data = payload.dumps(((b"x" * 1000,), {}))
        begin = messages.Begin(7, "r", "app", "/", "__call__", "", True)
        router.say(begin, data[:100])
        await turns(5)
        router.chunk(7, data[100:500], more=True)
        await turns(5)
        router.chunk(7, data[500:], more=False)
        assert (await router.reply(7)).value == 1000


@in_virtual_time
async def test_a_generator_cannot_be_called_by_a_handle() -> None:
    class Streams:
        async def parts(self) -> AsyncIterator[int]:
            yield 1

    async with replica_of(Streams) as replica:
        router = RawRouter(replica)
        fail, _ = await router.failure(router.call("parts"))
        assert (fail.error, "parts is a generator" in fail.message) == ("UserCodeError", True)


@in_virtual_time
async def test_a_value_that_cannot_be_pickled_is_a_failure() -> None:
    async def handler() -> Any:
        return (x for x in [asyncio.get_running_loop()])  # no generator function, and no value

    class Locked:
        def __reduce__(self) -> Any:
            raise TypeError("cannot travel")

    async def locked() -> Any:
        return Locked()

    for func in (handler, locked):
        async with replica_of(func) as replica:
            router = RawRouter(replica)
            fail, _ = await router.failure(router.call())
            assert fail.error == "UserCodeError"


# What HTTP is answered


@pytest.mark.parametrize(
    ("value", "content_type", "body"),
    [
        (None, b"text/plain", b""),
        ("häh", b"text/plain; charset=utf-8", "häh".encode()),
        (b"\x00\xff", b"text/plain", b"\x00\xff"),
        (bytearray(b"ab"), b"text/plain", b"ab"),
        ({"a": [1, 2.5, None]}, b"application/json", b'{"a":[1,2.5,null]}'),
        ([], b"application/json", b"[]"),
        (0, b"application/json", b"0"),
    ],
)
@in_virtual_time
async def test_a_returned_value_is_the_body(value: Any, content_type: bytes, body: bytes) -> None:
    async def handler() -> Any:
        return value

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        reply = await router.reply(router.http())
        assert (reply.head.status, reply.body) == (200, body)
        assert reply.header(b"content-type") == content_type
        assert reply.header(b"content-length") == b"%d" % len(body)


@in_virtual_time
async def test_a_value_that_is_no_answer_is_the_users_mistake() -> None:
    async def handler() -> object:
        return object()

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        fail, body = await router.failure(router.http())
        assert (fail.error, "builtins.object" in fail.message, body) == ("UserCodeError", True, b"")


@in_virtual_time
async def test_a_response_is_answered_as_it_is() -> None:
    async def handler() -> Response:
        return JSONResponse({"a": 1}, status_code=418, headers={"x-kind": "tea"})

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        reply = await router.reply(router.http())
        assert (reply.head.status, reply.body, reply.head.more) == (418, b'{"a":1}', False)
        assert (reply.header(b"x-kind"), reply.header(b"content-type")) == (b"tea", b"application/json")


@in_virtual_time
async def test_a_response_without_a_body_is_answered() -> None:
    async def handler() -> Response:
        return RedirectResponse("/elsewhere")

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        reply = await router.reply(router.http())
        assert (reply.head.status, reply.header(b"location"), reply.body) == (307, b"/elsewhere", b"")


async def async_parts() -> AsyncIterator[str]:
    for part in ("one ", "", "two ", "three"):
        yield part


def plain_parts() -> Iterator[str]:
    yield from ("one ", "", "two ", "three")


async def returns_async_parts() -> AsyncIterator[str]:
    return async_parts()


@pytest.mark.parametrize("handler", [async_parts, plain_parts, returns_async_parts])
async def test_a_generator_is_streamed(handler: Callable[..., Any]) -> None:
    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        reply = await router.reply(router.http())
        assert (reply.head.status, reply.head.more, reply.body) == (200, True, b"one two three")
        assert reply.header(b"content-type") == b"text/plain; charset=utf-8"


@in_virtual_time
async def test_parts_of_a_stream_are_sent_as_they_come() -> None:
    async def handler() -> AsyncIterator[Any]:
        yield {"part": 1}
        await asyncio.sleep(10)
        yield b"2"

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        stream = router.http()
        await asyncio.sleep(5)
        assert b"".join(body for _, body in router.heard) == b'{"part":1}'
        assert (await router.reply(stream)).body == b'{"part":1}2'


@in_virtual_time
async def test_a_streaming_response_is_streamed() -> None:
    async def handler() -> Response:
        return StreamingResponse(async_parts(), status_code=203, media_type="text/x-parts")

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        reply = await router.reply(router.http())
        assert (reply.head.status, reply.head.more, reply.body) == (203, True, b"one two three")
        assert reply.header(b"content-type") == b"text/x-parts; charset=utf-8"


@in_virtual_time
async def test_a_stream_that_breaks_off_is_told_as_a_failure_after_what_has_come() -> None:
    async def handler() -> AsyncIterator[str]:
        yield "one"
        raise ValueError("no more")

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        fail, _ = await router.failure(router.http())
        assert fail.message == "ValueError('no more')"
        assert [message for message, _ in router.heard][-1] is fail
        assert b"".join(body for message, body in router.heard if message is not fail) == b"one"


@pytest.mark.parametrize("kind", ["generator", "async generator"])
async def test_a_stream_that_fails_before_its_first_part_is_a_failure_and_no_answer(kind: str) -> None:
    def generator(count: int = 0) -> Iterator[str]:
        yield str(1 // count)

    async def async_generator(count: int = 0) -> AsyncIterator[str]:
        yield str(1 // count)

    async def handler() -> Any:
        return generator() if kind == "generator" else async_generator()

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        await router.failure(router.http())
        assert router.all_of(Answer) == []


@in_virtual_time
async def test_a_stream_of_nothing_is_an_empty_answer() -> None:
    async def handler() -> AsyncIterator[str]:
        for part in list[str]():
            yield part

    async with replica_of(handler) as replica:
        router = RawRouter(replica)
        assert (await router.reply(router.http())).body == b""


# When slots and leases are given back


@pytest.mark.parametrize("kind", ["call", "value", "response", "stream", "streaming response", "failure"])
@in_virtual_time
async def test_slot_and_leases_are_given_back_before_the_last_frame(kind: str) -> None:
    class Application:
        async def __call__(self) -> Any:
            await use_model()
            if kind == "failure":
                raise ValueError
            answers = {"response": PlainTextResponse("done"), "stream": async_parts()}
            return answers.get(kind) or (StreamingResponse(async_parts()) if kind == "streaming response" else "done")

    async with replica_of(Application) as replica:
        spy = SpyLink(replica)
        replica.received(spy, messages.Hello(messages.VERSION), b"")
        http = None if kind == "call" else messages.HTTPHead("GET", "/", b"/", b"", "", "http", "1.1", [], None, None)
        begin = messages.Begin(1, "r", "app", "/", "__call__", "", False, http)
        replica.received(spy, begin, payload.dumps(((), {})) if http is None else b"")
        assert replica.ongoing == 1
        await turns(50)
        assert spy.at(-1, Answer, Chunk, Fail) == (0, 0)
        if "stream" in kind:
            assert spy.at(0, Answer) == (1, 1)
            assert spy.at(-2, Answer, Chunk) == (1, 1)


@in_virtual_time
async def test_a_background_task_runs_after_the_answer_and_keeps_slot_and_leases_until_it_has_ended() -> None:
    ends: list[int] = []

    async def work() -> None:
        await asyncio.sleep(10)
        ends.append(leases_held(replica))

    async def handler() -> Response:
        await use_model()
        return PlainTextResponse("done", background=BackgroundTask(work))

    async with replica_of(handler, max_ongoing_requests=1) as replica:
        router = RawRouter(replica)
        assert (await router.reply(router.http())).body == b"done"
        assert (replica.ongoing, leases_held(replica), ends) == (1, 1, [])
        await router.first_of(Ongoing)
        assert (replica.ongoing, leases_held(replica), ends) == (0, 0, [1])
