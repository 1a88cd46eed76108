"""How a process notices that the network to another machine is cut, when nothing says so: no end, no refusal.

The other machine's kernel answers for a process whose event loop is blocked by user code; only a cut silences it.
TCP's own TCP_USER_TIMEOUT will not do: Linux also applies it to a peer that answers, but whose buffer is full since it
does not read at the moment, which is what a blocked process with uploads on their way to it looks like.
"""

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable

# An idle connection is asked for a sign of life so often, and given up after so many that were not answered.
PROBE_S = 1
PROBES_MAX = 4

# A connection from whose machine nothing was heard for so long, although it was asked, at two looks in a row, is cut.
SILENCE_S = 2.5
LOOK_S = 1.0

# linux/tcp.h, struct tcp_info: unanswered probes; segments that are not acknowledged; milliseconds since the last word.
_TCP_INFO = struct.Struct("=3xB20xI28xI")

# netinet/tcp.h of macOS: how long unacknowledged data is sent again.
_TCP_RXT_CONNDROPTIME = 0x80


def set_options(sock: socket.socket) -> None:
    """Small messages go out at once, and an idle connection is asked whether it lives."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"  # the latter is macOS's name
    for name, value in ((idle, PROBE_S), ("TCP_KEEPINTVL", PROBE_S), ("TCP_KEEPCNT", PROBES_MAX)):
        if (option := getattr(socket, name, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    if sys.platform == "darwin":
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_RXT_CONNDROPTIME, PROBE_S * PROBES_MAX)


def watch(transport: asyncio.BaseTransport, cut: Callable[[], None]) -> None:
    """Have `cut` called when the network has been silent for about four seconds; over with the connection.

    It sees what the kernel's own probes do not: data that is on its way is sent again for a quarter of an hour. Where
    the system does not tell (it is Linux that does), it does nothing.
    """
    sock = transport.get_extra_info("socket")
    if sys.platform != "linux" or sock is None:
        return
    loop = asyncio.get_running_loop()
    was_silent = False

    def look() -> None:
        nonlocal was_silent
        if transport.is_closing():
            return
        with contextlib.suppress(OSError):
            is_silent = silent(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))
            if is_silent and was_silent:
                cut()
                return
            was_silent = is_silent
        loop.call_later(LOOK_S, look)

    loop.call_later(LOOK_S, look)


def silent(tcp_info: bytes) -> bool:
    """Whether the other machine owes an answer, and has said nothing for a while."""
    probes, unacknowledged, last_heard_ms = _TCP_INFO.unpack(tcp_info)
    return bool(probes or unacknowledged) and bool(last_heard_ms >= SILENCE_S * 1000)
