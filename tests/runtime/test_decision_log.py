"""Whole stories of requests and models, from the rings of all processes, and how the admin interface tells them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from inline_app import app_of, replicas_of
from router_alone import router_to, soon
from scripted_replica import ScriptedReplica

from modelplex import errors, serve
from modelplex.runtime import decision_log, steering
from modelplex.runtime.survey import Survey
from modelplex.serve import DeploymentHandle
from modelplex.testing import InlineCluster, run_virtual

LOAD_S = 0.5


class Shop:
    """Two models fit. One whose name says so does not load."""

    @serve.multiplexed(max_num_models_per_replica=2)
    async def get_model(self, model_id: str) -> str:
        await asyncio.sleep(LOAD_S)
        if model_id == "bad":
            raise ValueError("no \x1b[31mweights")
        return model_id

    async def __call__(self, wait_s: float = 0.0) -> str:
        model = await self.get_model(serve.get_multiplexed_model_id())
        await asyncio.sleep(wait_s)
        return str(model)


class World:
    def __init__(self, cluster: InlineCluster, handle: DeploymentHandle) -> None:
        self.cluster = cluster
        self.handle = handle

    def ask(self, model_id: str, *args: float, **options: Any) -> Any:
        """The response of a handle."""
        return self.handle.options(multiplexed_model_id=model_id, **options).remote(*args)

    async def found(self, **filters: Any) -> list[dict[str, Any]]:
        """The oldest first."""
        newest_first = await decision_log.decisions(self.cluster.controller.survey, filters)
        assert newest_first == sorted(newest_first, key=lambda each: each["at"], reverse=True)
        return newest_first[::-1]

    async def story(self, **filters: Any) -> list[tuple[str, str, str]]:
        """Kinds, why, and the model."""
        return [(each["kind"], each["why"], each["model_id"]) for each in await self.found(**filters)]


@asynccontextmanager
async def shop(**options: Any) -> AsyncIterator[World]:
    async with InlineCluster() as cluster:
        yield World(cluster, await cluster.run(app_of(Shop, max_ongoing_requests=2, **options)))


def in_shop(check: Callable[[World], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        async with shop(**options) as world, asyncio.timeout(1000):
            await check(world)

    run_virtual(main())


def test_the_story_of_a_cold_request_has_its_route_the_eviction_the_load_and_its_end() -> None:
    async def check(world: World) -> None:
        for model_id in "aba":
            await world.ask(model_id)
        response = world.ask("c")
        await response
        found = await world.found(request_id=response.request_id)
        assert [(each["kind"], each["why"], each["model_id"]) for each in found] == [
            ("route", "least_harm", "c"),
            ("evict", "room", "b"),
            ("load", "demand", "c"),
            ("loaded", "loaded", "c"),
            ("end", "cold", "c"),
        ]
        [replica] = replicas_of(world.cluster)
        name = replica.context.replica_id
        assert [each["process"] for each in found] == ["controller", *[name] * 4]
        assert {each["request_id"] for each in found} == {response.request_id}
        _, evicted, load, _, _ = found
        assert (evicted["numbers"]["uses"], evicted["numbers"]["idle_models"]) == (1, 2)
        assert evicted["numbers"]["idle_s"] == pytest.approx(LOAD_S, abs=0.6)
        assert (load["numbers"]["models"], load["numbers"]["models_max"]) == (2, 2)
        assert load["numbers"]["expected_s"] == pytest.approx(LOAD_S)
        assert evicted["text"].endswith("to make room for c, used longest ago of 2 idle")

    in_shop(check)


def test_the_story_of_a_warm_request_is_short() -> None:
    async def check(world: World) -> None:
        await world.ask("a")
        response = world.ask("a")
        await response
        assert await world.story(request_id=response.request_id) == [
            ("route", "only_holder", "a"),
            ("end", "warm", "a"),
        ]

    in_shop(check)


def test_who_joins_a_load_hears_who_has_begun_it_and_who_waits_hears_for_what() -> None:
    async def check(world: World) -> None:
        responses = [world.ask("a", 0.1) for _ in range(3)]
        await asyncio.gather(*responses)
        first, joins, waits = [response.request_id for response in responses]
        assert await world.story(request_id=joins) == [
            ("route", "joins_load", "a"),
            ("load", "demand", "a"),
            ("wait", "load", "a"),
            ("loaded", "loaded", "a"),
            ("end", "joined", "a"),
        ]
        [wait] = [each for each in await world.found(request_id=joins) if each["kind"] == "wait"]
        assert f"being loaded, for request {first}" in wait["text"]
        assert await world.story(request_id=waits) == [
            ("wait", "only_holder", "a"),
            ("route", "turn", "a"),
            ("end", "warm", "a"),
        ]

    in_shop(check)


def test_a_load_that_fails_is_told_to_all_who_waited_and_remembered() -> None:
    async def check(world: World) -> None:
        responses = [world.ask("bad"), world.ask("bad")]
        assert all(
            isinstance(e, errors.ModelLoadError) for e in await asyncio.gather(*responses, return_exceptions=True)
        )
        late = world.ask("bad")
        with pytest.raises(errors.ModelLoadError):
            await late
        first, second = [await world.found(request_id=each.request_id) for each in responses]
        assert [each["kind"] for each in first] == ["route", "load", "load_failed", "reject", "end"]
        assert {each["why"] for each in second if each["kind"] == "reject"} == {"load_failed"}
        assert ("reject", "failed_recently", "bad") in await world.story(request_id=late.request_id)
        [failed] = [each for each in first if each["kind"] == "load_failed"]
        assert failed["why"] == "ValueError"
        assert failed["text"].endswith("ValueError: no \\x1b[31mweights")

    in_shop(check)


@pytest.mark.parametrize("left", ["while it waits", "while it runs"])
def test_a_request_that_is_cancelled_says_so(left: str) -> None:
    async def check(world: World) -> None:
        await world.ask("a")
        busy = [world.ask("a", 10.0) for _ in range(2 if left == "while it waits" else 0)]
        response = world.ask("a", 10.0)
        await asyncio.sleep(1.0)
        response.cancel()
        await asyncio.sleep(1.0)
        kinds = [kind for kind, _, _ in await world.story(request_id=response.request_id)]
        assert kinds == (["wait", "cancel"] if busy else ["route", "cancel", "end"])
        for each in busy:
            each.cancel()

    in_shop(check)


def test_a_request_whose_time_is_over_says_so() -> None:
    async def check(world: World) -> None:
        response = world.ask("a", 10.0, timeout_s=2.0)
        with pytest.raises(TimeoutError):
            await response
        assert ("cancel", "timeout", "a") in await world.story(request_id=response.request_id)

    in_shop(check)


class Keeps:
    @serve.multiplexed(max_num_models_per_replica=2, pinned=["a"], preload=["b"])
    async def get_model(self, model_id: str) -> str:
        return model_id

    async def __call__(self) -> str:
        return str(await self.get_model(serve.get_multiplexed_model_id()))


def test_what_is_loaded_for_no_request_says_what_for() -> None:
    async def main() -> None:
        async with InlineCluster() as cluster:
            world = World(cluster, await cluster.run(app_of(Keeps)))
            loads = [each for each in await world.found() if each["kind"] == "load"]
            assert [(each["why"], each["request_id"]) for each in loads] == [("pinned", ""), ("preload", "")]
            assert "since it is pinned" in loads[0]["text"]
            await world.ask("c")
            [evicted] = [each for each in await world.found() if each["kind"] == "evict"]
            assert (evicted["model_id"], evicted["why"]) == ("b", "room")
            await steering.load(cluster.directory, "default", "Keeps", "d")
            assert ("load", "asked", "d") in await world.story(model_id="d")

    run_virtual(main())


def test_a_model_that_is_loaded_again_is_loaded_for_who_asks_for_it_then() -> None:
    async def check(world: World) -> None:
        for model_id in "abc":
            await world.ask(model_id)
        again = world.ask("a")
        await again
        kinds = [kind for kind, _, model_id in await world.story(request_id=again.request_id) if model_id == "a"]
        assert kinds == ["route", "load", "loaded", "end"]

    in_shop(check)


SIZES = {"small": 30, "large": 90}


class Sized:
    @serve.multiplexed(max_bytes_per_replica=100, size_of=lambda model: SIZES[model])
    async def get_model(self, model_id: str) -> str:
        await asyncio.sleep(LOAD_S)
        return model_id

    async def __call__(self, wait_s: float = 0.0) -> str:
        model = await self.get_model(serve.get_multiplexed_model_id())
        await asyncio.sleep(wait_s)
        return str(model)


def test_what_pays_for_one_that_turned_out_larger_is_told_to_all_who_waited_for_that() -> None:
    async def main() -> None:
        async with InlineCluster() as cluster:
            world = World(cluster, await cluster.run(app_of(Sized)))
            holds = world.ask("small", 5.0)
            await asyncio.sleep(1.0)
            first = world.ask("large")
            await asyncio.sleep(1.0)  # it is loaded, and has to wait for the other one to be idle
            second = world.ask("large")
            await asyncio.gather(holds, first, second)
            for response in (first, second):
                story = await world.story(request_id=response.request_id)
                assert [kind for kind, _, _ in story].count("load") == 1
                assert ("evict", "size", "small") in story
            [wait] = [each for each in await world.found(request_id=second.request_id) if each["kind"] == "wait"]
            assert wait["why"] == "load"

    run_virtual(main())


def test_what_was_decided_about_a_model_is_found_by_its_id_also_what_went_for_it() -> None:
    async def check(world: World) -> None:
        for model_id in "abc":
            await world.ask(model_id)
        story = await world.story(model_id="a")
        assert [kind for kind, _, _ in story] == ["route", "load", "loaded", "end", "evict"]
        assert ("evict", "room", "a") in await world.story(model_id="c")
        assert await world.story(model_id="nothing") == []
        assert len(await world.found(limit=3)) == 3

    in_shop(check)


# What routers note of replicas that do not do as they are told


def test_refusals_and_losses_are_part_of_the_story() -> None:
    async def main() -> None:
        refuses, other = ScriptedReplica("refuses", room=1), ScriptedReplica("other", room=0)
        async with router_to(refuses, other) as requests:
            requests.send("m")
            await soon()
            refuses.refuse(1, ongoing=0, no_room=True)
            await soon()
            for replica in (refuses, other):
                if replica.streams[-1:] == [1] and replica.link is not None:
                    sent_last = replica
            sent_last.die()
            await soon()
            found = requests.router._notes._decisions.answer({"request_id": "r"})[::-1]
            assert [(each["kind"], each["why"]) for each in found[:2]] == [("route", "room"), ("refuse", "no_room")]
            assert ("lost", "replica_lost") in [(each["kind"], each["why"]) for each in found]
            assert [each["kind"] for each in found].count("route") == 3

    run_virtual(main())


# Put together


def test_processes_that_are_silent_are_left_out_and_nameless_ones_are_named() -> None:
    async def main() -> None:
        survey = Survey(list)
        survey.own_topics["decisions"] = lambda asked: [{"at": 1.0, "process": "", "asked": asked}]
        assert await decision_log.decisions(survey, {"limit": 5}) == [
            {"at": 1.0, "process": "controller", "asked": {"limit": 5}}
        ]
        assert await decision_log.decisions(Survey(list), {}) == []

    run_virtual(main())
