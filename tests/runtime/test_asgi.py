"""ASGI apps on a replica: what they are told and what becomes of what they say."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from one_model import use_model
from raw_router import RawRouter, leases_held, replica_of
from virtual_time import in_virtual_time, turns

from modelplex import context, serve
from modelplex.runtime.asgi import LEAVE_TIMEOUT_S
from modelplex.runtime.replica import Replica
from modelplex.runtime.streams import WINDOW_BYTES
from modelplex.wire import framing, messages, websocket

App = Callable[[Any, Any, Any], Awaitable[None]]

START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": [(b"x-own", b"yes")]}


def body(data: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def behind(app: App) -> type:
    async def without_lifespan(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] != "lifespan"
        await app(scope, receive, send)

    @serve.ingress(without_lifespan)
    class Behind:
        pass

    return Behind


# HTTP


@in_virtual_time
async def test_an_app_is_asked_and_its_answer_is_sent() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked = await receive()
        await send(START)
        await send(body(b"%s %s" % (scope["method"].encode(), asked["body"])))

    async with replica_of(behind(app)) as replica:
        router = RawRouter(replica)
        reply = await router.reply(router.http("POST", body=b"data"))
        assert (reply.head.status, reply.header(b"x-own"), reply.body) == (200, b"yes", b"POST data")


@in_virtual_time
async def test_an_answer_in_parts_is_sent_part_by_part() -> None:
    go_on = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(body(b"one ", more=True))
        await go_on.wait()
        await send(body(b"two", more=True))
        await send(body(b""))

    async with replica_of(behind(app)) as replica:
        router = RawRouter(replica)
        stream = router.http()
        assert (await router.first_of(messages.Answer, stream)).more
        go_on.set()
        assert (await router.reply(stream)).body == b"one two"


@pytest.mark.parametrize(
    "said",
    [
        [],
        [START],
        [body(b"too early")],
        [START, START],
        [{**START, "headers": [("text", "for bytes")]}, body(b"")],
        [{**START, "status": None}, body(b"")],
        [START, {"type": "http.response.body", "body": "text"}],
        [{"type": "websocket.accept"}],
    ],
)
@in_virtual_time
async def test_what_is_no_answer_is_the_apps_fault_and_nobody_elses(said: list[Any]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in said if scope["path"] == "/bad" else [START, body(b"good")]:
            await send(message)

    async with replica_of(behind(app)) as replica:
        router = RawRouter(replica)
        fail, _ = await router.failure(router.http(path="/bad"))
        assert fail.error == "UserCodeError"
        assert (await router.reply(router.http())).body == b"good"


@pytest.mark.parametrize("ending", ["raises", "returns"])
@in_virtual_time
async def test_an_answer_that_stops_midway_is_broken_off(ending: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(body(b"part", more=True))
        if ending == "raises":
            raise KeyError

    async with replica_of(behind(app)) as replica:
        router = RawRouter(replica)
        stream = router.http()
        await router.first_of(messages.Answer, stream)
        assert (await router.failure(stream))[0].error == "UserCodeError"


@in_virtual_time
async def test_the_models_and_the_slot_are_the_requests_until_the_app_returns() -> None:
    may_end = asyncio.Event()
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def elsewhere() -> None:
            await use_model()
            seen.append(context.get_multiplexed_model_id())

        await asyncio.create_task(elsewhere())
        await send(START)
        await send(body(b"all"))
        await may_end.wait()

    async with replica_of(behind(app)) as replica:
        router = RawRouter(replica)
        await router.reply(router.http(model_id="m"))
        assert (replica.ongoing, leases_held(replica), seen) == (1, 1, ["m"])
        may_end.set()
        await turns(5)
        assert (replica.ongoing, leases_held(replica)) == (0, 0)


@in_virtual_time
async def test_after_the_end_of_the_answer_there_is_nobody_to_listen_to_or_to_speak_to() -> None:
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        waits = asyncio.create_task(receive())
        await waits
        waits = asyncio.create_task(receive())
        await turns(2)
        await send(START)
        await send(body(b"all"))
        told.append((await waits)["type"])
        with pytest.raises(RuntimeError, match="at this point"):
            await send(body(b"more"))

    async with replica_of(behind(app)) as replica:
        router = RawRouter(replica)
        await router.reply(router.http())
        await turns(5)
        assert told == ["http.disconnect"]


@in_virtual_time
async def test_an_app_that_listens_hears_that_its_client_has_left() -> None:
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        told.append((await receive())["type"])
        with pytest.raises(OSError, match="left"):
            await send(START)
        await asyncio.sleep(LEAVE_TIMEOUT_S / 2)
        told.append("cleaned up")

    async with replica_of(behind(app)) as replica:
        router = RawRouter(replica)
        stream = router.http()
        await turns(5)
        router.leave(stream)
        await asyncio.sleep(LEAVE_TIMEOUT_S)
        assert told == ["http.disconnect", "cleaned up"]
        assert replica.ongoing == 0


@pytest.mark.parametrize(("listens", "after_s"), [(True, LEAVE_TIMEOUT_S), (False, 0.0)])
@in_virtual_time
async def test_an_app_that_goes_on_without_a_client_is_cancelled(listens: bool, after_s: float) -> None:
    ended: list[float] = []
    clock = asyncio.get_running_loop().time

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        try:
            if listens:
                await receive()
            await asyncio.sleep(1000)
        finally:
            ended.append(clock())

    async with replica_of(behind(app)) as replica:
        router = RawRouter(replica)
        stream = router.http()
        await asyncio.sleep(1)
        router.leave(stream)
        await asyncio.sleep(2 * LEAVE_TIMEOUT_S)
        assert ended == [1 + after_s]
        assert not router.all_of(messages.Fail)


@in_virtual_time
async def test_a_client_that_has_all_of_its_answer_does_not_end_what_comes_after_it() -> None:
    done: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "headers": [(b"content-length", b"3")]})
        await send(body(b"all", more=True))
        await asyncio.sleep(100)
        await send(body(b""))
        done.append("background")

    async with replica_of(behind(app)) as replica:
        router = RawRouter(replica)
        stream = router.http()
        await router.first_of(messages.Answer, stream)
        router.leave(stream)
        await asyncio.sleep(101)
        assert done == ["background"]


@in_virtual_time
async def test_a_replica_that_stops_waits_no_longer_than_told_for_an_app_that_listens() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()
        await asyncio.sleep(1000)

    async with replica_of(behind(app)) as replica:
        router = RawRouter(replica)
        router.http()
        await turns(5)
        await replica.stop(1.0)
        assert asyncio.get_running_loop().time() < 5


@in_virtual_time
async def test_an_upload_is_read_as_fast_as_the_app_takes_it() -> None:
    read = asyncio.Semaphore(0)
    taken: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            await read.acquire()
            message = await receive()
            taken.append(len(message["body"]))
            more = message["more_body"]
        await send(START)
        await send(body(b""))

    async with replica_of(behind(app)) as replica:
        router = RawRouter(replica)
        part = b"x" * (WINDOW_BYTES // 4)
        stream = router.http("PUT", body=part, more=True)
        for _ in range(3):
            router.chunk(stream, part, more=True)
        await turns(10)
        assert (taken, router.all_of(messages.Credit)) == ([], [])
        for _ in range(3):
            read.release()
        await turns(10)
        assert len(taken) == 3
        assert router.all_of(messages.Credit)
        router.chunk(stream, b"end", more=False)
        read.release()
        read.release()
        await router.reply(stream)
        assert sum(taken) == 4 * len(part) + 3


@in_virtual_time
async def test_an_upload_that_its_client_gives_up_ends_with_a_disconnect() -> None:
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request":
            told.append(message["body"].decode())
        told.append(message["type"])

    async with replica_of(behind(app)) as replica:
        router = RawRouter(replica)
        stream = router.http("PUT", body=b"one", more=True)
        await turns(5)
        router.leave(stream)
        await turns(5)
        assert told == ["one", "http.disconnect"]


@in_virtual_time
async def test_an_app_may_answer_before_it_has_read_everything() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "status": 413})
        await send(body(b"too much"))

    async with replica_of(behind(app)) as replica:
        router = RawRouter(replica)
        reply = await router.reply(router.http("PUT", body=b"one", more=True))
        assert (reply.head.status, reply.body) == (413, b"too much")


# WebSockets


def text(data: str) -> bytes:
    return framing.part(websocket.TEXT + data.encode())


def close(code: int, reason: str = "") -> bytes:
    return framing.part(websocket.close(code, reason))


def socket(router: RawRouter, **says: Any) -> int:
    return router.http(scheme="ws", more=True, **says)


async def accepted(router: RawRouter, stream: int) -> messages.Answer:
    answer = await router.first_of(messages.Answer, stream)
    assert answer.status == 101
    return answer


async def said(router: RawRouter, stream: int) -> list[bytes]:
    """The messages of the app, to the end."""
    return framing.PartReader().feed((await router.reply(stream)).body)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await use_model()
    await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0], "headers": [(b"x-own", b"yes")]})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})
    notes.append((message["code"], message["reason"]))


notes: list[Any] = []


@pytest.fixture(autouse=True)
def _no_notes() -> None:
    notes.clear()


@in_virtual_time
async def test_messages_go_both_ways_until_the_client_closes() -> None:
    async with replica_of(behind(echo)) as replica:
        router = RawRouter(replica)
        stream = socket(router, headers=[(b"sec-websocket-protocol", b"chat, news")])
        answer = await accepted(router, stream)
        assert answer.headers == [(b"sec-websocket-protocol", b"chat"), (b"x-own", b"yes")]
        assert (replica.ongoing, leases_held(replica)) == (1, 1)
        binary = framing.part(websocket.BINARY + b"\xff" * 100_000)
        whole = text("one") + text("") + binary + close(4000, "bye")
        for at in range(0, len(whole), 50_000):
            router.chunk(stream, whole[at : at + 50_000], more=at + 50_000 < len(whole))
        assert await said(router, stream) == [b"tone", b"t", b"b" + b"\xff" * 100_000, websocket.close(4000, "bye")]
        assert notes == [(4000, "bye")]
        assert (replica.ongoing, leases_held(replica)) == (0, 0)


@in_virtual_time
async def test_a_client_that_vanishes_is_a_disconnect_and_frees_slot_and_model() -> None:
    async with replica_of(behind(echo)) as replica:
        router = RawRouter(replica)
        stream = socket(router, headers=[(b"sec-websocket-protocol", b"chat")])
        await accepted(router, stream)
        router.leave(stream)
        await turns(10)
        assert notes == [(1006, "")]
        assert (replica.ongoing, leases_held(replica)) == (0, 0)


@in_virtual_time
async def test_an_app_that_only_sends_learns_that_nobody_is_there() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while True:
                await send({"type": "websocket.send", "text": "tick"})
                await asyncio.sleep(1)
        except OSError as error:
            notes.append(str(error))

    async with replica_of(behind(app)) as replica:
        router = RawRouter(replica)
        stream = socket(router)
        await accepted(router, stream)
        router.leave(stream)
        await asyncio.sleep(2)
        assert notes == ["The client has left."]


@in_virtual_time
async def test_a_client_that_takes_nothing_holds_up_the_app() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "bytes": b"x" * 1000})
            notes.append(1000)

    async with replica_of(behind(app)) as replica:
        router = RawRouter(replica, gives_credit=False)
        stream = socket(router)
        await accepted(router, stream)
        await asyncio.sleep(10)
        assert sum(notes) <= WINDOW_BYTES
        router.leave(stream)
        await asyncio.sleep(1)
        assert replica.ongoing == 0


async def refuses(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 4000})


async def denies(scope: Any, receive: Any, send: Any) -> None:
    assert "websocket.http.response" in scope["extensions"]
    await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
    await send({"type": "websocket.http.response.body", "body": b"who ", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"are you?"})


@pytest.mark.parametrize(("app", "status", "words"), [(refuses, 403, b"Forbidden"), (denies, 401, b"who are you?")])
@in_virtual_time
async def test_an_app_may_refuse_a_socket(app: App, status: int, words: bytes) -> None:
    async with replica_of(behind(app)) as replica:
        router = RawRouter(replica)
        reply = await router.reply(socket(router))
        assert (reply.head.status, reply.body) == (status, words)


@pytest.mark.parametrize(
    ("sends", "last"),
    [
        ([{"type": "websocket.close", "code": 4001, "reason": "enough"}], websocket.close(4001, "enough")),
        ([{"type": "websocket.close"}], websocket.close(1000)),
        ([], websocket.close(1000)),
    ],
)
@in_virtual_time
async def test_the_last_word_of_an_app_is_its_close(sends: list[Any], last: bytes) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        waits = asyncio.create_task(receive())
        await turns(2)
        await send({"type": "websocket.accept"})
        for message in sends:
            await send(message)
            with pytest.raises(RuntimeError, match="at this point"):
                await send({"type": "websocket.send", "text": "more"})
            notes.append((await waits)["code"])
        waits.cancel()

    async with replica_of(behind(app)) as replica:
        router = RawRouter(replica)
        stream = socket(router)
        assert (await said(router, stream))[-1:] == [last]
        await turns(5)
        assert notes == [message.get("code", 1000) for message in sends]


@pytest.mark.parametrize(
    "sends",
    [
        [],
        [{"type": "websocket.send", "text": "too early"}],
        [{"type": "websocket.accept"}, {"type": "websocket.accept"}],
        [{"type": "websocket.accept"}, {"type": "websocket.send"}],
        [{"type": "websocket.accept"}, {"type": "websocket.close", "code": 70_000}],
        [{"type": "websocket.accept", "headers": [("text", "for bytes")]}],
        [{"type": "http.response.start", "status": 200, "headers": []}],
    ],
)
@in_virtual_time
async def test_what_an_app_may_not_say_to_a_socket_is_its_fault(sends: list[Any]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in sends:
            await send(message)

    async with replica_of(behind(app)) as replica:
        router = RawRouter(replica)
        assert (await router.failure(socket(router)))[0].error == "UserCodeError"


@in_virtual_time
async def test_a_deployment_without_an_app_refuses_sockets() -> None:
    async def plain() -> str:
        return "plain"

    async with replica_of(plain) as replica:
        router = RawRouter(replica)
        reply = await router.reply(socket(router))
        assert (reply.head.status, b"no ASGI app" in reply.body) == (400, True)
        assert (await router.reply(router.http())).body == b"plain"


# Lifespan


def with_lifespan(startup: Any, log: list[str]) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send(START)
            await send(body(f"{scope['state']}".encode()))
            scope["state"]["other"] = 1
            return
        assert (await receive())["type"] == "lifespan.startup"
        log.append(context.get_replica_context().deployment)
        scope["state"]["n"] = 1
        await send(startup)
        if startup["type"] == "lifespan.startup.complete":
            assert (await receive())["type"] == "lifespan.shutdown"
            log.append("shutdown")
            await send({"type": "lifespan.shutdown.complete"})

    return app


@in_virtual_time
async def test_an_app_lives_as_long_as_its_replica_and_its_state_goes_with_each_request() -> None:
    log: list[str] = []
    cls: Any = serve.ingress(with_lifespan({"type": "lifespan.startup.complete"}, log))(type("D", (), {}))
    async with replica_of(cls) as replica:
        router = RawRouter(replica)
        assert log == ["D"]
        for _ in range(2):
            assert (await router.reply(router.http())).body == b"{'n': 1}"
    assert log == ["D", "shutdown"]


@in_virtual_time
async def test_an_app_that_fails_to_start_fails_the_replica_with_its_words() -> None:
    startup = {"type": "lifespan.startup.failed", "message": "no database"}
    cls: Any = serve.ingress(with_lifespan(startup, []))(type("D", (), {}))
    with pytest.raises(Exception, match="failed to start: no database"):
        async with replica_of(cls):
            pass


@in_virtual_time
async def test_an_app_that_does_not_end_is_given_up() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await asyncio.sleep(1000)

    replica: Replica
    async with replica_of(serve.ingress(app)(type("D", (), {}))) as replica:
        await replica.stop(0.0)
        assert asyncio.get_running_loop().time() < 100


@pytest.mark.parametrize("is_async", [True, False])
@in_virtual_time
async def test_a_builder_is_called_in_the_replica(is_async: bool) -> None:
    def build() -> App:
        deployment = context.get_replica_context().deployment.encode()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(START)
            await send(body(deployment))

        return app

    async def build_async() -> App:
        return build()

    async with replica_of(serve.ingress(build_async if is_async else build)(type("D", (), {}))) as replica:
        router = RawRouter(replica)
        assert (await router.reply(router.http())).body == b"D"


@in_virtual_time
async def test_a_builder_that_builds_nothing_fails_the_replica() -> None:
    with pytest.raises(TypeError, match="must return an ASGI app"):
        async with replica_of(serve.ingress(lambda: None)(type("D", (), {}))):
            pass
