"""The description of the admin interface (OpenAPI 3.1), made of the table that routes."""

import re
from typing import Any

import msgspec

from modelplex import __version__
from modelplex.config import MODEL_ID
from modelplex.errors import Problem
from modelplex.runtime.admin_events import CONTENT_TYPE, State
from modelplex.runtime.admin_table import Route, Table

_REF = "#/components/schemas/{name}"
_PARTS = {
    "model_id": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": f"^{MODEL_ID.pattern}$"},
    "alias": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": f"^{MODEL_ID.pattern}$"},
}
_STATUSES = {200: "Done.", 202: "Begun."}

EVENTS = "/v1/events"


class Error(msgspec.Struct, omit_defaults=True):
    """What is wrong, and what would be right.

    Attributes:
        error: in words.
        problems: those of a configuration.
    """

    error: str
    problems: list[Problem] | msgspec.UnsetType = msgspec.UNSET


def describe(table: Table) -> dict[str, Any]:
    """The whole description."""
    kinds = [kind for route in table.routes for kind in (*route.answers.values(), route.body) if _is_type(kind)]
    kinds += [Error, State]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    found = dict(zip(map(repr, kinds), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in table.routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, found)
    paths[EVENTS] = {"get": _events(found)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Modelplex admin interface", "version": __version__},
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Over TCP. The Unix socket is its user's alone and asks for nothing.",
                }
            },
        },
        "security": [{"token": []}, {}],
        "paths": paths,
    }


def _is_type(kind: Any) -> bool:
    return kind is not None and not isinstance(kind, str)


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    parts = re.findall(r"\{(\w+)\}", route.path)
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _PARTS.get(name, {"type": "string", "minLength": 1})}
        for name in parts
    ]
    operation: dict[str, Any] = {
        "operationId": route.method.lower() + re.sub(r"\W+", "_", route.path).rstrip("_"),
        "summary": route.summary,
        "parameters": parameters + _query(route.query),
        "responses": {str(status): _answer(status, kind, schemas) for status, kind in route.answers.items()},
    }
    operation["responses"]["default"] = _error(schemas)
    if route.body is not None:
        content = {"application/json": {"schema": schemas[repr(route.body)]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _query(kind: type[msgspec.Struct] | None) -> list[dict[str, Any]]:
    if kind is None:
        return []
    _, components = msgspec.json.schema_components([kind], ref_template=_REF)
    return [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in components[kind.__name__]["properties"].items()
    ]


def _answer(status: int, kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    if isinstance(kind, str):
        content = {kind.partition(";")[0]: {"schema": {"type": "string"}}}
    else:
        content = {"application/json": {"schema": schemas[repr(kind)]}}
    return {"description": _STATUSES[status], "content": content}


def _error(schemas: dict[str, Any]) -> dict[str, Any]:
    return {"description": "What is wrong.", "content": {"application/json": {"schema": schemas[repr(Error)]}}}


def _events(schemas: dict[str, Any]) -> dict[str, Any]:
    event = {"type": "string", "contentMediaType": "application/json", "contentSchema": schemas[repr(State)]}
    return {
        "operationId": "get_v1_events",
        "summary": "The state of all, once a second, as server-sent events `state` whose data is a State.",
        "responses": {
            "200": {"description": "Without end.", "content": {CONTENT_TYPE.decode(): {"schema": event}}},
            "default": _error(schemas),
        },
    }
