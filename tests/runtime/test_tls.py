"""HTTPS: who is let in, what is said of files that are not right, and clients that speak something else."""

import asyncio
import contextlib
import functools
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from certificates import Certificate, make_certificate
from http_echo import echo

from modelplex.config import HTTPOptions
from modelplex.errors import DeploymentFailedError
from modelplex.runtime import http_server
from modelplex.runtime.http_connection import HTTPExchange
from modelplex.runtime.http_server import HTTPServer
from modelplex.runtime.tls import server_context

pytestmark = pytest.mark.system

GUARD_S = 20.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def own(folder: Path) -> Certificate:
    return make_certificate(folder)


@pytest.fixture(scope="module")
def other(folder: Path) -> Certificate:
    return make_certificate(folder, "other")


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on the event loop that proxies run on."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(*args, **kwargs))

    return run


def answer(exchange: HTTPExchange) -> None:
    exchange.respond(200, [], exchange.scheme.encode())


@contextlib.asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[int]:
    """A server, and its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    http = HTTPOptions(**options)
    server = HTTPServer(answer, http, server_context(http))
    await server.start(listener)
    async with asyncio.timeout(GUARD_S):
        try:
            yield listener.getsockname()[1]
        finally:
            await server.stop(0.0)


def client_context(trusted: str, shown: Certificate | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=trusted)
    if shown is not None:
        context.load_cert_chain(shown.cert, shown.key)
    return context


async def get(port: int, context: ssl.SSLContext) -> str:
    async with httpx.AsyncClient(verify=context, trust_env=False) as client:
        return (await client.get(f"https://127.0.0.1:{port}/")).raise_for_status().text


@on_uvloop
async def test_who_trusts_the_certificate_is_answered_and_who_does_not_goes(
    own: Certificate, other: Certificate
) -> None:
    async with serving(ssl_certfile=own.cert, ssl_keyfile=own.key) as port:
        assert await get(port, client_context(own.cert)) == "https"
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await get(port, client_context(other.cert))
        assert await get(port, client_context(own.cert)) == "https"


@on_uvloop
async def test_http_1_1_is_agreed_upon(own: Certificate) -> None:
    async with serving(ssl_certfile=own.cert, ssl_keyfile=own.key) as port:
        context = client_context(own.cert)
        context.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        writer.transport.abort()


@on_uvloop
async def test_a_client_may_have_to_show_a_certificate(own: Certificate, other: Certificate) -> None:
    options: dict[str, Any] = {"ssl_certfile": own.cert, "ssl_keyfile": own.key, "ssl_ca_certs": other.cert}
    async with serving(**options) as port:
        assert await get(port, client_context(own.cert, shown=other)) == "https"
        for shown in (None, own):
            with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError, httpx.WriteError)):
                await get(port, client_context(own.cert, shown))


@on_uvloop
async def test_clients_that_speak_no_tls_harm_nobody(own: Certificate, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(ssl_certfile=own.cert, ssl_keyfile=own.key) as port:
        for words in (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(1000), b"\0" * 100_000):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(words)
            with contextlib.suppress(ConnectionError):
                assert b"HTTP" not in await reader.read()
            writer.transport.abort()
        assert await get(port, client_context(own.cert)) == "https"
    assert not caplog.records


@on_uvloop
async def test_a_client_that_does_not_go_on_with_its_handshake_is_let_go(own: Certificate) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_server, "HANDSHAKE_TIMEOUT_S", 0.1)
        async with serving(ssl_certfile=own.cert, ssl_keyfile=own.key) as port:
            stuck = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            stuck[1][1].write(b"\x16\x03\x01")
            for reader, writer in stuck:
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
                writer.transport.abort()
            assert await get(port, client_context(own.cert)) == "https"


@on_uvloop
async def test_a_large_body_comes_whole(own: Certificate) -> None:
    tasks = []
    data = bytes(range(256)) * 20_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "answer", lambda e: tasks.append(asyncio.create_task(echo(e))))
        async with serving(ssl_certfile=own.cert, ssl_keyfile=own.key) as port:
            async with httpx.AsyncClient(verify=client_context(own.cert), trust_env=False, timeout=GUARD_S) as client:
                sent = await client.post(f"https://127.0.0.1:{port}/", content=data)
            assert sent.content == data


# What is not right


def test_old_versions_of_tls_are_refused(own: Certificate) -> None:
    context = server_context(HTTPOptions(ssl_certfile=own.cert, ssl_keyfile=own.key))
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_without_a_certificate_nothing_is_encrypted() -> None:
    assert server_context(HTTPOptions()) is None


def test_a_key_may_be_in_the_certificates_file_and_encrypted(folder: Path, own: Certificate) -> None:
    both = folder / "both.pem"
    both.write_text(Path(own.cert).read_text() + Path(own.key).read_text())
    assert server_context(HTTPOptions(ssl_certfile=str(both))) is not None
    locked = make_certificate(folder, "locked", password="secret")
    options: dict[str, Any] = {"ssl_certfile": locked.cert, "ssl_keyfile": locked.key}
    assert server_context(HTTPOptions(**options, ssl_keyfile_password="secret")) is not None
    with pytest.raises(DeploymentFailedError, match=r"ssl_keyfile='.*locked\.key' has an encrypted key: give ssl_keyf"):
        server_context(HTTPOptions(**options))
    with pytest.raises(DeploymentFailedError, match=r"has a key that ssl_keyfile_password does not open") as caught:
        server_context(HTTPOptions(**options, ssl_keyfile_password="wrong"))
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("option", ["ssl_certfile", "ssl_keyfile", "ssl_ca_certs"])
def test_a_file_that_is_missing_or_is_something_else_is_told_by_its_option(
    option: str, own: Certificate, folder: Path
) -> None:
    good: dict[str, Any] = {"ssl_certfile": own.cert, "ssl_keyfile": own.key, "ssl_ca_certs": own.cert}
    with pytest.raises(DeploymentFailedError, match=f"{option}='/no/file' cannot be read: No such file"):
        server_context(HTTPOptions(**good | {option: "/no/file"}))
    (folder / "text").write_text("no PEM")
    with pytest.raises(DeploymentFailedError, match=f"{option}='.*/text'.* no "):
        server_context(HTTPOptions(**good | {option: str(folder / "text")}))


def test_a_key_of_another_certificate_is_told_so(own: Certificate, other: Certificate) -> None:
    with pytest.raises(DeploymentFailedError, match=r"ssl_keyfile=.* has not the key of the certificate"):
        server_context(HTTPOptions(ssl_certfile=own.cert, ssl_keyfile=other.key))


@on_uvloop
async def test_nothing_older_than_tls_1_2_is_spoken(own: Certificate) -> None:
    async with serving(ssl_certfile=own.cert, ssl_keyfile=own.key) as port:
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            context = client_context(own.cert)
            context.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version = context.maximum_version = version
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection("127.0.0.1", port, ssl=context)
        context = client_context(own.cert)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert await get(port, context) == "https"


def test_ciphers_are_forward_secret_and_there_is_no_renegotiation(own: Certificate) -> None:
    context = server_context(HTTPOptions(ssl_certfile=own.cert, ssl_keyfile=own.key))
    assert context is not None
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    names = [cipher["name"] for cipher in context.get_ciphers()]
    assert names
    assert all(name.startswith(("TLS_", "ECDHE-", "DHE-")) for name in names), names
