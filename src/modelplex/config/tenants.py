"""What each tenant of a deployment may take of its replicas."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelplex.config.checks import UNLIMITED, check_int, check_number, made_from, parse_bytes
from modelplex.core.tenants import EVERYONE_ELSE, Limits

# Loads of which `load_share` is a part where `max_concurrent_loads` sets no limit: what a replica has threads for.
LOADS_MAX = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantConfig:
    """What one tenant may take of a deployment.

    Attributes:
        reserved_bytes: of each replica's `max_bytes_per_replica`, what its models have for themselves, as a number or
            as text such as "8GiB".
        burst_bytes: what they may take at most; all of it unless given.
        reserved_models, burst_models: the same of `max_num_models_per_replica`.
        load_share: the part of a replica's `max_concurrent_loads` (of 32 if that is no limit) that its loads may be at
            a time, at least one.
        request_share: the part of a replica's `max_ongoing_requests` that its requests may be at a time, at least one.
        max_queued_requests: requests of it that may wait in one caller; -1 for any number. As many as the deployment
            lets wait unless given.
    """

    reserved_bytes: int | str | None = None
    burst_bytes: int | str | None = None
    reserved_models: int | None = None
    burst_models: int | None = None
    load_share: float = 1.0
    request_share: float = 1.0
    max_queued_requests: int | None = None

    def __post_init__(self) -> None:
        for option in ("reserved_bytes", "burst_bytes"):
            if (size := getattr(self, option)) is not None:
                object.__setattr__(self, option, parse_bytes(option, size))
        for option in ("reserved_models", "burst_models"):
            if (count := getattr(self, option)) is not None:
                check_int(option, count, 1)
        for option in ("load_share", "request_share"):
            check_number(option, getattr(self, option), 0, 1, above=True)
        if self.max_queued_requests is not None and self.max_queued_requests != UNLIMITED:
            check_int("max_queued_requests", self.max_queued_requests, 0, f", or {UNLIMITED} for any number")
        for what in ("bytes", "models"):
            reserved, burst = getattr(self, f"reserved_{what}"), getattr(self, f"burst_{what}")
            if reserved is not None and burst is not None and burst < reserved:
                raise ValueError(f"burst_{what}={burst} must be at least reserved_{what}={reserved}.")


def checked(tenants: object) -> Mapping[str, TenantConfig] | None:
    """Tenants as an option of a deployment has them; TypeError or ValueError if they cannot be."""
    if tenants is None:
        return None
    if not isinstance(tenants, Mapping) or not all(isinstance(name, str) and name for name in tenants):
        raise TypeError(f"tenants must be a dict of names and TenantConfig, got {tenants!r}.")
    made = {name: made_from(TenantConfig, "tenants", given) for name, given in tenants.items()}
    for name, given in made.items():
        if given is None:
            raise TypeError(f"tenants must say what {name!r} may take, got None.")
    return made or None


def limits(
    tenants: Mapping[str, TenantConfig], models_max: int, bytes_max: int, loads_max: int, pinned: int
) -> dict[str, Limits]:
    """What each tenant may take of a cache. ValueError if more is reserved than there is.

    Where a cache limits both, and only one is reserved, so large a part of the other is. `pinned` models are of
    `EVERYONE_ELSE`.
    """
    found = {name: _limits(given, models_max, bytes_max, loads_max) for name, given in tenants.items()}
    others = found.get(EVERYONE_ELSE, Limits())
    if others.burst_models != UNLIMITED and pinned >= others.burst_models:
        raise ValueError(
            f"{pinned} models are pinned, which leaves no room for others with burst_models={others.burst_models} of "
            f"the tenant {EVERYONE_ELSE!r}, to which they belong."
        )
    spare = max(0, pinned - max(0, others.reserved_models))
    for what, most, kept in (("models", models_max, spare), ("bytes", bytes_max, 0)):
        reserved = sum(max(0, getattr(each, f"reserved_{what}")) for each in found.values())
        if most != UNLIMITED and reserved + kept > most:
            pins = f" beside {kept} that are pinned" if kept else ""
            option = "max_num_models_per_replica" if what == "models" else "max_bytes_per_replica"
            raise ValueError(f"The tenants' reserved_{what} are {reserved} together{pins}, more than {option}={most}.")
    left_out = [name for name in {EVERYONE_ELSE, *found} if found.get(name, Limits()).reserved_models <= 0]
    if (
        models_max != UNLIMITED
        and left_out
        and sum(max(0, each.reserved_models) for each in found.values()) >= models_max
    ):
        raise ValueError(
            f"All {models_max} models of max_num_models_per_replica are reserved, which leaves no room for "
            f"{', '.join(sorted(left_out))}."
        )
    return found


def _limits(given: TenantConfig, models_max: int, bytes_max: int, loads_max: int) -> Limits:
    models, size_bytes = given.reserved_models, _bytes(given.reserved_bytes)
    if models_max != UNLIMITED and models is None and size_bytes is not None and bytes_max != UNLIMITED:
        models = models_max * size_bytes // bytes_max
    elif bytes_max != UNLIMITED and size_bytes is None and models is not None and models_max != UNLIMITED:
        size_bytes = bytes_max * models // models_max
    burst_bytes = _bytes(given.burst_bytes)
    return Limits(
        reserved_models=UNLIMITED if models_max == UNLIMITED else models or 0,
        reserved_bytes=UNLIMITED if bytes_max == UNLIMITED else size_bytes or 0,
        burst_models=UNLIMITED if given.burst_models is None else given.burst_models,
        burst_bytes=UNLIMITED if burst_bytes is None else burst_bytes,
        loads_max=max(1, int(given.load_share * (LOADS_MAX if loads_max == UNLIMITED else loads_max))),
    )


def _bytes(size: Any) -> int | None:
    return None if size is None else parse_bytes("bytes", size)
