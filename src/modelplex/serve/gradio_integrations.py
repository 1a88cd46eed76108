"""Where programs written for Ray Serve import from what serves a Gradio interface. Gradio is imported on use."""

from collections.abc import Callable
from typing import Any

from modelplex.context import get_replica_context
from modelplex.deployment import deployment
from modelplex.ingress import ingress

__all__ = ["GradioIngress", "GradioServer"]


def _app() -> Any:
    import gradio  # type: ignore[import-not-found, unused-ignore] # the user's, and not ours to install

    return gradio.routes.App.create_app(get_replica_context().servable_object._builder())


@ingress(_app)
class GradioIngress:
    """Serves what a function builds, a Gradio `Blocks` or `Interface`. To be subclassed below `@serve.deployment`.

    Gradio keeps the state of its sessions in the process, so one replica is what it works with.

    Args:
        builder: it is called in the replica, since what it returns cannot travel.
    """

    def __init__(self, builder: Callable[[], Any]) -> None:
        self._builder = builder


GradioServer = deployment(GradioIngress)
