"""Highest-random-weight order of replicas for a model, the same in every process.

Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM Transactions on Networking 6(1),
1998. Routers that know the same replicas agree on the order without talking, and a replica that comes or goes moves
only the models that were first on it.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar
from zlib import crc32

R = TypeVar("R")

_MASK = 0xFFFF_FFFF_FFFF_FFFF


def point(name: str) -> int:
    """64 bits for a name, the same everywhere."""
    data = name.encode()
    return (crc32(data) << 32) | crc32(data[::-1])


def mix(bits: int) -> int:
    """64 bits that look random for 64 bits that do not.

    The finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
    """
    bits = ((bits ^ (bits >> 30)) * 0xBF58_476D_1CE4_E5B9) & _MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D0_49BB_1331_11EB) & _MASK
    return bits ^ (bits >> 31)


def weight(model_point: int, replica_point: int) -> int:
    """The weight of a replica for a model, from the points of their names."""
    # Points of CRCs alone are linear: without mixing one of them first, orders would repeat.
    return mix(mix(model_point) ^ replica_point)


def order(model_id: str, replicas: Iterable[R], point_of: Callable[[R], int]) -> list[R]:
    """The replicas in the model's order, whatever stands for them; `point_of` answers the point of one's name."""
    mixed = mix(point(model_id))  # once for all: see `weight`
    return sorted(replicas, key=lambda replica: mix(mixed ^ point_of(replica)), reverse=True)
