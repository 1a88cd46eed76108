"""Requests that ask for a WebSocket. What that needs is imported with the first of them."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from modelplex import errors
from modelplex.runtime.answers import Headers
from modelplex.runtime.exchange import Exchange
from modelplex.runtime.http_exchange import HTTPExchange
from modelplex.runtime.streams import Body
from modelplex.wire import websocket

if TYPE_CHECKING:
    from modelplex.runtime.http_websocket import WebSocket

# For an app to end once it has been told that its client has closed a WebSocket.
APP_END_TIMEOUT_S = 5.0

_TEXT: Headers = [(b"content-type", b"text/plain; charset=utf-8")]
_NOT_INSTALLED = b"WebSockets need: pip install modelplex[websockets]"

_GONE = (errors.ReplicaLostError, errors.DeploymentUnavailableError)

Refusal = tuple[int, Headers, bytes]


def websocket_of(http: HTTPExchange, upgrade: bytes) -> "WebSocket | Refusal | None":
    """The socket that a request asks for, which its app has yet to accept, or what to answer if that is no handshake.

    None if it asks for something else, as one may: then it is a request like any other.
    """
    if upgrade.lower() != b"websocket" or http.method != "GET" or http.http_version != "1.1":
        return None
    try:
        from modelplex.runtime.http_websocket import WebSocket
    except ModuleNotFoundError:
        return 501, _TEXT, _NOT_INSTALLED
    socket = WebSocket(http)
    return socket if socket.refusal is None else socket.refusal


def close_failed(socket: "WebSocket", error: errors.ModelplexError) -> None:
    """Tell the client of an open socket what became of it."""
    socket.close(websocket.RESTART if isinstance(error, _GONE) else websocket.INTERNAL_ERROR)


class OpenSocket:
    """A WebSocket that its app has accepted.

    Args:
        socket: the client's end.
        end: ends the request.
    """

    def __init__(self, socket: "WebSocket", end: Callable[[], None]) -> None:
        self._socket = socket
        self._end = end
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, headers: Headers, exchange: Exchange, body: Body) -> list[Coroutine[Any, Any, None]]:
        """Tell the client; what passes messages on, both ways."""
        self._socket.open(headers)
        exchange.upload.settle()
        return [self._socket.to_app(exchange.upload), self._to_client(body)]

    async def _to_client(self, body: Body) -> None:
        await self._socket.to_client(body)
        self._end()

    def lose(self) -> None:
        """The client has left. If it had said so, the app has been told, and may end by itself."""
        if self._socket.is_closed:
            self._timer = asyncio.get_running_loop().call_later(APP_END_TIMEOUT_S, self._end)
        else:
            self._end()

    def over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
