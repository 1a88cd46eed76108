"""Talks to the admin interface of a running system."""

import http.client
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from modelplex import errors
from modelplex.config import ADMIN
from modelplex.home import Home, answers, running

# For all but deployments, which take as long as they take.
TIMEOUT_S = 60.0


class Admin(Protocol):
    """Whatever asks an admin interface: `AdminClient`, or `ray_admin.RayAdminClient`."""

    def get(self, path: str, **query: Any) -> dict[str, Any]: ...

    def post(self, path: str, body: Any = None) -> dict[str, Any]: ...

    def put(self, path: str, body: Any) -> dict[str, Any]: ...


class AdminClient:
    """Each method is one request. They raise `ModelplexError` with what the system says is wrong.

    Args:
        folder: the system's folder, where its sockets are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """What there is at a path of the interface (docs/admin.md). What is empty in the query is left out."""
        return self._ask("GET", target(path, query))

    def post(self, path: str, body: Any = None) -> dict[str, Any]:
        """Have something done; it may take as long as it takes."""
        return self._ask("POST", path, body, timeout_s=None)

    def put(self, path: str, body: Any) -> dict[str, Any]:
        """Have something be otherwise; it may take as long as it takes."""
        return self._ask("PUT", path, body, timeout_s=None)

    def status(self) -> dict[str, Any]:
        return self.get("/v1/status")

    def config(self) -> dict[str, Any]:
        """What configuration files have been deployed, as one."""
        return self.get("/v1/config")

    def deploy(self, config: dict[str, Any], app_dir: str, *, wait: bool = True) -> dict[str, Any]:
        """Have a configuration run. Answers the status, when it does, unless it is not to wait."""
        return self.put(f"/v1/config?wait={'true' if wait else 'false'}", {"config": config, "app_dir": app_dir})

    def delete(self, name: str) -> None:
        self._ask("DELETE", f"/v1/applications/{quote(name, safe='')}", timeout_s=None)

    def shutdown(self) -> None:
        """Begin to stop everything."""
        self._ask("POST", "/v1/shutdown")

    def _ask(self, method: str, path: str, body: Any = None, *, timeout_s: float | None = TIMEOUT_S) -> dict[str, Any]:
        connection = _UnixConnection(self.folder / ADMIN, timeout_s)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"content-type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise errors.NothingRunsError(f"The system in {self.folder} does not answer: {error!r}") from error
        finally:
            connection.close()
        assert isinstance(answer, dict)
        raise_error(response.status, answer)
        return answer


def target(path: str, query: Mapping[str, Any]) -> str:
    """A path with its query, from which what is empty is left out."""
    given = urlencode({name: value for name, value in query.items() if value not in ("", None)})
    return f"{path}?{given}" if given else path


def raise_error(status: int, answer: Mapping[str, Any]) -> None:
    """Raise what an answer tells is wrong, if it does."""
    if "problems" in answer:
        raise errors.ConfigFileError(problems=[errors.Problem(**problem) for problem in answer["problems"]])
    if status >= 400:
        raise errors.ModelplexError(str(answer.get("error", answer)))


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def find(home: Path | None = None) -> AdminClient:
    """The system that was meant: that of a home if one is given, else the only one that runs.

    Raises `NothingRunsError`, or `ModelplexError` if several run and it is not clear which is meant.
    """
    if home is not None or os.environ.get("MODELPLEX_HOME") or answers(Home.of().sockets):
        folder = Home.of(home).sockets
        if not answers(folder):
            raise errors.NothingRunsError(f"Nothing runs in {Home.of(home).folder}: modelplex start starts it.")
        return AdminClient(folder)
    found = running()
    if not found:
        raise errors.NothingRunsError("Nothing runs: modelplex start, or modelplex run, starts something.")
    if len(found) > 1:
        folders = ", ".join(map(str, found))
        raise errors.ModelplexError(f"Several systems run ({folders}): say by --system which of these is meant.")
    return AdminClient(found[0])
