"""What there is of the Open Inference Protocol (V2) over HTTP, as OpenAPI 3.1. Tests fuzz a server by it.

`python -m modelplex.protocols.openapi` writes it; docs/v2.openapi.json is that, and a test holds the two together.
"""

import json
import sys
from typing import Any

from modelplex import __version__
from modelplex.config import MODEL_ID
from modelplex.protocols.tensors import DTYPES

_MODEL_ID = {"type": "string", "pattern": f"^{MODEL_ID.pattern}$"}
_TEXT = {"type": "string"}
_PARAMETERS = {"type": "object", "description": "Strings, numbers and booleans by name."}
_SHAPE = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}}
_DATATYPE = {"type": "string", "enum": list(DTYPES)}
_FLAG = {"type": "boolean"}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


_DATA = {
    "type": "array",
    "description": "The elements by rows, flat or nested as the shape; text for BYTES, null for NaN.",
}
_BINARY_SIZE = {"type": "integer", "minimum": 0, "description": "Of the raw bytes after the JSON, in their order."}

_SCHEMAS = {
    "Error": _object(["error"], error=_TEXT),
    "Server": _object(["name", "version", "extensions"], name=_TEXT, version=_TEXT, extensions=_list(_TEXT)),
    "Live": _object(["live"], live=_FLAG),
    "Ready": _object(["ready"], ready=_FLAG),
    "ModelReady": _object(["name", "ready"], name=_TEXT, ready=_FLAG),
    "TensorMetadata": _object(
        ["name", "datatype", "shape"], name=_TEXT, datatype=_TEXT, shape=_list({"type": "integer", "minimum": -1})
    ),
    "Model": _object(
        ["name", "versions", "platform", "inputs", "outputs"],
        name=_TEXT,
        versions=_list(_TEXT),
        platform=_TEXT,
        inputs=_list(_ref("TensorMetadata")),
        outputs=_list(_ref("TensorMetadata")),
    ),
    "InferRequest": _object(
        ["inputs"],
        id=_TEXT,
        parameters={**_PARAMETERS, "properties": {"binary_data_output": _FLAG}},
        inputs=_list(_ref("InputTensor")),
        outputs=_list(_ref("RequestedOutput")),
    ),
    "InputTensor": _object(
        ["name", "shape", "datatype"],
        name=_TEXT,
        shape=_SHAPE,
        datatype=_DATATYPE,
        data=_DATA,
        parameters={**_PARAMETERS, "properties": {"binary_data_size": _BINARY_SIZE}},
    ),
    "RequestedOutput": _object(["name"], name=_TEXT, parameters={**_PARAMETERS, "properties": {"binary_data": _FLAG}}),
    "InferResponse": _object(
        ["model_name", "outputs"],
        id=_TEXT,
        model_name=_TEXT,
        model_version=_TEXT,
        outputs=_list(_ref("OutputTensor")),
    ),
    "OutputTensor": _object(
        ["name", "shape", "datatype"],
        name=_TEXT,
        shape=_SHAPE,
        datatype=_DATATYPE,
        data=_DATA,
        parameters=_object([], binary_data_size=_BINARY_SIZE),
    ),
    "IndexRequest": _object([], ready=_FLAG),
    "IndexEntry": _object(
        ["name", "version", "state", "reason"],
        name=_TEXT,
        version=_TEXT,
        state={"type": "string", "enum": ["READY", "LOADING", "UNAVAILABLE"]},
        reason=_TEXT,
    ),
    "RepositoryRequest": _object([], parameters=_PARAMETERS),
    "Loaded": _object(["name", "load"], name=_TEXT, load=_FLAG),
    "Unloaded": _object(["name", "unload"], name=_TEXT, unload=_FLAG),
}

_ID = {"name": "model_id", "in": "path", "required": True, "schema": _MODEL_ID}
_VERSION = {"name": "version", "in": "path", "required": True, "schema": _MODEL_ID}
_JSON_BYTES = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "How many bytes of the body are JSON, if raw bytes follow it.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,19}$"},
}

# What any request may be told; a 500 is the deployment's own fault, and so is a 502.
_FAILURES = {
    "400": "What was sent is not what this says.",
    "404": "There is no such model.",
    "405": "Another method is needed.",
    "408": "The body came too slowly.",
    "413": "The body is too large.",
    "429": "There are too many requests.",
    "500": "The deployment's own code failed.",
    "502": "The replica was lost.",
    "503": "There is too much to do, or the model's load has just failed: see retry-after.",
    "504": "The request took too long.",
}


def _answers(schema: Any, *, binary: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if binary:
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    error = {"application/json": {"schema": _ref("Error")}}
    failures = {status: {"description": text, "content": error} for status, text in _FAILURES.items()}
    return {"200": {"description": "It went well.", "content": content}, **failures}


def _get(summary: str, schema: str, *parameters: Any) -> dict[str, Any]:
    return {"get": {"summary": summary, "parameters": list(parameters), "responses": _answers(_ref(schema))}}


def _post(summary: str, body: str, answer: Any, *parameters: Any, required: bool = False) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref(body)}}
    return {
        "post": {
            "summary": summary,
            "parameters": list(parameters),
            "requestBody": {"content": content, "required": required},
            "responses": _answers(answer),
        }
    }


def _of_model(path: str, *parameters: Any) -> dict[str, Any]:
    infer = _post("Have the model answer.", "InferRequest", _ref("InferResponse"), *parameters, required=True)
    operation = infer["post"]
    operation["parameters"].append(_JSON_BYTES)
    operation["responses"] = _answers(_ref("InferResponse"), binary=True)
    return {
        path: _get("What is known of the model.", "Model", *parameters),
        f"{path}/ready": _get("Whether it is loaded, or known to exist and to load.", "ModelReady", *parameters),
        f"{path}/infer": infer,
    }


def description(base: str = "") -> dict[str, Any]:
    """The description, of what is served below a path."""
    index = _list(_ref("IndexEntry"))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Modelplex, Open Inference Protocol (V2)", "version": __version__},
        "servers": [{"url": base or "/"}],
        "paths": {
            "/v2": _get("What the server is.", "Server"),
            "/v2/health/live": _get("Whether it runs.", "Live"),
            "/v2/health/ready": _get("Whether it can answer.", "Ready"),
            **_of_model("/v2/models/{model_id}", _ID),
            **_of_model("/v2/models/{model_id}/versions/{version}", _ID, _VERSION),
            "/v2/repository/index": _post("The models that there are.", "IndexRequest", index),
            "/v2/repository/models/{model_id}/load": _post("Load the model.", "RepositoryRequest", _ref("Loaded"), _ID),
            "/v2/repository/models/{model_id}/unload": _post(
                "Unload the model when nobody uses it.", "RepositoryRequest", _ref("Unloaded"), _ID
            ),
        },
        "components": {"schemas": _SCHEMAS},
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(description(), indent=2) + "\n")
