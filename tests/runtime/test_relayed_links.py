"""What becomes of a router's links when the network is cut between it and a replica that lives."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from cut_network import SILENCE_S, CutNetwork
from scripted_replica import ScriptedReplica
from virtual_time import in_virtual_time, turns

from modelplex.runtime.link import Link
from modelplex.runtime.relay import RELAY_TIMEOUT_S
from modelplex.runtime.replica_links import DIRECT_AGAIN_S, RELAYS_MAX, ReplicaLinks
from modelplex.wire import messages
from modelplex.wire.messages import Message, Welcome


class Owner:
    """Keeps what it is told: welcomes and losses, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.other: list[tuple[str, Message]] = []
        self.busy: set[str] = set()

    def received(self, replica_id: str, link: Link, message: Message, body: bytes) -> None:
        if isinstance(message, Welcome):
            self.told.append((replica_id, "welcome"))
        else:
            self.other.append((replica_id, message))

    def lost(self, replica_id: str) -> None:
        self.told.append((replica_id, "lost"))

    def is_idle(self, replica_id: str) -> bool:
        return replica_id not in self.busy

    def of(self, replica_id: str) -> list[str]:
        return [what for name, what in self.told if name == replica_id]


class Linked:
    def __init__(self, network: CutNetwork) -> None:
        self.network = network
        self.owner = Owner()
        self.links = ReplicaLinks(network.connect, self.owner)
        self.links.update(network.infos)

    async def arrives(self, replica_id: str) -> bool:
        """Whether what is sent to the replica reaches it."""
        replica = self.network.replicas[replica_id]
        before = len(replica.heard)
        if (link := self.links.get(replica_id)) is not None:
            link.send(messages.Cancel(1))
        await turns(20)
        return len(replica.heard) == before + 1


@contextlib.asynccontextmanager
async def linked(network: CutNetwork) -> AsyncIterator[Linked]:
    """A router's links that have met all replicas; nothing of them is left at the end."""
    before = asyncio.all_tasks()
    linked = Linked(network)
    await asyncio.sleep(0.01)
    yield linked
    await linked.links.close()
    assert asyncio.all_tasks() <= before


def replicas(*names: str) -> list[ScriptedReplica]:
    return [ScriptedReplica(name) for name in names]


@in_virtual_time
async def test_a_replica_behind_a_cut_is_back_over_another_one_without_a_loss() -> None:
    async with linked(CutNetwork(*replicas("a", "b"))) as it:
        it.network.cut_links("a")
        await asyncio.sleep(0.01)
        assert it.owner.of("a") == ["welcome", "welcome"]
        assert await it.arrives("a")
        it.network.replicas["a"].say(messages.Ongoing(1))
        await turns(20)
        assert it.owner.other == [("a", messages.Ongoing(1))]


@in_virtual_time
async def test_between_the_cut_and_the_other_way_the_replica_is_neither_lost_nor_an_error_to_send_to() -> None:
    slow = ScriptedReplica("a")
    async with linked(CutNetwork(slow, *replicas("b"))) as it:
        slow.welcomes = False
        it.network.cut_links("a")
        await asyncio.sleep(1.0)
        assert it.owner.of("a") == ["welcome"]
        link = it.links.get("a")
        assert link is not None
        link.send(messages.Cancel(1))
        slow.welcome()
        await turns(20)
        assert it.owner.of("a") == ["welcome", "welcome"]


@in_virtual_time
async def test_a_replica_that_nobody_reaches_is_lost_after_a_short_time() -> None:
    network = CutNetwork(*replicas("a", "b"))
    async with linked(network) as it:
        network.relays_break = {"b"}
        network.cut_links("a")
        await asyncio.sleep(RELAY_TIMEOUT_S - 0.01)
        assert it.owner.of("a") == ["welcome"]
        await asyncio.sleep(0.02)
        assert it.owner.of("a") == ["welcome", "lost"]
        assert it.links.get("a") is None


@in_virtual_time
async def test_a_replica_whose_process_has_ended_is_lost_at_once() -> None:
    network = CutNetwork(*replicas("a", "b"))
    async with linked(network) as it:
        network.replicas["a"].refuses_links = True
        network.break_links("a")
        await turns(5)
        assert (it.owner.of("a"), network.relayed) == (["welcome", "lost"], [])


@in_virtual_time
async def test_a_replica_that_is_gone_when_its_cut_is_looked_at_is_lost_at_once() -> None:
    """Its machine says that nobody listens there."""
    network = CutNetwork(*replicas("a", "b"))
    async with linked(network) as it:
        network.replicas["a"].refuses_links = True
        network.break_links("a", is_cut=True)
        await asyncio.sleep(0.01)
        assert it.owner.of("a") == ["welcome", "lost"]


@in_virtual_time
async def test_a_new_connection_is_the_way_if_it_works() -> None:
    """As when a firewall has forgotten the old one."""
    network = CutNetwork(*replicas("a"))
    async with linked(network) as it:
        network.break_links("a", is_cut=True)
        await asyncio.sleep(0.01)
        assert it.owner.of("a") == ["welcome", "welcome"]
        assert network.count("a") == 2
        assert await it.arrives("a")


@in_virtual_time
async def test_a_replica_that_cannot_be_reached_at_first_is_reached_over_others() -> None:
    network = CutNetwork(*replicas("a", "b"))
    network.cut = {"a"}
    async with linked(network) as it:
        await asyncio.sleep(SILENCE_S)
        assert (it.owner.of("a"), network.relayed) == (["welcome"], [("b", "a")])
        assert await it.arrives("a")


@in_virtual_time
async def test_one_that_is_behind_no_cut_is_not_relayed() -> None:
    dead = ScriptedReplica("a", refuses_links=True)
    network = CutNetwork(dead, *replicas("b"))
    async with linked(network) as it:
        await asyncio.sleep(60)
        assert (it.owner.of("a"), network.relayed) == ([], [])


@in_virtual_time
async def test_a_dead_machine_in_the_table_is_asked_for_seldom() -> None:
    network = CutNetwork(*replicas("a", "b"))
    network.cut, network.relays_break = {"a"}, {"b"}
    async with linked(network):
        await asyncio.sleep(101)
        assert len(network.relayed) <= 10


@in_virtual_time
async def test_relays_are_a_few_of_other_machines_that_are_linked_themselves() -> None:
    names = [f"{machine}{number}" for machine in "abcdefg" for number in range(3)]
    network = CutNetwork(*replicas(*names), machines={name: name[0] for name in names})
    async with linked(network):
        network.relays_break = set(names)
        network.cut_links("a0", "b0", "b1", "b2")
        await asyncio.sleep(1)
        relays = [via for via, to in network.relayed if to == "a0"]
        assert len(relays) == len({via[0] for via in relays}) == RELAYS_MAX
        assert not {via[0] for via in relays} & {"a", "b"}


@in_virtual_time
async def test_links_within_one_machine_are_as_ever() -> None:
    network = CutNetwork(*replicas("a", "b"), is_remote=False)
    async with linked(network) as it:
        network.replicas["a"].refuses_links = True
        network.break_links("a")
        await asyncio.sleep(1)
        assert (it.owner.of("a"), network.relayed) == (["welcome", "lost"], [])


@in_virtual_time
async def test_the_direct_way_is_taken_again_when_it_works_and_nothing_runs() -> None:
    network = CutNetwork(*replicas("a", "b"))
    async with linked(network) as it:
        network.cut_links("a")
        await asyncio.sleep(1)
        it.owner.busy = {"a"}
        network.cut.clear()
        direct = network.count("a")
        await asyncio.sleep(5 * DIRECT_AGAIN_S)
        assert it.owner.of("a") == ["welcome"] * 2
        assert network.count("a") == direct  # it is not disturbed while it is at work
        it.owner.busy.clear()
        await asyncio.sleep(DIRECT_AGAIN_S)
        assert it.owner.of("a") == ["welcome"] * 3
        assert await it.arrives("a")
        # It is a direct one now: its end is that of the process.
        network.replicas["a"].refuses_links = True
        network.break_links("a")
        await turns(5)
        assert it.owner.of("a")[3:] == ["lost"]


@in_virtual_time
async def test_a_direct_way_that_comes_when_a_request_runs_is_not_taken() -> None:
    network = CutNetwork(*replicas("a", "b"))
    async with linked(network) as it:
        network.cut_links("a")
        await asyncio.sleep(1)
        relayed = it.links.get("a")
        network.cut.clear()
        it.owner.is_idle = _Answers(True, False, True, True).next  # type: ignore[method-assign]
        await asyncio.sleep(DIRECT_AGAIN_S)
        assert it.links.get("a") is relayed
        assert await it.arrives("a")
        await asyncio.sleep(DIRECT_AGAIN_S)
        assert it.links.get("a") is not relayed
        assert it.owner.of("a") == ["welcome"] * 3


class _Answers:
    def __init__(self, *answers: bool) -> None:
        self._answers = list(answers)

    def next(self, replica_id: str) -> bool:
        return self._answers.pop(0)


@in_virtual_time
async def test_when_the_relay_ends_another_one_takes_its_place() -> None:
    network = CutNetwork(*replicas("a", "b", "c"))
    async with linked(network) as it:
        network.cut_links("a")
        await asyncio.sleep(1)
        relay = network.relayed[0][0]
        network.replicas[relay].refuses_links = True
        network.break_links(relay)
        await asyncio.sleep(1)
        assert it.owner.of(relay) == ["welcome", "lost"]
        assert it.owner.of("a")[:3] == ["welcome"] * 3
        assert "lost" not in it.owner.of("a")
        assert await it.arrives("a")


@in_virtual_time
async def test_a_replica_that_dies_behind_a_relay_is_lost() -> None:
    network = CutNetwork(*replicas("a", "b"))
    async with linked(network) as it:
        network.cut_links("a")
        await asyncio.sleep(1)
        network.replicas["a"].die()
        await asyncio.sleep(RELAY_TIMEOUT_S + 0.1)
        assert it.owner.of("a") == ["welcome", "welcome", "lost"]


@pytest.mark.parametrize("moment_s", [0.0, 0.5, 1.0, 1.999])
@in_virtual_time
async def test_a_replica_that_leaves_the_table_meanwhile_does_not_come_back(moment_s: float) -> None:
    mute = ScriptedReplica("a")
    network = CutNetwork(mute, *replicas("b"))
    async with linked(network) as it:
        mute.welcomes = False
        network.cut_links("a")
        await turns(10)
        await asyncio.sleep(moment_s)
        it.links.update([network.info("b")])
        mute.welcome()
        await asyncio.sleep(10)
        assert it.owner.of("a") == ["welcome", "lost"]
        assert it.links.get("a") is None


@pytest.mark.parametrize("moment", range(0, 30, 2))
@in_virtual_time
async def test_links_can_be_closed_at_any_moment_of_a_cut(moment: int) -> None:
    network = CutNetwork(*replicas("a", "b", "c"))
    async with linked(network):  # which sees whether a task is left
        network.cut_links("a")
        await turns(moment)
    await turns(20)
    assert network.replicas["a"].link is None


@in_virtual_time
async def test_an_address_that_has_become_another_replicas_is_not_taken_for_the_old_one() -> None:
    network = CutNetwork(*replicas("a", "b"))
    async with linked(network) as it:
        network.replicas["a"].refuses_links = True
        network.break_links("a")
        network.replicas["a"] = ScriptedReplica("new")
        await asyncio.sleep(1)
        assert it.owner.of("a") == ["welcome", "lost"]
