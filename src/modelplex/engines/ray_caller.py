"""How a program comes to a system on the Ray cluster that it is connected to."""

import asyncio
from typing import Any

import ray

from modelplex import errors
from modelplex.config import RAY
from modelplex.engines import ray_cluster
from modelplex.engines.ray_actor import Membership, find
from modelplex.runtime.link import TOGETHER_S, Link, Receiver
from modelplex.runtime.network import Network
from modelplex.wire.messages import Register

ASK_TIMEOUT_S = 10.0


class RayDoor:
    """`follower.Door`.

    Args:
        system: its name, which begins with `RAY`.
    """

    def __init__(self, system: str) -> None:
        self._controller = system.removeprefix(RAY)
        self._network: Network | None = None
        self.machine = ray_cluster.this_machine() if ray.is_initialized() else ""

    async def enter(self, receiver: Receiver, register: Register) -> Link:
        address = await asyncio.to_thread(self._find)
        link = await self.connect(address, receiver)
        link.send(register)
        return link

    def _find(self) -> str:
        """Where the controller is."""
        if not ray.is_initialized():
            raise errors.ModelplexError("This program is on no Ray cluster: call ray.init(address=...) first.")
        controller = controller_named(self._controller)
        if controller is None:
            raise errors.NothingRunsError("Nothing runs on this Ray cluster.")
        try:
            membership: Membership = ray.get(controller.membership.remote(), timeout=ASK_TIMEOUT_S)
        except ray.exceptions.RayError as error:
            raise OSError(f"the controller does not answer: {error}") from error
        self._network = Network(self.machine, membership.credentials)
        try:
            return find(membership)
        except EOFError as error:  # it has ended meanwhile, and perhaps another one begun
            raise ConnectionResetError("the controller has ended") from error

    async def connect(self, address: str, receiver: Receiver, together_s: float = TOGETHER_S) -> Link:
        if self._network is None:
            raise ConnectionRefusedError("the controller has not been asked yet")
        return await self._network.connect(address, receiver, together_s)


def controller_named(name: str) -> Any | None:
    """The actor, or None if there is none."""
    try:
        return ray.get_actor(name, namespace=ray_cluster.NAMESPACE)
    except ValueError:
        return None
