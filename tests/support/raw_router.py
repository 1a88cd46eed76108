"""A replica without a router: the test says and hears the messages themselves."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from modelplex.config import DeploymentConfig
from modelplex.runtime import payload
from modelplex.runtime.app_spec import Definition
from modelplex.runtime.link import Link, MemoryLink
from modelplex.runtime.replica import Replica
from modelplex.runtime.replica_spec import ReplicaSpec
from modelplex.wire import messages
from modelplex.wire.messages import Answer, Chunk, Fail, Message

M = TypeVar("M", bound=Message)
T = TypeVar("T")


@dataclass
class Reply:
    """A whole answer."""

    head: Answer
    body: bytes

    @property
    def value(self) -> Any:
        """What a call returned."""
        return payload.loads(self.body)

    def header(self, name: bytes) -> bytes | None:
        return dict(self.head.headers).get(name)


class RawRouter:
    """The router's end of a link. It says hello at once, and gives credit for what it gets unless told not to."""

    def __init__(self, replica: Replica, *, version: int | None = messages.VERSION, gives_credit: bool = True) -> None:
        self.heard: list[tuple[Message, bytes]] = []
        self.is_lost = False
        self._gives_credit = gives_credit
        self._news = asyncio.Event()
        self._streams = itertools.count(1)
        self.link, self.far_end = MemoryLink.pair(self, replica)
        if version is not None:
            self.say(messages.Hello(version))

    # link.Receiver

    def received(self, link: Link, message: Message, body: bytes) -> None:
        self.heard.append((message, body))
        if self._gives_credit and isinstance(message, Answer | Chunk) and body and message.more:
            self.say(messages.Credit(message.stream, len(body)))
        self._news.set()

    def lost(self, link: Link) -> None:
        self.is_lost = True
        self._news.set()

    # What to say

    def say(self, message: Message, body: bytes = b"") -> None:
        self.link.send(message, body)

    def call(self, method_name: str = "__call__", *args: Any, model_id: str = "", **says: Any) -> int:
        """Begin a call, as a handle does; answers its stream. `says` are further fields of `Begin`."""
        stream = next(self._streams)
        self.say(_begin(stream, method_name, model_id, **says), payload.dumps((args, {})))
        return stream

    def http(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        body: bytes = b"",
        more: bool = False,
        model_id: str = "",
        headers: Iterable[tuple[bytes, bytes]] = (),
        query: bytes = b"",
        scheme: str = "http",
    ) -> int:
        """Begin an HTTP request, as a proxy does; answers its stream."""
        stream = next(self._streams)
        head = messages.HTTPHead(
            method, path, path.encode(), query, "", scheme, "1.1", list(headers), ("1.2.3.4", 5), ("5.6.7.8", 80)
        )
        self.say(_begin(stream, "__call__", model_id, more=more, http=head), body)
        return stream

    def chunk(self, stream: int, data: bytes, *, more: bool) -> None:
        self.say(Chunk(stream, more), data)

    def leave(self, stream: int) -> None:
        """The client has gone away."""
        self.say(messages.Cancel(stream))

    # What was heard

    def all_of(self, kind: type[M]) -> list[M]:
        return [message for message, _ in self.heard if isinstance(message, kind)]

    async def first_of(self, kind: type[M], stream: int | None = None) -> M:
        """The first message of this kind, of this stream if one is named, when it has come."""

        def found() -> M | None:
            wanted = (m for m in self.all_of(kind) if stream is None or getattr(m, "stream", None) == stream)
            return next(wanted, None)

        return await self._when(found)

    async def reply(self, stream: int) -> Reply:
        """The answer to a request, when it is complete. A failure is an error of the test."""

        def found() -> Reply | None:
            of_stream = [(m, body) for m, body in self.heard if getattr(m, "stream", None) == stream]
            assert not any(isinstance(m, Fail | messages.Refuse) for m, _ in of_stream), of_stream
            parts = [(m, body) for m, body in of_stream if isinstance(m, Answer | Chunk)]
            if not parts or parts[-1][0].more:
                return None
            head = parts[0][0]
            assert isinstance(head, Answer)
            return Reply(head, b"".join(body for _, body in parts))

        return await self._when(found)

    async def failure(self, stream: int) -> tuple[Fail, bytes]:
        """How a request failed, and the bytes that came along."""
        fail = await self.first_of(Fail, stream)
        return fail, next(body for message, body in self.heard if message is fail)

    async def next(self) -> None:
        """Return when something more was heard."""
        self._news.clear()
        await self._news.wait()

    async def until_lost(self) -> None:
        await self._when(lambda: self.is_lost or None)

    async def _when(self, found: Callable[[], T | None]) -> T:
        while (result := found()) is None:
            await self.next()
        return result


def _begin(stream: int, method_name: str, model_id: str, *, more: bool = False, **says: Any) -> messages.Begin:
    return messages.Begin(stream, f"request-{stream}", "app", "/", method_name, model_id, more, **says)


@contextlib.asynccontextmanager
async def replica_of(func_or_class: Callable[..., Any], *args: Any, **options: Any) -> AsyncIterator[Replica]:
    """A replica that runs, stopped at the end; whatever the test did, nothing of it is left then."""
    spec = ReplicaSpec("app", "tag", DeploymentConfig(name="D", **options), Definition(func_or_class, args))
    replica = Replica(spec)
    # In a task, so that what it sets for user code is not set for the test.
    await asyncio.create_task(replica.start())
    others = asyncio.all_tasks()
    yield replica
    if not replica.retiring:  # the test has not done so itself
        await replica.stop(0.0)
    assert replica.ongoing == len(replica._servings) == 0
    assert leases_held(replica) == 0
    assert asyncio.all_tasks() <= others


# More than any test asks for models.
TICKETS_MAX = 1000


def leases_held(replica: Replica) -> int:
    """How many leases of models are held, or waited for, at the moment."""
    caches = [host.cache for host in replica.models._hosts.values()]
    return sum(ticket in cache for cache in caches for ticket in range(TICKETS_MAX))
