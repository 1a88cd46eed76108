"""Where the admin interface is open over TCP, and who gets in."""

from dataclasses import dataclass

from modelplex.config.checks import check_int
from modelplex.config.http import HTTPOptions

ADMIN_PORT = 9900


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminOptions:
    """The admin interface over TCP. Without these options it is only at a Unix socket of its user.

    Attributes:
        token_file: a file with the token that every request has to show. If there is none, one is made, for this user
            alone; one that others can read is refused.
        host: address to listen on.
        port: port to listen on; 0 lets the system choose.
        ssl_certfile: a certificate chain in PEM, to serve HTTPS with.
        ssl_keyfile: its private key, unless that is in the same file.
        ssl_keyfile_password: of the key, if it is encrypted.
        ssl_ca_certs: certificates in PEM; clients have to show one that these have signed.
    """

    token_file: str
    host: str = "127.0.0.1"
    port: int = ADMIN_PORT
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_keyfile_password: str | None = None
    ssl_ca_certs: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.token_file, str) or not self.token_file:
            raise ValueError(f"token_file must be the path of a file, got {self.token_file!r}.")
        check_int("port", self.port, 0, " and at most 65535", most=65535)
        self.http  # noqa: B018 - it checks the rest

    @property
    def http(self) -> HTTPOptions:
        """How it is listened for."""
        return HTTPOptions(
            host=self.host,
            port=self.port,
            ssl_certfile=self.ssl_certfile,
            ssl_keyfile=self.ssl_keyfile,
            ssl_keyfile_password=self.ssl_keyfile_password,
            ssl_ca_certs=self.ssl_ca_certs,
        )
