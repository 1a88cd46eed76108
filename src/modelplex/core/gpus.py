"""Which process has which GPUs of a machine: whole ones, or a share of one."""

import math
from collections.abc import Mapping, Sequence

# What shares may be off when they are added, such as 93 parts of one 93rd.
ROUNDING = 1e-6


class Gpus:
    """Hands out GPUs. What it answers is booked already.

    A share goes to the fullest GPU that has room for it, so that as many as possible stay free for those that want
    whole ones. No two owners have the same GPU but in shares that make up no more than one.

    Attributes:
        ids: the GPUs that there are, in the order in which they are handed out; they may be found out after the first
            `adopt`.
    """

    def __init__(self, ids: Sequence[str] = ()) -> None:
        self.ids = ids
        self._owners: dict[str, dict[str, float]] = {}

    def take(self, owner: str, amount: float) -> dict[str, float] | None:
        """So much for an owner that has nothing yet: a whole number, or a part of 1.

        Answers its share of each GPU, by their ids; None if there is not so much.
        """
        if amount >= 1:
            free = [gpu for gpu in self.ids if not self._taken(gpu)][: int(amount)]
            shares = dict.fromkeys(free, 1.0) if len(free) == int(amount) else None
        elif amount > 0:
            fitting = [gpu for gpu in self.ids if self._taken(gpu) + amount <= 1 + ROUNDING]
            shares = {max(fitting, key=self._taken): amount} if fitting else None
        else:
            shares = {}
        if shares:
            self._owners[owner] = shares
        return shares

    def adopt(self, owner: str, shares: Mapping[str, float]) -> None:
        """An owner has these already, whether that is too much or not."""
        if shares:
            self._owners[owner] = dict(shares)

    def give_back(self, owner: str) -> None:
        """The owner has nothing any more. Nothing happens if it had nothing."""
        self._owners.pop(owner, None)

    @property
    def holders(self) -> dict[str, dict[str, float]]:
        """What each owner has of which GPU."""
        return {owner: dict(shares) for owner, shares in self._owners.items()}

    def _taken(self, gpu: str) -> float:
        return math.fsum(shares.get(gpu, 0.0) for shares in self._owners.values())
