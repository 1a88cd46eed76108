"""The timer and the words round the decisions of `core.scaling`."""

import asyncio
from typing import Any

import pytest
from virtual_time import in_virtual_time

from modelplex import errors
from modelplex.config import AutoscalingConfig
from modelplex.core.replica_load import ReplicaLoad
from modelplex.core.scaling import ScalingContext
from modelplex.runtime.scaling import Scaling


def options(**changes: Any) -> AutoscalingConfig:
    numbers: dict[str, Any] = {
        "min_replicas": 1,
        "max_replicas": 5,
        "target_ongoing_requests": 1,
        "look_back_period_s": 1,
        "metrics_interval_s": 2,
        "upscale_delay_s": 5,
        "downscale_delay_s": 7,
    }
    return AutoscalingConfig(**{**numbers, **changes})


class World:
    def __init__(self, current: int = 1, **changes: Any) -> None:
        self.resized: list[tuple[int, float]] = []
        self.looks: list[float] = []
        self.scaling = Scaling("app", "D", options(**changes), current, self.resize)
        decide = self.scaling._core.decide

        def noted(now: float) -> int:
            self.looks.append(now)
            return decide(now)

        self.scaling._core.decide = noted  # type: ignore[method-assign]

    def resize(self, count: int) -> None:
        self.resized.append((count, asyncio.get_running_loop().time()))

    async def told(self, ongoing: float, seconds: int) -> None:
        """A replica reports every second."""
        for _ in range(seconds):
            self.scaling.told_replica("r", ReplicaLoad(ongoing))
            await asyncio.sleep(1)


@in_virtual_time
async def test_it_looks_when_the_core_says_so() -> None:
    world = World()
    await asyncio.sleep(9)
    assert world.looks == [2, 4, 6, 8]
    world.scaling.close()


@in_virtual_time
async def test_a_delay_ends_between_two_looks() -> None:
    world = World()
    await world.told(3, 12)
    # More are wanted at 2, so it is done at 7, which is between the looks at 6 and 8.
    assert world.resized == [(3, 7)]
    assert 7 in world.looks
    assert world.scaling.target == 3
    assert "3 requests run or wait" in world.scaling.why
    world.scaling.close()


@in_virtual_time
async def test_whoever_starts_replicas_is_told_once_of_each_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    world = World()
    await world.told(2, 20)
    await world.told(0, 20)
    assert [count for count, _ in world.resized] == [2, 1]
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in lines] == [
        "app_D is to have 2 replicas in place of 1",
        "app_D is to have 1 replicas in place of 2",
    ]
    world.scaling.close()


@in_virtual_time
async def test_what_waits_where_nothing_runs_is_not_kept_waiting() -> None:
    world = World(current=0, min_replicas=0)
    await asyncio.sleep(3.5)
    world.scaling.told_waiting("proxy", 1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert world.resized == [(1, 3.5)]
    world.scaling.close()


@in_virtual_time
async def test_what_a_caller_that_has_gone_said_counts_no_more() -> None:
    world = World(current=1)
    for _ in range(3):
        world.scaling.told_waiting("proxy", 4)
        await asyncio.sleep(1)
    world.scaling.source_gone("proxy")
    await asyncio.sleep(30)
    assert world.resized == []
    world.scaling.close()


@in_virtual_time
async def test_what_a_replica_that_has_gone_said_counts_no_more() -> None:
    world = World(current=1)
    await world.told(4, 3)
    world.scaling.replica_gone("r")
    await asyncio.sleep(30)
    assert world.resized == []
    world.scaling.close()


@in_virtual_time
async def test_other_options_go_for_what_is_wanted_and_when_it_is_looked_at() -> None:
    world = World(current=4)
    assert world.scaling.set_options(options(max_replicas=2, metrics_interval_s=1)) == 2
    await asyncio.sleep(2.5)
    assert world.looks == [1, 2]
    assert world.scaling.target == 2
    assert world.resized == []  # who gave the options was answered
    world.scaling.close()


@in_virtual_time
async def test_a_policy_of_the_users_decides() -> None:
    def policy(context: ScalingContext) -> int:
        assert (context.app_name, context.deployment_name) == ("app", "D")
        return 4

    world = World(policy=policy, upscale_delay_s=0)
    await asyncio.sleep(3)
    assert world.resized == [(4, 2)]
    world.scaling.close()


@in_virtual_time
async def test_an_error_of_the_policy_is_logged_once_until_it_is_another(caplog: pytest.LogCaptureFixture) -> None:
    errors: list[Exception | None] = [ValueError("one")] * 3 + [None] + [ValueError("one")] + [KeyError("two")] * 2

    def policy(context: ScalingContext) -> int:
        error = errors.pop(0)
        if error is not None:
            raise type(error)(*error.args)  # as real ones are: another object each time
        return 1

    world = World(policy=policy)
    await asyncio.sleep(2 * len(errors) + 1)
    world.scaling.close()
    assert errors == []
    logged = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [str(record.exc_info[1]) for record in logged if record.exc_info] == ["one", "one", "'two'"]
    assert {record.getMessage() for record in logged} == {"The autoscaling policy of app_D has failed."}
    assert world.resized == []


def three(context: ScalingContext) -> int:
    return 3


@in_virtual_time
async def test_a_policy_may_be_named() -> None:
    world = World(policy=f"{__name__}:three", upscale_delay_s=0)
    await asyncio.sleep(3)
    assert world.resized == [(3, 2)]
    world.scaling.close()


@pytest.mark.parametrize("name", ["no_such_module:policy", f"{__name__}:nothing"])
@in_virtual_time
async def test_a_policy_that_cannot_be_imported_is_an_error_that_says_so(name: str) -> None:
    with pytest.raises(errors.DeploymentFailedError, match=f"{name}' cannot be imported"):
        World(policy=name)
    world = World()
    with pytest.raises(errors.DeploymentFailedError, match=f"{name}' cannot be imported"):
        world.scaling.set_options(options(policy=name, max_replicas=1))
    assert world.scaling._core._options.max_replicas == 5  # nothing has changed
    world.scaling.close()


@in_virtual_time
async def test_after_closing_nothing_is_decided_whatever_is_told() -> None:
    world = World()
    await world.told(3, 3)
    world.scaling.close()
    looks = list(world.looks)
    await world.told(3, 20)
    world.scaling.told_waiting("proxy", 5)
    world.scaling.set_options(options())
    await asyncio.sleep(20)
    assert (world.looks, world.resized) == (looks, [])
