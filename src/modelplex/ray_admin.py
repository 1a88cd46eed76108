"""Asks the controller on a Ray cluster what `admin_client` asks that of a system on this machine."""

import json
from dataclasses import asdict
from typing import Any

from modelplex import errors
from modelplex.admin_client import raise_error, target
from modelplex.config import HTTPOptions
from modelplex.ray_system import ANSWER_TIMEOUT_S, ask, ask_only, begun, built_here, connect, controller, end


class RayAdminClient:
    """Has the methods of `admin_client.AdminClient`.

    The cluster is that of `RAY_ADDRESS`, or the one that this machine is of.

    Args:
        begin_with: how HTTP is to be served if nothing runs there yet.

    Raises `NothingRunsError` if there is no cluster, or nothing runs there and nothing is to.
    """

    def __init__(self, begin_with: HTTPOptions | None = None) -> None:
        connect("auto", console=False)  # without an address Ray would begin a cluster that ends with this program
        self._controller = controller() if begin_with is None else begun(begin_with, console=False)
        if self._controller is None:
            raise errors.NothingRunsError("Nothing runs on this Ray cluster: modelplex deploy starts something.")

    def status(self) -> dict[str, Any]:
        return asdict(ask(self._controller, "status", timeout_s=ANSWER_TIMEOUT_S))

    def config(self) -> dict[str, Any]:
        """What configuration files have been deployed, as one."""
        found: dict[str, Any] = ask(self._controller, "config", timeout_s=ANSWER_TIMEOUT_S)
        return found

    def deploy(self, config: dict[str, Any], app_dir: str, *, wait: bool = True) -> dict[str, Any]:
        """Have a configuration run. Answers the status, when it does, unless it is not to wait."""
        built = built_here(config, app_dir)
        if not wait:
            ask_only(self._controller, "deploy_built", built)
            ask(self._controller, "address", timeout_s=ANSWER_TIMEOUT_S)  # who answers this has heard the other
            return {}
        ask(self._controller, "deploy_built", built)
        return self.status()

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        return self._request("GET", target(path, query))

    def post(self, path: str, body: Any = None) -> dict[str, Any]:
        return self._request("POST", path, body)

    def put(self, path: str, body: Any) -> dict[str, Any]:
        return self._request("PUT", path, body)

    def _request(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """As `admin_client.AdminClient` would ask, except for what the methods below are for."""
        data = b"" if body is None else json.dumps(body).encode()
        timeout_s = ANSWER_TIMEOUT_S if method == "GET" else None  # what is to be done takes as long as it takes
        status, answered = ask(self._controller, "admin", method, path, data, timeout_s=timeout_s)
        answer: dict[str, Any] = json.loads(answered)
        raise_error(status, answer)
        return answer

    def delete(self, name: str) -> None:
        if name not in self.status()["applications"]:
            raise errors.RouteNotFoundError(f"There is no application {name!r}.")
        ask(self._controller, "delete", name)

    def shutdown(self) -> None:
        """Stop everything; returns when that is so."""
        end(self._controller)
