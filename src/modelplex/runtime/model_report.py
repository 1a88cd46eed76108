"""What a replica says of its models: the topic "models"."""

import asyncio
import fnmatch
import heapq
import re
from collections.abc import Callable
from typing import Any

import msgspec

from modelplex.core.cache import ModelCache
from modelplex.core.shelf import Entry, Phase
from modelplex.runtime.model_states import ALL, LoaderState, ModelsAsked, ModelState, ReplicaState
from modelplex.runtime.models import ModelHost
from modelplex.runtime.replica import Replica


def report(replica: Replica, argument: Any) -> Any:
    """What JSON can hold: a `ReplicaState`; None if it has none of those that were asked for."""
    asked = msgspec.convert(argument or {}, ModelsAsked)
    own = replica.context
    if asked.application not in ("", own.app_name) or asked.deployment not in ("", own.deployment):
        return None
    state = ReplicaState(
        replica=own.replica_id,
        application=own.app_name,
        deployment=own.deployment,
        max_ongoing=replica.max_ongoing,
        ongoing=replica.ongoing,
        retiring=replica.retiring,
        loaders=[_loader(host, asked) for host in replica.models],
    )
    return msgspec.to_builtins(state)


def _loader(host: ModelHost, asked: ModelsAsked) -> LoaderState:
    cache: ModelCache = host.cache
    matches = _matcher(asked.model)
    found = [entry for entry in cache.entries if entry.model_id > asked.after and matches(entry.model_id)]
    total, limit = len(found), len(found) if asked.limit == ALL else asked.limit
    found = heapq.nsmallest(limit, found, key=lambda entry: entry.model_id)
    now, pins, aliases = asyncio.get_running_loop().time(), host.pins.counts, _names(host.aliases)
    return LoaderState(
        name=host.name,
        models_max=cache.models_max,
        bytes_max=cache.bytes_max,
        loads_max=cache.loads_max,
        size_bytes=cache.size_bytes,
        total=total,
        models=[_model(entry, now, pins.get(entry.model_id, 0), aliases.get(entry.model_id, [])) for entry in found],
    )


def _model(entry: Entry, now: float, pins: int, aliases: list[str]) -> ModelState:
    since = {Phase.RESIDENT: entry.resident_since, Phase.LOADING: entry.load_started}.get(entry.phase or Phase.WAITING)
    leases = len(entry.leases) - pins
    is_idle = entry.phase is Phase.RESIDENT and not entry.leases and entry.idle_since is not None
    return ModelState(
        id=entry.model_id,
        state="" if entry.phase is None else entry.phase.name.lower(),
        size_bytes=entry.size_bytes,
        age_s=0.0 if since is None else round(now - since, 3),
        idle_s=round(now - entry.idle_since, 3) if is_idle and entry.idle_since is not None else None,
        load_s=round(entry.load_s, 6),
        uses=max(0, entry.uses - pins),
        leases=max(0, leases),
        waiters=len(entry.waiters),
        pinned=pins > 0,
        aliases=aliases,
        tenant=entry.tenant,
    )


def _matcher(pattern: str) -> Callable[[str], object]:
    """Model ids have none of the characters that mean something in patterns."""
    return re.compile(fnmatch.translate(pattern)).match if pattern else lambda model_id: True


def _names(versions: dict[str, str]) -> dict[str, list[str]]:
    """By version, what stands for it."""
    names: dict[str, list[str]] = {}
    for alias, version in versions.items():
        if alias != version:
            names.setdefault(version, []).append(alias)
    return names
