"""A system in this process, and its admin interface asked over the real protocol, without a socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

from proxy_client import Wire

from modelplex.config import HTTPOptions
from modelplex.runtime.admin import Admin
from modelplex.runtime.http_connection import Application
from modelplex.testing import InlineCluster

T = TypeVar("T", bound="Asked")


class Asked:
    """A running system, and how to ask it.

    Attributes:
        application: what answers; another one may be put before it.
        shutdowns: how often its end was asked for.
    """

    def __init__(self, cluster: InlineCluster) -> None:
        self.cluster = cluster
        self.shutdowns = 0
        self.admin = Admin(cluster.controller, cluster.status, {"port": 1234}, self._shut_down, cluster.directory)
        self.application: Application = self.admin

    def _shut_down(self) -> None:
        self.shutdowns += 1

    def wire(self) -> Wire:
        wire = Wire(self.cluster.directory, HTTPOptions())
        wire.connection._application = self.application  # in place of a proxy
        return wire

    async def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, bytes]:
        """The status, the head, and the body of the answer. Underscores in the names of headers are hyphens."""
        wire = self.wire()
        data = body or b""
        given = {"host": "localhost", "content_length": str(len(data)), **headers}
        if body is not None:
            given.setdefault("content_type", "application/json")
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in given.items() if value)
        wire.say(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + data)
        head, _, rest = (await wire.read()).partition(b"\r\n\r\n")
        wire.leave()
        return int(head.split()[1]), head, rest

    async def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        status, head, rest = await self.send(method, path, body)
        assert b"content-type: application/json" in head
        assert b"cache-control: no-store" in head
        return status, json.loads(rest)

    async def post(self, path: str, **body: Any) -> tuple[int, Any]:
        return await self.ask("POST", path, json.dumps(body).encode())


def asked() -> AbstractAsyncContextManager[Asked]:
    """Nothing of it may be left afterwards."""
    return asked_as(Asked)


@asynccontextmanager
async def asked_as(kind: type[T]) -> AsyncIterator[T]:
    """The same of a class with more ways to ask."""
    before = asyncio.all_tasks()
    async with InlineCluster() as cluster:
        world = kind(cluster)
        yield world
        await world.admin.close()
    assert asyncio.all_tasks() <= before
