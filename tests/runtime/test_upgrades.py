"""Requests that ask for a WebSocket, or for something else, or where there are none."""

import sys
from typing import Any

import pytest
from virtual_time import in_virtual_time

from modelplex.runtime.http_connection import HTTPExchange
from modelplex.runtime.upgrades import websocket_of

KEY = [
    (b"connection", b"upgrade"),
    (b"upgrade", b"websocket"),
    (b"sec-websocket-key", b"x" * 22 + b"=="),
    (b"sec-websocket-version", b"13"),
]


class Connection:
    scheme, client, server = "http", None, None


def asking(method: str = "GET", version: str = "1.1", headers: Any = KEY) -> HTTPExchange:
    connection: Any = Connection()
    return HTTPExchange(connection, method, b"/", version, headers, keep_alive=True)


@in_virtual_time
async def test_a_handshake_is_a_socket_to_be_accepted() -> None:
    socket = websocket_of(asking(), b"WebSocket")
    assert socket is not None
    assert not isinstance(socket, tuple)
    assert not socket.is_closed


@pytest.mark.parametrize(
    ("upgrade", "method", "version"),
    [(b"h2c", "GET", "1.1"), (b"websocket", "POST", "1.1"), (b"websocket", "GET", "1.0")],
)
def test_other_requests_are_what_they_are(upgrade: bytes, method: str, version: str) -> None:
    assert websocket_of(asking(method, version), upgrade) is None


@in_virtual_time
async def test_half_a_handshake_is_refused() -> None:
    refusal = websocket_of(asking(headers=KEY[:2]), b"websocket")
    assert isinstance(refusal, tuple)
    assert (refusal[0], b"Sec-WebSocket-Key" in refusal[2]) == (400, True)


def test_without_the_library_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "modelplex.runtime.http_websocket", raising=False)
    monkeypatch.setitem(sys.modules, "websockets.datastructures", None)
    refusal = websocket_of(asking(), b"websocket")
    assert isinstance(refusal, tuple)
    assert (refusal[0], b"modelplex[websockets]" in refusal[2]) == (501, True)
