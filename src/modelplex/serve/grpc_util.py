"""Where programs written for Ray Serve import the context of calls of gRPC from."""

from modelplex.grpc_context import GRPCContext

__all__ = ["GRPCContext", "RayServegRPCContext"]

RayServegRPCContext = GRPCContext
