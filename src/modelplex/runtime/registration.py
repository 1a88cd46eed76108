"""How a process comes to a controller that did not start it (`runtime/control_server.py` is the other end)."""

import asyncio
import socket
from collections.abc import Sequence

from modelplex.runtime.link import Link, Receiver, SocketLink
from modelplex.wire.messages import Register

TIMEOUT_S = 5.0

# What a connection begins with: descriptors can only be sent along with something.
GREETING = b"+"


async def register(address: str, receiver: Receiver, who: Register, descriptors: Sequence[int] = ()) -> Link:
    """Say who this process is, and answer the link to the controller. Raises OSError if there is none.

    Args:
        address: the controller's socket.
        receiver: of what the controller says.
        who: what to say.
        descriptors: those that it needs of this process.
    """
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(TIMEOUT_S):  # TimeoutError is an OSError
            await loop.sock_connect(sock, address)
            socket.send_fds(sock, [GREETING], descriptors)
            _, link = await loop.create_unix_connection(lambda: SocketLink(receiver), sock=sock)
    except BaseException:
        sock.close()
        raise
    link.send(who)
    return link
