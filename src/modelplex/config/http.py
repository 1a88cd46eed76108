"""Where and how HTTP is served."""

from dataclasses import dataclass

from modelplex.config.checks import check_int, check_seconds


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
        num_proxies: processes that take requests; they share the port.
        ssl_certfile: a certificate chain in PEM, to serve HTTPS with.
        ssl_keyfile: its private key, unless that is in the same file.
        ssl_keyfile_password: of the key, if it is encrypted.
        ssl_ca_certs: certificates in PEM; clients have to show one that these have signed.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    root_path: str = ""
    keep_alive_timeout_s: int = 90
    request_timeout_s: float | None = None
    max_body_bytes: int = 100 * 2**20
    num_proxies: int = 1
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_ca_certs: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.host, str) or not self.host:
            raise ValueError(f"host must be an address to listen on, got {self.host!r}.")
        check_int("port", self.port, 0, " and at most 65535", most=65535)
        check_int("keep_alive_timeout_s", self.keep_alive_timeout_s, 1)
        check_int("max_body_bytes", self.max_body_bytes, 0)
        check_int("num_proxies", self.num_proxies, 1)
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
