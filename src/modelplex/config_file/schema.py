"""The form of a configuration file as JSON Schema, for editors that complete and check while one is written."""

import dataclasses
import inspect
import json
import re
import types
import typing
from typing import Any

from modelplex.config import (
    EVICTION_POLICIES,
    IMPORT_PATH,
    MODEL_ID,
    SIZE,
    AdminOptions,
    AutoscalingConfig,
    BackpressureConfig,
    DeploymentConfig,
    GRPCOptions,
    HTTPOptions,
    LoggingConfig,
    MultiplexingConfig,
    RequestRouterConfig,
    TenantConfig,
)
from modelplex.config.http import HEADER_NAME, MODEL_ID_WAYS
from modelplex.config.logs import LEVELS
from modelplex.config_file import hints
from modelplex.config_file.reading import (
    ENGINES,
    GRPC_OPTIONS,
    IGNORED,
    IGNORED_OF_APPLICATION,
    PROXY_LOCATION,
    names_of,
)
from modelplex.config_file.settings import ApplicationConfig, DeploymentOverride, RuntimeEnv, SystemConfig
from modelplex.core.proxy_places import EVERY_NODE, LOCATIONS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
IDENTIFIER = "urn:modelplex:config.schema"

_IMPORT_PATH = {"pattern": f"^({IMPORT_PATH.pattern})$"}
_SIZE = {"pattern": f"^{SIZE.pattern}$", "minimum": 1}
_PREFIX = {"pattern": "^/([^{}]*[^{}/])?$"}
_POSITIVE = {"minimum": 1}
_NOT_NEGATIVE = {"minimum": 0}
_ABOVE_0 = {"exclusiveMinimum": 0}
_MODEL_IDS = {"items": {"type": "string", "pattern": f"^{MODEL_ID.pattern}$"}}
_PART_OF_1 = {"exclusiveMinimum": 0, "maximum": 1}

# What values may be beyond their types. The classes themselves check it; the tests hold the two together.
LIMITS: dict[type[Any], dict[str, dict[str, Any]]] = {
    ApplicationConfig: {"name": {"minLength": 1}, "route_prefix": _PREFIX, "import_path": _IMPORT_PATH},
    RuntimeEnv: {},
    HTTPOptions: {
        "host": {"minLength": 1},
        "port": {"minimum": 0, "maximum": 65535},
        "root_path": {"pattern": "^(/.*[^/])?$"},
        "keep_alive_timeout_s": _POSITIVE,
        "request_timeout_s": _ABOVE_0,
        "max_body_bytes": _NOT_NEGATIVE,
        "model_id_from": {"items": {"type": "string", "enum": list(MODEL_ID_WAYS)}},
        "num_proxies": _POSITIVE,
        "location": {"enum": list(LOCATIONS)},
        "access_file": {"minLength": 1},
        "tenant_header": {"pattern": f"^{HEADER_NAME.pattern}$"},
        "max_connections": _POSITIVE,
        "max_connections_per_address": _POSITIVE,
        "body_timeout_s": _POSITIVE,
        **{name: {"minLength": 1} for name in ("ssl_certfile", "ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs")},
    },
    AdminOptions: {
        "token_file": {"minLength": 1},
        "host": {"minLength": 1},
        "port": {"minimum": 0, "maximum": 65535},
        **{name: {"minLength": 1} for name in ("ssl_certfile", "ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs")},
    },
    GRPCOptions: {
        "port": {"minimum": 0, "maximum": 65535},
        "grpc_servicer_functions": {"items": {"type": "string", **_IMPORT_PATH}},
        "request_timeout_s": _ABOVE_0,
        "enable_reflection": {"enum": [False]},
    },
    LoggingConfig: {
        "log_level": {"enum": list(LEVELS)},
        "encoding": {"enum": ["TEXT", "JSON"]},
        "logs_dir": {"minLength": 1},
    },
    BackpressureConfig: {"status_code": {"enum": [503, 429]}, "retry_after_s": _NOT_NEGATIVE},
    RequestRouterConfig: {"request_router_class": _IMPORT_PATH},
    AutoscalingConfig: {
        "min_replicas": _NOT_NEGATIVE,
        "initial_replicas": _NOT_NEGATIVE,
        "max_replicas": _POSITIVE,
        "target_ongoing_requests": _ABOVE_0,
        "metrics_interval_s": _ABOVE_0,
        "look_back_period_s": _ABOVE_0,
        "upscale_delay_s": _NOT_NEGATIVE,
        "downscale_delay_s": _NOT_NEGATIVE,
        "downscale_to_zero_delay_s": _NOT_NEGATIVE,
        "upscaling_factor": _ABOVE_0,
        "downscaling_factor": _ABOVE_0,
        "aggregation_function": {"enum": ["mean", "max", "min"]},
        "max_reload_fraction": _PART_OF_1,
        "policy": _IMPORT_PATH,
    },
    MultiplexingConfig: {
        "max_num_models_per_replica": {"minimum": -1, "not": {"const": 0}},
        "max_bytes_per_replica": _SIZE,
        "max_concurrent_loads": {"minimum": -1, "not": {"const": 0}},
        "load_timeout_s": _ABOVE_0,
        "eviction": {"enum": list(EVICTION_POLICIES)},
        "min_residency_s": _NOT_NEGATIVE,
        "idle_ttl_s": _ABOVE_0,
        "pinned": _MODEL_IDS,
        "preload": _MODEL_IDS,
        "resolve_interval_s": _ABOVE_0,
    },
    TenantConfig: {
        "reserved_bytes": _SIZE,
        "burst_bytes": _SIZE,
        "reserved_models": _POSITIVE,
        "burst_models": _POSITIVE,
        "load_share": _PART_OF_1,
        "request_share": _PART_OF_1,
        "max_queued_requests": {"minimum": -1},
    },
    DeploymentConfig: {
        "name": {"pattern": "^[^#]+$"},
        "num_replicas": {"minimum": 1, "pattern": "^auto$"},
        "max_ongoing_requests": _POSITIVE,
        "max_queued_requests": {"minimum": -1},
        "graceful_shutdown_timeout_s": _NOT_NEGATIVE,
        "graceful_shutdown_wait_loop_s": _NOT_NEGATIVE,
        "health_check_period_s": _ABOVE_0,
        "health_check_timeout_s": _ABOVE_0,
        "health_check_failure_threshold": _POSITIVE,
        "max_constructor_retry_count": _NOT_NEGATIVE,
        "rolling_update_percentage": _PART_OF_1,
        "max_surge_percent": {"minimum": 0, "maximum": 1},
        "max_leaked_bytes": _SIZE,
    },
}

_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean", types.NoneType: "null"}
_TEXT_LIMITS = {"pattern", "minLength"}
_NUMBER_LIMITS = {"minimum", "maximum", "exclusiveMinimum"}


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a configuration file, made from the classes that its sections become."""
    found: dict[str, Any] = {"$schema": DIALECT, "$id": IDENTIFIER, "title": "Modelplex configuration"}
    found |= _section(SystemConfig) | {"required": ["applications"]}
    found["properties"]["engine"]["enum"] = list(ENGINES)
    found["properties"][PROXY_LOCATION] = {
        "type": "string",
        "enum": list(LOCATIONS),
        "description": "The machines that serve HTTP: `location` of `http_options`, unless that is given.",
        "default": EVERY_NODE,
    }
    found["properties"][GRPC_OPTIONS] = {
        "anyOf": [{"$ref": f"#/$defs/{GRPCOptions.__name__}"}, {"type": "null"}],
        "description": "Where and how gRPC is served, which it is if this is given: `grpc` of `http_options`.",
    }
    found["properties"] |= _ignored(IGNORED)
    sections = {kind.__name__: _section(kind) for kind in LIMITS}
    sections[ApplicationConfig.__name__]["properties"] |= _ignored(IGNORED_OF_APPLICATION)
    sections[RuntimeEnv.__name__]["additionalProperties"] = True  # ignored, and said to be
    sections[DeploymentConfig.__name__]["description"] = (
        "Options that take the place of those in the code, of one deployment. What is left out is as the code says, "
        "and if that says nothing, the default."
    )
    return found | {"$defs": sections}


def descriptions(kind: type[Any]) -> dict[str, str]:
    """What the docstring of a class says of each of its attributes."""
    _, _, attributes = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    for names, text in re.findall(r"^    (\w[\w, ]*): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE):
        found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


def _section(kind: type[Any]) -> dict[str, Any]:
    known, said, fields = hints.of(kind), descriptions(kind), {f.name: f for f in dataclasses.fields(kind)}
    properties: dict[str, Any] = {}
    for name in names_of(kind):
        properties[name] = _value(known[name], LIMITS.get(kind, {}).get(name, {}))
        if name in said:
            properties[name]["description"] = said[name]
        if isinstance(default := fields[name].default, str | int | float | None):
            properties[name]["default"] = default
    required = [
        name
        for name in properties
        if fields[name].default is dataclasses.MISSING and fields[name].default_factory is dataclasses.MISSING
    ]
    found = {"type": "object", "description": str(inspect.getdoc(kind)).partition("\n")[0], "properties": properties}
    return found | ({"required": required} if required else {}) | {"additionalProperties": False}


def _value(hint: Any, limits: dict[str, Any]) -> dict[str, Any]:
    """What a value of this hint may be. A part that only code can be is left out."""
    section = hints.section(hint)
    choices = [] if section is None else [{"$ref": f"#/$defs/{_named(section)}"}]
    for part in hints.parts(hint):
        if section is not None and (typing.get_origin(part) or part) in (dict, section):
            continue  # a dict of its fields
        if (choice := _part(part, limits)) is not None:
            choices.append(choice)
    return dict(choices[0]) if len(choices) == 1 else {"anyOf": choices}


def _named(section: type[Any]) -> str:
    return (DeploymentConfig if section is DeploymentOverride else section).__name__


def _part(hint: Any, limits: dict[str, Any]) -> dict[str, Any] | None:
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is Any:
        return {}
    if hints.is_list(hint):
        items = arguments[0] if arguments else Any
        return {"type": "array", "items": _value(items, {}), **limits}
    if hints.is_mapping(hint):
        values = _value(arguments[1], {}) if arguments else {}
        return {"type": "object", "additionalProperties": values or True}
    if origin not in _TYPES:
        return None
    other = {str: _NUMBER_LIMITS | {"items", "not"}, types.NoneType: set(limits)}.get(origin, _TEXT_LIMITS)
    return {"type": _TYPES[origin], **{name: limit for name, limit in limits.items() if name not in other}}


def _ignored(keys: dict[str, str]) -> dict[str, Any]:
    return {key: {"description": f"Ignored: {why}.", "deprecated": True} for key, why in keys.items()}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))
