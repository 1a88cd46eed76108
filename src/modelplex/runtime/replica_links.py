"""The links from one router to the replicas of its deployment: opened, welcomed, opened again when they are lost."""

import asyncio
import functools
import logging
from collections.abc import Iterable
from typing import Protocol

from modelplex import errors
from modelplex.core.backoff import Backoff
from modelplex.runtime.link import Connect, Link
from modelplex.wire import messages
from modelplex.wire.messages import Message

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0

# A replica whose user code blocks its event loop must not hold up requests that others could serve.
MEET_TIMEOUT_S = 0.5

_RECONNECT = Backoff(base_s=0.02, max_s=1.0)


class Owner(Protocol):
    """Whoever is told what replicas say."""

    def received(self, replica_id: str, link: Link, message: Message, body: bytes) -> None:
        """A message of a replica; the first one of each link is its `Welcome`."""

    def lost(self, replica_id: str) -> None:
        """The link to a replica that had been welcomed is gone, and so, most likely, is the replica."""


class ReplicaLinks:
    """Keeps a link to each replica that is wanted. One that is no longer wanted keeps its link until it closes it."""

    def __init__(self, connect: Connect, owner: Owner) -> None:
        self._connect = connect
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._addresses: dict[str, str] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._links: dict[str, Link] = {}
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
        """The link to a replica, if it is there at this moment."""
        return self._links.get(replica_id)

    def update(self, replicas: Iterable[messages.ReplicaInfo]) -> set[str]:
        """These are the replicas to link from now on. Answers which no longer are."""
        before, self._addresses = self._addresses, {r.replica_id: r.address for r in replicas}
        if self._unmet is None:
            self._unmet = set(self._addresses)
            self._meeting = self._loop.call_later(MEET_TIMEOUT_S, self._met.set)
            self._has_met("")
        dropped = before.keys() - self._addresses.keys()
        for replica_id in (self._addresses.keys() - before.keys()) & self._links.keys():
            self._links[replica_id].send(messages.Hello(messages.VERSION))  # it was not wanted for a while
        for replica_id in dropped - self._links.keys():
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
        for link in list(self._links.values()):
            link.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._met.set()
        if self._meeting is not None:
            self._meeting.cancel()

    async def _keep(self, replica_id: str) -> None:
        """Hold a link to a replica for as long as it is wanted; one that is lost is opened again."""
        failures = 0
        while (address := self._addresses.get(replica_id)) is not None:
            peer = _Peer(self, replica_id)
            link: Link | None = None
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    link = await self._connect(address, peer)
                    link.send(messages.Hello(messages.VERSION))
                    await peer.welcomed
                failures = 0
                self._has_met(replica_id)
                await peer.gone
            except (OSError, TimeoutError, errors.ProtocolError) as error:
                log.debug("No link to replica %s: %s", replica_id, error)
                failures += 1
                self._has_met(replica_id)
            finally:
                if link is not None:
                    link.close()
            await asyncio.sleep(_RECONNECT.delay_s(max(1, failures)))

    def _has_met(self, replica_id: str) -> None:
        assert self._unmet is not None
        self._unmet.discard(replica_id)
        if not self._unmet:
            self._met.set()

    def _task_over(self, replica_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(replica_id) is task:
            del self._tasks[replica_id]

    # What peers tell

    def received(self, replica_id: str, link: Link, message: Message, body: bytes) -> None:
        if isinstance(message, messages.Welcome):
            self._links[replica_id] = link
        self._owner.received(replica_id, link, message, body)

    def lost(self, replica_id: str) -> None:
        if self._links.pop(replica_id, None) is not None:
            self._owner.lost(replica_id)


class _Peer:
    """The receiver of one link, which knows whose link it is."""

    def __init__(self, links: ReplicaLinks, replica_id: str) -> None:
        self._links = links
        self._replica_id = replica_id
        loop = asyncio.get_running_loop()
        self.welcomed: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()

    def received(self, link: Link, message: Message, body: bytes) -> None:
        if isinstance(message, messages.Welcome):
            if self.welcomed.done() and self._links.get(self._replica_id) is not link:
                link.close()  # nobody waits for it any more
                return
            if message.version != messages.VERSION:
                self.welcomed.set_exception(errors.ProtocolError(f"the replica speaks version {message.version}"))
                link.close()
                return
            if not self.welcomed.done():
                self.welcomed.set_result(None)
        self._links.received(self._replica_id, link, message, body)

    def lost(self, link: Link) -> None:
        if not self.welcomed.done():
            self.welcomed.set_exception(errors.ProtocolError("the link was closed before the replica's first word"))
        if not self.gone.done():
            self.gone.set_result(None)
        self._links.lost(self._replica_id)
