"""Where programs written for Ray Serve import options from."""

from enum import StrEnum

from modelplex.config import (
    AutoscalingConfig,
    BackpressureConfig,
    DeploymentConfig,
    GRPCOptions,
    HTTPOptions,
    RequestRouterConfig,
    TenantConfig,
)
from modelplex.core.scaling import ScalingContext as AutoscalingContext

__all__ = [
    "AutoscalingConfig",
    "AutoscalingContext",
    "BackpressureConfig",
    "DeploymentConfig",
    "GRPCOptions",
    "HTTPOptions",
    "ProxyLocation",
    "RequestRouterConfig",
    "TenantConfig",
    "gRPCOptions",
]

gRPCOptions = GRPCOptions  # noqa: N816 - its name there


class ProxyLocation(StrEnum):
    """Which machines serve HTTP (`HTTPOptions.location`). On one machine all but the first are the same."""

    Disabled = "Disabled"
    HeadOnly = "HeadOnly"
    EveryNode = "EveryNode"
    AllNodes = "AllNodes"
