"""Where HTTP is listened for, and gRPC."""

import importlib.util
import socket
from dataclasses import replace

from modelplex.config import HTTPOptions
from modelplex.errors import DeploymentFailedError

BACKLOG = 2048

NO_PASSWORD = "ssl_keyfile_password: gRPC takes no encrypted key; decrypt it in its file."


def listen(http: HTTPOptions, *, shared: bool = False) -> socket.socket:
    """A socket that listens where the options say, and that a child process can inherit.

    If it is `shared`, other processes of this user can listen at the same port; the system deals connections out.
    Raises `DeploymentFailedError`.
    """
    family = socket.AF_INET6 if ":" in http.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((http.host, http.port))
        listener.listen(BACKLOG)
        listener.set_inheritable(True)
    except OSError as error:
        listener.close()
        raise DeploymentFailedError(f"Cannot listen on {http.host}:{http.port}: {error.strerror}.") from error
    return listener


def hold_grpc(http: HTTPOptions, *, succeeds: bool = False) -> tuple[HTTPOptions, socket.socket | None]:
    """The options with the port that is to be listened at for gRPC, and a socket that keeps it for this user.

    It takes no connections: that is for the proxies, each of which has a socket of its own at that port. Unless others
    are succeeded there, nobody may use it yet. Raises `DeploymentFailedError`.
    """
    if http.grpc is None:
        return http, None
    if importlib.util.find_spec("grpc") is None:
        raise DeploymentFailedError("grpc_options: gRPC needs grpcio; pip install 'modelplex[grpc]'.")
    if http.ssl_keyfile_password is not None:
        raise DeploymentFailedError(NO_PASSWORD)
    host, port = http.host, http.grpc.port
    if port and not succeeds:
        _bound(host, port, socket.SO_REUSEADDR).close()
    try:
        holder = _bound(host, port, socket.SO_REUSEPORT)  # without SO_REUSEADDR, or the line above would not notice it
    except DeploymentFailedError:  # because of what is left of connections that have ended
        holder = _bound(host, port, socket.SO_REUSEPORT, socket.SO_REUSEADDR)
    return replace(http, grpc=replace(http.grpc, port=holder.getsockname()[1])), holder


def _bound(host: str, port: int, *options: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        for option in options:
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise DeploymentFailedError(f"Cannot listen for gRPC on {host}:{port}: {error.strerror}.") from error
    return bound


def url(http: HTTPOptions, listener: socket.socket, host: str = "") -> str:
    """What is served there; at this host, if the listener takes connections to any."""
    scheme = "http" if http.ssl_certfile is None else "https"
    own, port = listener.getsockname()[:2]
    host = host if host and own in ("0.0.0.0", "::") else own
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def grpc_address(http: HTTPOptions | None) -> str:
    """Where gRPC is served, as clients take it; empty if it is not."""
    if http is None or http.grpc is None:
        return ""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(http.host, http.host)
    return f"[{host}]:{http.grpc.port}" if ":" in host else f"{host}:{http.grpc.port}"
