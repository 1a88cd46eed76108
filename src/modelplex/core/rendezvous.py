"""Highest-random-weight order of replicas for a model, the same in every process.

Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on Networking 6(1),
1998. Routers that know the same replicas agree on the order without talking, and a replica that comes or goes moves
only the models that were first on it.
"""

import heapq
from collections.abc import Iterable
from zlib import crc32

_MASK = 0xFFFF_FFFF_FFFF_FFFF


def weight(model_id: str, replica_id: str) -> int:
    """The weight of a replica for a model: 64 bits that look random and are the same everywhere."""
    mixed = (crc32(model_id.encode()) << 32) | crc32(replica_id.encode())
    # The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): CRCs alone are linear, so their order would repeat.
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58_476D_1CE4_E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D0_49BB_1331_11EB) & _MASK
    return mixed ^ (mixed >> 31)


def first(model_id: str, replica_ids: Iterable[str], count: int) -> list[str]:
    """The first `count` replicas in the model's order."""
    return heapq.nlargest(count, replica_ids, key=lambda replica_id: weight(model_id, replica_id))
