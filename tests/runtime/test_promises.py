"""Room in a replica is given to the request that comes for it first; what routers hear of room, models and harm."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakSet

import pytest
from raw_router import RawRouter, replica_of
from virtual_time import in_virtual_time, turns

from modelplex.multiplex import Loader, multiplexed
from modelplex.runtime.replica import Replica
from modelplex.wire.messages import ModelGone, ModelLoaded, ModelLoading, Refuse, Welcome


@pytest.fixture(autouse=True)
def no_loaders_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica counts every standalone loader of its process."""
    monkeypatch.setattr(Loader, "standalone", WeakSet())


class Two:
    """Room for two models. Loads take 10 s; what a request does first takes as long as it is asked to."""

    @multiplexed(max_num_models_per_replica=2)
    async def get_model(self, model_id: str) -> str:
        await asyncio.sleep(10)
        if model_id == "broken":
            raise ValueError("no such file")
        return model_id

    async def __call__(self, model_id: str, before_s: float = 0.0, after_s: float = 0.0) -> str:
        await asyncio.sleep(before_s)
        model: str = await self.get_model(model_id)
        await asyncio.sleep(after_s)
        return model

    async def without(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def ask(router: RawRouter, model_id: str, *args: Any, fits: bool = True) -> int:
    """A request whose model is expected to need no eviction."""
    return router.call("__call__", model_id, *args, model_id=model_id, fits=fits)


async def refusal(router: RawRouter, stream: int) -> Refuse:
    await turns(5)
    [refuse] = [r for r in router.all_of(Refuse) if r.stream == stream]
    return refuse


async def full_but_one(replica: Replica) -> RawRouter:
    """A router whose model `a` is loaded: room is for one more."""
    router = RawRouter(replica)
    await router.reply(ask(router, "a"))
    return router


@in_virtual_time
async def test_of_two_routers_that_believe_in_the_last_room_one_is_refused() -> None:
    async with replica_of(Two) as replica:
        first, second = await full_but_one(replica), RawRouter(replica)
        assert (await second.first_of(Welcome)).room == 1
        began = ask(first, "b", 1.0)
        refused = ask(second, "c", 1.0)
        assert await refusal(second, refused) == Refuse(refused, ongoing=1, no_room=True, holds=False)
        await first.reply(began)
        assert first.all_of(ModelGone) == []


@in_virtual_time
async def test_who_does_not_count_on_room_is_not_refused_for_want_of_it() -> None:
    async with replica_of(Two) as replica:
        first, second = await full_but_one(replica), RawRouter(replica)
        began = ask(first, "b", 1.0)
        evicts = ask(second, "c", 1.0, fits=False)
        await asyncio.gather(first.reply(began), second.reply(evicts))
        assert [gone.model_id for gone in first.all_of(ModelGone)] == ["a"]


@in_virtual_time
async def test_a_promise_is_to_the_model_and_shared_by_all_who_want_it() -> None:
    async with replica_of(Two) as replica:
        first, second = await full_but_one(replica), RawRouter(replica)
        replies = [(router, ask(router, "b", 1.0)) for router in (first, second, first)]
        for router, stream in replies:
            assert (await router.reply(stream)).value == "b"


@pytest.mark.parametrize("model_id", ["a", "b"])
@in_virtual_time
async def test_a_model_that_is_held_or_loads_needs_no_room(model_id: str) -> None:
    async with replica_of(Two) as replica:
        router = await full_but_one(replica)
        loading = ask(router, "b")
        await router.first_of(ModelLoading)
        await asyncio.sleep(1)
        assert (await router.reply(ask(router, model_id))).value == model_id
        await router.reply(loading)


@pytest.mark.parametrize("gone", ["cancelled at once", "cancelled", "link lost", "answered"])
@in_virtual_time
async def test_a_promise_ends_with_its_request_that_has_not_asked_for_its_model(gone: str) -> None:
    async with replica_of(Two) as replica:
        first, second = await full_but_one(replica), RawRouter(replica)
        if gone == "answered":
            await first.reply(first.call("without", 5.0, model_id="b", fits=True))
        else:
            leaving = ask(first, "b", 5.0)
            if gone != "cancelled at once":
                await asyncio.sleep(1)
            if gone == "link lost":
                first.link.close()
            else:
                first.leave(leaving)
            await asyncio.sleep(1)
        assert (await second.reply(ask(second, "c"))).value == "c"


@in_virtual_time
async def test_a_promise_is_kept_while_another_request_for_the_model_is_on_its_way_to_it() -> None:
    async with replica_of(Two) as replica:
        first, second = await full_but_one(replica), RawRouter(replica)
        leaving, staying = ask(first, "b", 5.0), ask(first, "b", 6.0)
        await asyncio.sleep(1)
        first.leave(leaving)
        await asyncio.sleep(1)
        assert (await refusal(second, ask(second, "c"))).no_room
        await first.reply(staying)


@in_virtual_time
async def test_room_that_was_promised_is_free_again_when_the_load_has_failed() -> None:
    async with replica_of(Two, max_ongoing_requests=9) as replica:
        first, second = await full_but_one(replica), RawRouter(replica)
        await first.failure(ask(first, "broken"))
        assert (await second.reply(ask(second, "c"))).value == "c"


@in_virtual_time
async def test_a_request_that_is_refused_for_want_of_a_slot_is_promised_nothing() -> None:
    async with replica_of(Two, max_ongoing_requests=1) as replica:
        first, second = await full_but_one(replica), RawRouter(replica)
        busy = first.call("without", 5.0)
        refused = ask(second, "b")
        assert await refusal(second, refused) == Refuse(refused, ongoing=1, no_room=False, holds=False)
        await first.reply(busy)
        assert (await first.reply(ask(first, "c"))).value == "c"


@pytest.mark.parametrize(("model_id", "holds"), [("a", True), ("b", True), ("c", True), ("d", False), ("", False)])
@in_virtual_time
async def test_a_refusal_says_whether_the_model_is_held_or_loads_or_is_promised(model_id: str, holds: bool) -> None:
    class Three(Two):
        @multiplexed(max_num_models_per_replica=3)
        async def get_model(self, model_id: str) -> str:
            await asyncio.sleep(10)
            return model_id

    async with replica_of(Three, max_ongoing_requests=2) as replica:
        router = await full_but_one(replica)
        running = [ask(router, "b"), ask(router, "c", 5.0)]
        await asyncio.sleep(1)
        refused = router.call("__call__", model_id, model_id=model_id)
        assert await refusal(router, refused) == Refuse(refused, ongoing=2, no_room=False, holds=holds)
        for stream in running:
            await router.reply(stream)


@in_virtual_time
async def test_a_model_that_waits_for_others_to_load_does_not_take_room_twice() -> None:
    """The cache counts it from when it is asked for, not from when its loader starts."""

    class OneAtATime(Two):
        @multiplexed(max_num_models_per_replica=4, max_concurrent_loads=1)
        async def get_model(self, model_id: str) -> str:
            await asyncio.sleep(10)
            return model_id

    async with replica_of(OneAtATime, max_ongoing_requests=9) as replica:
        router = RawRouter(replica)
        streams = []
        for model_id in "abcd":
            streams.append(ask(router, model_id))
            await asyncio.sleep(1)
        for stream in streams:
            await router.reply(stream)
        assert router.all_of(Refuse) == []


@pytest.mark.parametrize(("limits", "least"), [((-1, -1), -1), ((3, -1), 3), ((3, 2), 2)])
@in_virtual_time
async def test_the_welcome_says_how_many_loads_run_at_a_time_by_the_loader_that_runs_fewest(
    limits: tuple[int, int], least: int
) -> None:
    class Limited:
        @multiplexed(max_concurrent_loads=limits[0])
        async def one(self, model_id: str) -> str:
            return model_id

        @multiplexed(max_concurrent_loads=limits[1])
        async def other(self, model_id: str) -> str:
            return model_id

    async with replica_of(Limited) as replica:
        assert (await RawRouter(replica).first_of(Welcome)).loads_max == least


# Harm, and whether the model is held


@in_virtual_time
async def test_an_answer_says_whether_its_model_is_held_now() -> None:
    async with replica_of(Two) as replica:
        router = await full_but_one(replica)
        assert [(await router.reply(ask(router, model_id))).head.holds for model_id in "ab"] == [True, True]
        without = await router.reply(router.call("without", 0.0, model_id="c"))
        unnamed = await router.reply(router.call("without", 0.0))
        assert (without.head.holds, unnamed.head.holds) == (False, False)


@in_virtual_time
async def test_a_streamed_answer_says_it_too() -> None:
    class Streams(Two):
        async def __call__(self, *args: Any) -> AsyncIterator[str]:  # type: ignore[override]
            yield await self.get_model("a")

    async with replica_of(Streams) as replica:
        router = RawRouter(replica)
        assert (await router.reply(router.http(model_id="a"))).head.holds


@in_virtual_time
async def test_routers_hear_what_the_next_eviction_costs_with_every_change_and_every_answer() -> None:
    """It is the load time of the model that would go, more if it is wanted more than others, less if less."""
    async with replica_of(Two) as replica:
        router, other = RawRouter(replica), RawRouter(replica)
        assert (await router.first_of(Welcome)).harm_s == 0.0
        for model_id in "ab":
            first = (await router.reply(ask(router, model_id))).head
        assert first.harm_s == pytest.approx(10.0, rel=0.05)
        for _ in range(3):
            rare = (await router.reply(ask(router, "b"))).head  # and a would go
        frequent = (await router.reply(ask(router, "a"))).head  # and b would
        assert 0 < rare.harm_s < 10 < frequent.harm_s
        assert (await RawRouter(replica).first_of(Welcome)).harm_s == frequent.harm_s
        await router.reply(ask(router, "c", fits=False))
        [gone] = other.all_of(ModelGone)
        *_, loading = other.all_of(ModelLoading)
        *_, loaded = other.all_of(ModelLoaded)
        assert [message.model_id for message in (gone, loading, loaded)] == ["b", "c", "c"]
        assert all(message.harm_s > 0 for message in (gone, loading, loaded))
