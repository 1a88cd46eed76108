"""Tenants: on whose behalf requests are, and what each may take of one cache.

Those that are not listed, and requests without one, are `EVERYONE_ELSE` together: so their number is bounded, whatever
names come from outside.
"""

from dataclasses import dataclass

from modelplex.core.budget import UNLIMITED

EVERYONE_ELSE = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a tenant may take of one cache.

    Attributes:
        reserved_models, reserved_bytes: what others leave it. UNLIMITED is where the cache itself has no limit.
        burst_models, burst_bytes: what it may take at most, or UNLIMITED.
        loads_max: loads on its behalf that may run at a time, or UNLIMITED.
    """

    reserved_models: int = 0
    reserved_bytes: int = 0
    burst_models: int = UNLIMITED
    burst_bytes: int = UNLIMITED
    loads_max: int = UNLIMITED
