"""What the controller sends while many replicas start one after another, and when one dies later; in virtual time."""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence

from modelplex import serve
from modelplex.config import HTTPOptions
from modelplex.deployment import flatten
from modelplex.runtime.app_spec import AppSpec
from modelplex.runtime.controller import Controller
from modelplex.runtime.directory import Directory
from modelplex.runtime.engine import Machine, Process
from modelplex.runtime.link import Connect, Link, Receiver
from modelplex.runtime.replica_spec import ReplicaSpec
from modelplex.testing import run_virtual
from modelplex.wire import messages
from modelplex.wire.messages import Message

from .sizes import ADDRESS, size_bytes


class _Post:
    """What has been sent to all processes."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self.messages = 0
        self._last: tuple[Message | None, int] = (None, 0)

    def send(self, message: Message) -> None:
        if self._last[0] is not message:
            self._last = message, size_bytes(message)
        self.size_bytes += self._last[1]
        self.messages += 1

    def taken(self, what: str) -> dict[str, float]:
        """Since the last time."""
        figures = {f"{what}: MB": self.size_bytes / 1e6, f"{what}: messages": float(self.messages)}
        self.size_bytes = self.messages = 0
        return figures


class _Process:
    waits_for = ""

    def __init__(self, post: _Post) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[str] = loop.create_future()
        self.exited: asyncio.Future[str] = loop.create_future()
        self.heard: Callable[[Message], None] = lambda message: None
        self._post = post

    def send(self, message: Message) -> None:
        self._post.send(message)
        if isinstance(message, messages.Stop):
            self.kill()

    def kill(self) -> None:
        if not self.exited.done():
            self.exited.set_result("has ended")


class _Engine:
    """Replicas are ready one after another, so many seconds apart; proxies at once."""

    def __init__(self, gap_s: float) -> None:
        self.post = _Post()
        self.replicas: list[_Process] = []
        self._gap_s = gap_s
        self._next = 0.0

    @property
    def connect(self) -> Connect:
        return self._connect

    async def start_replica(self, spec: ReplicaSpec) -> Process:
        loop, process = asyncio.get_running_loop(), _Process(self.post)
        self._next = max(self._next, loop.time()) + self._gap_s
        loop.call_at(self._next, process.started.set_result, ADDRESS.replace("AbCdEf", spec.tag))
        self.replicas.append(process)
        return process

    async def start_proxy(
        self, tag: str, options: HTTPOptions, listener: socket.socket | None, machine: str = ""
    ) -> Process:
        process = _Process(self.post)
        process.started.set_result("")
        return process

    def follow_machines(self, told: Callable[[Sequence[Machine]], None]) -> None:
        told([Machine()])

    def adopt(self, name: str, gpus: Mapping[str, float], exited: "asyncio.Future[str]") -> None:
        pass

    async def close(self) -> None:
        pass

    async def _connect(self, address: str, receiver: Receiver) -> Link:
        raise ConnectionRefusedError("nobody is there")


class _Nothing:
    pass


async def _measure(replicas: int, proxies: int, gap_s: float) -> dict[str, float]:
    engine = _Engine(gap_s)
    controller = Controller(engine, Directory(engine.connect))
    with socket.socket() as listener:
        controller.start_proxies(HTTPOptions(num_proxies=proxies), listener)
        await asyncio.sleep(1)
        engine.post.taken("")
        began = time.process_time()
        app = serve.deployment(num_replicas=replicas, name="Ranker")(_Nothing).bind()
        await controller.deploy(AppSpec.of("default", flatten(app, "default"), "/"))
        await asyncio.sleep(1)
        figures = engine.post.taken("start")
        figures["start: controller's CPU, s"] = time.process_time() - began
        engine.replicas[0].kill()
        await asyncio.sleep(gap_s + 1)
        figures |= engine.post.taken("one dies and is replaced")
        logging.disable()
        await controller.kill()
    return figures


def figures(replicas: int, proxies: int, gap_s: float) -> dict[str, float]:
    """Of one deployment."""
    found: dict[str, float] = {}

    async def main() -> None:
        found.update(await _measure(replicas, proxies, gap_s))

    with contextlib.suppress(asyncio.CancelledError):
        run_virtual(main())
    logging.disable(logging.NOTSET)
    return found
