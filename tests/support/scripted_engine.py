"""An engine whose processes do what a test says."""

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence

from modelplex import errors
from modelplex.config import HTTPOptions
from modelplex.runtime.address import Address
from modelplex.runtime.engine import Machine, Process
from modelplex.runtime.link import Connect, Link, Receiver
from modelplex.runtime.replica_spec import ReplicaSpec
from modelplex.wire import messages
from modelplex.wire.messages import Message
from modelplex.wire.table_change import applied


class ScriptedProcess:
    """Starts and dies when it is told to; ends itself when it is told to stop, unless it is stubborn."""

    waits_for = ""

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
        self.machine = ""
        self.address = f"address of {name}"

    def starts(self) -> None:
        self.started.set_result(self.address)

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
        """What it knows by what it was told."""
        tables = [message for message in self.said if isinstance(message, messages.Table | messages.TableChange)]
        table = tables[0]
        assert isinstance(table, messages.Table)
        for message in tables[1:]:
            table = message if isinstance(message, messages.Table) else applied(table, message)
        return table


class ScriptedEngine:
    """Keeps what it was asked to start; starts it at once, unless it is told to wait.

    Attributes:
        machines: those that there are; `set_machines` tells of others.
        replicas_on: the machine that replicas start on; empty if they say none.
        taken: machines on which proxies fail.
    """

    def __init__(self) -> None:
        self.replicas: list[tuple[ReplicaSpec, ScriptedProcess]] = []
        self.proxies: list[ScriptedProcess] = []
        self.at_once = True
        self.failing = ""
        self.closed = False
        self.adopted: list[str] = []
        self.machines: Sequence[Machine] = [Machine()]
        self.replicas_on = ""
        self.taken: set[str] = set()
        self._told: Callable[[Sequence[Machine]], None] = lambda machines: None

    @property
    def connect(self) -> Connect:
        return self._connect

    async def start_replica(self, spec: ReplicaSpec) -> Process:
        address = str(Address("10.0.0.1", 4711, self.replicas_on)) if self.replicas_on else ""
        process = self._process(spec.context.replica_id, address)
        process.machine = self.replicas_on
        self.replicas.append((spec, process))
        return process

    def follow_machines(self, told: Callable[[Sequence[Machine]], None]) -> None:
        self._told = told
        told(self.machines)

    def set_machines(self, *machines: Machine) -> None:
        self.machines = machines
        self._told(machines)

    async def start_proxy(
        self, tag: str, options: HTTPOptions, listener: socket.socket | None, machine: str = ""
    ) -> Process:
        address = f"http://{machine}:{options.port}" if machine else ""
        process = self._process("proxy", address, failing="the port is taken" if machine in self.taken else "")
        process.machine = machine
        self.proxies.append(process)
        return process

    def proxies_on(self, machine: str) -> list[ScriptedProcess]:
        """The proxies of a machine that have not ended."""
        return [proxy for proxy in self.proxies if proxy.machine == machine and not proxy.exited.done()]

    def adopt(self, name: str, gpus: Mapping[str, float], exited: "asyncio.Future[str]") -> None:
        self.adopted.append(name)

    async def close(self) -> None:
        self.closed = True

    def of(self, deployment: str) -> list[ScriptedProcess]:
        """The processes of one deployment that have not ended."""
        return [p for spec, p in self.replicas if spec.config.name == deployment and not p.exited.done()]

    def _process(self, name: str, address: str = "", *, failing: str = "") -> ScriptedProcess:
        process = ScriptedProcess(name)
        process.address = address or process.address
        if failing or self.failing:
            process.fails(failing or self.failing)
        elif self.at_once:
            process.starts()
        return process

    async def _connect(self, address: str, receiver: Receiver) -> Link:
        raise ConnectionRefusedError("a scripted process takes no links")
