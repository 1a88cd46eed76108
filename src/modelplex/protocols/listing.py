"""The models that clients can be told of: those that replicas hold, and those that the deployment lists itself."""

from modelplex import context
from modelplex.runtime import steering
from modelplex.runtime.servable import Servable

# The user's method that lists what could be loaded, plain or async, without arguments.
LIST_MODELS = "list_models"


async def known_models(
    servable: Servable, replica: context.ReplicaContext, loader: str = "", *, listed: bool = True
) -> dict[str, bool | None]:
    """By id: whether a model is loaded, or is being loaded; None for one that is neither, and is only listed.

    Args:
        loader: whose models; of all loaders unless given.
        listed: whether those are wanted that are only listed.
    """
    found: dict[str, bool | None] = {}
    if listed and callable(getattr(servable.instance, LIST_MODELS, None)):
        found |= dict.fromkeys(map(str, await servable.call(LIST_MODELS)))
    held = await steering.models(context.caller(), replica.app_name, replica.deployment, loader)
    return {**found, **held}
