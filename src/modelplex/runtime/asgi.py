"""The ASGI side of a request: what an app, or a Starlette Request and Response, is told and what it says.

The rules are those of https://asgi.readthedocs.io/en/latest/specs/www.html.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from modelplex.runtime.answers import Headers
from modelplex.runtime.streams import Incoming
from modelplex.wire import framing, websocket
from modelplex.wire.messages import HTTPHead

Scope = dict[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

WEBSOCKET_SCHEMES = frozenset(["ws", "wss"])
TEXT: Headers = [(b"content-type", b"text/plain; charset=utf-8")]
NO_WEBSOCKET = b"This deployment takes no WebSockets: it has no ASGI app (serve.ingress)."

# For an app that listens to what the client does, and so hears that it has left; then it is cancelled.
LEAVE_TIMEOUT_S = 5.0


# What an app may say to a WebSocket, and when.
_BEFORE_ACCEPT = frozenset(["websocket.accept", "websocket.close", "websocket.http.response.start"])
_AFTER_ACCEPT = frozenset(["websocket.send", "websocket.close"])
_AFTER_DENIAL = frozenset(["websocket.http.response.body"])


class Answering(Protocol):
    """A request that runs, as far as its ASGI side needs it."""

    body: bytes
    incoming: Incoming | None
    answered: bool

    async def answer(self, status: int, headers: Headers, body: bytes, *, more: bool = False) -> None: ...

    async def write(self, data: bytes | memoryview, *, last: bool = False) -> None: ...

    def end(self, *, answered: bool = True) -> None: ...


class Conversation:
    """What an app and a client have to say to each other. `over` ends it.

    Attributes:
        is_left: the client has gone away, or has said that it will.
        is_cancelled: it has gone away before the end.
    """

    __slots__ = ("_grace", "_listens", "is_cancelled", "is_left")

    def __init__(self) -> None:
        self.is_left = self.is_cancelled = False
        self._listens = False
        self._grace: asyncio.TimerHandle | None = None

    async def receive(self) -> Message:
        raise NotImplementedError

    async def send(self, message: Message) -> None:
        raise NotImplementedError

    async def finish(self) -> None:
        """The app has returned. Raises RuntimeError if that was too early."""
        raise NotImplementedError

    def leave(self, cancel: Callable[[], object]) -> bool:
        """The client has gone away. Answers whether the app is told, as one is that listens; it is cancelled if it does
        not end within `LEAVE_TIMEOUT_S`, or at once when this is called again."""
        if self.is_cancelled:
            return False
        self.is_left = self.is_cancelled = True
        self._wake()
        if not self._listens:
            return False
        self._grace = asyncio.get_running_loop().call_later(LEAVE_TIMEOUT_S, cancel)
        return True

    def over(self) -> None:
        if self._grace is not None:
            self._grace.cancel()

    def _wake(self) -> None:
        """Have `receive` tell what it can now."""
        raise NotImplementedError


class HTTPConversation(Conversation):
    """One HTTP request and its answer.

    Attributes:
        frees: whether nothing of the request is in use any more once the app has given its answer.
    """

    __slots__ = ("_answering", "_changed", "_is_complete", "_is_read", "_sent_bytes", "_start", "frees")

    def __init__(self, answering: Answering) -> None:
        super().__init__()
        self.frees = False
        self._answering = answering
        self._start: Message | None = None
        self._sent_bytes = 0
        self._is_read = False
        self._is_complete = False
        self._changed: asyncio.Event | None = None

    async def receive(self) -> Message:
        incoming = self._answering.incoming
        if not self._is_read and incoming is None:
            self._is_read = True
            return {"type": "http.request", "body": self._answering.body, "more_body": False}
        self._listens = True
        if not self._is_read and incoming is not None:
            try:
                data = await incoming.read()
            except ConnectionResetError:
                return {"type": "http.disconnect"}
            self._listens = False
            self._is_read = incoming.exhausted
            return {"type": "http.request", "body": data, "more_body": not self._is_read}
        while not (self._is_complete or self.is_left):
            if self._changed is None:
                self._changed = asyncio.Event()
            await self._changed.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.is_cancelled:
            raise OSError("The client has left.")
        kind = message["type"]
        if kind == "http.response.start" and self._start is None:
            self._start = message
        elif kind == "http.response.body" and self._start is not None and not self._is_complete:
            await self._send_body(self._start, bytes(message.get("body", b"")), bool(message.get("more_body", False)))
        else:
            raise RuntimeError(f"An ASGI app may not say {kind!r} to an HTTP request at this point.")

    async def _send_body(self, start: Message, body: bytes, more: bool) -> None:
        answering = self._answering
        self._sent_bytes += len(body)
        if not more:
            self._is_complete = True
            if self.frees:
                answering.end(answered=not answering.answered)
        if not answering.answered:
            await answering.answer(int(start["status"]), _headers(start), body, more=more)
        else:
            await answering.write(body, last=not more)
        if not more:
            self._wake()
        elif self.is_cancelled:
            raise OSError("The client has left.")

    def leave(self, cancel: Callable[[], object]) -> bool:
        if self._has_all and not self.is_left:
            # It has had its answer, whose end has yet to be said; what the app does after that goes on.
            self.is_left = True
            self._wake()
            return True
        return super().leave(cancel)

    @property
    def _has_all(self) -> bool:
        """Whether as much has been sent of the answer as its head promised."""
        if self._start is None or not self._answering.answered:
            return False
        lengths = [value for name, value in _headers(self._start) if name.lower() == b"content-length"]
        return lengths == [b"%d" % self._sent_bytes]

    async def finish(self) -> None:
        if self.is_left or self._is_complete:
            return
        if not self._answering.answered:
            raise RuntimeError("The ASGI app has returned without an answer.")
        raise RuntimeError("The ASGI app has returned before the end of its answer.")

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
        if self._answering.incoming is not None:
            self._answering.incoming.fail(ConnectionResetError())


class WebSocketConversation(Conversation):
    """One WebSocket. Its messages travel as the parts of the request's and the answer's body."""

    def __init__(self, answering: Answering) -> None:
        super().__init__()
        assert answering.incoming is not None, "a WebSocket is not over before it has begun"
        self._incoming = answering.incoming
        self._answering = answering
        self._reader = framing.PartReader()
        self._heard: deque[bytes] = deque()
        self._is_told = False  # that there is a client
        self._close: tuple[int, str] | None = None  # what the app is told, or has said
        self._denial: Message | None = None
        self._is_over = False  # the app has said the last that it may say
        self._listens = True

    async def receive(self) -> Message:
        if not self._is_told:
            self._is_told = True
            return {"type": "websocket.connect"}
        while not self._heard and self._close is None:
            try:
                self._heard.extend(self._reader.feed(await self._incoming.read()))
            except ConnectionResetError:
                self._close = self._close or (websocket.ABNORMAL, "")
        if not self._heard:
            assert self._close is not None
            self.is_left = True
            return {"type": "websocket.disconnect", "code": self._close[0], "reason": self._close[1]}
        message = self._heard.popleft()
        kind = message[:1]
        if kind == websocket.CLOSE:
            self._close = websocket.close_of(message)
            return await self.receive()
        if kind == websocket.TEXT:
            return {"type": "websocket.receive", "text": message[1:].decode()}
        return {"type": "websocket.receive", "bytes": message[1:]}

    async def send(self, message: Message) -> None:
        if self.is_left:
            raise OSError("The client has left.")
        kind = message["type"]
        allowed = _BEFORE_ACCEPT if not self._answering.answered else _AFTER_ACCEPT
        if self._is_over or kind not in (allowed if self._denial is None else _AFTER_DENIAL):
            raise RuntimeError(f"An ASGI app may not say {kind!r} to a WebSocket at this point.")
        if kind == "websocket.send":
            await self._answering.write(framing.part(_encoded(message)))
        elif kind == "websocket.accept":
            await self._answering.answer(101, _accept_headers(message), b"", more=True)
        elif kind == "websocket.http.response.start":
            self._denial = message
        elif self._denial is not None:
            await self._deny(self._denial, bytes(message.get("body", b"")), bool(message.get("more_body", False)))
        elif self._answering.answered:
            await self._end(int(message.get("code") or websocket.NORMAL), message.get("reason") or "")
        else:
            self._is_over = True
            await self._answering.answer(403, TEXT, b"Forbidden")
        if self.is_cancelled:
            raise OSError("The client has left.")

    async def _deny(self, start: Message, body: bytes, more: bool) -> None:
        self._is_over = not more
        if not self._answering.answered:
            await self._answering.answer(int(start["status"]), _headers(start), body, more=more)
        else:
            await self._answering.write(body, last=not more)

    async def _end(self, code: int, reason: str) -> None:
        last = framing.part(websocket.close(code, reason))
        self._is_over, self._close = True, (code, reason)
        self._wake()
        await self._answering.write(last, last=True)

    async def finish(self) -> None:
        if self._is_over:
            return
        if not self._answering.answered:
            if not self.is_left:
                raise RuntimeError("The ASGI app has returned without accepting or closing the WebSocket.")
        elif self._denial is not None:
            raise RuntimeError("The ASGI app has returned before the end of its answer.")
        else:
            await self._end(*(self._close or (websocket.NORMAL, "")))

    def _wake(self) -> None:
        self._incoming.fail(ConnectionResetError())


def http_scope(head: HTTPHead) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "extensions": {},
        "method": head.method,
        "path": head.path,
        "raw_path": head.raw_path,
        "query_string": head.query_string,
        "root_path": head.root_path,
        "scheme": head.scheme,
        "http_version": head.http_version,
        "headers": head.headers,
        "client": head.client,
        "server": head.server,
    }


def websocket_scope(head: HTTPHead) -> Scope:
    offered = b",".join(value for name, value in head.headers if name == b"sec-websocket-protocol").decode("latin-1")
    scope = http_scope(head)
    del scope["method"]
    scope["type"] = "websocket"
    scope["extensions"] = {"websocket.http.response": {}}
    scope["subprotocols"] = [name for part in offered.split(",") if (name := part.strip())]
    return scope


def _headers(start: Message) -> Headers:
    """Raises TypeError for what is no bytes: it would not get over the link."""
    return [(bytes(name), bytes(value)) for name, value in start.get("headers", ())]


def _accept_headers(message: Message) -> Headers:
    subprotocol = message.get("subprotocol")
    own = [(b"sec-websocket-protocol", subprotocol.encode("latin-1"))] if subprotocol else []
    return [*own, *_headers(message)]


def _encoded(message: Message) -> bytes:
    data, text = message.get("bytes"), message.get("text")
    if data is not None:
        return websocket.BINARY + bytes(data)
    if text is None:
        raise RuntimeError("websocket.send takes bytes or text.")
    return websocket.TEXT + str(text).encode()
