"""What it takes to serve HTTPS: certificates, keys, and what is said of those that are not right."""

import ssl

from modelplex.config import HTTPOptions
from modelplex.errors import DeploymentFailedError


def server_context(options: HTTPOptions) -> ssl.SSLContext | None:
    """How connections are to be encrypted; None if they are not.

    Raises `DeploymentFailedError`, which names the option whose file is missing or is not what it should be.
    """
    if options.ssl_certfile is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # with Python's default ciphers, which are forward secret there
    context.options |= ssl.OP_NO_RENEGOTIATION  # it costs a server more than a client
    context.set_alpn_protocols(["http/1.1"])
    _load_certificate(context, options, options.ssl_certfile)
    if options.ssl_ca_certs is not None:
        _check_readable("ssl_ca_certs", options.ssl_ca_certs)
        try:
            context.load_verify_locations(options.ssl_ca_certs)
        except ssl.SSLError as error:
            raise _unfit("ssl_ca_certs", options.ssl_ca_certs, "has no certificates in PEM") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load_certificate(context: ssl.SSLContext, options: HTTPOptions, certfile: str) -> None:
    _check_readable("ssl_certfile", certfile)
    option, keyfile = "ssl_certfile", certfile
    if options.ssl_keyfile is not None:
        option, keyfile = "ssl_keyfile", options.ssl_keyfile
        _check_readable(option, keyfile)
    asked = False

    def password() -> str:
        """Called if the key is encrypted; without it, OpenSSL would ask at the terminal."""
        nonlocal asked
        asked = True
        return options.ssl_keyfile_password or ""

    try:
        context.load_cert_chain(certfile, keyfile, password)
    except ssl.SSLError as error:
        if asked and options.ssl_keyfile_password is None:
            raise _unfit(option, keyfile, "has an encrypted key: give ssl_keyfile_password as well") from error
        if asked:
            raise _unfit(option, keyfile, "has a key that ssl_keyfile_password does not open") from error
        if error.reason == "KEY_VALUES_MISMATCH":
            raise _unfit(option, keyfile, f"has not the key of the certificate in ssl_certfile={certfile!r}") from error
        text = f"ssl_certfile={certfile!r} has no certificate in PEM, or {option}={keyfile!r} no private key."
        raise DeploymentFailedError(text) from error


def _check_readable(option: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise _unfit(option, path, f"cannot be read: {error.strerror}") from error


def _unfit(option: str, path: str, why: str) -> DeploymentFailedError:
    return DeploymentFailedError(f"{option}={path!r} {why}.")
