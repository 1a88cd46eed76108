"""The state of a system once a second, in virtual time."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from asked_admin import Asked, asked
from inline_app import app_of
from proxy_client import Wire
from told_traffic import told_traffic

from modelplex import serve
from modelplex.runtime import admin_events
from modelplex.testing import run_virtual


class Shops:
    @serve.multiplexed(max_num_models_per_replica=4)
    async def get_model(self, model_id: str) -> str:
        await asyncio.sleep(float(model_id))
        return model_id

    async def __call__(self) -> None:
        await self.get_model(serve.get_multiplexed_model_id())


def in_world(check: Callable[[Asked], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asked() as world, asyncio.timeout(10_000):
            await check(world)

    run_virtual(main())


class Listener:
    """Follows the events."""

    def __init__(self, world: Asked) -> None:
        self.wire: Wire = world.wire()
        self._left = b""

    async def begin(self) -> bytes:
        """The head of the answer."""
        self.wire.say(b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        return await self.wire.read()

    async def state(self) -> Any:
        while b"\n\n" not in self._left:
            data = await self.wire.read()
            assert data, "the stream has ended"
            self._left += data
        _, _, event = self._left.partition(b"event: state\ndata: ")
        event, _, self._left = event.partition(b"\n\n")
        return json.loads(event)


def test_each_second_everybody_who_listens_is_told_all_of_it() -> None:
    async def check(world: Asked) -> None:
        handle = await world.cluster.run(app_of(Shops))
        await handle.options(multiplexed_model_id="3").remote()
        await handle.options(multiplexed_model_id="5").remote()
        own = world.cluster.controller.survey.own_topics
        own["metrics"] = lambda _: told_traffic(
            ("warm", "ok", 5), ("cold", "ok", 2), ("cold", "error", 1)
        )  # 2 more are the replicas'
        own["decisions"] = lambda asked: [{"at": 1.0, "text": "why"}] * asked["limit"]
        first, second = Listener(world), Listener(world)
        head = await first.begin()
        assert b"content-type: text/event-stream" in head
        assert b"cache-control: no-store" in head
        await second.begin()
        loop = asyncio.get_running_loop()
        began, states = loop.time(), [await first.state() for _ in range(4)]
        assert loop.time() - began == pytest.approx(3)
        assert [await second.state() for _ in range(4)] == states
        state = states[-1]
        assert state["status"]["applications"]["default"]["status"] == "RUNNING"
        assert [m["id"] for m in state["replicas"][0]["loaders"][0]["models"]] == ["3", "5"]
        assert state["traffic"] == {"warm": 5, "cold": 5, "joined": 0, "none": 0, "errors": 1, "queued": 2}
        assert [(s["model_id"], s["load_s"]) for s in state["slowest_loads"]] == [("5", 5), ("3", 3)]
        assert len(state["decisions"]) == 50
        first.wire.leave()
        second.wire.leave()

    in_world(check)


def test_nobody_is_asked_while_nobody_listens() -> None:
    async def check(world: Asked) -> None:
        asks = 0

        def count(_: Any) -> Any:
            nonlocal asks
            asks += 1
            return []

        world.cluster.controller.survey.own_topics["metrics"] = count
        await asyncio.sleep(10)
        assert asks == 0
        for _ in range(2):  # whoever comes back finds it running again
            listeners = [Listener(world) for _ in range(5)]
            for listener in listeners:
                await listener.begin()
            for listener in listeners:
                await listener.state()
                listener.wire.leave()
            before = asks
            await asyncio.sleep(10)
            assert asks == before
        assert asks <= 4

    in_world(check)


def test_a_listener_that_takes_nothing_is_dropped_and_others_go_on() -> None:
    async def check(world: Asked) -> None:
        slow, quick = Listener(world), Listener(world)
        await slow.begin()
        await quick.begin()
        slow.wire.connection.pause_writing()
        for _ in range(15):
            await quick.state()
        assert slow.wire.is_closed
        assert not quick.wire.is_closed
        quick.wire.leave()

    in_world(check)


def test_there_is_an_end_to_how_many_may_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_events, "LISTENERS_MAX", 2)

    async def check(world: Asked) -> None:
        listeners = [Listener(world) for _ in range(3)]
        heads = [await listener.begin() for listener in listeners]
        assert [head.split()[1] for head in heads] == [b"200", b"200", b"503"]
        listeners[0].wire.leave()
        await asyncio.sleep(1)
        another = Listener(world)
        assert (await another.begin()).split()[1] == b"200"
        for listener in (*listeners, another):
            listener.wire.leave()

    in_world(check)


def test_a_system_that_takes_longer_to_answer_is_told_of_less_often() -> None:
    async def check(world: Asked) -> None:
        survey = world.cluster.controller.survey
        original = survey.ask

        async def slowly(*args: Any, **options: Any) -> Any:
            await asyncio.sleep(3)
            return await original(*args, **options)

        survey.ask = slowly  # type: ignore[method-assign]
        listener = Listener(world)
        await listener.begin()
        began = asyncio.get_running_loop().time()
        for _ in range(3):
            await listener.state()
        assert asyncio.get_running_loop().time() - began == pytest.approx(9)
        listener.wire.leave()

    in_world(check)


def test_a_fault_of_ours_ends_no_stream(caplog: pytest.LogCaptureFixture) -> None:
    async def check(world: Asked) -> None:
        own = world.cluster.controller.survey.own_topics
        own["decisions"] = lambda _: [{"no": "time"}]
        listener = Listener(world)
        await listener.begin()
        await asyncio.sleep(3)
        assert "could not be put together" in caplog.text
        del own["decisions"]
        await listener.state()
        listener.wire.leave()

    in_world(check)


def test_the_end_of_the_interface_ends_the_streams() -> None:
    async def check(world: Asked) -> None:
        listener = Listener(world)
        await listener.begin()
        await listener.state()
        await world.admin.close()
        assert listener.wire.is_closed

    in_world(check)


def test_who_asks_once_at_a_time_is_told_sums_that_do_not_fall() -> None:
    async def check(world: Asked) -> None:
        own = world.cluster.controller.survey.own_topics
        own["metrics"] = lambda _: told_traffic(("warm", "ok", 5))
        assert (await world.ask("GET", "/v1/state"))[1]["traffic"]["warm"] == 5
        own["metrics"] = lambda _: 1 / 0
        assert (await world.ask("GET", "/v1/state"))[1]["traffic"]["warm"] == 5

    in_world(check)
