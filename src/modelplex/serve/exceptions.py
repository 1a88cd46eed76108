"""Where programs written for Ray Serve import exceptions from, by the names they know."""

from modelplex.errors import (
    BackPressureError,
    DeploymentUnavailableError,
    RequestCancelledError,
)
from modelplex.errors import (
    ModelplexError as RayServeException,
)

__all__ = ["BackPressureError", "DeploymentUnavailableError", "RayServeException", "RequestCancelledError"]
