"""What the admin interface answers about the system as a whole: what runs, what was deployed, why, how much."""

import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from modelplex import errors
from modelplex.context import Caller
from modelplex.runtime import config_deployer, decision_log, metrics_page
from modelplex.runtime.admin_table import Answer, Request
from modelplex.runtime.app_builder import read_config
from modelplex.runtime.busiest_models import BusiestModels
from modelplex.runtime.controller import Controller
from modelplex.runtime.survey import Survey
from modelplex.runtime.traffic_sums import TrafficSums
from modelplex.status import ApplicationStatus, ServeStatus

log = logging.getLogger(__name__)

DECISIONS_MAX = 1000


@dataclass(slots=True)
class Administered:
    """What is asked about, and told.

    Attributes:
        controller: of the system.
        caller: this process's way to its deployments.
        status: what runs.
        http_options: those that differ from the defaults.
        shutdown: ends everything, some time after it was called.
        own: runs something in the background.
        deploys: how often a configuration was deployed.
        traffic, busiest: what is remembered of counts between two looks at them.
    """

    controller: Controller
    caller: Caller
    status: Callable[[], ServeStatus]
    http_options: Mapping[str, Any]
    shutdown: Callable[[], None]
    own: Callable[[Coroutine[Any, Any, None]], Any] = field(repr=False)
    deploys: int = 0
    traffic: TrafficSums = field(default_factory=TrafficSums)
    busiest: BusiestModels = field(default_factory=BusiestModels)

    @property
    def survey(self) -> Survey:
        return self.controller.survey


class Nothing(msgspec.Struct):
    """There is nothing to say."""


class Applications(msgspec.Struct):
    """Attributes: applications: by name."""

    applications: dict[str, ApplicationStatus]


class Wait(msgspec.Struct, forbid_unknown_fields=True):
    """Attributes: wait: whether to answer only when it runs, or has failed."""

    wait: bool = True


class Deploy(msgspec.Struct, forbid_unknown_fields=True):
    """Attributes: config: as in a configuration file. app_dir: the folder that its modules are imported from."""

    config: dict[str, Any]
    app_dir: str


class DecisionsAsked(msgspec.Struct, forbid_unknown_fields=True):
    """Which decisions are asked for: of one request, about one model, since a Unix time; so many, the newest first."""

    request_id: Annotated[str, msgspec.Meta(max_length=256)] = ""
    model_id: Annotated[str, msgspec.Meta(max_length=256)] = ""
    since: Annotated[float, msgspec.Meta(ge=0, le=1e12)] = 0.0
    limit: Annotated[int, msgspec.Meta(ge=1, le=DECISIONS_MAX)] = 100


class Decision(msgspec.Struct):
    """One decision: when, where, what kind, about what, why, with which numbers, and all that in one sentence."""

    at: float = 0.0
    process: str = ""
    kind: str = ""
    request_id: str = ""
    model_id: str = ""
    replica: str = ""
    why: str = ""
    numbers: dict[str, Any] = {}
    text: str = ""


class Decisions(msgspec.Struct):
    """Attributes: decisions: newest first."""

    decisions: list[Decision]


async def status(it: Administered, request: Request) -> ServeStatus:
    return it.status()


async def applications(it: Administered, request: Request) -> Applications:
    return Applications(it.status().applications)


async def config(it: Administered, request: Request) -> dict[str, Any]:
    return config_deployer.as_config(it.controller, it.http_options)


async def deploy(it: Administered, request: Request) -> ServeStatus | Answer:
    given: Deploy = request.given
    read_config(given.config, given.app_dir)  # what is wrong with it is told before anything begins
    it.deploys = number = it.deploys + 1
    work = config_deployer.deploy(it.controller, given.config, given.app_dir, is_wanted=lambda: number == it.deploys)
    if not request.options.wait:
        it.own(_logged(work))
        return Answer(Nothing(), 202)
    await work  # it goes on when the client leaves: what is wanted has been said
    return it.status()


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except errors.ModelplexError as error:
        log.error("%s", error)
    except Exception:  # a fault of ours, which nobody waits for
        log.exception("A configuration could not be deployed.")


async def delete(it: Administered, request: Request) -> Nothing:
    name = request.parts["name"]
    if name not in it.controller.status().applications:
        raise errors.RouteNotFoundError(f"There is no application {name!r}.")
    await it.controller.delete(name)
    return Nothing()


async def shutdown(it: Administered, request: Request) -> Answer:
    it.shutdown()
    return Answer(Nothing(), 202)


async def decisions(it: Administered, request: Request) -> Decisions:
    asked: DecisionsAsked = request.options
    return Decisions(await decisions_of(it.survey, asked))


async def decisions_of(survey: Survey, asked: DecisionsAsked) -> list[Decision]:
    """Those of all processes, newest first."""
    found = await decision_log.decisions(survey, {k: v for k, v in msgspec.to_builtins(asked).items() if v})
    return msgspec.convert(found, list[Decision], strict=False)


async def metrics(it: Administered, request: Request) -> Answer:
    """In the text format of Prometheus, of all processes."""
    text = await metrics_page.page(it.survey, it.busiest)
    return Answer(text.encode(), content_type=metrics_page.CONTENT_TYPE.encode())
