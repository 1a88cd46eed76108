"""The links of a router to its replicas: welcomed, opened again, given up."""

import asyncio

import pytest
from router_alone import SOON_S, body_of, router_to, soon
from scripted_replica import ScriptedReplica
from virtual_time import in_virtual_time, turns

from modelplex.runtime.replica_links import CONNECT_TIMEOUT_S
from modelplex.wire import messages


@in_virtual_time
async def test_a_request_waits_for_the_welcome() -> None:
    replica = ScriptedReplica(welcomes=False)
    async with router_to(replica) as requests:
        exchange = requests.send()
        await soon()
        assert replica.streams == []
        replica.welcome()
        await soon()
        replica.answer(replica.streams[0], b"answer")
        assert await body_of(exchange) == b"answer"


@in_virtual_time
async def test_a_router_has_met_its_replicas_when_each_has_welcomed_it_or_cannot_be_reached() -> None:
    dead, slow = ScriptedReplica("dead", refuses_links=True), ScriptedReplica("slow", welcomes=False)
    async with router_to(ScriptedReplica(), dead, slow) as requests:
        meeting = asyncio.create_task(requests.router.met())
        await turns(10)
        assert not meeting.done()
        slow.welcome()
        await turns(10)
        assert meeting.done()


@in_virtual_time
async def test_a_replica_that_does_not_welcome_is_met_for_a_while_only() -> None:
    async with router_to(ScriptedReplica(welcomes=False)) as requests:
        async with asyncio.timeout(1.0):
            await requests.router.met()


@in_virtual_time
async def test_there_is_nobody_to_meet_without_replicas() -> None:
    async with router_to() as requests:
        await asyncio.wait_for(requests.router.met(), SOON_S)


@in_virtual_time
async def test_a_replica_of_another_version_is_not_used() -> None:
    stranger, other = ScriptedReplica("stranger", version=messages.VERSION + 1), ScriptedReplica("other")
    async with router_to(stranger, other) as requests:
        await requests.many(4)
        assert stranger.streams == []
        assert stranger.links_lost >= 1


@in_virtual_time
async def test_a_replica_that_cannot_be_reached_is_tried_again_later_and_later() -> None:
    replica = ScriptedReplica(refuses_links=True)
    async with router_to(replica):
        await asyncio.sleep(100)
        waits = [b - a for a, b in zip(replica.connected_at, replica.connected_at[1:], strict=False)]
        assert waits[:4] == pytest.approx([0.02, 0.04, 0.08, 0.16])
        assert waits[-1] == pytest.approx(1.0)


@in_virtual_time
async def test_a_link_that_breaks_is_opened_again_soon_however_often_that_failed_before() -> None:
    replica = ScriptedReplica(refuses_links=True)
    async with router_to(replica):
        await asyncio.sleep(100)
        replica.refuses_links = False
        await asyncio.sleep(1)
        broken_at = asyncio.get_running_loop().time()
        replica.break_link()
        await asyncio.sleep(1)
        assert replica.connected_at[-1] - broken_at == pytest.approx(0.02)


@in_virtual_time
async def test_a_replica_that_does_not_welcome_is_connected_anew() -> None:
    replica = ScriptedReplica(welcomes=False)
    async with router_to(replica):
        await asyncio.sleep(CONNECT_TIMEOUT_S + 1)
        assert (len(replica.connected_at), replica.links_lost) == (2, 1)


@in_virtual_time
async def test_a_replica_that_hangs_up_instead_of_a_welcome_is_tried_again_soon() -> None:
    replica = ScriptedReplica(welcomes=False)
    async with router_to(replica):
        replica.break_link()
        await asyncio.sleep(1)
        assert len(replica.connected_at) == 2


@in_virtual_time
async def test_a_link_that_breaks_is_opened_again() -> None:
    replica = ScriptedReplica()
    async with router_to(replica) as requests:
        for _ in range(3):
            replica.break_link()
            await asyncio.sleep(0.1)
        requests.send()
        await soon()
        assert len(replica.streams) == 1


@in_virtual_time
async def test_a_replica_that_is_removed_ends_what_runs_there_and_gets_no_more() -> None:
    removed, other = ScriptedReplica("removed", loaded=("a",)), ScriptedReplica("other")
    async with router_to(removed, other) as requests:
        running = requests.send("a")
        await soon()
        requests.router.update(requests.network.infos("other"))
        requests.send("a")
        await soon()
        assert (len(removed.streams), len(other.streams)) == (1, 1)
        removed.answer(removed.streams[0], b"answer")
        assert await body_of(running) == b"answer"


@in_virtual_time
async def test_a_removed_replica_is_not_connected_again_when_its_link_ends() -> None:
    before = asyncio.all_tasks()
    replica = ScriptedReplica()
    async with router_to(replica) as requests:
        requests.router.update([])
        replica.break_link()
        await asyncio.sleep(10)
        assert len(replica.connected_at) == 1
        assert asyncio.all_tasks() <= before


@in_virtual_time
async def test_a_replica_that_comes_back_is_connected_again() -> None:
    replica = ScriptedReplica()
    async with router_to(replica) as requests:
        requests.router.update([])
        replica.break_link()
        await asyncio.sleep(1)
        requests.router.update(requests.network.infos())
        await requests.many(1)
        assert len(replica.streams) == 1


@pytest.mark.parametrize("state", ["refuses links", "has not welcomed"])
@in_virtual_time
async def test_a_removed_replica_that_was_never_linked_is_given_up_at_once(state: str) -> None:
    before = asyncio.all_tasks()
    replica = ScriptedReplica(welcomes=False, refuses_links=state == "refuses links")
    async with router_to(replica) as requests:
        requests.router.update([])
        await soon()
        assert asyncio.all_tasks() <= before
        assert replica.link is None


@in_virtual_time
async def test_a_welcome_that_comes_after_the_removal_brings_no_requests() -> None:
    replica = ScriptedReplica(welcomes=False)
    async with router_to(replica) as requests:
        replica.welcome()
        requests.router.update([])
        await turns(10)
        requests.send()
        await soon()
        assert replica.streams == []
