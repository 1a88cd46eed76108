"""Where programs written for Ray Serve ask which request and which replica they are."""

from dataclasses import dataclass

from modelplex import context
from modelplex.context import ReplicaContext, get_replica_context

__all__ = ["ReplicaContext", "get_replica_context"]


@dataclass(frozen=True, slots=True)
class _RequestContext:
    """The current request; all is empty outside of one."""

    request_id: str = ""
    route: str = ""
    app_name: str = ""
    multiplexed_model_id: str = ""


def _get_serve_request_context() -> _RequestContext:
    current = context.request()
    if current is None:
        return _RequestContext()
    return _RequestContext(current.request_id, current.route, current.app_name, current.model_id)


class _CurrentRequest:
    """Asked as a context variable is, by `get`."""

    def get(self) -> _RequestContext:
        return _get_serve_request_context()


_serve_request_context = _CurrentRequest()


def _get_internal_replica_context() -> ReplicaContext | None:
    """The replica that the current code runs in; None outside of one."""
    return get_replica_context() if context.in_replica() else None
