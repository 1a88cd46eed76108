"""Where programs written for Ray Serve import options from."""

from enum import StrEnum

from modelplex.config import AutoscalingConfig, BackpressureConfig, DeploymentConfig, HTTPOptions, RequestRouterConfig
from modelplex.core.scaling import ScalingContext as AutoscalingContext

__all__ = [
    "AutoscalingConfig",
    "AutoscalingContext",
    "BackpressureConfig",
    "DeploymentConfig",
    "HTTPOptions",
    "ProxyLocation",
    "RequestRouterConfig",
]


class ProxyLocation(StrEnum):
    """Where HTTP is served. There is one machine, so that the last two are the same."""

    Disabled = "Disabled"
    HeadOnly = "HeadOnly"
    EveryNode = "EveryNode"
