"""The head of an HTTP request on its way to a replica."""

import msgspec


class HTTPHead(msgspec.Struct, array_like=True):
    """The head of an HTTP request, as ASGI has it."""

    method: str
    path: str
    raw_path: bytes
    query_string: bytes
    root_path: str
    scheme: str
    http_version: str
    headers: list[tuple[bytes, bytes]]
    client: tuple[str, int] | None
    server: tuple[str, int | None] | None
