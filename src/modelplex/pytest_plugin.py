"""The pytest fixture `serve_local`, which needs no import: pytest finds it where Modelplex is installed.

pytest imports this module whenever it starts, so it imports nothing of Modelplex before a test asks for it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx

    from modelplex.config import HTTPOptions
    from modelplex.serve import Application, DeploymentHandle


class ServeLocal:
    """Runs applications in this process, until it is closed. Call it with what `Deployment.bind` returned.

    A fixture of another scope than `serve_local` has is made with it: `with ServeLocal() as local: yield local`.
    """

    def __init__(self) -> None:
        from modelplex import driver, metrics

        self._clients: list[httpx.Client] = []
        self._names: list[str] = []
        self._is_first = driver.current() is None
        if self._is_first:
            metrics.reset()

    def __call__(
        self, target: "Application", name: str = "default", route_prefix: str | None = "/"
    ) -> "DeploymentHandle":
        """Run an application, in place of one of the same name, and return a handle to it; see `serve.run`."""
        from modelplex import serve

        handle = serve.run(target, name=name, route_prefix=route_prefix, _local_testing_mode=True)
        self._names.append(name)
        return handle

    def http_client(
        self, http_options: "HTTPOptions | dict[str, Any] | None" = None, **client_options: Any
    ) -> "httpx.Client":
        """An HTTP client of what runs, closed when the test ends; see `modelplex.testing.http_client`."""
        from modelplex import testing

        client = testing.http_client(http_options, **client_options)
        self._clients.append(client)
        return client

    def async_http_client(
        self, http_options: "HTTPOptions | dict[str, Any] | None" = None, **client_options: Any
    ) -> "httpx.AsyncClient":
        """An HTTP client for an async test. Use it with `async with`."""
        from modelplex import testing

        return testing.async_http_client(http_options, **client_options)

    def __enter__(self) -> "ServeLocal":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop what was run. What still runs in it is cancelled at once: nobody is there to hear its answer."""
        from modelplex import driver, serve
        from modelplex.engines.inline import InlineEngine

        for client in self._clients:
            client.close()
        running = driver.current()
        if self._is_first:
            if isinstance(running, driver.Driver) and isinstance(running.processes, InlineEngine):
                running.processes.grace_max_s = 0.0
            serve.shutdown()
        else:
            for name in self._names:
                serve.delete(name)


@pytest.fixture
def serve_local() -> Iterator[ServeLocal]:
    """Run applications in the test's own process: `handle = serve_local(app)`. They are stopped when the test ends.

    `serve_local.http_client()` answers an httpx client that needs no port.
    """
    with ServeLocal() as local:
        yield local
