"""Triton's gRPC client in a process that may have KServe's as well.

Both put messages of the same names into the one pool of protocol buffers that a process has, and whichever is imported
second fails. So this one gets a pool of its own; nothing else about it is changed.
"""

from unittest import mock

from google.protobuf import descriptor_pool

with mock.patch.object(descriptor_pool, "Default", return_value=descriptor_pool.DescriptorPool()):
    import tritonclient.grpc
    import tritonclient.grpc.aio
    from tritonclient.grpc import service_pb2
    from tritonclient.utils import InferenceServerException

AsyncClient = tritonclient.grpc.aio.InferenceServerClient
Client = tritonclient.grpc.InferenceServerClient
InferInput = tritonclient.grpc.InferInput
InferRequestedOutput = tritonclient.grpc.InferRequestedOutput

__all__ = ["AsyncClient", "Client", "InferInput", "InferRequestedOutput", "InferenceServerException", "service_pb2"]
