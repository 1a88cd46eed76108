"""An HTTP proxy before a server of objects, whose answers fail as answers of real ones do."""

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol
from urllib.parse import unquote

import aiohttp
from multidict import CIMultiDict
from yarl import URL

# A body is sent in pieces of this size, so that what is counted was taken by the client, or nearly.
PIECE_BYTES = 64 << 10
# Of a connection or of a transfer: not the proxy's to pass on.
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
# How often a fault that waits for the test, or for ever, looks whether the client is still there.
LOOK_S = 0.02


@dataclass(frozen=True)
class Request:
    """What a client asks for.

    Attributes:
        key: the path without its first "/": `bucket/key`.
        span: the bytes that it asks for, from the first to one past the last; None for all of them.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    @property
    def key(self) -> str:
        return unquote(self.target.partition("?")[0]).lstrip("/")

    @property
    def span(self) -> tuple[int, int] | None:
        value = next((value for name, value in self.headers if name.lower() == "range"), None)
        if value is None:
            return None
        first, _, last = value.removeprefix("bytes=").partition("-")
        return int(first), int(last) + 1

    def without(self, *names: str) -> "Request":
        """The same without these headers."""
        return replace(self, headers=tuple(pair for pair in self.headers if pair[0].lower() not in names))


@dataclass
class Reply:
    """What the server answered, and how the client gets it.

    Attributes:
        length: the Content-Length that is said; that of the body unless it is a lie.
        wait_s: before the head.
        drip_s: the time over which the body is spread.
        cut_at: the connection ends after so many bytes of the body; with -1 before the head.
        reset: it ends with a reset rather than in order.
        until: the head is held back until this is set; for ever if it never is.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    length: int
    wait_s: float = 0.0
    drip_s: float = 0.0
    cut_at: int | None = None
    reset: bool = False
    until: threading.Event | None = None

    def say(self, status: int, body: bytes) -> None:
        """Something else altogether."""
        self.status, self.headers, self.body, self.length = status, {"Content-Type": "text/xml"}, body, len(body)


@dataclass(frozen=True)
class Fault:
    """One way to fail.

    Attributes:
        change: of the server's answer.
        first: done before the server is asked.
        unranged: the server is asked for the whole object whatever the client asks for.
    """

    name: str
    change: Callable[[Reply], None] = lambda reply: None
    first: Callable[[], None] | None = None
    unranged: bool = False

    def __str__(self) -> str:
        return self.name


def late(wait_s: float) -> Fault:
    return Fault("late", lambda reply: setattr(reply, "wait_s", wait_s))


def dripping(drip_s: float) -> Fault:
    return Fault("dripping", lambda reply: setattr(reply, "drip_s", drip_s))


def held(until: threading.Event) -> Fault:
    """No answer before the test says so."""
    return Fault("held", lambda reply: setattr(reply, "until", until))


def black_hole() -> Fault:
    """No answer ever, on a connection that stays."""
    return held(threading.Event())


def reset_before_head() -> Fault:
    def change(reply: Reply) -> None:
        reply.cut_at, reply.reset = -1, True

    return Fault("reset before the head", change)


def closed_before_head() -> Fault:
    return Fault("closed before the head", lambda reply: setattr(reply, "cut_at", -1))


def reset_in_body() -> Fault:
    def change(reply: Reply) -> None:
        reply.cut_at, reply.reset = len(reply.body) // 2, True

    return Fault("reset in the body", change)


def closed_in_body() -> Fault:
    """In order, but before the Content-Length."""
    return Fault("closed in the body", lambda reply: setattr(reply, "cut_at", len(reply.body) // 2))


def status(code: int) -> Fault:
    return Fault(str(code), lambda reply: reply.say(code, b"<Error/>"))


def slow_down() -> Fault:
    """As S3 says it."""
    return Fault("503 SlowDown", lambda reply: reply.say(503, SLOW_DOWN))


def longer_than_asked() -> Fault:
    def change(reply: Reply) -> None:
        reply.body += b"?"
        reply.length += 1

    return Fault("longer than asked", change)


def shorter_than_asked() -> Fault:
    """With a Content-Length that is true, and a Content-Range that is not."""

    def change(reply: Reply) -> None:
        reply.body = reply.body[:-1]
        reply.length = max(0, reply.length - 1)

    return Fault("shorter than asked", change)


def longer_than_said() -> Fault:
    """The last byte comes after the end of the body."""
    return Fault("longer than said", lambda reply: setattr(reply, "length", max(0, reply.length - 1)))


def other_range(shift: int = 1) -> Fault:
    """Content-Range says that these are the bytes some places on."""

    def change(reply: Reply) -> None:
        unit, _, rest = reply.headers.get("Content-Range", "bytes 0-0/1").partition(" ")
        span, _, size = rest.partition("/")
        first, last = (int(n) + shift for n in span.split("-"))
        reply.headers["Content-Range"] = f"{unit} {first}-{last}/{size}"

    return Fault("other range", change)


def whole_body() -> Fault:
    """200 with all bytes, as from a server that knows no ranges."""
    return Fault("whole body", unranged=True)


def other_etag(etag: str = '"0123456789abcdef0123456789abcdef"') -> Fault:
    return Fault("other ETag", lambda reply: reply.headers.__setitem__("ETag", etag))


def no_etag() -> Fault:
    def change(reply: Reply) -> None:
        reply.headers.pop("ETag", None)

    return Fault("no ETag", change)


def other_length(difference: int) -> Fault:
    """For HEAD: the object seems to be so much longer than it is."""
    return Fault(f"length {difference:+}", lambda reply: setattr(reply, "length", reply.length + difference))


def replaced(act: Callable[[], None]) -> Fault:
    """Something, such as another object of this key, is done at the server before it is asked."""
    return Fault("replaced", first=act)


class Plan(Protocol):
    def __call__(self, request: Request) -> Fault | None:
        """What goes wrong with this request; nothing if None."""
        ...


@dataclass
class Rule:
    """A fault for some of the requests, in the order in which they come.

    Args:
        method: of the requests that are meant; all of them if empty.
        key: a part of their keys.
        start: the first byte that they ask for; any if None.
        skip: so many of them are let through first.
        times: so many of the next ones fail; all of them if None.
    """

    fault: Fault
    method: str = "GET"
    key: str = ""
    start: int | None = None
    skip: int = 0
    times: int | None = 1
    _seen: int = field(default=0, repr=False)

    def __call__(self, request: Request) -> Fault | None:
        if self.method not in ("", request.method) or self.key not in request.key:
            return None
        if self.start is not None and (request.span is None or request.span[0] != self.start):
            return None
        self._seen += 1
        is_meant = self._seen > self.skip and (self.times is None or self._seen <= self.skip + self.times)
        return self.fault if is_meant else None


@dataclass
class RandomPlan:
    """Faults at random: of each request with the same chance, and no more than so many altogether."""

    seed: int
    faults: list[Fault]
    chance: float = 0.3
    times: int = 8

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def __call__(self, request: Request) -> Fault | None:
        if self.times == 0 or self._random.random() >= self.chance:
            return None
        self.times -= 1
        return self._random.choice(self.faults)


@dataclass
class Seen:
    """One request that has come.

    Attributes:
        fault: the name of what goes wrong with it; empty if nothing does.
        status: what the client was told; 0 for nothing so far.
        sent_bytes: of the body so far; at the end of a connection that broke, up to one piece too many.
    """

    request: Request
    fault: str
    status: int = 0
    sent_bytes: int = 0


class FaultyProxy:
    """Listens in a thread of its own.

    Attributes:
        url: where.
        plan: what goes wrong from now on: the first of these that has a fault for a request.
        seen: the requests that have come since.
    """

    def __init__(self, upstream: str) -> None:
        self.url = ""
        self.plan: list[Plan] = []
        self.seen: list[Seen] = []
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="faulty proxy", daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10.0)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10.0)
        assert not self._thread.is_alive()

    def fails(self, *plan: Plan) -> None:
        """From now on by this plan, and by no other; what was seen before is forgotten."""
        self.plan, self.seen = list(plan), []

    def requests(self, method: str = "GET", key: str = "") -> list[Seen]:
        """Those of this method whose keys contain `key`."""
        return [seen for seen in list(self.seen) if seen.request.method == method and key in seen.request.key]

    def faults(self) -> Counter[str]:
        """How often each fault happened."""
        return Counter(seen.fault for seen in list(self.seen) if seen.fault)

    def sent_bytes(self, key: str = "") -> int:
        """Of objects whose keys contain `key`, of all answers with (parts of) objects."""
        return sum(seen.sent_bytes for seen in self.requests(key=key) if seen.status in (200, 206))

    def sent_by_key(self) -> Counter[str]:
        """The same for each object; lists are none."""
        counted: Counter[str] = Counter()
        for seen in self.requests():
            if seen.status in (200, 206) and "?" not in seen.request.target:
                counted[seen.request.key] += seen.sent_bytes
        return counted

    def until_seen(self, count: int, key: str = "", timeout_s: float = 10.0) -> None:
        """Wait until so many requests of any method have come."""
        deadline = time.monotonic() + timeout_s
        while sum(key in seen.request.key for seen in list(self.seen)) < count:
            assert time.monotonic() < deadline, self.seen
            time.sleep(LOOK_S)

    # In its thread

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=60.0)
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            auto_decompress=False,
            skip_auto_headers=["User-Agent", "Accept", "Accept-Encoding", "Content-Type"],
        ) as self._session:
            self._connections: set[asyncio.Task[None]] = set()
            server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=1 << 20, backlog=1000)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            self._ready.set()
            await self._over.wait()
            server.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        writer.transport.set_write_buffer_limits(0)
        try:
            while (request := await _read(reader)) is not None:
                if not await self._answer(request, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has left, or the proxy ends
        finally:
            writer.close()
            self._connections.discard(task)

    async def _answer(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection is of use after it."""
        fault = next((fault for plan in self.plan if (fault := plan(request)) is not None), None) or Fault("")
        seen = Seen(request, fault.name)
        self.seen.append(seen)
        if fault.first is not None:
            await asyncio.to_thread(fault.first)
        reply = await self._ask(request.without("range") if fault.unranged else request)
        fault.change(reply)
        await _hold(reply, reader, writer)
        return await _send(seen, reply, writer)

    async def _ask(self, request: Request) -> Reply:
        url = URL(self._upstream + request.target, encoded=True)
        headers = CIMultiDict(request.without(*HOP_BY_HOP).headers)
        async with self._session.request(
            request.method, url, headers=headers, data=request.body or None, allow_redirects=False
        ) as response:
            body = await response.read()
            told = {name: value for name, value in response.headers.items() if name.lower() not in HOP_BY_HOP}
            told = {"ETag" if name.lower() == "etag" else name.title(): value for name, value in told.items()}
            is_head = request.method == "HEAD"
            length = int(response.headers.get("Content-Length", 0)) if is_head else len(body)
            return Reply(response.status, told, body, length)


async def _hold(reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the answer may go. ConnectionError if the client does not wait for it."""
    await asyncio.sleep(reply.wait_s)
    while reply.until is not None and not reply.until.is_set():
        if reader.at_eof() or writer.is_closing():
            raise ConnectionAbortedError
        await asyncio.sleep(LOOK_S)


async def _send(seen: Seen, reply: Reply, writer: asyncio.StreamWriter) -> bool:
    """Whether the connection is of use after it."""
    if reply.cut_at != -1:
        seen.status = reply.status
        lines = [f"HTTP/1.1 {reply.status} Told", f"Content-Length: {reply.length}"]
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        body = b"" if seen.request.method == "HEAD" else reply.body[: reply.cut_at]
        size = min(PIECE_BYTES, max(1, len(body) // 8)) if reply.drip_s else PIECE_BYTES
        for start in range(0, len(body), size):
            piece = body[start : start + size]
            await asyncio.sleep(reply.drip_s * len(piece) / len(body))
            seen.sent_bytes += len(piece)
            writer.write(piece)
            await writer.drain()
        await writer.drain()
    if reply.reset:
        lingering = struct.pack("ii", 1, 0)  # for no time: what ends is reset
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingering)
        writer.transport.abort()
    return reply.cut_at is None and len(reply.body) in (0, reply.length)


async def _read(reader: asyncio.StreamReader) -> Request | None:
    """The next request of a connection; None at its end."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    body = await reader.readexactly(length)
    return Request(method, target, headers, body)


@contextlib.contextmanager
def faulty_proxy(upstream: str, plan: Iterable[Plan] = ()) -> Iterator[FaultyProxy]:
    """A proxy to the server at this URL until the end of the block."""
    proxy = FaultyProxy(upstream)
    proxy.fails(*plan)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
