"""A replica as a router meets it: its welcome, its slots, and what it says of its models."""

import asyncio
from collections.abc import AsyncIterator
from weakref import WeakSet

import pytest
from held_call import HeldCall
from raw_router import RawRouter, replica_of
from virtual_time import in_virtual_time, turns

from modelplex import context, loaded
from modelplex.config import UNLIMITED
from modelplex.core.occupancy import TOLD_MAX
from modelplex.multiplex import Loader, multiplexed
from modelplex.runtime import model_hosts
from modelplex.runtime.payload import dumps
from modelplex.wire import messages
from modelplex.wire.messages import (
    Answer,
    Begin,
    Message,
    ModelGone,
    ModelLoaded,
    ModelLoading,
    Ongoing,
    Refuse,
    Retiring,
    Welcome,
)


@pytest.fixture(autouse=True)
def no_loaders_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica counts every standalone loader of its process."""
    monkeypatch.setattr(Loader, "standalone", WeakSet())


class Sleeper:
    """Answers after as many seconds as it is asked to."""

    async def __call__(self, seconds: float = 0.0) -> float:
        await asyncio.sleep(seconds)
        return seconds


class Host:
    """Uses the models that it is asked to, in turn, and then sleeps. Loads take 10 s."""

    @multiplexed(max_num_models_per_replica=3)
    async def get_model(self, model_id: str) -> str:
        if model_id == "broken":
            raise ValueError("no such file")
        await asyncio.sleep(10)
        return model_id

    @multiplexed(max_num_models_per_replica=2)
    async def get_other(self, model_id: str) -> str:
        return f"other {model_id}"

    async def __call__(self, *model_ids: str) -> list[str]:
        return [await self.get_model(model_id) for model_id in model_ids]

    async def other(self, *model_ids: str) -> list[str]:
        return [await self.get_other(model_id) for model_id in model_ids]

    async def hold(self, model_id: str, seconds: float) -> None:
        await self.get_model(model_id)
        await asyncio.sleep(seconds)


# The welcome


@in_virtual_time
async def test_the_welcome_says_who_the_replica_is_and_how_many_requests_it_takes() -> None:
    async with replica_of(Sleeper, max_ongoing_requests=7) as replica:
        welcome = await RawRouter(replica).first_of(Welcome)
        assert welcome == Welcome(messages.VERSION, "app_D#tag", 7, 0, None, [], [])


@in_virtual_time
async def test_the_welcome_says_what_runs_what_is_held_and_what_loads() -> None:
    async with replica_of(Host) as replica:
        first = RawRouter(replica)
        await first.reply(first.call("__call__", "a"))
        first.call("__call__", "b")
        await first.first_of(ModelLoading)
        await asyncio.sleep(1)
        welcome = await RawRouter(replica).first_of(Welcome)
        assert (welcome.ongoing, welcome.loaded, welcome.loading, welcome.room) == (1, ["a"], ["b"], 1)


@in_virtual_time
async def test_a_model_that_two_loaders_hold_is_named_once() -> None:
    async with replica_of(Host) as replica:
        first = RawRouter(replica)
        await first.reply(first.call("__call__", "a"))
        await first.reply(first.call("other", "a"))
        assert (await RawRouter(replica).first_of(Welcome)).loaded == ["a"]


@in_virtual_time
async def test_unused_loaders_all_count_for_the_room_and_then_only_those_in_use() -> None:
    async with replica_of(Host) as replica:
        first = RawRouter(replica)
        assert (await first.first_of(Welcome)).room == 2
        await first.reply(first.call("__call__", "a"))
        assert (await RawRouter(replica).first_of(Welcome)).room == 2
        await first.reply(first.call("other", "b", "c"))
        assert (await RawRouter(replica).first_of(Welcome)).room == 0


@in_virtual_time
async def test_a_loader_of_any_number_of_models_does_not_bound_the_room() -> None:
    class Both:
        @multiplexed(max_num_models_per_replica=UNLIMITED)
        async def any_number(self, model_id: str) -> str:
            return model_id

        @multiplexed(max_num_models_per_replica=4)
        async def four(self, model_id: str) -> str:
            return model_id

        async def __call__(self) -> None:
            await self.any_number("a")

    async with replica_of(Both) as replica:
        first = RawRouter(replica)
        assert (await first.first_of(Welcome)).room == 4
        await first.reply(first.call())
        assert (await RawRouter(replica).first_of(Welcome)).room is None


@in_virtual_time
async def test_a_loader_that_is_a_function_is_known_before_its_first_use() -> None:
    @multiplexed(max_num_models_per_replica=6)
    async def get_model(model_id: str) -> str:
        return model_id

    async def handler() -> str:
        model: str = await get_model("a")
        return model

    async with replica_of(handler) as replica:
        assert (await RawRouter(replica).first_of(Welcome)).room == 6


@in_virtual_time
async def test_a_router_of_another_version_is_told_ours_and_sent_away() -> None:
    async with replica_of(Sleeper) as replica:
        stranger = RawRouter(replica, version=messages.VERSION + 1)
        await stranger.until_lost()
        assert stranger.all_of(Welcome)[0].version == messages.VERSION


@in_virtual_time
async def test_a_request_before_hello_closes_the_link() -> None:
    async with replica_of(Sleeper) as replica:
        rude = RawRouter(replica, version=None)
        rude.call()
        await rude.until_lost()
        assert rude.heard == []


@in_virtual_time
async def test_a_message_that_no_router_sends_closes_the_link() -> None:
    async with replica_of(Sleeper) as replica:
        odd = RawRouter(replica)
        odd.say(Retiring())
        await odd.until_lost()


@in_virtual_time
async def test_words_about_requests_that_are_over_are_passed_over() -> None:
    async with replica_of(Sleeper) as replica:
        router = RawRouter(replica)
        for message in (messages.Cancel(9), messages.Credit(9, 1), messages.Chunk(9, False)):
            router.say(message)
        assert (await router.reply(router.call())).value == 0.0


# Slots


@in_virtual_time
async def test_beyond_max_ongoing_a_request_is_refused_and_not_begun() -> None:
    async with replica_of(Sleeper, max_ongoing_requests=2) as replica:
        router = RawRouter(replica)
        running = [router.call("__call__", 10), router.call("__call__", 10)]
        refused = router.call("__call__", 10)
        assert await router.first_of(Refuse) == Refuse(refused, 2)
        for stream in running:
            await router.reply(stream)
        assert router.all_of(Refuse) == [Refuse(refused, 2)]


@pytest.mark.parametrize("how", ["cancelled", "its router is gone"])
@in_virtual_time
async def test_a_request_that_ends_before_its_first_step_gives_its_slot_back(how: str) -> None:
    async with replica_of(Sleeper, max_ongoing_requests=1) as replica:
        router, other = RawRouter(replica), RawRouter(replica)
        await turns(5)
        replica.received(router.far_end, Begin(1, "r", "app", "/", "__call__", "", False), dumps(((), {})))
        assert replica.ongoing == 1
        if how == "cancelled":
            replica.received(router.far_end, messages.Cancel(1), b"")
        else:
            replica.lost(router.far_end)
        assert replica.ongoing == 0
        await turns(5)
        assert not any(isinstance(message, Answer) for message, _ in router.heard)
        assert (await other.reply(other.call())).value == 0.0


@in_virtual_time
async def test_an_answer_says_how_many_requests_still_run() -> None:
    async with replica_of(Sleeper) as replica:
        router = RawRouter(replica)
        router.call("__call__", 10)
        assert (await router.reply(router.call())).head.ongoing == 1


@in_virtual_time
async def test_a_router_that_was_refused_is_told_when_a_slot_comes_free_and_no_other_is() -> None:
    async with replica_of(Sleeper, max_ongoing_requests=1) as replica:
        busy, refused, idle = RawRouter(replica), RawRouter(replica), RawRouter(replica)
        stream = busy.call("__call__", 10)
        await turns(5)
        refused.call()
        await busy.reply(stream)
        await turns(5)
        assert refused.all_of(Ongoing) == [Ongoing(0)]
        assert busy.all_of(Ongoing) == idle.all_of(Ongoing) == []


@in_virtual_time
async def test_a_router_whose_word_of_others_is_out_of_date_is_told_before_it_takes_the_replica_for_full() -> None:
    async with replica_of(Sleeper, max_ongoing_requests=5) as replica:
        busy, other = RawRouter(replica), RawRouter(replica)
        for _ in range(4):
            busy.call("__call__", 10.0)
        await turns(5)
        await other.reply(other.call())  # its answer says that four others run
        await asyncio.sleep(20)
        assert other.all_of(Ongoing) == []  # it takes one slot to be free, which is enough for now
        other.call("__call__", 10.0)
        await turns(5)
        assert other.all_of(Ongoing) == [Ongoing(1)]


@in_virtual_time
async def test_a_router_that_was_refused_is_told_once() -> None:
    async with replica_of(Sleeper, max_ongoing_requests=1) as replica:
        busy, refused = RawRouter(replica), RawRouter(replica)
        stream = busy.call("__call__", 10)
        await turns(5)
        refused.call()
        await busy.reply(stream)
        await busy.reply(busy.call())
        assert len(refused.all_of(Ongoing)) == 1


@in_virtual_time
async def test_of_many_routers_that_were_refused_some_hear_of_a_free_slot_at_once_and_all_soon() -> None:
    async with replica_of(Sleeper, max_ongoing_requests=1) as replica:
        busy, refused = RawRouter(replica), [RawRouter(replica) for _ in range(100)]
        stream = busy.call("__call__", 10)
        await turns(5)
        for router in refused:
            router.call()
        await busy.reply(stream)
        await turns(5)
        assert [len(router.all_of(Ongoing)) for router in refused] == [1] * TOLD_MAX + [0] * (100 - TOLD_MAX)
        await asyncio.sleep(0.1)
        assert all(router.all_of(Ongoing) == [Ongoing(0)] for router in refused)


@in_virtual_time
async def test_a_router_that_finds_the_replica_full_on_arrival_is_told_of_a_free_slot() -> None:
    async with replica_of(Sleeper, max_ongoing_requests=1) as replica:
        busy = RawRouter(replica)
        stream = busy.call("__call__", 10)
        await turns(5)
        late = RawRouter(replica)
        assert (await late.first_of(Welcome)).ongoing == 1
        await busy.reply(stream)
        await turns(5)
        assert late.all_of(Ongoing) == [Ongoing(0)]


@in_virtual_time
async def test_a_refused_router_hears_of_the_slot_that_its_own_cancelled_request_gives_back() -> None:
    """No answer tells it: the request was cancelled. It took its time to end, and the next one was refused."""

    class Reluctant:
        async def __call__(self, seconds: float) -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                await asyncio.sleep(seconds)

    async with replica_of(Reluctant, max_ongoing_requests=1) as replica:
        router = RawRouter(replica)
        left = router.call("__call__", 10)
        await asyncio.sleep(1)
        router.leave(left)
        refused = router.call("__call__", 0)
        assert await router.first_of(Refuse) == Refuse(refused, 1)
        await asyncio.sleep(20)
        assert router.all_of(Ongoing) == [Ongoing(0)]


@in_virtual_time
async def test_a_refused_router_hears_of_the_slot_that_its_own_stream_gives_back() -> None:
    """The last chunk of an answer does not say how many requests run."""

    class Streams:
        async def __call__(self) -> AsyncIterator[str]:
            await asyncio.sleep(10)
            yield "end"

    async with replica_of(Streams, max_ongoing_requests=1) as replica:
        router = RawRouter(replica)
        stream = router.http()
        router.http()
        await router.first_of(Refuse)
        await router.reply(stream)
        await turns(5)
        assert router.all_of(Ongoing) == [Ongoing(0)]


@in_virtual_time
async def test_a_request_that_is_cancelled_before_its_first_step_gives_its_slot_back() -> None:
    async with replica_of(Sleeper, max_ongoing_requests=1) as replica:
        router = RawRouter(replica)
        router.leave(router.call("__call__", 10))
        await turns(5)
        assert (await router.reply(router.call())).value == 0.0


@in_virtual_time
async def test_a_lost_link_cancels_what_runs_for_it_and_nothing_else() -> None:
    async with replica_of(Sleeper) as replica:
        lost, other = RawRouter(replica), RawRouter(replica)
        for _ in range(3):
            lost.call("__call__", 1000)
        stream = other.call("__call__", 10)
        await turns(5)
        assert replica.ongoing == 4
        lost.link.close()
        await turns(10)
        assert replica.ongoing == 1
        assert (await other.reply(stream)).value == 10


async def test_a_slot_stays_taken_while_a_thread_runs_for_a_client_that_has_left() -> None:
    call = HeldCall()

    def handler() -> str:
        return call()

    async with replica_of(handler, max_ongoing_requests=1) as replica:
        router = RawRouter(replica)
        left = router.call()
        await call.until_begun()
        router.leave(left)
        router.call()
        await router.first_of(Refuse)
        call.end()
        await router.first_of(Ongoing)
        assert call.ended
        assert (await router.reply(router.call())).value == "result"


# What it says of its models


@in_virtual_time
async def test_every_router_hears_of_loads_with_the_room_that_is_left() -> None:
    async with replica_of(Host) as replica:
        router, other = RawRouter(replica), RawRouter(replica)
        await router.reply(router.call("__call__", "a"))
        for each in (router, other):
            assert each.all_of(ModelLoading) == [ModelLoading("a", 2)]
            [loaded] = each.all_of(ModelLoaded)
            assert (loaded.model_id, loaded.room) == ("a", 2)


@in_virtual_time
async def test_every_router_hears_of_an_eviction() -> None:
    async with replica_of(Host) as replica:
        router = RawRouter(replica)
        await router.reply(router.call("other", "a"))
        await router.reply(router.call("other", "b", "c"))
        assert [gone.model_id for gone in router.all_of(ModelGone)] == ["a"]


@in_virtual_time
async def test_every_router_hears_of_a_failed_load() -> None:
    async with replica_of(Host) as replica:
        router = RawRouter(replica)
        await router.failure(router.call("__call__", "broken"))
        assert router.all_of(ModelLoading) == [ModelLoading("broken", 2)]
        assert router.all_of(ModelGone) == [ModelGone("broken", 3)]


@in_virtual_time
async def test_a_model_is_not_gone_while_another_loader_holds_one_of_its_id() -> None:
    async with replica_of(Host) as replica:
        router = RawRouter(replica)
        await router.reply(router.call("__call__", "a"))
        await router.reply(router.call("other", "a"))
        await router.reply(router.call("other", "b", "c"))
        assert router.all_of(ModelGone) == []
        await router.reply(router.call("__call__", "b", "c"))
        await router.reply(router.call("__call__", "d"))
        assert [gone.model_id for gone in router.all_of(ModelGone)] == ["a"]


@in_virtual_time
async def test_user_code_knows_its_replica() -> None:
    class Curious:
        def __init__(self) -> None:
            assert context.get_replica_context().servable_object is None

        async def __call__(self) -> tuple[str, bool]:
            of = context.get_replica_context()
            return of.replica_id, of.servable_object is self

    async with replica_of(Curious) as replica:
        router = RawRouter(replica)
        assert (await router.reply(router.call())).value == ("app_D#tag", True)


class SlowLink:
    """A link that takes its time to send, and notes what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.is_remote = self.is_cut = False

    def send(self, message: Message, body: bytes | memoryview = b"") -> None:
        self.said.append(type(message).__name__)

    async def flushed(self, timeout_s: float) -> None:
        await asyncio.sleep(timeout_s)
        self.said.append("flushed")

    def close(self) -> None:
        self.said.append("closed")


@in_virtual_time
async def test_a_load_begins_when_every_router_was_told_of_it_as_far_as_can_be_waited_for() -> None:
    link = SlowLink()

    @multiplexed
    async def get_model(model_id: str) -> str:
        link.said.append("load")
        return model_id

    async def handler() -> None:
        await get_model("a")

    async with replica_of(handler) as replica:
        replica.received(link, messages.Hello(messages.VERSION), b"")
        router = RawRouter(replica)
        await router.reply(router.call())
        assert link.said == ["Welcome", "ModelLoading", "flushed", "load", "ModelLoaded"]


@in_virtual_time
async def test_a_lost_link_is_told_nothing_more() -> None:
    async with replica_of(Host) as replica:
        lost = SlowLink()
        replica.received(lost, messages.Hello(messages.VERSION), b"")
        replica.lost(lost)
        router = RawRouter(replica)
        await router.reply(router.call("__call__", "a"))
        assert lost.said == ["Welcome"]


@pytest.mark.parametrize(("named", "counts"), [("a", True), ("another", False)])
@in_virtual_time
async def test_a_router_tells_how_popular_the_model_is_that_a_request_names(named: str, counts: bool) -> None:
    """What may be evicted next is then dearer."""
    harms_s = []
    for share in (0.0, 0.9):
        async with replica_of(Host) as replica:
            router = RawRouter(replica)
            await router.reply(router.call("__call__", *"bbbb"))
            await router.reply(router.call("__call__", "a", model_id=named, share=share))
            await router.reply(router.call("__call__", "b"))
            harms_s.append((await RawRouter(replica).first_of(Welcome)).harm_s)
    assert (harms_s[0] < harms_s[1]) == counts


# Files on the disk


@in_virtual_time
async def test_a_replica_says_whose_files_are_on_the_disk_and_how_long_they_were_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_hosts, "ON_DISK_MAX", 2)
    fetches_s = {"a": 0.5, "b": 0.0, "c": 0.25}

    class Stored:
        @multiplexed(max_num_models_per_replica=1)
        async def get(self, model_id: str) -> str:
            if model_id in fetches_s:
                loaded.note_fetch(fetches_s[model_id])
            return model_id

        async def __call__(self, model_id: str) -> None:
            await self.get(model_id)

    async with replica_of(Stored) as replica:
        router = RawRouter(replica)
        for model_id in ("a", "b", "plain", "a", "c"):
            await router.reply(router.call("__call__", model_id))
        told = [(m.model_id, m.fetch_s) for m in router.all_of(messages.ModelLoaded)]
        assert told == [("a", 0.5), ("b", 0.0), ("plain", None), ("a", 0.5), ("c", 0.25)]
        welcome = await RawRouter(replica).first_of(messages.Welcome)
        assert welcome.on_disk == ["a", "c"]
