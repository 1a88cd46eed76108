"""The machines that the replicas of a deployment are on, and handing over where one of these is to be gone soon."""

import asyncio
from collections.abc import Callable, Collection

from modelplex.runtime.address import Address
from modelplex.runtime.process_set import ProcessSet


class ReplicaMachines:
    """Has replicas replaced that are on machines which are being drained.

    Args:
        replicas: of the deployment.
        draining: answers the names of such machines.
    """

    def __init__(self, replicas: ProcessSet, draining: Callable[[], Collection[str]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._replicas = replicas
        self._draining = draining

    @property
    def used(self) -> set[str]:
        """The machines that have a replica."""
        return {Address.parse(address).machine for address in self._replicas.running.values()}

    def follow(self) -> None:
        """Other replicas run now, or other machines are being drained."""
        if self._draining():
            self._loop.call_soon(self._hand_over)  # whoever calls may be in the middle of a decision about them

    def _hand_over(self) -> None:
        """Each is replaced once, with its models; it serves until its successor does, if there is room for one."""
        draining = self._draining()
        for name, address in list(self._replicas.running.items()):
            if Address.parse(address).machine in draining:
                self._replicas.replace(name, "is on a machine that is being drained")
