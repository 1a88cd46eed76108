"""A service whose messages are bytes as they are, and a client of a proxy's calls that needs no connection."""

import asyncio
from typing import Any

import grpc

from modelplex.config import GRPCOptions, HTTPOptions
from modelplex.wire import grpc_body

RAW = "raw_servicer:add_RawServicer_to_server"


def add_RawServicer_to_server(servicer: Any, server: Any) -> None:  # noqa: N802 - as protoc names it
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(servicer.Say),
        "Wait": grpc.unary_unary_rpc_method_handler(servicer.Wait),
        "Count": grpc.unary_stream_rpc_method_handler(servicer.Count),
        "Chat": grpc.stream_stream_rpc_method_handler(servicer.Chat),
        "Join": grpc.stream_unary_rpc_method_handler(servicer.Join),
        "Strict": grpc.unary_unary_rpc_method_handler(servicer.Strict, request_deserializer=int),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("raw.Raw", handlers),))
    server.add_registered_method_handlers("raw.Raw", handlers)


def options(*servicers: str, **more: Any) -> HTTPOptions:
    return HTTPOptions(grpc=GRPCOptions(grpc_servicer_functions=servicers or (RAW,), **more))


class ScriptedClient:
    """Says what it was told to say, and remembers what it heard.

    Args:
        messages: all that it sends; a number is how many seconds it waits before the next.
        metadata: that it sends.
        rest_s: what is left of its time.
    """

    def __init__(self, *messages: bytes | float, rest_s: float | None = None, **metadata: str) -> None:
        self.metadata = grpc_body.packed(metadata.items())
        self.peer = "ipv4:127.0.0.1:1"
        self.rest_s = rest_s
        self.heard: list[bytes] = []
        self.begun: grpc_body.Packed = []
        self._messages = list(messages)

    async def read(self) -> bytes | None:
        while self._messages:
            message = self._messages.pop(0)
            if isinstance(message, bytes):
                return message
            await asyncio.sleep(message)
        return None

    async def write(self, message: bytes) -> None:
        self.heard.append(message)

    async def begin(self, metadata: grpc_body.Packed) -> None:
        self.begun = metadata
