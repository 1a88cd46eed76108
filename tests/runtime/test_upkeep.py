"""What a replica tells its controller, and what it does when it is asked."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from virtual_time import in_virtual_time, turns

from modelplex.runtime.servable import Servable
from modelplex.runtime.upkeep import REPORT_S, Upkeep
from modelplex.wire.messages import CheckHealth, Done, Load, Message, Reconfigure

IDLE = Load(0.0, {}, [], 3)


class Asked:
    """A user's object."""

    def __init__(self) -> None:
        self.configs: list[Any] = []
        self.checks: Callable[[], Awaitable[None]] | None = None

    async def reconfigure(self, user_config: Any) -> None:
        self.configs.append(user_config)

    async def check_health(self) -> None:
        if self.checks is not None:
            await self.checks()


class World:
    """A replica that has this load."""

    def __init__(self) -> None:
        self.user = Asked()
        self.servable = Servable(self.user, 1)
        self.now = IDLE
        self.said: list[Message] = []
        self.upkeep = Upkeep(self, self.said.append)

    def load(self) -> Load:
        return self.now

    async def done(self, message: Message) -> Done:
        """What it answers to a question."""
        self.upkeep.received(message)
        await turns(10)
        found = [m for m in self.said if isinstance(m, Done)]
        assert found, "it was never answered"
        return found[-1]

    @property
    def loads(self) -> list[Load]:
        return [m for m in self.said if isinstance(m, Load)]


@in_virtual_time
async def test_a_load_is_told_when_it_has_changed() -> None:
    world = World()
    await asyncio.sleep(3.5 * REPORT_S)
    assert world.loads == [IDLE]
    world.now = busy = Load(1.5, {"a": 0}, [], 3)
    await asyncio.sleep(2 * REPORT_S)
    assert world.loads == [IDLE, busy]
    await world.upkeep.close()
    world.now = IDLE
    await asyncio.sleep(10 * REPORT_S)
    assert world.loads == [IDLE, busy]


@pytest.mark.parametrize("load", [Load(1.0, {"a": 2}, [], 3), Load(1.0, {"a": 0}, [("a", 0.5)], 3)])
@in_virtual_time
async def test_as_much_again_is_told_again(load: Load) -> None:
    world = World()
    world.now = load
    await asyncio.sleep(3.5 * REPORT_S)
    assert world.loads == [load] * 3
    await world.upkeep.close()


@in_virtual_time
async def test_a_new_controller_is_told_at_once_what_the_old_one_knew() -> None:
    world = World()
    await asyncio.sleep(2.5 * REPORT_S)
    assert world.loads == [IDLE]
    world.upkeep.report()
    assert world.loads == [IDLE] * 2
    await asyncio.sleep(5 * REPORT_S)
    assert world.loads == [IDLE] * 2
    await world.upkeep.close()


@in_virtual_time
async def test_a_new_configuration_reaches_the_users_object() -> None:
    world = World()
    assert await world.done(Reconfigure(7, json.dumps({"a": [1, None]}).encode())) == Done(7, "")
    assert world.user.configs == [{"a": [1, None]}]
    await world.upkeep.close()


class Unprintable(Exception):  # noqa: N818 - users name theirs as they like
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("not well"), "ValueError: not well"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt: "),
        (asyncio.CancelledError("its own"), "CancelledError: its own"),
        (pytest.fail.Exception("failed"), "Failed: failed"),
        (Unprintable(), "Unprintable"),
        (ValueError("a file named \udcff"), "ValueError: a file named \\udcff"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
@in_virtual_time
async def test_whatever_the_users_method_raises_is_the_answer(error: BaseException, words: str) -> None:
    world = World()

    async def raises() -> None:
        raise error

    world.user.checks = raises
    assert await world.done(CheckHealth(3)) == Done(3, words)
    assert await world.done(Reconfigure(4, b"1")) == Done(4, "")
    await world.upkeep.close()


@in_virtual_time
async def test_a_check_that_hangs_holds_up_nothing_and_ends_with_the_replica() -> None:
    world = World()
    world.user.checks = asyncio.Event().wait  # type: ignore[assignment]
    world.upkeep.received(CheckHealth(1))
    assert await world.done(Reconfigure(2, b"null")) == Done(2, "")
    await world.upkeep.close()
    assert [m for m in world.said if isinstance(m, Done)] == [Done(2, "")]
    assert asyncio.all_tasks() == {asyncio.current_task()}


@in_virtual_time
async def test_what_ends_before_it_begins_leaves_nothing() -> None:
    world = World()
    world.upkeep.received(CheckHealth(1))
    await world.upkeep.close()
    assert world.said == []
