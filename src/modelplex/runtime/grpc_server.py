"""The gRPC server of a proxy, made of the library `grpcio`: connections and calls in (`grpc_calls`), messages out.

They are bytes here: the proxy imports nothing of the user's.
"""

import functools
import logging
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from modelplex import errors
from modelplex.config import HTTPOptions
from modelplex.runtime.directory import Directory
from modelplex.runtime.grpc_calls import Calls, Client, Gate
from modelplex.runtime.grpc_status import shortened
from modelplex.runtime.listening_sockets import NO_PASSWORD
from modelplex.wire import grpc_body
from modelplex.wire.grpc_body import Packed, Status

log = logging.getLogger(__name__)

# Calls at a time, in all and on one connection. Those beyond are refused, or wait at their client.
CALLS_MAX = 10_000
CALLS_PER_CONNECTION_MAX = 1_000

# Beyond the first, metadata may be refused; beyond the second it is.
METADATA_BYTES = 16 * 2**10
METADATA_BYTES_MAX = 32 * 2**10

# A client that has connected has so long to begin to speak HTTP/2.
HANDSHAKE_TIMEOUT_S = 10.0

INT_MAX = 2**31 - 1  # of the library's options

# A client that is silent is asked for a sign of life, and has so long to give it. One may ask as often itself.
PING_S = 60.0
PING_TIMEOUT_S = 20.0
CLIENT_PING_S = 10.0


class GRPCServer:
    """Serves the applications of a directory on the current event loop.

    Args:
        directory: where the applications and the routers are.
        options: where to listen, limits, certificates. `grpc` must be given, with a port.
        gate: decides which calls are taken; all are unless given.
    """

    def __init__(self, directory: Directory, options: HTTPOptions, gate: Gate | None = None) -> None:
        self._options = options
        self._calls = Calls(directory, options, gate)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen; other processes of this user may do so at the same port. Raises `DeploymentFailedError`."""
        options, grpc_options = self._options, self._options.grpc
        assert grpc_options is not None
        host = f"[{options.host}]" if ":" in options.host else options.host
        address = f"{host}:{grpc_options.port}"
        self._server = server = grpc.aio.server(
            handlers=[_AnyMethod(self._calls)], options=_channel_options(options), maximum_concurrent_rpcs=CALLS_MAX
        )
        credentials = _credentials(options)
        try:
            if credentials is None:
                server.add_insecure_port(address)
            else:
                server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise errors.DeploymentFailedError(f"Cannot listen for gRPC on {address}: {error}.") from error
        await server.start()

    async def stop(self, timeout_s: float) -> None:
        """Take no more calls, and wait so long for those that run before they are broken off."""
        if self._server is not None:
            await self._server.stop(timeout_s)


class _AnyMethod(grpc.GenericRpcHandler):  # type: ignore[misc] # the library has no types
    """Every method is one whose messages are streams of bytes; so are those that have only one message."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.stream_stream_rpc_method_handler(functools.partial(self._serve, details.method))

    async def _serve(self, path: str, _: Any, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        client = _Client(context)
        try:
            status = await self._calls.serve(path, client)
        except Exception:  # a fault of ours; the library would tell the client all of it
            log.exception("A call of gRPC could not be answered.")
            status = Status(grpc.StatusCode.INTERNAL.value[0], "Internal Server Error")
        context.set_trailing_metadata(grpc_body.unpacked(status.metadata))
        context.set_code(_CODES[status.code])
        context.set_details(shortened(status.details))


_CODES = {code.value[0]: code for code in grpc.StatusCode}


class _Client(Client):
    """The client of one call (`grpc_calls.Client`)."""

    def __init__(self, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        self._context = context
        self.metadata = grpc_body.packed((key, value) for key, value in context.invocation_metadata() or ())
        self.peer = context.peer()
        self.rest_s = context.time_remaining()

    async def read(self) -> bytes | None:
        message = await self._context.read()
        return None if message is grpc.aio.EOF else message

    async def write(self, message: bytes) -> None:
        await self._context.write(message)

    async def begin(self, metadata: Packed) -> None:
        await self._context.send_initial_metadata(grpc_body.unpacked(metadata))


def _channel_options(options: HTTPOptions) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", min(options.max_body_bytes, INT_MAX)),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", CALLS_PER_CONNECTION_MAX),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.max_connection_idle_ms", min(options.keep_alive_timeout_s * 1_000, INT_MAX)),
        ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_TIMEOUT_S * 1e3)),
        ("grpc.keepalive_time_ms", int(PING_S * 1e3)),
        ("grpc.keepalive_timeout_ms", int(PING_TIMEOUT_S * 1e3)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", int(CLIENT_PING_S * 1e3)),
    ]


def _credentials(options: HTTPOptions) -> grpc.ServerCredentials | None:
    """Made of files that `tls.server_context` has read before. Raises `DeploymentFailedError`."""
    if options.ssl_certfile is None:
        return None
    if options.ssl_keyfile_password is not None:
        raise errors.DeploymentFailedError(NO_PASSWORD)
    chain = Path(options.ssl_certfile).read_bytes()
    key = Path(options.ssl_keyfile or options.ssl_certfile).read_bytes()
    authorities = None if options.ssl_ca_certs is None else Path(options.ssl_ca_certs).read_bytes()
    return grpc.ssl_server_credentials([(key, chain)], authorities, require_client_auth=authorities is not None)
