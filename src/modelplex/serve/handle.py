"""Where programs written for Ray Serve import the types of handles from."""

from modelplex.handle import DeploymentHandle, DeploymentResponse

__all__ = ["DeploymentHandle", "DeploymentResponse"]
