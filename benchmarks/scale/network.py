"""How routers and replicas of the benchmark are linked: as if between machines, by TCP, proved on both sides."""

import math
from collections import Counter
from pathlib import Path

from modelplex.runtime.credentials import Credentials
from modelplex.runtime.link import Link, Receiver
from modelplex.runtime.network import Listening, Network
from modelplex.wire import messages
from modelplex.wire.messages import Message

from .sizes import size_bytes

# A secret of which nothing depends: all of it is on this machine, and soon over.
_CREDENTIALS = Credentials(bytes(32))


async def listen(replica: Receiver, folder: Path, name: str) -> Listening:
    """Let routers link to a replica."""
    network = Network(f"machine of {name}", _CREDENTIALS)
    return await network.listen(lambda: replica, str(folder / f"{name}.sock"), "127.0.0.1")


class Meter:
    """Links of one router, and what comes over them.

    Attributes:
        heard: messages by their kind.
    """

    def __init__(self) -> None:
        self.heard: Counter[str] = Counter()
        self._sizes: dict[str, int] = {}
        self._network = Network("machine of the router", _CREDENTIALS)

    async def connect(self, address: str, receiver: Receiver) -> Link:
        return await self._network.connect(address, _Metered(receiver, self), math.inf)

    def count(self, message: Message) -> None:
        kind = type(message).__name__
        self.heard[kind] += 1
        if kind not in self._sizes:
            self._sizes[kind] = size_bytes(message)  # ids are equally long here, so this one stands for all

    @property
    def messages(self) -> int:
        """Both ways: each answer and each refusal answers a `Begin`."""
        return self.heard.total() + self._begun

    @property
    def size_bytes(self) -> int:
        """Of those messages, without bodies."""
        return sum(count * self._sizes[kind] for kind, count in self.heard.items()) + self._begun * _BEGIN_BYTES

    @property
    def _begun(self) -> int:
        return self.heard["Answer"] + self.heard["Refuse"]


_BEGIN_BYTES = size_bytes(messages.Begin(1000, "r", "scale", "/", "__call__", "model-00000000", False, None, 1.78e9))


class _Metered:
    def __init__(self, receiver: Receiver, meter: Meter) -> None:
        self._receiver = receiver
        self._meter = meter

    def received(self, link: Link, message: Message, body: bytes) -> None:
        self._meter.count(message)
        self._receiver.received(link, message, body)

    def lost(self, link: Link) -> None:
        self._receiver.lost(link)
