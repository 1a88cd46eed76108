"""The ASGI app of a replica: built, started and stopped (the ASGI lifespan protocol)."""

import asyncio
import inspect
import logging
import math
import sys
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match

from modelplex import errors
from modelplex.ingress import Ingress, ingress_of
from modelplex.runtime.asgi import App, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 10.0


class HostedApp:
    """An app with its lifespan. Call `start` before the first request and `stop` after the last."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._state: dict[str, Any] = {}
        self._begun = asyncio.Event()  # or it never will: what there is to know of the start is known
        self._stop = asyncio.Event()
        self._is_told = False
        self._has_lifespan = False
        self._failure: str | None = None
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"] = self._state.copy()
        await self._app(scope, receive, send)

    def has_page(self, scope: Scope) -> bool:
        """Whether one of its routes answers this request, as far as it can be asked which it has."""
        routes = getattr(self._app, "routes", None)
        return routes is None or any(route.matches(scope)[0] is Match.FULL for route in routes)

    async def start(self) -> None:
        """Raises `DeploymentFailedError` with what the app says if it fails to start."""
        self._task = asyncio.create_task(self._live())
        await self._begun.wait()
        if self._failure is not None:
            await self._task
            raise errors.DeploymentFailedError(f"The ASGI app failed to start: {self._failure}")

    async def stop(self) -> None:
        """Have the app shut down. What goes wrong is logged."""
        task = self._task
        if task is None:
            return
        self._stop.set()
        if not (await asyncio.wait([task], timeout=STOP_TIMEOUT_S))[0]:
            log.error("The ASGI app has not shut down within %s s.", STOP_TIMEOUT_S)
            task.cancel()
            await asyncio.wait([task], timeout=STOP_TIMEOUT_S)
        if self._failure is not None:
            log.error("The ASGI app failed to shut down: %s", self._failure)

    async def _live(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        try:
            await self._app(scope, self._receive, self._send)
        except Exception as error:  # noqa: BLE001 - one that knows no lifespan may raise anything
            if self._has_lifespan and self._failure is None:
                self._failure = repr(error)
            log.debug("The ASGI app's lifespan has ended with %r.", error)
        finally:
            self._begun.set()

    async def _receive(self) -> Message:
        if not self._is_told:
            self._is_told = True
            return {"type": "lifespan.startup"}
        await self._stop.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Any) -> None:
        match message["type"]:
            case "lifespan.startup.complete":
                self._has_lifespan = True
            case "lifespan.startup.failed" | "lifespan.shutdown.failed":
                self._failure = message.get("message") or "it does not say why."
            case "lifespan.shutdown.complete":
                pass
            case kind:
                raise RuntimeError(f"An ASGI app cannot say {kind!r} in its lifespan.")
        self._begun.set()


async def build(ingress: Ingress, owner: type) -> HostedApp:
    """The app of a class. Raises what its builder raises, and TypeError if that builds no app."""
    app = ingress.app_or_builder
    if ingress.is_builder:
        app = app()
        if inspect.isawaitable(app):
            app = await app
        if not callable(app):
            raise TypeError(f"The builder given to @serve.ingress must return an ASGI app; it returned {app!r}.")
    _tell_errors(app)
    if "fastapi" in sys.modules:
        from modelplex.runtime.fastapi_views import bind

        bind(app, owner)
    return HostedApp(app)


def _tell_errors(app: Any) -> None:
    """Have Starlette's apps answer with the status of our errors; they would take them for faults of user code."""
    if isinstance(handlers := getattr(app, "exception_handlers", None), dict):
        handlers.setdefault(errors.ModelplexError, _answer_error)
    inner = [getattr(route, "app", None) for route in getattr(app, "routes", None) or ()] + [getattr(app, "app", None)]
    for part in inner:
        if hasattr(part, "exception_handlers") or hasattr(part, "app"):
            _tell_errors(part)


async def _answer_error(connection: HTTPConnection, error: Exception) -> Response:
    assert isinstance(error, errors.ModelplexError)
    if connection.scope["type"] != "http" or type(error) is errors.UserCodeError:
        raise error  # the proxy knows what to say
    log.warning("%s %r failed: %s", connection.scope["method"], connection.scope["path"], error)
    wait_s = error.retry_after_s
    headers = {} if wait_s is None else {"retry-after": str(max(1, math.ceil(wait_s)))}
    return PlainTextResponse(str(error), error.status, headers)


async def start_for(cls: type) -> HostedApp | None:
    """The app that answers for a class, when it has started; None if the class answers itself."""
    ingress = ingress_of(cls)
    if ingress is None:
        return None
    app = await build(ingress, cls)
    await app.start()
    return app
