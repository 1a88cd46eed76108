"""What an engine does: start processes, say when they are ready and when they have ended. It decides nothing."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Protocol

from modelplex.config import HTTPOptions
from modelplex.runtime.link import Connect
from modelplex.runtime.replica import ReplicaSpec
from modelplex.wire.messages import Message


class Process(Protocol):
    """A replica or proxy that was started.

    Attributes:
        started: its address, when it can be sent requests; `DeploymentFailedError` if it could not start.
        exited: how it ended, in words, when it has.
        heard: called with what else the process says; to be set by whoever wants to know.
    """

    started: "asyncio.Future[str]"
    exited: "asyncio.Future[str]"
    heard: Callable[[Message], None]

    def send(self, message: Message) -> None:
        """Tell it the table, or to stop. Nothing happens when it has ended."""

    def kill(self) -> None:
        """End it at once."""


class Engine(Protocol):
    """Starts processes. Made and used on one event loop."""

    @property
    def connect(self) -> Connect:
        """Opens links to replicas that it has started."""

    async def start_replica(self, spec: ReplicaSpec) -> Process: ...

    async def start_proxy(self, tag: str, options: HTTPOptions, listener: socket.socket) -> Process: ...

    def adopt(self, name: str, gpus: Mapping[str, float], exited: "asyncio.Future[str]") -> None:
        """A replica that another engine has started has these shares of GPUs, until it has exited."""

    async def close(self) -> None:
        """After all processes have ended: leave nothing behind."""
