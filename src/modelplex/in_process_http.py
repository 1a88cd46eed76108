"""HTTP clients of what this process serves: real bytes through the real proxy, without a port and without a socket.

They need httpx, which is imported with this module and by nothing else.
"""

import asyncio
import concurrent.futures
import contextlib
import queue
import ssl
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

import httpcore
import httpx

from modelplex.config import HTTPOptions
from modelplex.runtime.access import gate_of
from modelplex.runtime.directory import Directory
from modelplex.runtime.http_connection import HTTPConnection
from modelplex.runtime.proxy import Proxy

T = TypeVar("T")

BASE_URL = "http://testserver"

# For each step of a request, unless the client is given another: longer than any test waits, and not for ever.
TIMEOUT_S = 30.0

# Bytes of answers that a client has not read, before the proxy is told to write no more.
UNREAD_BYTES_MAX = 64 * 2**10

HTTPOptionsLike = HTTPOptions | dict[str, Any] | None


def sync_client(directory: Directory, http_options: HTTPOptionsLike = None, **client_options: Any) -> httpx.Client:
    """A client for code that blocks, in another thread than that of the directory's event loop.

    Args:
        directory: whose applications are served.
        http_options: see `serve.start`.
        client_options: those of `httpx.Client`.
    """
    transport = httpx.HTTPTransport(verify=_no_tls(), trust_env=False)
    # httpx takes no network backend, although what it is made of does.
    transport._pool = httpcore.ConnectionPool(network_backend=_Backend(directory, _options(http_options)))
    return httpx.Client(transport=transport, **_defaults(client_options))


def async_client(
    directory: Directory, http_options: HTTPOptionsLike = None, **client_options: Any
) -> httpx.AsyncClient:
    """A client for the running event loop, which may be the directory's or another; see `sync_client`."""
    transport = httpx.AsyncHTTPTransport(verify=_no_tls(), trust_env=False)
    transport._pool = httpcore.AsyncConnectionPool(network_backend=_AsyncBackend(directory, _options(http_options)))
    return httpx.AsyncClient(transport=transport, **_defaults(client_options))


def _options(given: HTTPOptionsLike) -> HTTPOptions:
    return given if isinstance(given, HTTPOptions) else HTTPOptions(**(given or {}))


def _defaults(client_options: dict[str, Any]) -> dict[str, Any]:
    return {"base_url": BASE_URL, "timeout": TIMEOUT_S, "trust_env": False, **client_options}


def _no_tls() -> ssl.SSLContext:
    """To read the system's certificates takes longer than a test, and nobody looks at them."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class _Nobody:
    """Cares for no connection."""

    def opened(self, connection: HTTPConnection) -> None: ...

    def closed(self, connection: HTTPConnection) -> None: ...


class Wire(asyncio.Transport):
    """The proxy's end of a connection. All of it runs on the directory's event loop.

    Args:
        put: given what the client gets, and nothing (b"") at the end of the connection.
    """

    def __init__(self, proxy: Proxy, put: Callable[[bytes], object]) -> None:
        super().__init__()
        self._put = put
        self._loop = asyncio.get_running_loop()
        self._reads = asyncio.Event()
        self._reads.set()
        self._unread_bytes = 0
        self._full = False
        self.is_closed = False
        self._connection = HTTPConnection(proxy, _Nobody(), proxy.options.keep_alive_timeout_s)
        self._connection.connection_made(self)

    # The client's side

    async def say(self, data: bytes) -> None:
        """Return when the proxy has taken it. Raises ConnectionResetError if the connection is closed."""
        await self._reads.wait()
        if self.is_closed:
            raise ConnectionResetError("The connection is closed.")
        self._connection.data_received(data)

    def taken(self, size_bytes: int) -> None:
        """The client has read so much."""
        self._unread_bytes -= size_bytes
        if self._full and not self.is_closed and self._unread_bytes <= UNREAD_BYTES_MAX // 2:
            self._full = False
            self._connection.resume_writing()

    # asyncio.Transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.is_closed:
            return
        self._unread_bytes += len(data)
        self._put(bytes(data))
        if not self._full and self._unread_bytes > UNREAD_BYTES_MAX:
            self._full = True
            self._connection.pause_writing()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._reads.set()
            self._put(b"")
            self._loop.call_soon(self._connection.connection_lost, None)

    abort = close

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._put(b"")

    def is_closing(self) -> bool:
        return self.is_closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 50_000), "sockname": ("127.0.0.1", 8000)}.get(name, default)

    def get_write_buffer_size(self) -> int:
        return self._unread_bytes

    def pause_reading(self) -> None:
        self._reads.clear()

    def resume_reading(self) -> None:
        self._reads.set()


class _End:
    """What the two kinds of the client's end have in common: a thread or an event loop that is not the wire's."""

    def __init__(self, proxy: Proxy) -> None:
        self._loop = proxy.loop
        self._rest = b""
        self._ended = False
        self._wire: Wire
        self._proxy = proxy

    async def _connect(self, put: Callable[[bytes], object]) -> None:
        self._wire = Wire(self._proxy, put)

    def _there(self, work: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        """Run on the wire's event loop."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as error:
            work.close()
            raise httpcore.ConnectError("What was served here has been shut down.") from error

    def _part(self, data: bytes, max_bytes: int) -> bytes:
        """Of what has come, as much as is asked for."""
        if data and not self._rest:
            with contextlib.suppress(RuntimeError):  # it has been shut down, and the answer is complete
                self._loop.call_soon_threadsafe(self._wire.taken, len(data))
        self._ended = not data
        self._rest = data[max_bytes:]
        return data[:max_bytes]

    def _leave(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wire.close)


class _Stream(_End, httpcore.NetworkStream):
    def __init__(self, proxy: Proxy) -> None:
        super().__init__(proxy)
        self._come: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def connect(self, timeout: float | None) -> None:
        with contextlib.suppress(RuntimeError):
            if asyncio.get_running_loop() is self._loop:
                raise httpcore.ConnectError("This client blocks the event loop that serves it; use the async one.")
        self._wait(self._there(self._connect(self._come.put)), timeout, httpcore.ConnectTimeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._ended:
            return b""
        try:
            return self._part(self._rest or self._come.get(timeout=timeout), max_bytes)
        except queue.Empty:
            raise httpcore.ReadTimeout(f"No answer came within {timeout} s.") from None

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            self._wait(self._there(self._wire.say(buffer)), timeout, httpcore.WriteTimeout)
        except ConnectionResetError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._leave()

    def get_extra_info(self, info: str) -> Any:
        return not self._come.empty() if info == "is_readable" else None

    def _wait(self, done: "concurrent.futures.Future[None]", timeout: float | None, error: type[Exception]) -> None:
        try:
            done.result(timeout)
        except TimeoutError:
            done.cancel()
            raise error(f"The proxy took nothing for {timeout} s.") from None


class _AsyncStream(_End, httpcore.AsyncNetworkStream):
    def __init__(self, proxy: Proxy) -> None:
        super().__init__(proxy)
        self._own_loop = asyncio.get_running_loop()
        self._come: asyncio.Queue[bytes] = asyncio.Queue()

    async def connect(self, timeout: float | None) -> None:
        await self._wait(self._there(self._connect(self._put)), timeout, httpcore.ConnectTimeout)

    def _put(self, data: bytes) -> None:
        with contextlib.suppress(RuntimeError):  # the client's event loop has ended: nobody reads any more
            self._own_loop.call_soon_threadsafe(self._come.put_nowait, data)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._ended:
            return b""
        try:
            async with asyncio.timeout(timeout):
                return self._part(self._rest or await self._come.get(), max_bytes)
        except TimeoutError:
            raise httpcore.ReadTimeout(f"No answer came within {timeout} s.") from None

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            await self._wait(self._there(self._wire.say(buffer)), timeout, httpcore.WriteTimeout)
        except ConnectionResetError as error:
            raise httpcore.WriteError(str(error)) from error

    async def aclose(self) -> None:
        self._leave()

    def get_extra_info(self, info: str) -> Any:
        return not self._come.empty() if info == "is_readable" else None

    async def _wait(
        self, done: "concurrent.futures.Future[None]", timeout: float | None, error: type[Exception]
    ) -> None:
        try:
            async with asyncio.timeout(timeout):
                await asyncio.wrap_future(done)
        except TimeoutError:
            raise error(f"The proxy took nothing for {timeout} s.") from None


class _Backend(httpcore.NetworkBackend):
    def __init__(self, directory: Directory, options: HTTPOptions) -> None:
        self._proxy = Proxy(directory, options, gate_of(options))

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *_: object, **__: object
    ) -> httpcore.NetworkStream:
        stream = _Stream(self._proxy)
        stream.connect(timeout)
        return stream


class _AsyncBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, directory: Directory, options: HTTPOptions) -> None:
        self._proxy = Proxy(directory, options, gate_of(options))

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *_: object, **__: object
    ) -> httpcore.AsyncNetworkStream:
        stream = _AsyncStream(self._proxy)
        await stream.connect(timeout)
        return stream
