"""A program that serves HTTPS."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from certificates import make_certificate
from starlette.requests import Request

from modelplex import serve
from modelplex.errors import DeploymentFailedError

pytestmark = pytest.mark.system


@serve.deployment
async def where(request: Request) -> str:
    return str(request.url)


@pytest.fixture(autouse=True)
def _shutdown() -> Iterator[None]:
    yield
    serve.shutdown()


def test_a_program_serves_https_and_says_so(tmp_path: Path) -> None:
    own = make_certificate(tmp_path)
    serve.start({"port": 0, "ssl_certfile": own.cert, "ssl_keyfile": own.key})
    serve.run(where.bind())
    address = serve.status().address
    assert address.startswith("https://127.0.0.1:")
    answer = httpx.get(f"{address}/x", verify=ssl.create_default_context(cafile=own.cert), trust_env=False)
    assert (answer.status_code, answer.text) == (200, f"{address}/x")
    plain = address.replace("https", "http")
    with pytest.raises(httpx.TransportError):
        httpx.get(plain, trust_env=False)


def test_a_program_may_want_its_clients_certificates(tmp_path: Path) -> None:
    own, client, stranger = (make_certificate(tmp_path, name) for name in ("server", "client", "stranger"))
    serve.start({"port": 0, "ssl_certfile": own.cert, "ssl_keyfile": own.key, "ssl_ca_certs": client.cert})
    serve.run(where.bind())
    address = serve.status().address
    for shown in (client, stranger, None):
        context = ssl.create_default_context(cafile=own.cert)
        if shown is not None:
            context.load_cert_chain(shown.cert, shown.key)
        if shown is client:
            assert httpx.get(address, verify=context, trust_env=False).status_code == 200
        else:
            with pytest.raises(httpx.TransportError):
                httpx.get(address, verify=context, trust_env=False)


def test_a_certificate_that_is_not_there_is_why_nothing_is_served(tmp_path: Path) -> None:
    serve.start({"port": 0, "ssl_certfile": str(tmp_path / "none.pem")})
    with pytest.raises(DeploymentFailedError, match=r"ssl_certfile='.*none\.pem' cannot be read: No such file"):
        serve.run(where.bind())
