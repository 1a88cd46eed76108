"""Replicas for a router that do and say what the test tells them to, and the network that they are reached by."""

import asyncio
from typing import Any, TypeVar

from modelplex.runtime.link import Link, MemoryLink, Receiver
from modelplex.wire import messages
from modelplex.wire.messages import Answer, Begin, Message

M = TypeVar("M", bound=Message)


class ScriptedReplica:
    """Welcomes routers, and keeps what else they say.

    Args:
        replica_id: its id and its address.
        slots: its max_ongoing_requests.
        loaded: the models that it says it holds.
        version: of the protocol that it says it speaks.
        welcomes: whether it answers `Hello` at once.
        refuses_links: whether nobody can connect to it.
        ongoing: how many requests it says run on it already.
        room: how many models it says it could load without evicting one; None for any number.
        harm_s: what it says its next eviction would cost.
    """

    def __init__(
        self,
        replica_id: str = "r",
        *,
        slots: int = 2,
        loaded: tuple[str, ...] = (),
        version: int = messages.VERSION,
        welcomes: bool = True,
        refuses_links: bool = False,
        ongoing: int = 0,
        room: int | None = None,
        harm_s: float = 0.0,
    ) -> None:
        self.replica_id = replica_id
        self.heard: list[tuple[Message, bytes]] = []
        self.link: Link | None = None
        self.links_lost = 0
        self.refuses_links = refuses_links
        self.connected_at: list[float] = []
        self.welcomes = welcomes
        self._welcome = messages.Welcome(
            version, replica_id, slots, ongoing, room, list(loaded), loading=[], harm_s=harm_s
        )

    # link.Receiver

    def received(self, link: Link, message: Message, body: bytes) -> None:
        if isinstance(message, messages.Hello):
            self.link = link
            if self.welcomes:
                self.welcome()
        else:
            self.heard.append((message, body))

    def lost(self, link: Link) -> None:
        self.links_lost += 1
        if link is self.link:
            self.link = None

    # What was heard

    def all_of(self, kind: type[M]) -> list[M]:
        return [message for message, _ in self.heard if isinstance(message, kind)]

    @property
    def streams(self) -> list[int]:
        """The requests that it was sent, in order."""
        return [begin.stream for begin in self.all_of(Begin)]

    def body(self, stream: int) -> bytes:
        """What it was sent of the body of a request, counted from its last `Begin`."""
        data = b""
        for message, body in self.heard:
            if isinstance(message, Begin | messages.Chunk) and message.stream == stream:
                data = body if isinstance(message, Begin) else data + body
        return data

    # What to say

    def say(self, message: Message, body: bytes = b"") -> None:
        assert self.link is not None
        self.link.send(message, body)

    def welcome(self) -> None:
        self.say(self._welcome)

    def answer(self, stream: int, body: bytes = b"", *, more: bool = False, ongoing: int = 0, **says: Any) -> None:
        self.say(Answer(stream, 200, [], "", 0.0, 0.0, more, ongoing, **says), body)

    def fail(self, stream: int, name: str = "UserCodeError", text: str = "", body: bytes = b"") -> None:
        self.say(messages.Fail(stream, name, text, None, 0), body)

    def refuse(self, stream: int, ongoing: int, **says: Any) -> None:
        self.say(messages.Refuse(stream, ongoing, **says))

    def die(self) -> None:
        """Its link breaks, and it takes no other."""
        self.refuses_links = True
        self.break_link()

    def break_link(self) -> None:
        assert self.link is not None
        self.link.close()


class Network:
    """Connects routers to scripted replicas; `connect` is a `link.Connect`."""

    def __init__(self, *replicas: ScriptedReplica) -> None:
        self.replicas = {replica.replica_id: replica for replica in replicas}

    def add(self, replica: ScriptedReplica) -> None:
        self.replicas[replica.replica_id] = replica

    async def connect(self, address: str, receiver: Receiver) -> Link:
        replica = self.replicas[address]
        replica.connected_at.append(asyncio.get_running_loop().time())
        if replica.refuses_links:
            raise ConnectionRefusedError(address)
        return MemoryLink.pair(receiver, replica)[0]

    def infos(self, *replica_ids: str) -> list[messages.ReplicaInfo]:
        """The table's word for these replicas; for all if none is named."""
        return [messages.ReplicaInfo(replica_id, replica_id) for replica_id in replica_ids or self.replicas]
