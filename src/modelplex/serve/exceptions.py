"""What handles and `get_model` raise; with the name that programs written for Ray Serve know."""

from modelplex.errors import (
    BackPressureError,
    DeploymentFailedError,
    DeploymentUnavailableError,
    InvalidModelIdError,
    ModelLoadError,
    ModelLoadTimeoutError,
    ModelNotFoundError,
    ModelplexError,
    ModelTooLargeError,
    ModelUnavailableError,
    OvercommittedError,
    ReplicaLostError,
    RequestCancelledError,
    RequestTimeoutError,
    TooManyRequestsError,
)

RayServeException = ModelplexError

__all__ = [
    "BackPressureError",
    "DeploymentFailedError",
    "DeploymentUnavailableError",
    "InvalidModelIdError",
    "ModelLoadError",
    "ModelLoadTimeoutError",
    "ModelNotFoundError",
    "ModelTooLargeError",
    "ModelUnavailableError",
    "ModelplexError",
    "OvercommittedError",
    "RayServeException",
    "ReplicaLostError",
    "RequestCancelledError",
    "RequestTimeoutError",
    "TooManyRequestsError",
]
