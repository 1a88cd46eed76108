"""A proxy in the same process, by the byte and by an HTTP client: the real protocol, and no socket."""

import asyncio
from collections.abc import Iterable
from typing import Any

import httpx

from modelplex import in_process_http
from modelplex.config import HTTPOptions
from modelplex.runtime.directory import Directory
from modelplex.runtime.http_connection import HTTPConnection
from modelplex.runtime.proxy import Proxy


class Nobody:
    """Cares for no connection."""

    def opened(self, connection: HTTPConnection) -> None: ...

    def closed(self, connection: HTTPConnection) -> None: ...


class Wire(asyncio.Transport):
    """The proxy's end of a connection; `read` is the client's."""

    def __init__(self, directory: Directory, options: HTTPOptions) -> None:
        super().__init__()
        self.connection = HTTPConnection(Proxy(directory, options), Nobody(), options.keep_alive_timeout_s)
        self.protocol: asyncio.BaseProtocol = self.connection
        self.is_closed = False
        self._loop = asyncio.get_running_loop()
        self._sent: asyncio.Queue[bytes] = asyncio.Queue()
        self.connection.connection_made(self)

    # The client's side

    def say(self, data: bytes) -> None:
        if not self.is_closed:
            assert isinstance(self.protocol, asyncio.Protocol)
            self.protocol.data_received(data)

    async def read(self) -> bytes:
        """The next bytes of the answer; none at the end of the connection."""
        return b"" if self.is_closed and self._sent.empty() else await self._sent.get()

    def leave(self) -> None:
        if not self.is_closed:
            self.close()

    # asyncio.Transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._sent.put_nowait(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self._sent.put_nowait(b"")
            self._loop.call_soon(lambda: self.protocol.connection_lost(None))

    abort = close

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._sent.put_nowait(b"")

    def is_closing(self) -> bool:
        return self.is_closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 50_000), "sockname": ("127.0.0.1", 8000)}.get(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def client_of(directory: Directory, **options: Any) -> httpx.AsyncClient:
    """A client of a proxy with these HTTP options before the directory's applications."""
    return in_process_http.async_client(directory, options, base_url="http://test", timeout=None)
