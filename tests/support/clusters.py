"""Credentials for tests of links between machines, with certificates made by the openssl command."""

import subprocess
from pathlib import Path

from modelplex.runtime.credentials import Credentials, TLSFiles

SECRET, OTHER_SECRET = bytes(range(32)), bytes(range(1, 33))
PLAIN = Credentials(SECRET)


def make_tls(folder: Path, name: str = "cluster") -> TLSFiles:
    """A CA of its own and a certificate that it has signed, for a name that is nobody's."""
    ca, ca_key, cert, key, request = (
        str(folder / f"{name}-{part}") for part in ("ca.pem", "ca.key", "cert.pem", "cert.key", "request")
    )
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes"]
    sign = ["openssl", "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2"]
    for command in (
        [*new, "-x509", "-days", "2", "-subj", f"/CN={name} CA", "-keyout", ca_key, "-out", ca],
        [*new, "-subj", f"/CN=machine of {name}", "-keyout", key, "-out", request],
        [*sign, "-out", cert],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return TLSFiles(cert, key, ca)
