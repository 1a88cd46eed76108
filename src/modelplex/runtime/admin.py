"""The admin interface of a running system: HTTP with JSON, on a Unix socket of its user, or with a token over TCP.

What can be asked is in `admin_routes`, and described at `/openapi.json`; besides, there are `/v1/events` and the
dashboard.
An error is an object with `error`, and `problems` if it is about a configuration.
"""

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, replace
from typing import Any

from modelplex import errors
from modelplex.context import Caller
from modelplex.runtime import admin_pages
from modelplex.runtime.admin_events import Events
from modelplex.runtime.admin_openapi import EVENTS, describe
from modelplex.runtime.admin_routes import TABLE
from modelplex.runtime.admin_system import Administered
from modelplex.runtime.admin_table import Answer, RefusedError, Request
from modelplex.runtime.controller import Controller
from modelplex.runtime.http_connection import HTTPExchange
from modelplex.status import ServeStatus

log = logging.getLogger(__name__)

STATIC = "/static/"

# Nothing of this is for anybody's cache, or to be taken for something else.
_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class Admin:
    """Answers requests (`http_connection.Application`).

    Args:
        controller: what it is about.
        status: what runs.
        http_options: those that differ from the defaults.
        shutdown: ends everything, some time after it was called.
        caller: this process's way to the deployments.
    """

    def __init__(
        self,
        controller: Controller,
        status: Callable[[], ServeStatus],
        http_options: Mapping[str, Any],
        shutdown: Callable[[], None],
        caller: Caller,
    ) -> None:
        self._it = Administered(controller, caller, status, http_options, shutdown, self._own)
        self._events = Events(self._it)
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, exchange: HTTPExchange) -> None:
        self._own(self._answer(exchange))

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._events.close()

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, exchange: HTTPExchange) -> None:
        content_type = next((value for name, value in exchange.headers if name == b"content-type"), b"")
        path = exchange.raw_path.decode("latin-1")
        request = Request(exchange.method, path, exchange.query_string, content_type)
        try:
            if (request.method, path) == ("GET", EVENTS):
                await self._events.stream(exchange, _HEADERS)
                return
            answer = await self.answer(request, exchange)
        except ConnectionResetError:
            return  # the client has left
        except RefusedError as error:
            answer = _error(error)
        exchange.respond(
            answer.status, [(b"content-type", answer.content_type), *_HEADERS, *answer.headers], answer.body
        )

    async def answer(self, request: Request, exchange: HTTPExchange | None = None) -> Answer:
        """The answer to a request, whose body is still to be read if there is an exchange.

        Raises ConnectionResetError if its client leaves before that has come.
        """
        try:
            if request.method == "GET" and (page := _page(request.path)) is not None:
                return page
            route = TABLE.find(request)
            if exchange is not None and route.body is not None:
                request.body = await _body(exchange, route.body_bytes_max)
            route.read(request)
            answered = await route.handler(self._it, request)
            answer = answered if isinstance(answered, Answer) else Answer(answered)
            return replace(answer, value=answer.body)  # what cannot be written is a fault of ours, too
        except ConnectionResetError:
            raise
        except errors.ModelplexError as error:
            return _error(error)
        except Exception as error:  # a fault of ours must not leave the client waiting
            log.exception("An admin request could not be answered.")
            return Answer({"error": repr(error)}, 500)


def _error(error: errors.ModelplexError) -> Answer:
    value: dict[str, Any] = {"error": str(error)}
    if isinstance(error, errors.ConfigFileError):
        value["problems"] = [asdict(problem) for problem in error.problems]
    return Answer(value, error.status, headers=error.headers if isinstance(error, RefusedError) else ())


def _page(path: str) -> Answer | None:
    """What is no part of the table. Raises `RefusedError`."""
    if path == "/openapi.json":
        return _description()
    if path.startswith(STATIC):
        return admin_pages.page(path.removeprefix(STATIC))
    name = path.removeprefix("/") or admin_pages.INDEX
    return admin_pages.page(name) if name == admin_pages.INDEX or name in admin_pages.names() else None


@functools.cache
def _description() -> Answer:
    answer = Answer(describe(TABLE))
    return replace(answer, value=answer.body)


async def _body(exchange: HTTPExchange, bytes_max: int) -> bytes:
    parts, more = [exchange.body], exchange.more
    size_bytes = len(exchange.body)
    while more and size_bytes <= bytes_max:
        part, more = await exchange.read()
        parts.append(part)
        size_bytes += len(part)
    if size_bytes > bytes_max:
        raise errors.BodyTooLargeError(f"The body may have at most {bytes_max} bytes.")
    return b"".join(parts)
