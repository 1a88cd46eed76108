"""A child process of the local engine, from its first instruction to its last.

The control channel is a socket whose other end the controller holds. When that end closes, by its will or by its death,
the process ends too, so that nothing is ever left behind; unless it was told where another controller will be, which it
then waits for while it serves on.
"""

import asyncio
import contextlib
import gc
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from modelplex.config import ADMIN, CONTROL
from modelplex.runtime import registration
from modelplex.runtime.control import ORPHAN_TIMEOUT_S, Control
from modelplex.runtime.link import TOGETHER_S, Link, Receiver, SocketLink, connect_unix
from modelplex.runtime.process import Listening, ProxySpec, run_proxy, run_replica
from modelplex.wire import messages

# Set when the process is to outlive its controller.
_survives = threading.Event()


class ListeningUnix:
    """A Unix socket that others link to (`process.Listening`). Its path is there until the process ends."""

    def __init__(self, server: asyncio.Server, address: str) -> None:
        self._server = server
        self.address = address

    async def close(self) -> None:
        self._server.close()


class LocalSite:
    """On one machine, whose processes link by Unix sockets (`process.Site`).

    Args:
        address: the process's own socket.
        setup: what the controller said.
    """

    def __init__(self, address: str, setup: messages.Setup) -> None:
        self.machine = self.host = ""
        self.system = os.path.join(os.path.dirname(address), CONTROL)
        self.log_dir = setup.log_dir
        self.console = setup.console
        self.is_console_far = False
        self._address = address

    async def connect(self, address: str, receiver: Receiver, together_s: float = TOGETHER_S) -> Link:
        return await connect_unix(address, receiver, together_s)

    async def listen(self, receiver: Callable[[], Receiver]) -> Listening:
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: SocketLink(receiver()), self._address)
        return ListeningUnix(server, self._address)


async def _run(fd: int, address: str) -> None:
    # Imported here, while the controller is still busy: both take their time.
    from modelplex.runtime import payload

    control = Control()
    sock = socket.socket(fileno=fd)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, control.leave)
    _, link = await loop.create_unix_connection(lambda: SocketLink(control), sock=sock)
    control.link = link
    try:
        setup = await control.setup
        if setup.register_at:
            control.reach = partial(registration.register, setup.register_at)
            _survives.set()
        data = await control.spec.read_all()
    except EOFError:
        return  # the controller has changed its mind
    sys.path[:] = setup.sys_path
    try:
        spec = payload.loads(data)
    except Exception as error:  # noqa: BLE001 - unpickling runs the user's imports
        from modelplex.runtime.replica import failure

        control.send(messages.StartFailed(str(failure(error))))
        await link.flushed(1.0)
        return
    # The modules that came with it are here to stay: no collection looks at them again, which is most of what it costs.
    gc.collect()
    gc.freeze()
    site = LocalSite(address, setup)
    try:
        await (run_proxy if isinstance(spec, ProxySpec) else run_replica)(spec, site, control)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)
    await control.close()
    if control.orphaned:
        _remove_folder(address)


def _end_with_controller(fd: int, address: str) -> None:
    """In a thread of its own, since user code may block the event loop: end the process some time after the controller.

    The event loop hears of the same event and ends in good order if it can.
    """
    poll = select.poll()
    poll.register(fd, 0)  # a hang-up is always reported
    poll.poll()
    if _survives.is_set():
        return
    threading.Event().wait(2 * ORPHAN_TIMEOUT_S)
    Path(address).unlink(missing_ok=True)
    _remove_folder(address)
    os._exit(1)


def _remove_folder(address: str) -> None:
    """Without the controller, the last process to end removes the folder of the sockets, and the controller's own."""
    folder = Path(address).parent
    with contextlib.suppress(OSError):
        if not any(name.endswith(".sock") for name in os.listdir(folder)):
            for name in (CONTROL, ADMIN):
                (folder / name).unlink(missing_ok=True)  # two processes may both be the last one
            folder.rmdir()


def main() -> None:
    """Entry of the process. Its arguments are the descriptor of the control channel and the path of its own socket."""
    import uvloop

    fd, address = int(sys.argv[1]), sys.argv[2]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the controller's to act upon
    threading.Thread(target=_end_with_controller, args=(os.dup(fd), address), daemon=True).start()
    uvloop.run(_run(fd, address))
