"""Child processes on this machine, linked by Unix sockets."""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from modelplex import errors
from modelplex.config import HTTPOptions
from modelplex.core.gpus import Gpus
from modelplex.engines import gpu_devices
from modelplex.runtime import payload
from modelplex.runtime.app_spec import Environment
from modelplex.runtime.engine import Machine
from modelplex.runtime.link import Connect, Link, SocketLink, connect_unix
from modelplex.runtime.process import ProxySpec
from modelplex.runtime.replica_spec import ReplicaSpec
from modelplex.wire import messages
from modelplex.wire.framing import CHUNK_BYTES
from modelplex.wire.messages import Message

log = logging.getLogger(__name__)


class LocalProcess:
    """One child, with its control channel (`engine.Process`)."""

    waits_for = ""

    def __init__(self, address: str) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[str] = loop.create_future()
        self.exited: asyncio.Future[str] = loop.create_future()
        self.heard: Callable[[Message], None] = lambda message: None
        self.pid = 0
        self._address = address
        self._child: asyncio.subprocess.Process | None = None
        self._link: Link | None = None
        self._watch: asyncio.Task[None] | None = None

    async def spawn(
        self, setup: messages.Setup, spec: object, pass_fds: tuple[int, ...], environment: Environment
    ) -> None:
        """Start the child and tell it what it is."""
        data = payload.dumps(spec)
        ours, theirs = socket.socketpair()
        with theirs:
            # A process group of its own: Ctrl-C in a terminal reaches the controller, which ends its children in order.
            self._child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "modelplex.runtime", str(theirs.fileno()), self._address),
                pass_fds=(theirs.fileno(), *pass_fds),
                stdin=asyncio.subprocess.DEVNULL,
                process_group=0,
                cwd=environment.working_dir,
                env={**os.environ, **environment.env_vars, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
        self.pid = self._child.pid
        _, self._link = await asyncio.get_running_loop().create_unix_connection(lambda: SocketLink(self), sock=ours)
        self._link.send(setup)
        for at in range(0, len(data), CHUNK_BYTES):
            self._link.send(messages.Chunk(0, at + CHUNK_BYTES < len(data)), data[at : at + CHUNK_BYTES])
        self._watch = asyncio.create_task(self._watch_child(self._child))

    def send(self, message: Message) -> None:
        if self._link is not None:
            self._link.send(message)

    def kill(self) -> None:
        if self._child is not None and self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()

    async def _watch_child(self, child: asyncio.subprocess.Process) -> None:
        code = await child.wait()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        if self._link is not None:
            self._link.close()
        with contextlib.suppress(OSError):
            os.unlink(self._address)
        if not self.started.done():
            self.started.set_exception(errors.DeploymentFailedError(f"the process was {how} before it was ready"))
            self.started.exception()  # it may be that nobody waits any more
        self.exited.set_result(how)

    # link.Receiver

    def received(self, link: Link, message: Message, body: bytes) -> None:
        match message:
            case messages.Ready(address) if not self.started.done():
                self.heard(message)
                self.started.set_result(address)
            case messages.StartFailed(text) if not self.started.done():
                self.started.set_exception(errors.DeploymentFailedError(text))
                self.started.exception()
            case _:
                self.heard(message)

    def lost(self, link: Link) -> None:
        """The child is ending, or has; its exit says so."""


class LocalEngine:
    """Starts children of this process.

    Args:
        log_dir: each replica writes a log file there, unless its deployment has a folder of its own.
        console: whether they log to the console, too.
        folder: where their sockets are; this user's alone, and removed in the end.
        register_at: where they find the next controller when this one has died; they end with this one unless given.
        find_gpus: answers the ids of the GPUs that replicas may have; called when the first one wants some.
    """

    def __init__(
        self,
        log_dir: str,
        folder: str,
        *,
        console: bool = True,
        register_at: str = "",
        find_gpus: Callable[[], Sequence[str]] = gpu_devices.find,
    ) -> None:
        self._setup = messages.Setup(sys_path=[], log_dir=log_dir, console=console, register_at=register_at)
        self._folder = folder
        self._gpus = Gpus()
        self._find_gpus = find_gpus
        self._gpus_found = False
        self._finding = asyncio.Lock()
        self._said_ignored: set[tuple[str, ...]] = set()

    @property
    def connect(self) -> Connect:
        return connect_unix

    async def start_replica(self, spec: ReplicaSpec) -> LocalProcess:
        self._say_ignored(spec)
        name, config = spec.context.replica_id, spec.config
        shares = await self._take_gpus(name, config.num_gpus or 0)
        try:
            env_vars = {**config.env_vars, **gpu_devices.variables(config.num_gpus, shares)}
            environment = replace(spec.environment, env_vars={**spec.environment.env_vars, **env_vars})
            process = await self._start(spec.tag, replace(spec, gpus=shares), (), environment)
        except BaseException:
            self._gpus.give_back(name)
            raise
        process.exited.add_done_callback(lambda _: self._gpus.give_back(name))
        return process

    def adopt(self, name: str, gpus: Mapping[str, float], exited: "asyncio.Future[str]") -> None:
        """A replica that another engine has started has these shares of GPUs, until it has exited."""
        self._gpus.adopt(name, gpus)
        exited.add_done_callback(lambda _: self._gpus.give_back(name))

    async def _take_gpus(self, name: str, wanted: float) -> dict[str, float]:
        """Raises `DeploymentFailedError` if there are not so many."""
        if wanted and not self._gpus_found:
            async with self._finding:
                if not self._gpus_found:
                    # In a thread, since it may have to ask a program.
                    self._gpus.ids = await asyncio.to_thread(self._find_gpus)
                    self._gpus_found = True
        shares = self._gpus.take(name, wanted)
        if shares is None:
            raise gpu_devices.too_few(name, wanted, self._gpus)
        return shares

    def _say_ignored(self, spec: ReplicaSpec) -> None:
        """Once for each deployment, and again when it has other options."""
        said = (spec.app_name, spec.config.name, *spec.config.ignored)
        if spec.config.ignored and said not in self._said_ignored:
            self._said_ignored.add(said)
            names = ", ".join(spec.config.ignored)
            log.warning("%s_%s: ignored, since replicas are processes on this machine: %s", *said[:2], names)

    def follow_machines(self, told: Callable[[Sequence[Machine]], None]) -> None:
        told([Machine()])

    async def start_proxy(
        self, tag: str, options: HTTPOptions, listener: socket.socket | None, machine: str = ""
    ) -> LocalProcess:
        assert listener is not None, "the program holds the listening socket of its machine"
        # A copy: the program may close its own while the child is being started.
        with listener.dup() as copy:
            fd = copy.fileno()
            return await self._start(f"proxy-{tag}", ProxySpec(options, tag, fd), (fd,), Environment())

    async def _start(
        self, name: str, spec: object, pass_fds: tuple[int, ...], environment: Environment
    ) -> LocalProcess:
        process = LocalProcess(str(Path(self._folder) / f"{name}.sock"))
        setup = msgspec.structs.replace(self._setup, sys_path=list(environment.sys_path or sys.path))
        await process.spawn(setup, spec, pass_fds, environment)
        return process

    async def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
