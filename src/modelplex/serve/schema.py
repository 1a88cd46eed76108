"""Where programs written for Ray Serve import what `serve.status` is made of, and options of logs."""

from modelplex.config import LoggingConfig
from modelplex.status import ApplicationState as ApplicationStatus
from modelplex.status import ApplicationStatus as ApplicationStatusOverview
from modelplex.status import DeploymentState as DeploymentStatus
from modelplex.status import DeploymentStatus as DeploymentStatusOverview
from modelplex.status import ServeStatus

__all__ = [
    "ApplicationStatus",
    "ApplicationStatusOverview",
    "DeploymentStatus",
    "DeploymentStatusOverview",
    "LoggingConfig",
    "ServeStatus",
]
