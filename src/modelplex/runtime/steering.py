"""What replicas are told to do with models on behalf of no user: load one, unload one, pin one, say which there are.

It travels as calls of methods that no user's class can have, on the way that all requests go: so a load is routed as a
request for its model would be, and an unload is a broadcast.
"""

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from modelplex import context, errors
from modelplex.config import CacheOptions, check_model_id
from modelplex.context import Call, Caller
from modelplex.handle import new_request_id

if TYPE_CHECKING:
    from modelplex.runtime.model_hosts import ModelHosts
    from modelplex.runtime.models import ModelHost

# What the names of these methods begin with.
STEERING = "-/"

# What any of this may take; a load that takes longer goes on.
TIMEOUT_S = 600.0

LOAD = "-/load"
PREFETCH = "-/prefetch"
IS_PINNED = "-/is_pinned"
UNLOAD = "-/unload"
MODELS = "-/models"
PIN = "-/pin"
PIN_HERE = "-/pin_here"
UNPIN = "-/unpin"
SET_ALIAS = "-/set_alias"


@runtime_checkable
class SetsAliases(Protocol):
    """Whatever says what ids stand for, if it can be told, too: such as a store of models in a folder."""

    async def set_alias(self, alias: str, version: str) -> None: ...


# From any process


async def load(caller: Caller, app_name: str, deployment: str, model_id: str, loader: str = "") -> None:
    """Have a model loaded where a request for it would go; returns when it is. Raises what such a request would."""
    await caller.call(_call(caller, app_name, deployment, LOAD, check_model_id(model_id), (loader, model_id)))


async def prefetch(caller: Caller, app_name: str, deployment: str, model_id: str, loader: str = "") -> None:
    """Begin to load a model where a request for it would go; what fails is told in that replica's log."""
    await caller.call(_call(caller, app_name, deployment, PREFETCH, check_model_id(model_id), (loader, model_id)))


async def unload(caller: Caller, app_name: str, deployment: str, model_id: str, loader: str = "") -> int:
    """Have every replica unload a model as soon as nobody uses it. Answers how many held it.

    Raises `ModelPinnedError`, before anything is unloaded, if it is pinned.
    """
    args = loader, check_model_id(model_id)
    pinned = sum(await caller.broadcast(_call(caller, app_name, deployment, IS_PINNED, "", args)))
    if pinned:
        raise errors.ModelPinnedError(f"Model '{model_id}' is pinned on {pinned} replicas: unpin it first.")
    return sum(await caller.broadcast(_call(caller, app_name, deployment, UNLOAD, "", args)))


async def models(caller: Caller, app_name: str, deployment: str, loader: str = "") -> dict[str, bool]:
    """The models that replicas hold or load, by id: whether at least one of them has it loaded.

    Args:
        loader: whose models; of all loaders unless given.
    """
    found: dict[str, bool] = {}
    for held in await caller.broadcast(_call(caller, app_name, deployment, MODELS, "", (loader, ""))):
        for model_id, is_loaded in held.items():
            found[model_id] = is_loaded or found.get(model_id, False)
    return found


async def pin(caller: Caller, app_name: str, deployment: str, model_id: str, loader: str = "") -> int:
    """Keep a model from being evicted on each replica that has it, or on one that loads it for that.

    Answers on how many it is pinned by now; there it stays as long as those replicas live. Raises what keeps it from
    being loaded, and `ModelPinnedError` if it would leave no room for others.
    """
    args = loader, check_model_id(model_id)
    pinned = sum(await caller.broadcast(_call(caller, app_name, deployment, PIN_HERE, "", args)))
    if not pinned:
        await caller.call(_call(caller, app_name, deployment, PIN, model_id, args))
    return pinned or 1


async def unpin(caller: Caller, app_name: str, deployment: str, model_id: str, loader: str = "") -> int:
    """Take back `pin`. Answers on how many replicas it was pinned.

    Raises `ModelPinnedError` if it is the options of its loader that pin it.
    """
    return sum(
        await caller.broadcast(_call(caller, app_name, deployment, UNPIN, "", (loader, check_model_id(model_id))))
    )


async def set_alias(caller: Caller, app_name: str, deployment: str, alias: str, version: str, loader: str = "") -> None:
    """Have an alias stand for another version, in the store that says what it stands for.

    Replicas follow when they look at it next. Raises what the store says if that cannot be.
    """
    args = loader, check_model_id(alias), check_model_id(version)
    await caller.call(_call(caller, app_name, deployment, SET_ALIAS, "", args))


def _call(
    caller: Caller, app_name: str, deployment: str, method_name: str, model_id: str, args: tuple[Any, ...]
) -> Call:
    deadline = caller.loop.time() + TIMEOUT_S
    return Call(app_name, deployment, method_name, model_id, None, new_request_id(), "", args, {}, deadline)


# In a replica


async def perform(models: "ModelHosts", method_name: str, args: tuple[Any, ...]) -> Any:
    """Do it. Raises AttributeError for what is unknown."""
    loader, model_id, *rest = args
    if method_name == MODELS and not loader:
        return dict.fromkeys(models.loading, False) | dict.fromkeys(models.loaded, True)
    host = models.named(loader)
    match method_name:
        case "-/load":  # LOAD
            await host.get(model_id, context.request())
        case "-/prefetch":
            host.prefetch(model_id)
        case "-/is_pinned":
            return host.pins.holds(model_id) or host.pins.holds(_version(host, model_id))
        case "-/unload":
            return _unload(host, _version(host, model_id))
        case "-/pin":
            await host.pins.add(model_id)
        case "-/pin_here":
            if held := host.cache.keeps(_version(host, model_id)):
                await host.pins.add(model_id)
            return held
        case "-/models":  # MODELS
            return dict.fromkeys(host.loading, False) | dict.fromkeys(host.loaded, True)
        case "-/unpin":
            return host.pins.remove(model_id)
        case "-/set_alias":
            await _told_of(host.options).set_alias(model_id, *rest)
        case _:
            raise AttributeError(f"Replicas know nothing of {method_name!r}.")
    return None


def _version(host: "ModelHost", model_id: str) -> str:
    """What the id stands for, as far as that is known."""
    return host.aliases.get(model_id, model_id)


def _unload(host: "ModelHost", version: str) -> bool:
    """Whether it was held."""
    if host.pins.holds(version):  # just now
        return False
    held = host.cache.keeps(version)
    host.cached.retire(version)
    return held


def _told_of(options: CacheOptions) -> SetsAliases:
    """Who is told what an alias stands for."""
    owner = getattr(options.resolve, "__self__", None)  # of a method
    if not isinstance(owner, SetsAliases):
        raise errors.AliasNotSetError(
            "Aliases cannot be set here: what ids stand for is found out by a function of the deployment's own, or by "
            "nobody. They are set where that function looks."
        )
    return owner
