"""Where and how gRPC is served."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from modelplex.config.checks import check_import_path, check_int, check_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class GRPCOptions:
    """Where and how gRPC is served, at the host of HTTP, and with its certificates.

    Attributes:
        port: port to listen on; 0 lets the system choose, on one machine.
        grpc_servicer_functions: the functions `add_…Servicer_to_server` of generated modules, or their import paths:
            their services are answered by methods of deployments.
        request_timeout_s: a call that is not answered within so long ends with DEADLINE_EXCEEDED, whatever deadline
            its client has; None for that deadline alone.
        enable_reflection: has to be false: clients need their own descriptions of services.
    """

    port: int = 9000
    grpc_servicer_functions: Sequence[str | Callable[..., Any]] = ()
    request_timeout_s: float | None = None
    enable_reflection: bool = False

    def __post_init__(self) -> None:
        check_int("port", self.port, 0, " and at most 65535", most=65535)
        given = self.grpc_servicer_functions
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise ValueError(f"grpc_servicer_functions must be a list of functions or import paths, got {given!r}.")
        object.__setattr__(self, "grpc_servicer_functions", [_import_path(function) for function in given])
        check_seconds("request_timeout_s", self.request_timeout_s, above_0=True)
        if self.enable_reflection is not False:
            raise ValueError("enable_reflection must be False: there is no reflection.")

    @property
    def servicers(self) -> list[str]:
        """The import paths of `grpc_servicer_functions`."""
        return [str(path) for path in self.grpc_servicer_functions]


def _import_path(function: object) -> str:
    """Replicas import it by this path. Raises ValueError if they could not."""
    path = function
    if callable(function):
        path = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', '')}"
        if path.startswith("__main__:") or "<" in path:
            text = "must be defined in a module that replicas can import"
            raise ValueError(f"grpc_servicer_functions {text}, got {function!r}.")
    check_import_path("grpc_servicer_functions", path)
    return str(path)
