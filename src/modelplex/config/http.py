"""Where and how HTTP is served."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from modelplex.config.checks import check_choice, check_int, check_location, check_seconds, made_from
from modelplex.config.grpc import GRPCOptions
from modelplex.core.proxy_places import EVERY_NODE

MODEL_ID_WAYS = ("header", "v2", "modelmesh", "sagemaker", "openai")
HEADER_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPOptions:
    """Where and how HTTP is served.

    Attributes:
        host: address to listen on.
        port: port to listen on; 0 lets the system choose.
        root_path: the path under which another server in front of this one serves it, and which it takes off; user
            code sees it as ASGI's `root_path`.
        keep_alive_timeout_s: an idle connection is closed after so long.
        request_timeout_s: a request that is not answered within so long is a 504; None for any time. The header
            `x-request-timeout-seconds` of a request says otherwise for that request.
        max_body_bytes: a larger request body is a 413.
        model_id_from: the ways in which a request may name its model: "header" (`serve_multiplexed_model_id`), "v2"
            (the paths of the Open Inference Protocol, of deployments that speak it), "modelmesh" (`mm-vmodel-id`,
            `mm-model-id`), "sagemaker" (`X-Amzn-SageMaker-Target-Model`, the paths of its containers), "openai" (the
            field `model` of JSON under `/v1/`).
        num_proxies: processes that take requests on each machine; they share the port.
        location: the machines that have proxies: "EveryNode" for those that have a replica, and the head; "AllNodes";
            "HeadOnly"; "Disabled" for none. On one machine the first three are the same. Also called `proxy_location`.
        ssl_certfile: a certificate chain in PEM, to serve HTTPS with.
        ssl_keyfile: its private key, unless that is in the same file.
        ssl_keyfile_password: of the key, if it is encrypted.
        ssl_ca_certs: certificates in PEM; clients have to show one that these have signed.
        access_file: the file of API keys, one of which each request has to have (`config.access`); it is read again
            when it changes.
        tenant_header: the header by which a trusted gateway in front says on whose behalf a request is. The tenant of
            the request's API key goes before it.
        max_connections: of each proxy, at a time; fewer if the system allows fewer open files. For one more, those
            that have waited longest for their client are closed.
        max_connections_per_address: of them, from one address, which may be a gateway's; None for no such bound.
        body_timeout_s: a client that sends less than 1 KiB of a request's body in so long, and not its end, gets 408.
        stream_bodies: whether user code gets the first part of a request's body before all of it, or 256 KiB, has come.
            A client that sends slowly then takes a slot of a replica all the while.
        grpc: gRPC beside it; None for none. Also called `grpc_options`.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    root_path: str = ""
    keep_alive_timeout_s: int = 90
    request_timeout_s: float | None = None
    max_body_bytes: int = 100 * 2**20
    model_id_from: Sequence[str] = ("header", "v2")
    num_proxies: int = 1
    location: str = EVERY_NODE
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_ca_certs: str | None = None
    access_file: str | None = None
    tenant_header: str | None = None
    max_connections: int = 10_000
    max_connections_per_address: int | None = None
    body_timeout_s: int = 60
    stream_bodies: bool = False
    grpc: GRPCOptions | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.host, str) or not self.host:
            raise ValueError(f"host must be an address to listen on, got {self.host!r}.")
        check_int("port", self.port, 0, " and at most 65535", most=65535)
        check_int("keep_alive_timeout_s", self.keep_alive_timeout_s, 1)
        check_int("max_body_bytes", self.max_body_bytes, 0)
        check_int("num_proxies", self.num_proxies, 1)
        check_int("max_connections", self.max_connections, 1)
        if self.max_connections_per_address is not None:
            check_int("max_connections_per_address", self.max_connections_per_address, 1)
        check_int("body_timeout_s", self.body_timeout_s, 1)
        check_choice("stream_bodies", self.stream_bodies, (True, False))
        check_location("location", self.location)
        # An enumeration's member, such as `serve.config.ProxyLocation`, becomes text, for it travels and is written.
        object.__setattr__(self, "location", str(self.location))
        ways = self.model_id_from
        if isinstance(ways, str) or not isinstance(ways, Sequence) or not all(way in MODEL_ID_WAYS for way in ways):
            raise ValueError(f"model_id_from must be a list of {', '.join(MODEL_ID_WAYS)}, got {ways!r}.")
        object.__setattr__(self, "model_id_from", tuple(ways))
        root = self.root_path
        if not isinstance(root, str) or (root and not root.startswith("/")) or root.endswith("/"):
            raise ValueError(f"root_path must be empty, or begin with '/' and not end with one, got {root!r}.")
        try:
            check_seconds("request_timeout_s", self.request_timeout_s, above_0=True)
        except ValueError as error:
            raise ValueError(
                f"request_timeout_s must be a number of seconds above 0, or None, got {self.request_timeout_s!r}."
            ) from error
        for option in ("ssl_certfile", "ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs"):
            value = getattr(self, option)
            if value is not None and (not isinstance(value, str) or not value):
                raise ValueError(f"{option} must be text, or None, got {value!r}.")
            if value is not None and self.ssl_certfile is None:
                raise ValueError(f"{option} is of no use without ssl_certfile.")
        object.__setattr__(self, "grpc", made_from(GRPCOptions, "grpc_options", self.grpc))
        if self.grpc is not None and self.grpc.port and self.grpc.port == self.port:
            raise ValueError(f"grpc_options must have a port other than that of HTTP, got {self.port} for both.")

        if self.access_file is not None and (not isinstance(self.access_file, str) or not self.access_file):
            raise ValueError(f"access_file must be a path, or None, got {self.access_file!r}.")
        header = self.tenant_header
        if header is not None and (not isinstance(header, str) or HEADER_NAME.fullmatch(header) is None):
            raise ValueError(f"tenant_header must be the name of a header, or None, got {header!r}.")

    def at(self, proxy_location: str) -> "HTTPOptions":
        """The same with this `location`, unless it has one that is not the default. Raises ValueError."""
        check_location("proxy_location", proxy_location)
        return self if self.location != EVERY_NODE else replace(self, location=proxy_location)
