"""A user's program on a Ray cluster: it has the cluster's controller do what it wants, and may leave."""

import contextlib
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from modelplex import context, follower
from modelplex.config import HTTPOptions
from modelplex.config_file import SystemConfig
from modelplex.deployment import Application
from modelplex.engines import ray_cluster
from modelplex.handle import DeploymentHandle
from modelplex.ray_system import ANSWER_TIMEOUT_S, SYSTEM, ask, begun, built_here, connect, controller, end
from modelplex.runtime.app_spec import AppSpec
from modelplex.status import ServeStatus

# For this program to hear of what it has had deployed.
HEAR_TIMEOUT_S = 10.0


class RayDriver:
    """Does what `driver.Driver` does, on the cluster that this program is connected to, or then becomes connected to.

    What it has deployed goes on when the program ends.

    Args:
        http: where proxies serve HTTP; None for handles alone. A system that runs already serves as it does.
        console: whether what runs logs to the console.
    """

    engine = "ray"

    def __init__(self, http: HTTPOptions | None, *, console: bool = True) -> None:
        connect(console=console)
        self._has_begun = controller() is None
        self._controller = begun(http, console=console)
        self._own: set[str] = set()  # the applications that this program has deployed
        self._directory = follower.follow(SYSTEM)
        context.set_caller(self._directory, SYSTEM)

    @property
    def address(self) -> str:
        """The URL that the head's proxy serves, or another one's; empty while there is none."""
        return self.status().address

    @property
    def log_dir(self) -> str:
        """On each machine."""
        return self.status().log_dir

    def deploy(
        self, application: Application, name: str, route_prefix: str | None, app_dir: str | None = None
    ) -> DeploymentHandle:
        """Run an application; answers a handle to it when it is ready. See `serve.run`.

        `app_dir` is the folder that it was imported from, to be its `working_dir`.
        """
        spec = AppSpec.of_application(name, application, route_prefix, pickled=True)
        runtime_env = dict(ray_cluster.job_environment())
        if app_dir is not None:
            runtime_env["working_dir"] = ray_cluster.upload(app_dir)
        with self._owning([name]):
            self._ask("deploy", replace(spec, environment=replace(spec.environment, runtime_env=runtime_env)))
        self._hear_of(name)
        return DeploymentHandle(name, spec.ingress)

    def deploy_config(self, settings: SystemConfig, app_dir: str) -> None:
        """Run the applications of a configuration file; returns when they are ready."""
        built = built_here(settings.as_dict(), app_dir)
        with self._owning(built):
            self._ask("deploy_built", built)
        for name in built:
            self._hear_of(name)

    def delete(self, name: str, *, wait: bool = True) -> None:
        if wait:
            self._ask("delete", name)
        else:
            self._controller.delete.remote(name)

    def status(self) -> ServeStatus:
        status: ServeStatus = ask(self._controller, "status", timeout_s=ANSWER_TIMEOUT_S)
        return status

    def leave(self) -> None:
        """Let what runs go on without this program."""
        context.set_caller(None)
        follower.leave(SYSTEM)

    def stop(self) -> None:
        """End everything that runs on the cluster."""
        self.leave()
        end(self._controller)

    def stop_own(self) -> None:
        """End what this program has deployed; and everything, if that is all, and this program has a part in it."""
        if self.status().applications.keys() - self._own or not (self._own or self._has_begun):
            for name in self._own:
                self.delete(name)
            self.leave()
        else:
            self.stop()

    @contextlib.contextmanager
    def _owning(self, names: Collection[str]) -> Iterator[None]:
        """These are being deployed. What fails is this program's own as well, unless it goes on as what it was."""
        others = self.status().applications.keys() - self._own
        try:
            yield
        except BaseException:
            self._own.update(set(names) - others)
            raise
        self._own.update(names)

    def _ask(self, method: str, *args: Any) -> Any:
        return ask(self._controller, method, *args)

    def _hear_of(self, name: str) -> None:
        """Wait until this program's own table has it."""
        until = time.monotonic() + HEAR_TIMEOUT_S
        while self._directory.ingress(name) is None and time.monotonic() < until:
            time.sleep(0.005)
