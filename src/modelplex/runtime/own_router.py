"""A user's class that chooses replicas: how it travels to the processes that call its deployment, and is made there."""

import logging
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from modelplex import config
from modelplex.config import RequestRouterConfig
from modelplex.core.chooser import Choice
from modelplex.runtime import payload
from modelplex.wire.messages import Begin, DeploymentInfo, OwnRouter

if TYPE_CHECKING:
    from modelplex.runtime.app_spec import DeploymentSpec, Environment

log = logging.getLogger(__name__)

# Places in a class at which it has failed that are told of; more than one class has, unless it makes code as it runs.
CAUSES_MAX = 100


def packed(title: str, spec: "DeploymentSpec", environment: "Environment") -> OwnRouter | None:
    """What others are told of the class; None if there is none, or if it cannot travel, which is logged."""
    options = spec.config.request_router_config
    if not isinstance(options, RequestRouterConfig):
        return None
    try:
        data = payload.dumps((options.request_router_class, dict(options.request_router_kwargs or {})))
    except Exception as error:  # noqa: BLE001 - pickling runs the user's code
        _tell_once(title, spec.process_version, f"{type(error).__name__}: {error}")
        return None
    return OwnRouter(spec.process_version, data, list(environment.sys_path))


@lru_cache(maxsize=CAUSES_MAX)
def _tell_once(title: str, version: str, why: str) -> None:
    log.error("The request_router_class of %s cannot be sent to other processes, so it is not used: %s", title, why)


class OwnChoice:
    """The user's class as one process uses it for one deployment.

    Args:
        begin_of: a request, by its number.

    Attributes:
        in_use: whether it chooses.
    """

    def __init__(self, begin_of: Callable[[int], Begin]) -> None:
        self.in_use = False
        self._begin_of = begin_of
        self._version = ""
        self._title = ""
        self._causes: set[tuple[object, ...]] = set()

    def changes(self, info: DeploymentInfo) -> bool:
        """Whether the class is another one than before."""
        version = "" if info.own_router is None else info.own_router.version
        changed, self._version = version != self._version, version
        return changed

    def made(self, info: DeploymentInfo) -> Choice | None:
        """The class, made anew; None if there is none, or if it cannot be made, which is logged."""
        self._title, self._causes = f"{info.app_name}_{info.name}", set()
        self.in_use = False
        if info.own_router is None:
            return None
        try:
            choice = Choice(_make(info.own_router), self._describe, self._failed)
            self.in_use = True
            return choice
        except (Exception, SystemExit):  # importing and making it runs the user's code
            log.exception("The request_router_class of %s cannot be made, so it is not used.", self._title)
            return None

    def _describe(self, number: int) -> tuple[str, str]:
        begin = self._begin_of(number)
        return begin.request_id, begin.method_name

    def _failed(self, error: Exception) -> None:
        """Tell of each cause once, which is the place that it was raised at: a message may differ each time."""
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        cause = (type(error), place and place.tb_frame.f_code.co_filename, place and place.tb_lineno)
        if cause not in self._causes and len(self._causes) < CAUSES_MAX:
            self._causes.add(cause)
            log.error("The request_router_class of %s has failed; it is told once.", self._title, exc_info=error)


def _make(own: OwnRouter) -> Any:
    # Behind what is there, so that no application hides a module of this process.
    sys.path.extend(folder for folder in own.sys_path if folder not in sys.path)
    given, kwargs = payload.loads(own.data)
    kind = config.load(given) if isinstance(given, str) else given
    made = kind(**kwargs)
    if not callable(getattr(made, "choose", None)):
        raise TypeError(f"{made!r:.200} has no method choose(request, replicas).")
    return made
