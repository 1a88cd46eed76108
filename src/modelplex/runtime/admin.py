"""The admin interface of a running system: HTTP with JSON, on a Unix socket of its user.

| request | what it does |
|---|---|
| `GET /v1/status` | what runs, and how it is (`status.ServeStatus`) |
| `GET /v1/config` | what configuration files have been deployed, as one |
| `PUT /v1/config` | `{"config": …, "app_dir": …}`: have this run; answers when it does, or at once if `?wait=false` |
| `DELETE /v1/applications/NAME` | stop an application |
| `POST /v1/shutdown` | stop everything |

An error is an object with `error`, and `problems` if it is about a configuration.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qs, unquote

from modelplex import errors
from modelplex.runtime import config_deployer
from modelplex.runtime.app_builder import read_config
from modelplex.runtime.controller import Controller
from modelplex.runtime.http_connection import HTTPExchange
from modelplex.status import ServeStatus

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 16 * 2**20

_JSON = [(b"content-type", b"application/json")]


class Admin:
    """Answers requests (`http_connection.Application`).

    Args:
        controller: what it is about.
        status: what runs.
        http_options: those that differ from the defaults.
        shutdown: ends everything, some time after it was called.
    """

    def __init__(
        self,
        controller: Controller,
        status: Callable[[], ServeStatus],
        http_options: Mapping[str, Any],
        shutdown: Callable[[], None],
    ) -> None:
        self._controller = controller
        self._status = status
        self._http_options = http_options
        self._shutdown = shutdown
        self._tasks: set[asyncio.Task[None]] = set()
        self._deploys = 0

    def __call__(self, exchange: HTTPExchange) -> None:
        self._own(self._answer(exchange))

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, exchange: HTTPExchange) -> None:
        try:
            status, answer = await self._do(exchange)
        except errors.ConfigFileError as error:
            status, answer = error.status, {"error": str(error), "problems": [asdict(p) for p in error.problems]}
        except errors.ModelplexError as error:
            status, answer = error.status, {"error": str(error)}
        except ConnectionResetError:
            return  # the client has left
        except Exception as error:  # a fault of ours must not leave the client waiting
            log.exception("An admin request could not be answered.")
            status, answer = 500, {"error": repr(error)}
        exchange.respond(status, _JSON, json.dumps(answer).encode())

    async def _do(self, exchange: HTTPExchange) -> tuple[int, Any]:
        match exchange.method, exchange.path.strip("/").split("/"):
            case "GET", ["v1", "status"]:
                return 200, asdict(self._status())
            case "GET", ["v1", "config"]:
                return 200, config_deployer.as_config(self._controller, self._http_options)
            case "PUT", ["v1", "config"]:
                return await self._deploy(exchange)
            case "DELETE", ["v1", "applications", name]:
                name = unquote(name)
                if name not in self._controller.status().applications:
                    raise errors.RouteNotFoundError(f"There is no application {name!r}.")
                await self._controller.delete(name)
                return 200, {}
            case "POST", ["v1", "shutdown"]:
                self._shutdown()
                return 202, {}
        raise errors.RouteNotFoundError(f"There is no {exchange.method} {exchange.path} in the admin interface.")

    async def _deploy(self, exchange: HTTPExchange) -> tuple[int, Any]:
        body = await _body(exchange)
        try:
            request = json.loads(body)
            config, app_dir = dict(request["config"]), str(request["app_dir"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise errors.InvalidHeaderError(f"The body must be an object with config and app_dir: {error!r}") from error
        read_config(config, app_dir)  # what is wrong with it is told before anything begins
        self._deploys = number = self._deploys + 1
        work = config_deployer.deploy(self._controller, config, app_dir, is_wanted=lambda: number == self._deploys)
        if b"false" in (parse_qs(exchange.query_string).get(b"wait") or []):
            self._own(_logged(work))
            return 202, {}
        await work  # it goes on when the client leaves: what is wanted has been said
        return 200, asdict(self._status())


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except errors.ModelplexError as error:
        log.error("%s", error)
    except Exception:  # a fault of ours, which nobody waits for
        log.exception("A configuration could not be deployed.")


async def _body(exchange: HTTPExchange) -> bytes:
    parts, more = [exchange.body], exchange.more
    while more:
        part, more = await exchange.read()
        parts.append(part)
        if sum(map(len, parts)) > BODY_BYTES_MAX:
            raise errors.BodyTooLargeError(f"The body may have at most {BODY_BYTES_MAX} bytes.")
    return b"".join(parts)
