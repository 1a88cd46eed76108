"""All that the admin interface can be asked."""

from typing import Any

from modelplex.runtime import admin_events, admin_models, admin_system, metrics_page
from modelplex.runtime.admin_models import (
    Draining,
    Held,
    Models,
    ModelsQuery,
    NewAlias,
    Replicas,
    ReplicasQuery,
    Target,
)
from modelplex.runtime.admin_system import Applications, Decisions, DecisionsAsked, Deploy, Nothing, Wait
from modelplex.runtime.admin_table import Route, Table
from modelplex.status import ServeStatus

# A configuration may be large; other bodies are a few names.
CONFIG_BYTES_MAX = 16 * 2**20

_MODEL = "/v1/models/{model_id}"


def _on_model(verb: str, summary: str, handler: Any, answers: dict[int, Any]) -> Route:
    return Route("POST", f"{_MODEL}/{verb}", summary, handler, answers, body=Target)


TABLE = Table(
    [
        Route("GET", "/v1/status", "What runs, and how it is.", admin_system.status, {200: ServeStatus}),
        Route(
            "GET",
            "/v1/config",
            "What configuration files have been deployed, as one.",
            admin_system.config,
            {200: dict[str, Any]},
        ),
        Route(
            "PUT",
            "/v1/config",
            "Have this run, and nothing of what an earlier configuration had.",
            admin_system.deploy,
            {200: ServeStatus, 202: Nothing},
            query=Wait,
            body=Deploy,
            body_bytes_max=CONFIG_BYTES_MAX,
        ),
        Route(
            "GET",
            "/v1/state",
            "All that is told each second by `/v1/events`, once.",
            admin_events.state,
            {200: admin_events.State},
        ),
        Route("GET", "/v1/applications", "The applications.", admin_system.applications, {200: Applications}),
        Route(
            "DELETE",
            "/v1/applications/{name}",
            "Stop an application; requests that run may end.",
            admin_system.delete,
            {200: Nothing},
        ),
        Route(
            "GET",
            "/v1/replicas",
            "The replicas and their models.",
            admin_models.replicas,
            {200: Replicas},
            query=ReplicasQuery,
        ),
        Route(
            "POST",
            "/v1/replicas/{replica}/drain",
            "Have another replica take the place of this one, which then ends what it does and stops.",
            admin_models.drain,
            {202: Draining},
        ),
        Route("GET", "/v1/models", "Models and where they are.", admin_models.models, {200: Models}, query=ModelsQuery),
        _on_model("load", "Load a model where a request for it would go.", admin_models.load, {200: Nothing}),
        _on_model("prefetch", "Begin to load a model, and answer at once.", admin_models.prefetch, {202: Nothing}),
        _on_model("unload", "Unload a model everywhere when nobody uses it.", admin_models.unload, {200: Held}),
        _on_model("pin", "Never evict a model where it is, or loads now.", admin_models.pin, {200: Held}),
        _on_model("unpin", "Take back a pin.", admin_models.unpin, {200: Held}),
        Route(
            "PUT",
            "/v1/models/{alias}/alias",
            "Have an alias stand for another version, in a store that is a folder.",
            admin_models.set_alias,
            {200: Nothing},
            body=NewAlias,
        ),
        Route(
            "GET",
            "/v1/decisions",
            "Why requests went where, and models came and went.",
            admin_system.decisions,
            {200: Decisions},
            query=DecisionsAsked,
        ),
        Route(
            "GET",
            "/metrics",
            "Metrics of all processes, for Prometheus.",
            admin_system.metrics,
            {200: metrics_page.CONTENT_TYPE},
        ),
        Route("POST", "/v1/shutdown", "Stop everything.", admin_system.shutdown, {202: Nothing}),
    ]
)
