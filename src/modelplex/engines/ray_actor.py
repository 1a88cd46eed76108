"""An actor that is a replica or a proxy: its process, from the first call to the last."""

import asyncio
import contextlib
import gc
import os
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray

from modelplex import errors
from modelplex.config import RAY
from modelplex.engines import ray_cluster
from modelplex.runtime import payload
from modelplex.runtime.control import Control
from modelplex.runtime.credentials import Credentials, TLSFiles
from modelplex.runtime.link import TOGETHER_S, Connect, Link, Receiver
from modelplex.runtime.network import Network
from modelplex.runtime.process import Listening, ProxySpec, run_proxy, run_replica
from modelplex.runtime.replica_spec import ReplicaSpec
from modelplex.wire import messages
from modelplex.wire.messages import Register

# For the controller's answer, when it is asked where it is.
FIND_TIMEOUT_S = 10.0

# Processes that come and go share a folder, which the last one removes.
LISTEN_TRIES = 5

# A process that nobody has `run`, or that has failed, or that has no controller any more and does not end, is ended
# after so long: nobody else may know of it.
LEFT_ALONE_S = 30.0


@dataclass(frozen=True)
class Membership:
    """What a process knows of the system that it belongs to.

    Attributes:
        system: its name, which no other has.
        secret: what its processes prove themselves by; nobody else has it, and it is shown nowhere.
        controller: the name of the controller's actor; empty if there is none, and processes end with who started them.
        console: whether replicas log to the console as well, which Ray shows in the program that started them.
        log_dir: where processes write their logs; beside Ray's own unless given.
    """

    system: str
    secret: bytes = field(repr=False)
    controller: str = ""
    console: bool = True
    log_dir: str = ""

    @property
    def credentials(self) -> Credentials:
        """For this machine. Raises `CredentialsError` if Ray is to use TLS, and has no certificate here."""
        return Credentials(self.secret, TLSFiles.from_environment())


class RaySite:
    """On a machine of a cluster (`process.Site`).

    Args:
        membership: of which system.
        name: of this process.
    """

    def __init__(self, membership: Membership, name: str) -> None:
        self.machine = ray_cluster.this_machine()
        self.host = ray_cluster.this_host()
        self.system = f"{RAY}{membership.controller}"
        self.log_dir = membership.log_dir or ray_cluster.log_dir()
        self.console = membership.console
        self.is_console_far = True  # Ray takes them to the program that has begun the system
        self._network = Network(self.machine, membership.credentials)
        self._folder = Path(tempfile.gettempdir()) / f"modelplex-{os.getuid()}-{membership.system}"
        self._path = self._folder / f"{name.partition('#')[2]}.sock"

    async def connect(self, address: str, receiver: Receiver, together_s: float = TOGETHER_S) -> Link:
        return await self._network.connect(address, receiver, together_s)

    async def listen(self, receiver: Callable[[], Receiver]) -> Listening:
        for _ in range(LISTEN_TRIES):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # somebody has just left as the last one
                found = self._folder.lstat()  # anybody may put a link there
                if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
                    raise errors.ModelplexError(f"{self._folder} must be this user's alone (chmod 700).")
                return await self._network.listen(receiver, str(self._path), self.host)
        raise errors.ModelplexError(f"{self._folder} is removed again and again.")

    async def leave(self) -> None:
        """End what others pass on over this process.

        The last process that ends removes the folder of the sockets, with what those have left that were killed.
        """
        await self._network.close()
        for path in self._folder.glob("*.sock"):
            with socket.socket(socket.AF_UNIX) as sock:
                try:
                    sock.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink(missing_ok=True)
                except OSError:
                    pass
        with contextlib.suppress(OSError):  # others are there
            self._folder.rmdir()


class ProcessActor:
    """`run` it once; whoever waits for `ended` hears when the actor is gone.

    No method is async, or Ray would run all of them on an event loop in a thread of its own.

    Args:
        name: of the replica or proxy.
        membership: of which system.
        controller: the address of the controller.
        sys_path: where to import from besides where Ray has it import from, as far as that is there.
        spec: the pickle of a `ReplicaSpec` or a `ProxySpec`.
    """

    def __init__(
        self, name: str, membership: Membership, controller: str, sys_path: Sequence[str], spec: bytes
    ) -> None:
        self._arguments = name, membership, controller, sys_path, spec
        self._left_alone = _exit_later()

    def run(self) -> None:
        """In the main thread, as user code expects it. The actor is gone when it has ended."""
        import uvloop

        self._left_alone.cancel()
        try:
            uvloop.run(_run(*self._arguments))
        except BaseException:
            _exit_later()  # unless who hears of this ends it before
            raise
        ray.actor.exit_actor()  # type: ignore[no-untyped-call]

    def ended(self) -> None:
        """Its turn never comes while the process runs."""


def _exit_later() -> threading.Timer:
    timer = threading.Timer(LEFT_ALONE_S, os._exit, (1,))
    timer.daemon = True
    timer.start()
    return timer


async def _run(name: str, membership: Membership, controller: str, sys_path: Sequence[str], data: bytes) -> None:
    control = Control()
    site = RaySite(membership, name)
    control.link = await site.connect(controller, control)
    control.send(Register("", name))
    control.stop.add_done_callback(lambda _: control.orphaned and _exit_later())
    _import_from(sys_path)
    try:
        spec = payload.loads(data)
    except Exception as error:  # noqa: BLE001 - unpickling runs the user's imports
        from modelplex.runtime.replica import failure

        control.send(messages.StartFailed(f"{failure(error)}\n{_hint(error)}".rstrip()))
        await control.close()
        return
    # No collection looks again at what is here to stay.
    gc.collect()
    gc.freeze()
    if membership.controller:
        control.reach = partial(reach, membership, site.connect)
    await (run_proxy if isinstance(spec, ProxySpec) else run_replica)(spec, site, control)
    await control.close()
    await site.leave()
    if control.orphaned and isinstance(spec, ReplicaSpec) and spec.config.placement_group_bundles is not None:
        ray_cluster.remove_own_group()


def _import_from(folders: Sequence[str]) -> None:
    """Those that are on this machine, after what Ray has put there."""
    sys.path += [folder for folder in folders if folder not in sys.path and os.path.isdir(folder)]


def _hint(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return (
            f"Machines of a cluster have the code that is installed on them, or shipped with runtime_env: {error.name} "
            "is there if its folder is the working_dir."
        )
    return ""


async def reach(
    membership: Membership, connect: Connect, receiver: Receiver, register: Register, descriptors: Sequence[int] = ()
) -> Link:
    """Open a link to the controller wherever it is now (`control.Reach`)."""
    address = await asyncio.to_thread(find, membership)
    link = await connect(address, receiver)
    link.send(register)
    return link


def find(membership: Membership) -> str:
    """Where the controller is. Raises OSError if it does not answer, `EOFError` if there is none."""
    try:
        controller: Any = ray.get_actor(membership.controller, namespace=ray_cluster.NAMESPACE)
    except ValueError:
        raise EOFError from None
    try:
        # Tried once: one that has just died for good would be tried until the time is over.
        asked = controller.address.options(max_task_retries=0).remote()
        system, address = ray.get(asked, timeout=FIND_TIMEOUT_S)
    except ray.exceptions.RayError as error:  # the time-out is one, too
        raise OSError(f"the controller does not answer: {error}") from error
    if system != membership.system:
        raise EOFError
    return str(address)
