"""Has `core.scaling` decide how many replicas a deployment is to have: the shell with its timer."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from modelplex import config, errors
from modelplex.config import AutoscalingConfig
from modelplex.core.replica_load import ReplicaLoad
from modelplex.core.scaling import Autoscaler
from modelplex.core.scaling_policy import ScalingPolicy

log = logging.getLogger(__name__)


class Scaling:
    """The number of replicas of one deployment follows the demand.

    Args:
        app_name: the application.
        deployment: the deployment.
        options: see `config.AutoscalingConfig`.
        current: how many are wanted now.
        resize: told how many are wanted, when that has changed.
        known: what replicas have reported before.

    Raises `DeploymentFailedError` if the options name a policy that cannot be imported.
    """

    def __init__(
        self,
        app_name: str,
        deployment: str,
        options: AutoscalingConfig,
        current: int,
        resize: Callable[[int], None],
        known: Mapping[str, ReplicaLoad] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._title = f"{app_name}_{deployment}"
        self._resize = resize
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._error = ""  # of the policy, when it was asked last
        self._core = Autoscaler(
            options,
            current,
            self._loop.time(),
            policy=_policy(options),
            app_name=app_name,
            deployment_name=deployment,
        )
        for replica_id, load in (known or {}).items():
            self._core.told_replica(replica_id, load, self._loop.time())
        self._set_timer()

    @property
    def target(self) -> int:
        return self._core.target

    @property
    def why(self) -> str:
        return self._core.why

    def set_options(self, options: AutoscalingConfig) -> int:
        """Answers how many are wanted by them. Raises `DeploymentFailedError` as the constructor does."""
        count = self._core.set_options(options, self._loop.time(), _policy(options))
        self._set_timer()
        return count

    def told_replica(self, replica_id: str, load: ReplicaLoad) -> None:
        self._core.told_replica(replica_id, load, self._loop.time())
        self._set_timer()

    def replica_gone(self, replica_id: str) -> None:
        self._core.replica_gone(replica_id)

    def told_waiting(self, source: str, count: int) -> None:
        """So many requests wait in a process that calls the deployment."""
        self._core.told_waiting(source, count, self._loop.time())
        self._set_timer()

    def source_gone(self, source: str) -> None:
        self._core.source_gone(source)

    def close(self) -> None:
        """Decide nothing more, whatever is still told."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._closed:
            self._timer = self._loop.call_at(self._core.next_look, self._look)

    def _look(self) -> None:
        before = self._core.target
        count = self._core.decide(self._loop.time())
        failed = self._core.policy_error
        error = "" if failed is None else f"{type(failed).__name__}: {failed}"
        if failed is not None and error != self._error:  # once, not at every look
            log.error("The autoscaling policy of %s has failed.", self._title, exc_info=failed)
        self._error = error
        if count != before:
            log.info("%s is to have %d replicas in place of %d: %s", self._title, count, before, self._core.why)
            self._resize(count)
        self._set_timer()


def _policy(options: AutoscalingConfig) -> ScalingPolicy | None:
    given = options.policy
    if not isinstance(given, str):
        return given  # type: ignore[return-value]
    try:
        policy: ScalingPolicy = config.load(given)
    except Exception as error:
        raise errors.DeploymentFailedError(f"The autoscaling policy {given!r} cannot be imported: {error!r}") from error
    return policy
