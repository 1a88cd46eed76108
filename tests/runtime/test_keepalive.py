"""Whether the network is taken to be cut, by what the kernel says of a connection."""

import socket
import struct
import sys

import pytest

from modelplex.runtime import keepalive


def tcp_info(probes: int = 0, unacknowledged: int = 0, last_heard_ms: int = 0) -> bytes:
    fields = [0] * 13
    fields[4], fields[12] = unacknowledged, last_heard_ms
    return bytes([1, 0, 0, probes, 0, 0, 0, 0]) + struct.pack("=13I", *fields)


@pytest.mark.parametrize(
    ("info", "silent"),
    [
        (tcp_info(), False),
        (tcp_info(last_heard_ms=100_000), False),  # nothing was asked
        (tcp_info(probes=1, last_heard_ms=1100), False),
        (tcp_info(probes=2, last_heard_ms=2600), True),
        (tcp_info(unacknowledged=5, last_heard_ms=900), False),
        (tcp_info(unacknowledged=5, last_heard_ms=2600), True),
    ],
)
def test_silence_is_an_answer_that_is_owed_for_a_while(info: bytes, silent: bool) -> None:
    assert keepalive.silent(info) == silent


@pytest.mark.system
@pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that tells")
def test_the_kernels_words_are_where_they_are_looked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sock:
        keepalive.set_options(sock)
        sock.sendall(b"x")
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
        assert len(info) == 60
        assert not keepalive.silent(info)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
