"""The network is cut for real, between two network namespaces, without a word to either side."""

import asyncio
import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from clusters import PLAIN

from modelplex.runtime.link import Link
from modelplex.runtime.network import Network
from modelplex.runtime.replica_links import ReplicaLinks
from modelplex.wire import messages
from modelplex.wire.messages import Message

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(
        sys.platform != "linux" or os.getuid() != 0 or shutil.which("ip") is None,
        reason="it takes Linux, root and iproute2 to make network namespaces",
    ),
]

# A replica for as long as its standard input is open; told "block", its event loop is blocked.
REPLICA = """
import asyncio, sys, threading, time, os
from modelplex.config import DeploymentConfig
from modelplex.runtime.credentials import Credentials
from modelplex.runtime.network import Network
from modelplex.runtime.replica import Replica
from modelplex.runtime.replica_spec import ReplicaSpec
from modelplex.runtime.app_spec import Definition

class D:
    async def __call__(self):
        return 1

async def main(tag, host, path):
    replica = Replica(ReplicaSpec("app", tag, DeploymentConfig(name="D"), Definition(D, ())))
    await replica.start()
    network = Network(tag, Credentials(bytes(range(32))))
    print((await network.listen(lambda: replica, path, host)).address, flush=True)
    loop = asyncio.get_running_loop()
    def follow():
        for line in sys.stdin:
            loop.call_soon_threadsafe(time.sleep, float(line))
        os._exit(0)
    threading.Thread(target=follow, daemon=True).start()
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


class Namespaces:
    """Machines a and b, each with a line of its own to this one, which does not forward; and one between them."""

    _numbers = itertools.count()  # the kernel takes its time to remove one

    def __init__(self) -> None:
        number = next(self._numbers)
        self.names = {machine: f"mx{os.getpid()}{machine}{number}" for machine in "ab"}
        self._subnet = 10 + (os.getpid() + number) % 200

    def host(self, machine: str, end: int = 2, line: int = 0) -> str:
        return f"10.{self._subnet}.{line or 'ab'.index(machine) + 1}.{end}"

    def make(self) -> None:
        for machine, name in self.names.items():
            ip("netns", "add", name)
            ip("link", "add", f"{name}0", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("addr", "add", f"{self.host(machine, 1)}/24", "dev", f"{name}0")
            ip("link", "set", f"{name}0", "up")
            for words in (f"addr add {self.host(machine)}/24 dev eth0", "link set eth0 up", "link set lo up"):
                ip("-n", name, *words.split())
        a, b = self.names.values()
        ip("link", "add", "eth1", "netns", a, "type", "veth", "peer", "name", "eth1", "netns", b)
        for end, (machine, name) in enumerate(self.names.items(), 1):
            ip("-n", name, "addr", "add", f"{self.host(machine, end, 3)}/24", "dev", "eth1")
            ip("-n", name, "link", "set", "eth1", "up")
            # What is for the other one's address on its line to this machine goes by the line between them.
            other = "ab"[end % 2]
            ip("-n", name, "route", "add", f"{self.host(other)}/32", "via", self.host(other, 3 - end, 3))

    def cut(self, machine: str) -> None:
        """Frames go to an Ethernet address that nobody has, at both ends: they vanish, and nobody is told."""
        nobody = ("lladdr", "02:00:00:00:00:99", "nud", "permanent")
        ip("neigh", "replace", self.host(machine), *nobody, "dev", f"{self.names[machine]}0")
        ip("-n", self.names[machine], "neigh", "replace", self.host(machine, 1), *nobody, "dev", "eth0")

    def remove(self) -> None:
        for name in self.names.values():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no network namespaces here: ip {' '.join(words)}: {done.stderr}")


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    namespaces = Namespaces()
    try:
        namespaces.make()
        yield namespaces
    finally:
        namespaces.remove()


class Owner:
    """Keeps what it is told of replicas, with the time."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.changed = asyncio.Event()

    def received(self, replica_id: str, link: Link, message: Message, body: bytes) -> None:
        self._tell(replica_id, type(message).__name__)

    def lost(self, replica_id: str) -> None:
        self._tell(replica_id, "lost")

    def is_idle(self, replica_id: str) -> bool:
        return True

    def _tell(self, replica_id: str, what: str) -> None:
        self.told.append((replica_id, what))
        self.changed.set()

    async def until(self, count: int, replica_id: str, what: str) -> None:
        while self.told.count((replica_id, what)) < count:
            self.changed.clear()
            await self.changed.wait()


@contextlib.asynccontextmanager
async def replicas(
    namespaces: Namespaces, folder: Path
) -> AsyncIterator[tuple[dict[str, messages.ReplicaInfo], dict[str, asyncio.subprocess.Process]]]:
    infos, processes = {}, {}
    try:
        for machine, name in namespaces.names.items():
            command = [sys.executable, "-c", REPLICA, machine, namespaces.host(machine), str(folder / machine)]
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(
                "ip", "netns", "exec", name, *command, stdin=pipe, stdout=pipe
            )
            processes[machine] = process
            assert process.stdout is not None
            infos[machine] = messages.ReplicaInfo(
                f"app_D#{machine}", (await process.stdout.readline()).decode().strip()
            )
        yield infos, processes
    finally:
        for process in processes.values():
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()


async def test_a_cut_is_noticed_and_the_replica_reached_over_another_machine(
    namespaces: Namespaces, tmp_path: Path
) -> None:
    async with asyncio.timeout(60), replicas(namespaces, tmp_path) as (infos, _):
        owner = Owner()
        links = ReplicaLinks(Network("here", PLAIN).connect, owner)
        links.update(infos.values())
        await owner.until(1, "app_D#a", "Welcome")
        await owner.until(1, "app_D#b", "Welcome")
        link = links.get("app_D#a")
        namespaces.cut("a")
        began = time.monotonic()
        if link is not None:
            link.send(messages.Prefetch("nothing"))  # is on its way, which the kernel's own probes would wait for
        await owner.until(2, "app_D#a", "Welcome")
        # About four seconds. The kernel's own time-out is a quarter of an hour, which this test's is below.
        print(f"noticed, and reached over another machine, after {time.monotonic() - began:.1f} s")
        assert link is not None
        assert link.is_cut
        assert ("app_D#a", "lost") not in owner.told
        relayed = links.get("app_D#a")
        assert relayed is not None
        begin = messages.Begin(1, "r", "app", "/", "__call__", "", False)
        relayed.send(begin)
        await owner.until(1, "app_D#a", "Fail")  # its body is no call: what matters is that the replica says so
        await links.close()


async def test_a_cut_that_leaves_no_way_is_a_loss_and_a_blocked_replica_is_not(
    namespaces: Namespaces, tmp_path: Path
) -> None:
    async with asyncio.timeout(60), replicas(namespaces, tmp_path) as (infos, processes):
        owner = Owner()
        links = ReplicaLinks(Network("here", PLAIN).connect, owner)
        links.update(infos.values())
        await owner.until(1, "app_D#a", "Welcome")
        await owner.until(1, "app_D#b", "Welcome")
        blocked, link = processes["b"], links.get("app_D#b")
        assert blocked.stdin is not None
        assert link is not None
        blocked.stdin.write(b"8\n")
        await asyncio.sleep(0.2)
        for _ in range(16 * 2**20 // 2**16):  # its buffers are full, and it answers no more than its kernel does
            link.send(messages.Chunk(9, True), bytes(2**16))
        namespaces.cut("a")
        await owner.until(1, "app_D#a", "lost")
        assert links.get("app_D#b") is link
        link.send(messages.Begin(1, "r", "app", "/", "__call__", "", False))
        await owner.until(1, "app_D#b", "Fail")
        assert owner.told.count(("app_D#b", "lost")) == 0
        await links.close()
