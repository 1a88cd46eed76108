"""Who is told what of the table, and when, in virtual time."""

import asyncio

from scripted_engine import ScriptedProcess
from virtual_time import in_virtual_time

from modelplex.runtime.announcements import TOGETHER_S, Announcements
from modelplex.wire import messages
from modelplex.wire.messages import AppInfo, DeploymentInfo, ReplicaInfo, Table


class World:
    """A table whose replicas are numbered, and those who follow it."""

    def __init__(self) -> None:
        self.replicas: list[int] = []
        self.here: list[Table] = []
        self.announcements = Announcements(self.table, self.here.append)

    def table(self) -> Table:
        replicas = [ReplicaInfo(str(number), f"/{number}") for number in self.replicas]
        return Table([AppInfo("app", "/", "D")], [DeploymentInfo("app", "D", 5, replicas)])

    def add(self, number: int) -> None:
        self.replicas.append(number)
        self.announcements.changed()

    def join(self) -> ScriptedProcess:
        process = ScriptedProcess()
        self.announcements.join(process)
        return process


def known(process: ScriptedProcess) -> list[int]:
    return [int(replica.replica_id) for replica in process.table.deployments[0].replicas]


@in_virtual_time
async def test_one_change_is_told_at_once() -> None:
    world = World()
    process = world.join()
    await asyncio.sleep(1)
    world.add(1)
    assert known(process) == [1]
    assert len(world.here[-1].deployments[0].replicas) == 1


@in_virtual_time
async def test_changes_in_close_succession_are_told_together_and_soon() -> None:
    world = World()
    process = world.join()
    for number in range(1000):
        world.add(number)
        await asyncio.sleep(TOGETHER_S / 100)
    await asyncio.sleep(TOGETHER_S)
    assert known(process) == list(range(1000))
    assert len(process.said) <= 14
    assert sum(isinstance(message, Table) for message in process.said) == 1


@in_virtual_time
async def test_what_is_to_be_told_now_is_told_before_anything_else_and_only_once() -> None:
    world = World()
    process = world.join()
    world.add(1)
    world.add(2)
    assert known(process) == [1]
    world.announcements.tell_now()
    assert known(process) == [1, 2]
    said = len(process.said)
    await asyncio.sleep(1)
    assert len(process.said) == said


@in_virtual_time
async def test_one_that_comes_between_two_words_knows_no_replica_that_nobody_else_has_heard_of() -> None:
    world = World()
    early = world.join()
    world.add(1)
    world.add(2)
    late = world.join()
    world.replicas.remove(2)
    world.add(3)
    await asyncio.sleep(1)
    assert known(late) == known(early) == [1, 3]


@in_virtual_time
async def test_nobody_is_told_anything_while_it_is_held() -> None:
    world = World()
    world.announcements.held = True
    process = world.join()
    world.add(1)
    world.announcements.tell_now()
    assert process.said == world.here == []
    world.announcements.held = False
    world.announcements.tell_now()
    assert known(process) == [1]


@in_virtual_time
async def test_one_that_has_exited_is_told_nothing_more() -> None:
    world = World()
    process = world.join()
    process.dies()
    await asyncio.sleep(1)
    world.add(1)
    assert len(process.said) == 1
    assert not world.announcements._followers


@in_virtual_time
async def test_after_the_end_nothing_is_told() -> None:
    world = World()
    process = world.join()
    world.add(1)
    world.add(2)
    world.announcements.close()
    await asyncio.sleep(1)
    assert known(process) == [1]


@in_virtual_time
async def test_nothing_is_said_when_nothing_is_other() -> None:
    world = World()
    process = world.join()
    world.announcements.tell_now()
    world.announcements.changed()
    await asyncio.sleep(1)
    assert [type(message) for message in process.said] == [messages.Table]
