"""Everything in this process, on one event loop: for unit tests and notebooks."""

import asyncio
import math
import socket
from collections.abc import Callable, Mapping, Sequence

from modelplex import errors
from modelplex.config import HTTPOptions
from modelplex.runtime.engine import Machine
from modelplex.runtime.link import Connect, Link, MemoryLink, Receiver
from modelplex.runtime.replica import Replica, failure
from modelplex.runtime.replica_spec import ReplicaSpec
from modelplex.runtime.replica_topics import topics_of
from modelplex.runtime.upkeep import Upkeep
from modelplex.wire import messages
from modelplex.wire.messages import Message


class InlineProcess:
    """A replica that runs on this loop (`engine.Process`)."""

    waits_for = ""

    def __init__(self, spec: ReplicaSpec, engine: "InlineEngine") -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[str] = loop.create_future()
        self.exited: asyncio.Future[str] = loop.create_future()
        self.heard: Callable[[Message], None] = lambda message: None
        self.replica = Replica(spec)
        self.replica.leaks.follow(lambda report: self.heard(report))
        self._engine = engine
        self._links: list[MemoryLink] = []
        self._upkeep: Upkeep | None = None
        self._life = loop.create_task(self._live())
        self._stop: asyncio.Future[float] = loop.create_future()

    async def _live(self) -> None:
        try:
            await self.replica.start()
        except BaseException as error:  # what a constructor may raise, and tests do: SystemExit, pytest.fail
            if not self.exited.done():  # else it was killed, and that is why
                self._could_not_start(failure(error))
                self.exited.set_result("could not start")
            if isinstance(error, KeyboardInterrupt):
                raise
            return
        self._upkeep = Upkeep(
            self.replica, lambda message: self.heard(message), topics_of(self.replica, own_process=False)
        )
        self.heard(messages.Ready("", self.replica.servable.checks_health))
        self.started.set_result(self.replica.context.replica_id)
        grace_s = min(await self._stop, self._engine.grace_max_s)
        await self._upkeep.close()
        await self.replica.stop(grace_s)
        self.exited.set_result("was stopped")

    def _could_not_start(self, error: errors.DeploymentFailedError) -> None:
        self.started.set_exception(error)
        self.started.exception()  # it may be that nobody waits any more

    def link(self, receiver: Receiver) -> Link:
        ours, theirs = MemoryLink.pair(receiver, self.replica)
        self._links.append(theirs)
        return ours

    def send(self, message: Message) -> None:
        if isinstance(message, messages.Stop) and not self._stop.done():
            self._stop.set_result(message.timeout_s)
        elif self._upkeep is not None:
            self._upkeep.received(message)

    def kill(self) -> None:
        """As a real kill would: its links break at once, and nothing of it runs on."""
        if self.exited.done():
            return
        self._life.cancel()
        if self._upkeep is not None:
            self._upkeep.end()
        for link in self._links:
            link.close()
        self.exited.set_result("was killed")
        if not self.started.done():
            self._could_not_start(errors.DeploymentFailedError("the replica was killed before it was ready"))


class InlineEngine:
    """Starts replicas on the running loop; it has no proxies.

    Attributes:
        grace_max_s: what runs on a replica that is stopped has at most so long, whatever its deployment says.
    """

    def __init__(self, log_dir: str = "", folder: str = "", *, console: bool = True, register_at: str = "") -> None:
        self.grace_max_s = math.inf
        self._processes: dict[str, InlineProcess] = {}

    @property
    def connect(self) -> Connect:
        return self._connect

    async def start_replica(self, spec: ReplicaSpec) -> InlineProcess:
        process = InlineProcess(spec, self)
        self._processes[process.replica.context.replica_id] = process
        return process

    def follow_machines(self, told: Callable[[Sequence[Machine]], None]) -> None:
        told([Machine()])

    async def start_proxy(
        self, tag: str, options: HTTPOptions, listener: socket.socket | None, machine: str = ""
    ) -> InlineProcess:
        raise errors.ModelplexError("The inline engine serves no HTTP; use its handles.")

    async def _connect(self, address: str, receiver: Receiver) -> Link:
        process = self._processes.get(address)
        if process is None or process.exited.done():
            raise ConnectionRefusedError(f"no replica {address}")
        return process.link(receiver)

    def adopt(self, name: str, gpus: Mapping[str, float], exited: "asyncio.Future[str]") -> None:
        pass

    async def close(self) -> None:
        self._processes.clear()
