"""Where programs written for Ray Serve import the types of handles from."""

from modelplex.handle import DeploymentHandle
from modelplex.response import DeploymentResponse, DeploymentResponseGenerator

__all__ = ["DeploymentHandle", "DeploymentResponse", "DeploymentResponseGenerator"]
