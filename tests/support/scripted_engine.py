"""An engine whose processes do what a test says."""

import asyncio
import socket
from collections.abc import Callable, Mapping

from modelplex import errors
from modelplex.config import HTTPOptions
from modelplex.runtime.engine import Process
from modelplex.runtime.link import Connect, Link, Receiver
from modelplex.runtime.replica import ReplicaSpec
from modelplex.wire import messages
from modelplex.wire.messages import Message


class ScriptedProcess:
    """Starts and dies when it is told to; ends itself when it is told to stop, unless it is stubborn."""

    def __init__(self, name: str = "") -> None:
        loop = asyncio.get_running_loop()
        self.name = name
        self.started: asyncio.Future[str] = loop.create_future()
        self.exited: asyncio.Future[str] = loop.create_future()
        self.heard: Callable[[Message], None] = lambda message: None
        self.said: list[Message] = []
        self.stubborn = False
        self.killed = False
        self.began = loop.time()

    def starts(self) -> None:
        self.started.set_result(f"address of {self.name}")

    def fails(self, why: str = "bad constructor") -> None:
        self.started.set_exception(errors.DeploymentFailedError(why))
        self.started.exception()
        self.exited.set_result("exited with code 0")

    def dies(self) -> None:
        self.exited.set_result("was killed by SIGKILL")

    def send(self, message: Message) -> None:
        self.said.append(message)
        if isinstance(message, messages.Stop) and not self.stubborn and not self.exited.done():
            self.exited.set_result("exited with code 0")

    def kill(self) -> None:
        self.killed = True
        if not self.exited.done():
            self.exited.set_result("was killed by SIGKILL")

    @property
    def table(self) -> messages.Table:
        """The newest table that it was told."""
        return next(m for m in reversed(self.said) if isinstance(m, messages.Table))


class ScriptedEngine:
    """Keeps what it was asked to start; starts it at once, unless it is told to wait."""

    def __init__(self) -> None:
        self.replicas: list[tuple[ReplicaSpec, ScriptedProcess]] = []
        self.proxies: list[ScriptedProcess] = []
        self.at_once = True
        self.failing = ""
        self.closed = False
        self.adopted: list[str] = []

    @property
    def connect(self) -> Connect:
        return self._connect

    async def start_replica(self, spec: ReplicaSpec) -> Process:
        process = self._process(spec.context.replica_id)
        self.replicas.append((spec, process))
        return process

    async def start_proxy(self, tag: str, options: HTTPOptions, listener: socket.socket) -> Process:
        process = self._process("proxy")
        self.proxies.append(process)
        return process

    def adopt(self, name: str, gpus: Mapping[str, float], exited: "asyncio.Future[str]") -> None:
        self.adopted.append(name)

    async def close(self) -> None:
        self.closed = True

    def of(self, deployment: str) -> list[ScriptedProcess]:
        """The processes of one deployment that have not ended."""
        return [p for spec, p in self.replicas if spec.config.name == deployment and not p.exited.done()]

    def _process(self, name: str) -> ScriptedProcess:
        process = ScriptedProcess(name)
        if self.failing:
            process.fails(self.failing)
        elif self.at_once:
            process.starts()
        return process

    async def _connect(self, address: str, receiver: Receiver) -> Link:
        raise ConnectionRefusedError("a scripted process takes no links")
