"""What an engine does: start processes, say when they are ready and when they have ended. It decides nothing."""

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from modelplex.config import HTTPOptions
from modelplex.runtime.link import Connect
from modelplex.runtime.replica_spec import ReplicaSpec
from modelplex.wire.messages import Message


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine that processes can be started on.

    Attributes:
        name: as in the addresses of what runs there (`runtime.address`); empty if there is only one.
        is_head: whether it is the one that a cluster hangs on.
        is_draining: whether it is to be gone soon: what runs there is to be handed over, and nothing started.
    """

    name: str = ""
    is_head: bool = True
    is_draining: bool = False


class Process(Protocol):
    """A replica or proxy that was started.

    Attributes:
        started: its address, when it can be sent requests; `DeploymentFailedError` if it could not start.
        exited: how it ended, in words, when it has.
        heard: called with what else the process says; to be set by whoever wants to know.
        waits_for: what keeps it from starting, in words, if that is known.
    """

    started: "asyncio.Future[str]"
    exited: "asyncio.Future[str]"
    heard: Callable[[Message], None]

    @property
    def waits_for(self) -> str: ...

    def send(self, message: Message) -> None:
        """Tell it the table, or to stop. Nothing happens when it has ended, or cannot be reached."""

    def kill(self) -> None:
        """End it at once."""


class Engine(Protocol):
    """Starts processes. Made and used on one event loop."""

    @property
    def connect(self) -> Connect:
        """Opens links to replicas that it has started."""

    async def start_replica(self, spec: ReplicaSpec) -> Process: ...

    async def start_proxy(
        self, tag: str, options: HTTPOptions, listener: socket.socket | None, machine: str = ""
    ) -> Process:
        """One that takes requests from the listening socket if there is one, else from one of its own on the machine.

        The latter says where that is by its `address`, as a URL.
        """

    def follow_machines(self, told: Callable[[Sequence[Machine]], None]) -> None:
        """Call this with all machines, at once or soon, and whenever they change."""

    def adopt(self, name: str, gpus: Mapping[str, float], exited: "asyncio.Future[str]") -> None:
        """A replica that another engine has started has these shares of GPUs, until it has exited."""

    async def close(self) -> None:
        """After all processes have ended: leave nothing behind."""
