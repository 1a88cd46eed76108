"""What a process shows to those of its cluster on other machines, and wants to be shown by them."""

import functools
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from modelplex.errors import CredentialsError
from modelplex.wire.handshake import SECRET_BYTES


@dataclass(frozen=True)
class TLSFiles:
    """Paths of files in PEM on this machine.

    Attributes:
        cert: this machine's certificate, with those between it and the CA's.
        key: its private key, not encrypted.
        ca: the certificates by which all others' are verified; which name is in them does not matter.
    """

    cert: str
    key: str
    ca: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self | None:
        """The files that Ray itself uses; None if it uses no TLS.

        Raises `CredentialsError` if `RAY_USE_TLS` is set, and a variable or a file is missing or not as it should be.
        """
        if environment.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
            return None
        names = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
        for name in names:
            if not environment.get(name):
                raise CredentialsError(f"RAY_USE_TLS is set, but {name} is not: it is the path of a file in PEM.")
            try:
                with open(environment[name], "rb"):
                    pass
            except OSError as error:
                raise CredentialsError(f"{name}={environment[name]!r} cannot be read: {error.strerror}.") from error
        files = cls(*(environment[name] for name in names))
        files.context(is_server=True)
        return files

    def context(self, *, is_server: bool) -> ssl.SSLContext:
        """How connections are encrypted. Raises `CredentialsError` if the files are not what they should be."""
        return _context(self, is_server)


@functools.cache
def _context(files: TLSFiles, is_server: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(files.cert, files.key, lambda: "")  # rather than to ask at the terminal
    except (ssl.SSLError, OSError) as error:
        text = f"{files.cert!r} has no certificate in PEM that can be read, or {files.key!r} not its key: {error}"
        raise CredentialsError(text) from error
    try:
        context.load_verify_locations(files.ca)
    except (ssl.SSLError, OSError) as error:
        raise CredentialsError(f"{files.ca!r} has no certificates in PEM that can be read: {error}") from error
    return context


@dataclass(frozen=True)
class Credentials:
    """The cluster's secret, and what its connections are encrypted with.

    Attributes:
        secret: 32 random bytes that all processes of the cluster have, and nobody else.
        tls: None if connections are not encrypted.
    """

    secret: bytes = field(repr=False)
    tls: TLSFiles | None = None

    def __post_init__(self) -> None:
        if len(self.secret) != SECRET_BYTES:
            raise CredentialsError(f"A cluster's secret has {SECRET_BYTES} bytes, not {len(self.secret)}.")
