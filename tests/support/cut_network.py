"""A network between machines that can be cut, for one router: scripted replicas behind addresses, which relay."""

import asyncio
import errno
from collections.abc import Callable

from scripted_replica import ScriptedReplica

from modelplex.runtime.address import Address
from modelplex.runtime.link import Link, MemoryLink, Receiver
from modelplex.wire import messages
from modelplex.wire.messages import Message

# What a machine that does not answer takes a client to give up.
SILENCE_S = 2.0


class CutNetwork:
    """`connect` is a `link.Connect`. Each replica is on a machine of its own, which has its name, unless given."""

    def __init__(self, *replicas: ScriptedReplica, machines: dict[str, str] | None = None, is_remote: bool = True):
        self.replicas = {replica.replica_id: replica for replica in replicas}
        self.machines = {name: name for name in self.replicas} | (machines or {})
        self.is_remote = is_remote
        self.cut: set[str] = set()  # replicas to which there is no direct way
        self.relays_break: set[str] = set()  # those from which there is none
        self.tried: list[tuple[float, str]] = []  # direct connections
        self.relayed: list[tuple[str, str]] = []  # over whom, to whom
        self._links: list[tuple[str, MemoryLink, MemoryLink]] = []

    def info(self, replica_id: str) -> messages.ReplicaInfo:
        return messages.ReplicaInfo(replica_id, str(Address(replica_id, 1, self.machines[replica_id])))

    @property
    def infos(self) -> list[messages.ReplicaInfo]:
        return [self.info(replica_id) for replica_id in self.replicas]

    async def connect(self, address: str, receiver: Receiver) -> Link:
        name = Address.parse(address).host
        self.tried.append((asyncio.get_running_loop().time(), name))
        if name in self.cut:
            await asyncio.sleep(SILENCE_S)
            raise TimeoutError(errno.ETIMEDOUT, address)
        if self.replicas[name].refuses_links:
            raise ConnectionRefusedError(address)
        near, far = MemoryLink.pair(receiver, _Door(self, name))
        near.is_remote = self.is_remote
        self._links.append((name, near, far))
        return near

    def cut_links(self, *names: str) -> None:
        """The network to these is cut, and that has been noticed."""
        self.cut |= set(names)
        self.break_links(*names, is_cut=True)

    def break_links(self, *names: str, is_cut: bool = False) -> None:
        for name, near, far in self._links:
            if name in names:
                near.is_cut = is_cut
                far.close()

    def count(self, name: str) -> int:
        return sum(tried == name for _, tried in self.tried)


class _Door:
    """A replica's end of a link: it is the replica's, or goes on to another one."""

    def __init__(self, network: CutNetwork, name: str) -> None:
        self._network, self._name = network, name
        self._to: Callable[[Link, Message, bytes], None] | None = None
        self._lost: Callable[[Link], None] = lambda link: None

    def received(self, link: Link, message: Message, body: bytes) -> None:
        network, replica = self._network, self._network.replicas[self._name]
        if self._to is not None:
            self._to(link, message, body)
        elif not isinstance(message, messages.Relay):
            self._to, self._lost = replica.received, replica.lost
            replica.received(link, message, body)
        else:
            name = Address.parse(message.address).host
            network.relayed.append((self._name, name))
            target = network.replicas[name]
            if self._name in network.relays_break or target.refuses_links:
                link.close()
                self._to = lambda link, message, body: None
                return
            onward, far = MemoryLink.pair(_Onward(link), target)
            del far
            self._to = lambda _, message, body: onward.send(message, body)
            self._lost = lambda _: onward.close()

    def lost(self, link: Link) -> None:
        self._lost(link)


class _Onward:
    def __init__(self, back: Link) -> None:
        self._back = back

    def received(self, link: Link, message: Message, body: bytes) -> None:
        self._back.send(message, body)

    def lost(self, link: Link) -> None:
        self._back.close()
