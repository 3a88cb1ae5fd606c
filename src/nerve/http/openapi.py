"""Builds the OpenAPI 3.1 document: bodies from the wire types, the rest as `app` answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

import nerve
from nerve.endpoints import predict_tokens as wire
from nerve.types import AggregationStrategy, OffsetUnit, Row

if TYPE_CHECKING:
    from nerve.config import LimitsConfig

_REF = "#/components/schemas/{name}"
_BODY_TYPES = (wire.JSON_TYPE, wire.MSGPACK_TYPE)
_PREDICT_ERRORS = {
    "400": "The body is not JSON or MessagePack, or is cut short",
    "413": "The body is above limits.max_body_bytes",
    "415": "The content type is neither JSON nor MessagePack",
    "422": "Wrong types, unknown fields, or a limit is exceeded",
    "429": "The queue is full; retry-after says when to try again",
    "500": "A defect of the server",
    "503": "The server is starting or shutting down, or its device failed",
    "504": "The deadline passed before the answer was ready",
}
_UNAUTHORIZED = {"401": "The API key is missing or wrong"}
_UNREADY = {"503": "The server is starting or shutting down, or its device failed"}
_DEFECT = {"500": "A defect of the server"}
_MAX_HEADER_MILLISECONDS = 10**15 - 1
_STRING, _INTEGER = {"type": "string"}, {"type": "integer"}


def build_openapi(limits: LimitsConfig, *, needs_key: bool) -> dict[str, Any]:
    """Return the document; the limits of the configuration stand in it.

    needs_key: clients must send an API key.
    """
    (request, row, error), schemas = msgspec.json.schema_components(
        [wire.PredictRequest, Row, wire.ErrorBody], ref_template=_REF
    )
    _describe_fields(schemas["PredictRequest"]["properties"], limits)
    keyed = _UNAUTHORIZED if needs_key else {}
    answer = {"type": "array", "items": {"type": "array", "items": row}}
    predict = {
        "operationId": "predict_tokens",
        "summary": "Classify the tokens, or find the entities, of one or more texts",
        "parameters": [*_ID_PARAMETERS, *_DEADLINE_PARAMETERS],
        "requestBody": {"required": True, "content": {kind: {"schema": request} for kind in _BODY_TYPES}},
        "responses": {
            "200": {
                "description": "One list per text, of one row per token or entity",
                "headers": {**_ID_HEADER, **_NO_STORE_HEADER, **_PREDICTION_HEADERS},
                "content": {kind: {"schema": answer} for kind in _BODY_TYPES},
            },
            **_errors({**_PREDICT_ERRORS, **keyed}, error, {**_ID_HEADER, **_NO_STORE_HEADER}),
        },
        **_security(needs_key),
    }
    predict["responses"]["429"]["headers"] |= _RETRY_HEADER
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nerve",
            "version": nerve.__version__,
            "description": "Token classification server",
        },
        "paths": {
            "/predict_tokens": {"post": predict},
            "/": {
                "post": {**predict, "operationId": "predict_root"},
                **_get("health_root", "Readiness", _STATUS, error, _UNREADY),
            },
            "/health": _get("health", "Readiness", _STATUS, error, _UNREADY),
            "/health/live": _get("live", "Liveness", _STATUS, error),
            "/health/ready": _get("ready", "Readiness", _STATUS, error, _UNREADY),
            "/info": _get(
                "info", "Model, limits and version", _INFO, error, {**_UNREADY, **keyed}, _security(needs_key)
            ),
            "/metrics": _get("metrics", "Prometheus text", _STRING, error),
            "/openapi.json": _get(
                "openapi", "This document", {"type": "object"}, error, keyed, _security(needs_key)
            ),
        },
        "components": {
            "schemas": schemas,
            **({"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}} if needs_key else {}),
        },
    }


def _describe_fields(properties: dict[str, Any], limits: LimitsConfig) -> None:
    """Write down what the types of a request's fields do not say."""
    texts = {"type": "array", "items": _STRING, "maxItems": limits.max_inputs}
    properties["inputs"] = {
        "description": f"Texts, {limits.max_inputs} at most in all; nested lists are flattened in order",
        "anyOf": [
            _STRING,
            {**texts, "minItems": 1},
            {"type": "array", "items": texts, "contains": {"type": "array", "minItems": 1}},
        ],
    }
    properties["aggregation_strategy"] = {"enum": [member.value for member in AggregationStrategy]}
    properties["offset_unit"] = {"enum": [member.value for member in OffsetUnit]}
    properties["truncation_direction"] = {
        "type": "string",
        "pattern": "^([Ll][Ee][Ff][Tt]|[Rr][Ii][Gg][Hh][Tt])$",
        "default": "Right",
    }


def _get(
    name: str,
    summary: str,
    schema: dict[str, Any],
    error: dict[str, Any],
    errors: dict[str, str] | None = None,
    security: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the GET and HEAD operations of a route."""
    kind = "text/plain" if schema is _STRING else wire.JSON_TYPE
    found = {"description": summary, "headers": _ID_HEADER}
    failed = _errors({**_DEFECT, **(errors or {})}, error, _ID_HEADER)
    common = {"summary": summary, "parameters": _ID_PARAMETERS, **(security or {})}
    bare = {
        status: {key: value for key, value in each.items() if key != "content"}
        for status, each in failed.items()
    }
    return {
        "get": {
            **common,
            "operationId": name,
            "responses": {"200": {**found, "content": {kind: {"schema": schema}}}, **failed},
        },
        "head": {**common, "operationId": f"{name}_head", "responses": {"200": found, **bare}},
    }


def _errors(texts: dict[str, str], error: dict[str, Any], headers: dict[str, Any]) -> dict[str, Any]:
    return {
        status: {
            "description": text,
            "headers": dict(headers),
            "content": {wire.JSON_TYPE: {"schema": error}},
        }
        for status, text in texts.items()
    }


def _security(needs_key: bool) -> dict[str, Any]:
    return {"security": [{"key": []}]} if needs_key else {}


def _parameter(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"in": "header", "name": name, "description": description, "schema": schema}


def _header(description: str, schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    return {"description": description, "schema": schema, "required": required}


_MILLISECONDS = {**_INTEGER, "minimum": 0, "maximum": _MAX_HEADER_MILLISECONDS}
_DEADLINE_PARAMETERS = [
    _parameter("Request-Timeout-Ms", "Milliseconds the answer may take", _MILLISECONDS),
    _parameter(
        "Request-Deadline-Ms", "Unix time in milliseconds after which the answer is not wanted", _MILLISECONDS
    ),
]
_ID_PARAMETERS = [_parameter("X-Request-Id", "Id of the request; one is made where it is missing", _STRING)]
_ID_HEADER = {"x-request-id": _header("Id of the request", _STRING)}
_NO_STORE_HEADER = {"cache-control": _header("Caches must not keep the answer", {"const": "no-store"})}
_RETRY_HEADER = {"retry-after": _header("Seconds until the queue has drained", {**_INTEGER, "minimum": 1})}
_PREDICTION_HEADERS = {
    "server-timing": _header("Milliseconds of tokenize, queue, inference and total", _STRING),
    "x-compute-tokens": _header("Tokens computed", {**_INTEGER, "minimum": 0}),
    "x-truncated": _header("Indexes of the texts that were cut", _STRING, required=False),
}
_STATUS = {"type": "object", "properties": {"status": _STRING}, "required": ["status"]}
_INFO = {
    "type": "object",
    "properties": {
        "version": _STRING,
        "model_id": _STRING,
        "revision": _STRING,
        "dtype": _STRING,
        "provider": _STRING,
        "id2label": {"type": "object", "additionalProperties": _STRING},
        "label_scheme": _STRING,
        "max_length": _INTEGER,
        "limits": {"type": "object"},
    },
    "required": ["version", "model_id", "revision", "dtype", "provider", "id2label", "max_length", "limits"],
}
