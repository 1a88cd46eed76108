"""The links from one router to the replicas of its deployment: opened, welcomed, opened again when they are lost.

A link that the network cuts, and not the end of its process, is not given up at once: the replica most likely lives,
with its models, and other machines may still reach it. For a short time it is tried again directly and over replicas
on other machines (`messages.Relay`). If it welcomes by one of these ways, its owner is told so and of no loss.
"""

import asyncio
import errno
import functools
import logging
from collections.abc import Iterable
from typing import Protocol

from modelplex import errors
from modelplex.core import rendezvous
from modelplex.core.backoff import Backoff
from modelplex.runtime.address import Address
from modelplex.runtime.link import Connect, Link, is_cut
from modelplex.runtime.relay import RELAY_TIMEOUT_S
from modelplex.wire import messages
from modelplex.wire.messages import Message

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0

# A replica whose user code blocks its event loop must not hold up requests that others could serve.
MEET_TIMEOUT_S = 0.5

# Other replicas over which a way is tried at a time, each on another machine.
RELAYS_MAX = 3

# A replica that cannot be reached when it is first linked is tried over others so often, and one that is reached over
# others, directly.
RELAY_AGAIN_S = DIRECT_AGAIN_S = 10.0

_RECONNECT = Backoff(base_s=0.02, max_s=1.0)


class Owner(Protocol):
    """Whoever is told what replicas say."""

    def received(self, replica_id: str, link: Link, message: Message, body: bytes) -> None:
        """A message of a replica; the first one of each link is its `Welcome`.

        One on another link than before, without `lost` between them, says that the replica is back: what was sent by
        the first link and has not been answered is to be placed anew.
        """

    def lost(self, replica_id: str) -> None:
        """The link to a replica that had been welcomed is gone, and so, most likely, is the replica."""

    def is_idle(self, replica_id: str) -> bool:
        """Whether nothing of this owner's runs on the replica, so that its link may be replaced."""


class ReplicaLinks:
    """Keeps a link to each replica that is wanted. One that is no longer wanted keeps its link until it closes it."""

    def __init__(self, connect: Connect, owner: Owner) -> None:
        self._connect = connect
        self.owner = owner
        self._loop = asyncio.get_running_loop()
        self._addresses: dict[str, str] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._peers: dict[str, _Peer] = {}  # welcomed; one whose link was cut stays while there may be another way
        self._unmet: set[str] | None = None  # replicas known from the start of which nothing has been heard yet
        self._met = asyncio.Event()
        self._meeting: asyncio.TimerHandle | None = None

    @property
    def has_met(self) -> bool:
        return self._met.is_set()

    async def met(self) -> None:
        """Return when each replica known from the start is linked, could not be at first, or is too slow."""
        await self._met.wait()

    def get(self, replica_id: str) -> Link | None:
        """The link to a replica, if it is there at this moment, or may be again in the next one."""
        peer = self._peers.get(replica_id)
        return None if peer is None else peer.link

    def machine_of(self, replica_id: str) -> str:
        """The machine that a replica is on; empty if that has no name, or the replica is not wanted."""
        return Address.parse(self._addresses.get(replica_id, "")).machine

    def update(self, replicas: Iterable[messages.ReplicaInfo]) -> set[str]:
        """These are the replicas to link from now on. Answers which no longer are."""
        before, self._addresses = self._addresses, {r.replica_id: r.address for r in replicas}
        if self._unmet is None:
            self._unmet = set(self._addresses)
            self._meeting = self._loop.call_later(MEET_TIMEOUT_S, self._met.set)
            self._has_met("")
        dropped = before.keys() - self._addresses.keys()
        for replica_id in (self._addresses.keys() - before.keys()) & self._peers.keys():
            self._peers[replica_id].say_hello()  # it was not wanted for a while
        for replica_id in dropped - self._peers.keys():
            if (task := self._tasks.get(replica_id)) is not None:
                task.cancel()
        for replica_id in self._addresses.keys() - self._tasks.keys():
            task = self._loop.create_task(self._keep(replica_id))
            self._tasks[replica_id] = task
            task.add_done_callback(functools.partial(self._task_over, replica_id))
        return dropped

    async def close(self) -> None:
        """Drop every link."""
        self._addresses = {}
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        for peer in list(self._peers.values()):
            peer.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._met.set()
        if self._meeting is not None:
            self._meeting.cancel()

    async def _keep(self, replica_id: str) -> None:
        """Hold a link to a replica for as long as it is wanted; one that is lost is opened again."""
        failures, relay_at = 0, -RELAY_AGAIN_S
        try:
            while (address := self._addresses.get(replica_id)) is not None:
                error = await self._try(replica_id, address)
                if is_cut(error) and self._loop.time() >= relay_at + RELAY_AGAIN_S:
                    relay_at = self._loop.time()
                    await self._race(replica_id, address, self._relays(replica_id))
                failures = 0 if replica_id in self._peers else failures + 1
                self._has_met(replica_id)
                while (peer := self._peers.get(replica_id)) is not None:
                    await self._stay(peer)
                    if self._peers.get(replica_id) is peer:  # it was cut
                        await self._race(replica_id, address, ["", *self._relays(replica_id)])
                        if self._peers.get(replica_id) is peer:
                            self._lose(replica_id)
                await asyncio.sleep(_RECONNECT.delay_s(max(1, failures)))
        finally:
            if (peer := self._peers.get(replica_id)) is not None:
                peer.close()

    async def _stay(self, peer: "_Peer") -> None:
        """Return when the peer is lost or replaced: one that is reached over another, as soon as there is a direct way.

        That is not taken while requests run, since these would have to be begun again. It is looked for again and
        again, since each byte of a relayed link costs another replica's event loop time, and waits for that.
        """
        while not peer.gone.done():
            timeout_s = DIRECT_AGAIN_S if peer.via else None
            await asyncio.wait([peer.gone], timeout=timeout_s)
            address = self._addresses.get(peer.replica_id)
            if not peer.gone.done() and address is not None and self.owner.is_idle(peer.replica_id):
                await self._try(peer.replica_id, address)

    async def _race(self, replica_id: str, address: str, ways: Iterable[str]) -> None:
        """Try all ways at once, for a short time; the first to bring a welcome is taken."""
        before = self._peers.get(replica_id)
        tasks = {self._loop.create_task(self._try(replica_id, address, via)) for via in ways}
        pending, deadline = tasks, self._loop.time() + RELAY_TIMEOUT_S
        try:
            while pending and self._peers.get(replica_id) is before and (rest_s := deadline - self._loop.time()) > 0:
                _, pending = await asyncio.wait(pending, timeout=rest_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _try(self, replica_id: str, address: str, via: str = "") -> Exception | None:
        """Connect, perhaps over another replica's address, until the replica has welcomed; answers what went wrong."""
        peer = _Peer(self, replica_id, via)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                peer.link = await self._connect(via or address, peer)
                if via:
                    peer.link.send(messages.Relay(address))
                peer.say_hello()
                await peer.welcomed
        except (OSError, errors.ProtocolError) as error:
            log.debug("No link to replica %s: %s", replica_id, error)
            return error
        finally:
            if self._peers.get(replica_id) is not peer:
                peer.close()
        return None

    def _relays(self, replica_id: str) -> list[str]:
        """Addresses of others that might reach it: linked by TCP, directly, one each of a few other machines."""
        machine = Address.parse(self._addresses.get(replica_id, "")).machine
        others: dict[str, str] = {}
        for other_id, peer in self._peers.items():
            address = self._addresses.get(other_id, "")
            if peer.link is not None and peer.link.is_remote and not peer.via and not peer.gone.done():
                others.setdefault(Address.parse(address).machine, address)
        others.pop(machine, None)
        # Another order for each replica: that which is tried first must not be the same for all.
        in_order = rendezvous.order(replica_id, others.values(), rendezvous.point)
        return [address for address in in_order if address][:RELAYS_MAX]

    def _has_met(self, replica_id: str) -> None:
        assert self._unmet is not None
        self._unmet.discard(replica_id)
        if not self._unmet:
            self._met.set()

    def _task_over(self, replica_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(replica_id) is task:
            del self._tasks[replica_id]

    def _lose(self, replica_id: str) -> None:
        del self._peers[replica_id]
        self.owner.lost(replica_id)

    # What peers tell

    def may_come(self, peer: "_Peer") -> bool:
        """A peer has welcomed: whether it is the one to use from now on. The one before is closed."""
        now = self._peers.get(peer.replica_id)
        if peer.replica_id not in self._addresses:
            return False
        lives = now is not None and not now.gone.done()
        if now is not None and lives and (peer.via or not now.via or not self.owner.is_idle(peer.replica_id)):
            return False  # there has been another way first
        self._peers[peer.replica_id] = peer
        if now is not None:
            now.close()
        return True

    def lost(self, peer: "_Peer", *, may_live: bool) -> None:
        """`may_live` is whether the replica may well be there, and another way to it."""
        replica_id = peer.replica_id
        if self._peers.get(replica_id) is peer and not (may_live and replica_id in self._addresses):
            self._lose(replica_id)


class _Peer:
    """The receiver of one link, which knows whose link it is.

    Attributes:
        via: the address of the replica that it goes over; empty if it goes over none.
        welcomed: done when it is the one to use, or failed.
        gone: done when its link is lost.
    """

    def __init__(self, links: ReplicaLinks, replica_id: str, via: str) -> None:
        self._links, self._owner = links, links.owner
        self.replica_id, self.via = replica_id, via
        self.link: Link | None = None
        loop = asyncio.get_running_loop()
        self.welcomed: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()

    def say_hello(self) -> None:
        if self.link is not None:
            self.link.send(messages.Hello(messages.VERSION))

    def close(self) -> None:
        if self.link is not None:
            self.link.close()

    def received(self, link: Link, message: Message, body: bytes) -> None:
        if isinstance(message, messages.Welcome) and not self._welcome(link, message):
            link.close()
        else:
            self._owner.received(self.replica_id, link, message, body)

    def _welcome(self, link: Link, welcome: messages.Welcome) -> bool:
        """Whether it may come in."""
        if self.welcomed.done():
            return self._links.get(self.replica_id) is link  # else nobody waits for it any more
        self.link = link
        if welcome.version != messages.VERSION:
            self.welcomed.set_exception(errors.ProtocolError(f"the replica speaks version {welcome.version}"))
        elif welcome.replica_id != self.replica_id:
            text = f"its address has become that of {welcome.replica_id}"
            self.welcomed.set_exception(errors.ProtocolError(text))
        elif not self._links.may_come(self):
            self.welcomed.set_exception(errors.ProtocolError("there was another way to the replica first"))
        else:
            self.welcomed.set_result(None)
            return True
        return False

    def lost(self, link: Link) -> None:
        if not self.welcomed.done():
            failure = errors.ProtocolError("the link was closed before the replica's first word")
            self.welcomed.set_exception(TimeoutError(errno.ETIMEDOUT, "the network is cut") if link.is_cut else failure)
            self.welcomed.exception()
        if not self.gone.done():
            self.gone.set_result(None)
        # The end of a relayed link may be that of the relay.
        self._links.lost(self, may_live=link.is_cut or bool(self.via))
